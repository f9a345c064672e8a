//! Exclusive access of a run to its job: a lock on this machine and, with a checkpoint in an object store, a lease
//! there.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::error::RunError;
use crate::checkpoint::{Lease, LeaseError, Lock, MachineId};
use crate::config::Job;
use crate::ident::RunId;
use crate::store::{Folder, Objects};
use crate::table;

/// Maximum time for giving the lease back; after it the lease is left to expire.
const RELEASE: Duration = Duration::from_secs(5);

/// Folder of a retry's checkpoint, lock and journal, below those of the run.
pub(crate) const RETRY_FOLDER: &str = "retry";

/// Exclusive access to a job or to a part of it.
#[derive(Debug)]
pub(crate) struct Exclusive {
    lease_guard: LeaseGuard,
    /// Released after the lease.
    _locks: Vec<Lock>,
}

/// Proof that the job is still this run's. Without a lease, on one machine, it is as long as the process lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseGuard(Option<Lease>);

impl Exclusive {
    /// Takes a job, or a part of it: the lock in the folder `local` and, if `home` is in an object store, the lease
    /// there. The folder `journal` determines which machine this is.
    ///
    /// # Errors
    /// When another run has the job, or when a lock or the lease cannot be taken.
    pub(crate) async fn take(
        local: &Path,
        home: &Folder,
        journal: &Path,
        term: Duration,
        run: RunId,
    ) -> Result<Exclusive, RunError> {
        let mut locks = vec![Lock::take(local, run)?];
        let mut lease = None;
        if let Some(objects) = home.objects() {
            // Several lock folders may share a journal folder, which determines the machine: it is locked, too.
            if journal != local {
                locks.push(Lock::take(journal, run)?);
            }
            lease = Some(Lease::take(objects, run, MachineId::of(journal)?, term).await?);
        }
        Ok(Exclusive { lease_guard: LeaseGuard(lease), _locks: locks })
    }

    pub(crate) fn lease_guard(&self) -> LeaseGuard {
        self.lease_guard.clone()
    }

    /// Does `work` with exclusive access, then releases it.
    pub(crate) async fn during<T>(self, work: impl Future<Output = T>) -> T {
        let done = work.await;
        self.release().await;
        done
    }

    /// Gives the lease back, then the locks.
    pub(crate) async fn release(self) {
        if let Some(lease) = self.lease_guard.0 {
            let _ = timeout(RELEASE, lease.release()).await;
        }
    }
}

impl LeaseGuard {
    /// Checks that the job is still this run's.
    ///
    /// # Errors
    /// When another run has the lease, and when that cannot be determined.
    pub(crate) async fn confirm(&self) -> Result<(), LeaseError> {
        match &self.0 {
            Some(lease) => lease.confirm().await,
            None => Ok(()),
        }
    }

    /// Waits until another run has the job, or may have it, and returns how the lease was lost. Waits forever without
    /// a lease.
    pub(crate) async fn lost(&self) -> LeaseError {
        match &self.0 {
            Some(lease) => lease.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// Describes the run that holds a job; `None` if there is none or if that cannot be determined.
pub(crate) async fn holder(local: &Path, home: &Folder) -> Option<String> {
    match (Lock::holder(local), home.objects()) {
        (None, Some(objects)) => Lease::holder(objects).await.ok().flatten(),
        (holder, _) => holder,
    }
}

/// Returns the folder of a job's checkpoint.
///
/// # Errors
/// When the environment lacks settings that the object store needs.
pub(crate) async fn home(job: &Job) -> Result<Folder, RunError> {
    let at = &job.places.checkpoint;
    Ok(match at.path() {
        Some(path) => Folder::Local(path.to_owned()),
        None => Folder::Remote(Objects::new(at.clone(), table::objects(at).await?)),
    })
}

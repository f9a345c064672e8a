//! What makes a run the only one of its job: a lock on this machine and, with a checkpoint in an object store, a
//! lease there.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::error::RunError;
use crate::checkpoint::{Lease, LeaseError, Lock, MachineId};
use crate::config::Job;
use crate::ident::RunId;
use crate::store::{Folder, Objects};
use crate::table;

/// How long giving the lease back may take; else it runs out.
const RELEASE: Duration = Duration::from_secs(5);

/// A job that this run has to itself.
#[derive(Debug)]
pub(crate) struct Exclusive {
    lease_guard: LeaseGuard,
    /// End after the lease.
    _locks: Vec<Lock>,
}

/// Whether the job is still this run's; on one machine it is as long as the process lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseGuard(Option<Lease>);

impl Exclusive {
    /// Takes a job, or a part of it: the lock in a local folder, and the lease in its folder in the store. The
    /// machine is the one that has the journal.
    ///
    /// # Errors
    /// When another run has it.
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
            // Several folders of locks may go with one of a journal, which says what the machine is.
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

    /// Does something that needs it, and gives it back.
    pub(crate) async fn during<T>(self, work: impl Future<Output = T>) -> T {
        let done = work.await;
        self.release().await;
        done
    }

    /// Gives it back.
    pub(crate) async fn release(self) {
        if let Some(lease) = self.lease_guard.0 {
            let _ = timeout(RELEASE, lease.release()).await;
        }
    }
}

impl LeaseGuard {
    /// Makes sure that the job is still this run's.
    pub(crate) async fn confirm(&self) -> Result<(), LeaseError> {
        match &self.0 {
            Some(lease) => lease.confirm().await,
            None => Ok(()),
        }
    }

    /// Ends when the job is another run's, or may be, and says whose.
    pub(crate) async fn lost(&self) -> LeaseError {
        match &self.0 {
            Some(lease) => lease.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// Who has a job, in words; none if nobody does, as far as can be told.
pub(crate) async fn holder(local: &Path, home: &Folder) -> Option<String> {
    match (Lock::holder(local), home.objects()) {
        (None, Some(objects)) => Lease::holder(objects).await.ok().flatten(),
        (holder, _) => holder,
    }
}

/// The folder of a job's checkpoint.
///
/// # Errors
/// When the environment lacks what its store needs.
pub(crate) async fn home(job: &Job) -> Result<Folder, RunError> {
    let at = &job.places.checkpoint;
    Ok(match at.path() {
        Some(path) => Folder::Local(path.to_owned()),
        None => Folder::Remote(Objects::new(at.clone(), table::objects(at).await?)),
    })
}

//! The lease of a job, which only one run on one machine holds at a time: an object in the checkpoint's object store.
//!
//! The holder renews the lease with conditional puts, which succeed only if the object is still the holder's own.
//! Another run takes a lease that was not renewed for its term, by the store's clock, with a conditional put as well.
//! A run that loses its lease stops before its next commit. Correctness does not depend on the lease: two runs at once
//! waste money, and the checkpoint's conditional put and the Delta log decide which one continues. The pattern is from
//! C. Gray, D. Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File Cache Consistency", SOSP
//! 1989.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{LockError, MachineId};
use crate::clock::{self, Instant};
use crate::faultpoint::{self, Side};
use crate::ident::RunId;
use crate::store::{Location, Object, Objects, PutCondition, PutError, StoreError, Version};

const NAME: &str = "run.lease";
/// Maximum number of tries to put the lease, if other runs put it at the same time or responses are lost.
const TRIES: u32 = 5;
/// Number of renewals in a term.
const RENEWALS: u32 = 3;
/// Minimum time after the lease's end for which a run keeps trying to renew it while the store does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Added to the term, since stores report times in whole seconds.
const MARGIN: Duration = Duration::from_secs(1);

/// A held lease. If it is dropped and not released, it expires after its term. Clones hold the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    held: Arc<HeldLease>,
    lost: watch::Receiver<Option<LeaseError>>,
    /// The task that renews the lease. It ends with the last clone.
    _renewal: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct HeldLease {
    objects: Objects,
    term: Duration,
    state: Mutex<LeaseState>,
}

#[derive(Debug)]
struct LeaseState {
    note: LeaseRecord,
    version: Version,
    /// The time until which no other run takes the lease.
    until: Instant,
}

/// Why a lease is no longer held.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another run has taken the lease.
    #[error("this run has lost the job to another one: {holder} (lease {at})")]
    Lost {
        /// The run that has the lease now, in words.
        holder: String,
        /// Location of the lease.
        at: Location,
    },
    /// The lease has expired, and the store did not accept a renewal.
    #[error("the lease {at} ran out and cannot be renewed: {reason}")]
    RunOut {
        /// Location of the lease.
        at: Location,
        /// Why the renewal failed, in words.
        reason: String,
    },
}

/// The content of the lease object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    run: RunId,
    machine: MachineId,
    host: String,
    pid: u32,
    since: DateTime<Utc>,
    term_ms: u64,
    /// Number of puts, counted so that no two contents are the same.
    renewals: u64,
    /// Whether the lease was given back, so that anyone may take it.
    released: bool,
}

impl LeaseRecord {
    fn of(object: &Object) -> Option<LeaseRecord> {
        serde_json::from_slice(&object.bytes).ok()
    }

    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings and numbers become JSON").into()
    }

    /// Returns how much of the term is left at `now`, which should be by the store's clock, as the object's time is.
    fn left(&self, object: &Object, now: DateTime<Utc>) -> Duration {
        let end = object.modified + Duration::from_millis(self.term_ms) + MARGIN;
        (end - now).to_std().unwrap_or_default()
    }

    fn describe(&self, left: Duration) -> String {
        let since = self.since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let LeaseRecord { pid, host, run, .. } = self;
        let ends = match self.released || left.is_zero() {
            true => "it has ended since".to_owned(),
            false => format!("unless it is renewed, its lease ends in {} s", left.as_secs_f64().ceil()),
        };
        format!("process {pid} on {host} since {since}, run {run}; {ends}")
    }
}

impl Lease {
    /// Takes the lease in a folder for a run on a machine. A lease is free if it was given back, has expired, or
    /// was left by a dead run of the same machine: the caller holds this machine's [`Lock`](super::Lock).
    ///
    /// # Errors
    /// [`LockError::Held`] when another machine has the lease, or several try to take it at once.
    pub async fn take(
        objects: &Objects,
        run: RunId,
        machine: MachineId,
        term: Duration,
    ) -> Result<Lease, LockError> {
        let note = LeaseRecord {
            run,
            machine,
            host: host(),
            pid: std::process::id(),
            since: clock::wall(),
            term_ms: u64::try_from(term.as_millis()).unwrap_or(u64::MAX),
            renewals: 0,
            released: false,
        };
        for _ in 0..TRIES {
            let begun = clock::now();
            let found = objects.get(NAME).await?;
            let there = found.as_ref().and_then(|object| Some((LeaseRecord::of(object)?, object)));
            if let Some((there, object)) = there
                && there.run != run
                && !there.released
                && there.machine != machine
            {
                let left = there.left(object, objects.now().await?);
                if left > Duration::ZERO {
                    let holder = there.describe(left);
                    return Err(LockError::Held { holder, at: objects.place(NAME) });
                }
            }
            let expected =
                found.as_ref().map_or(PutCondition::Absent, |object| PutCondition::Version(&object.version));
            match put(objects, &note, expected).await {
                Ok(version) => {
                    let state = Mutex::new(LeaseState { note, version, until: begun + term });
                    return Ok(Lease::start(Arc::new(HeldLease { objects: objects.clone(), term, state })));
                }
                // Another run has put the lease, or this run itself and the response was lost.
                Err(PutError::Changed) => {}
                Err(PutError::Store(error)) => return Err(error.into()),
            }
        }
        Err(LockError::Held { holder: "several try at once".to_owned(), at: objects.place(NAME) })
    }

    fn start(held: Arc<HeldLease>) -> Lease {
        let (tell, lost) = watch::channel(None);
        let mut renewal = JoinSet::new();
        let renewed = Arc::clone(&held);
        renewal.spawn(async move {
            loop {
                sleep(renewed.term / RENEWALS).await;
                let renewal = timeout(renewed.term / 2, renewed.renew(false)).await;
                let lost = match renewal {
                    Ok(Ok(())) => continue,
                    Ok(Err(lost @ LeaseError::Lost { .. })) => lost,
                    // If the store does not answer, the renewal is repeated for a while.
                    Ok(Err(run_out)) if renewed.is_long_over().await => run_out,
                    Err(_) if renewed.is_long_over().await => LeaseError::RunOut {
                        at: renewed.objects.place(NAME),
                        reason: "the store does not answer in time".to_owned(),
                    },
                    _ => continue,
                };
                let _ = tell.send(Some(lost));
                return;
            }
        });
        Lease { held, lost, _renewal: Arc::new(renewal) }
    }

    /// Checks that no other run has the lease at this moment.
    ///
    /// # Errors
    /// When another run has it, and when that cannot be determined.
    pub async fn confirm(&self) -> Result<(), LeaseError> {
        if let Some(lost) = &*self.lost.borrow() {
            return Err(lost.clone());
        }
        if clock::now() < self.held.state.lock().await.until {
            return Ok(());
        }
        self.held.renew(false).await
    }

    /// Waits until another run has taken the lease or the lease has long expired, which may never happen.
    pub async fn lost(&self) -> LeaseError {
        let mut loss = self.lost.clone();
        loop {
            let lost = loss.borrow_and_update().clone();
            if let Some(lost) = lost {
                return lost;
            }
            if loss.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Gives the lease back, so that nobody has to wait until it expires. If that fails, it expires.
    pub async fn release(self) {
        let _ = self.held.renew(true).await;
    }

    /// Describes the holder of the lease in a folder; `None` if nobody holds it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn holder(objects: &Objects) -> Result<Option<String>, StoreError> {
        let Some(object) = objects.get(NAME).await? else { return Ok(None) };
        let Some(note) = LeaseRecord::of(&object).filter(|note| !note.released) else { return Ok(None) };
        let left = note.left(&object, objects.now().await?);
        Ok((!left.is_zero()).then(|| note.describe(left)))
    }
}

impl HeldLease {
    /// Whether the lease expired so long ago that its renewal is given up.
    async fn is_long_over(&self) -> bool {
        clock::now() > self.state.lock().await.until + self.term.max(PATIENCE)
    }

    /// Puts the lease again, to renew it or, with `released`, to give it back.
    async fn renew(&self, released: bool) -> Result<(), LeaseError> {
        let mut state = self.state.lock().await;
        let at = || self.objects.place(NAME);
        let run_out = |error: StoreError| LeaseError::RunOut { at: at(), reason: error.to_string() };
        if state.note.released {
            return Ok(());
        }
        for _ in 0..TRIES {
            let begun = clock::now();
            state.note.renewals += 1;
            state.note.released = released;
            let expected = PutCondition::Version(&state.version);
            match put(&self.objects, &state.note, expected).await {
                Ok(version) => {
                    state.version = version;
                    state.until = begun + self.term;
                    return Ok(());
                }
                Err(PutError::Store(error)) => return Err(run_out(error)),
                Err(PutError::Changed) => {}
            }
            // The change was made by this run if a response was lost, otherwise by another run.
            let found = self.objects.get(NAME).await.map_err(run_out)?;
            match found.as_ref().map(|object| (LeaseRecord::of(object), object)) {
                Some((Some(note), object)) if note.run == state.note.run => {
                    state.version = object.version.clone();
                }
                Some((Some(note), object)) => {
                    let holder = note.describe(note.left(object, clock::wall()));
                    return Err(LeaseError::Lost { holder, at: at() });
                }
                _ => return Err(LeaseError::Lost { holder: "it was removed".to_owned(), at: at() }),
            }
        }
        Err(LeaseError::RunOut { at: at(), reason: "its answers contradict each other".to_owned() })
    }
}

async fn put(objects: &Objects, note: &LeaseRecord, expected: PutCondition<'_>) -> Result<Version, PutError> {
    let pass = |side| faultpoint::pass("lease", side).map_err(StoreError::of("write", objects.place(NAME)));
    pass(Side::Before)?;
    let put = objects.put_if(NAME, note.bytes(), expected).await?;
    pass(Side::After)?;
    Ok(put)
}

/// Returns the name of this machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "another machine".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    struct Machines {
        objects: Objects,
        folders: [tempfile::TempDir; 2],
    }

    impl Machines {
        fn new() -> Self {
            let at = Location::resolve("s3://bucket/job", Path::new("/")).unwrap();
            let objects = Objects::new(at, Arc::new(object_store::memory::InMemory::new()));
            Machines { objects, folders: [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()] }
        }

        async fn take(&self, machine: usize, term: Duration) -> Result<Lease, LockError> {
            let id = MachineId::of(self.folders[machine].path()).unwrap();
            Lease::take(&self.objects, RunId::random(), id, term).await
        }
    }

    #[tokio::test]
    async fn one_machine_has_it_until_it_gives_it_back_or_its_own_next_run_comes() {
        let machines = Machines::new();
        let term = Duration::from_secs(600);
        let first = machines.take(0, term).await.unwrap();
        let refused = machines.take(1, term).await.unwrap_err().to_string();
        assert!(refused.contains("another run holds this job: process"), "{refused}");
        assert!(Lease::holder(&machines.objects).await.unwrap().is_some());
        first.confirm().await.unwrap();
        drop(first);
        let second = machines.take(0, term).await.unwrap();
        second.release().await;
        assert!(Lease::holder(&machines.objects).await.unwrap().is_none());
        machines.take(1, term).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_lease_is_an_error() {
        let machines = Machines::new();
        let lost = machines.take(0, Duration::from_millis(30)).await.unwrap();
        // Another run takes the lease, as after a pause that was longer than the term.
        let thief = LeaseRecord {
            machine: MachineId::of(machines.folders[1].path()).unwrap(),
            ..lost.held.state.lock().await.note.clone()
        };
        let thief = LeaseRecord { run: RunId::random(), ..thief };
        machines.objects.put(NAME, thief.bytes()).await.unwrap();
        lost.lost().await;
        let error = lost.confirm().await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("lost the job to another one: process {}", std::process::id())),
            "{error}"
        );
        lost.release().await;
        assert!(Lease::holder(&machines.objects).await.unwrap().is_some(), "the other's stays");
    }
}

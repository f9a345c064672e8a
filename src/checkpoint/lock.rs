//! The lock of a job on one machine: one run at a time for a target and an `app_id`.
//!
//! It is an advisory lock on a file in the job's local folder. The operating system releases it when the process ends,
//! even if it was killed. Correctness does not depend on the lock: it prevents answers from being paid for twice, and
//! lets a message name the other run.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::ident::RunId;
use crate::store::{self, Location, StoreError};

const NAME: &str = "run.lock";
const TRIES: u32 = 3;
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// A held lock, released when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why a lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another run holds the lock or lease.
    #[error("another run holds this job: {holder} (lock {at})")]
    Held {
        /// The holder, in words.
        holder: String,
        /// The lock file, or the lease.
        at: Location,
    },
    /// The lock file or lease cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The holder of a lock; the content of the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    run: RunId,
    since: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} since {}, run {}", self.pid, self.since, self.run)
    }
}

impl Lock {
    /// Takes the lock in a folder, which is created if it is missing.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process holds the lock.
    pub fn take(folder: &Path, run: RunId) -> Result<Lock, LockError> {
        store::create_folder(folder)?;
        let path = folder.join(NAME);
        let mut file =
            store::private_file().open(&path).map_err(StoreError::of("open the lock file", &path))?;
        // Anyone who can read the file can lock it, so only the user may read it. A file of another user keeps its
        // mode.
        #[cfg(unix)]
        let _ = file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
        let mut looks = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // [`Lock::holder`] may hold the lock for a moment.
                Err(TryLockError::WouldBlock) if looks < TRIES => {
                    looks += 1;
                    std::thread::sleep(TRY_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { holder: describe(&mut file), at: path.into() });
                }
                Err(TryLockError::Error(error)) => return Err(StoreError::of("lock", &path)(error).into()),
            }
        }
        let holder = Holder {
            pid: std::process::id(),
            run,
            since: clock::wall().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        };
        let text = serde_json::to_vec(&holder).expect("writing JSON to memory does not fail");
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&text))
            .map_err(StoreError::of("write", &path))?;
        Ok(Lock { _file: file })
    }
}

impl Lock {
    /// Describes the holder of the lock in a folder; `None` if it is free. It takes a shared lock for a moment;
    /// [`Lock::take`] waits longer than that.
    #[must_use]
    pub fn holder(folder: &Path) -> Option<String> {
        let mut file = File::open(folder.join(NAME)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(describe(&mut file)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

fn describe(file: &mut File) -> String {
    let mut text = String::new();
    let holder = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
    holder.map_or_else(|| "its process has not recorded who it is".to_owned(), |holder| holder.to_string())
}

//! What can go wrong with a cache.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// A cache that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Its folder cannot be made.
    #[error("cache.path: {0}")]
    Store(#[source] StoreError),
    /// It cannot be opened or read.
    #[error("cannot {action} the cache {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Answers could not be written. Later ones are tried all the same.
    #[error("cannot write to the cache {}: {source}; answers lost: {lost}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Answers that were lost since the last flush.
        lost: u64,
        /// Why the first write of those that failed did.
        source: io::Error,
    },
    /// The file is some other program's database.
    #[error("{} is a database, but no cache of enrich", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a later version of this program.
    #[error("the cache {} has format {found}, and this version reads {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: i32,
        /// Newest format that is known.
        known: i32,
    },
    /// The file is damaged, or no database at all.
    #[error("the cache {} is damaged, or no cache: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The thread that writes has died.
    #[error("the cache {} is no longer written: its thread died", path.display())]
    Ended {
        /// The file.
        path: PathBuf,
    },
}

impl CacheError {
    /// What to do about it, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CacheError::Foreign { .. } | CacheError::Version { .. } => {
                Some("set another path for the cache, or remove that file if nothing else needs it")
            }
            CacheError::Damaged { .. } => Some(
                "set another path for the cache, or remove that file: answers in it are asked for again, nothing else is lost",
            ),
            _ => None,
        }
    }

    /// Makes the function that turns SQLite's error into one that names the file.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> CacheError {
        move |error| CacheError::told(path, error, |path, source| CacheError::Io { action, path, source })
    }

    /// A write that failed and what it lost.
    pub(super) fn of_write(path: &Path, lost: u64, error: rusqlite::Error) -> CacheError {
        CacheError::told(path, error, |path, source| CacheError::Write { path, lost, source })
    }

    /// Damage, whatever was done; else what the caller makes of it.
    fn told(
        path: &Path,
        error: rusqlite::Error,
        otherwise: impl FnOnce(PathBuf, io::Error) -> CacheError,
    ) -> CacheError {
        let (path, is_damage) = (path.to_owned(), is_damage(&error));
        let source = io_error(error);
        if is_damage { CacheError::Damaged { path, source } } else { otherwise(path, source) }
    }
}

/// Whether another connection is at work on the file.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// SQLite's error as one of the disk, where it is that.
fn io_error(error: rusqlite::Error) -> io::Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::StorageFull,
        Some(ErrorCode::ReadOnly) => ErrorKind::ReadOnlyFilesystem,
        Some(ErrorCode::PermissionDenied) => ErrorKind::PermissionDenied,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::InvalidData,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

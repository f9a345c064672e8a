//! The errors of a cache.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder of the cache cannot be created.
    #[error("cache.path: {0}")]
    Store(#[source] StoreError),
    /// The file cannot be opened or read.
    #[error("cannot {action} the cache {}: {source}", path.display())]
    Io {
        /// The action that failed, as a verb for the message.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// Answers could not be written. The writes of later answers are still tried.
    #[error("cannot write to the cache {}: {source}; answers lost: {lost}", path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Number of answers that were lost since the last flush.
        lost: u64,
        /// The error of the first write that failed.
        source: io::Error,
    },
    /// The file is another program's database.
    #[error("{} is a database, but no cache of enrich", path.display())]
    Foreign {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file was written by a later version of this program.
    #[error("the cache {} has format {found}, and this version reads {known}", path.display())]
    Version {
        /// Path of the file.
        path: PathBuf,
        /// Format number of the file.
        found: i32,
        /// The format number that this version reads.
        known: i32,
    },
    /// The file is damaged, or is no database.
    #[error("the cache {} is damaged, or no cache: {source}", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// The writer thread has died.
    #[error("the cache {} is no longer written: its thread died", path.display())]
    Ended {
        /// Path of the file.
        path: PathBuf,
    },
}

impl CacheError {
    /// Returns advice on what to do, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            CacheError::Foreign { .. } | CacheError::Version { .. } => {
                Some("set another path for the cache, or remove that file if nothing else needs it")
            }
            CacheError::Damaged { .. } => Some(
                "set another path for the cache, or remove that file: answers in it are requested again, nothing else is lost",
            ),
            _ => None,
        }
    }

    /// Returns a function that turns an error of SQLite into one that names the file.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> CacheError {
        move |error| {
            CacheError::damaged_or(path, error, |path, source| CacheError::Io { action, path, source })
        }
    }

    /// Creates the error of a failed write that lost `lost` answers.
    pub(super) fn of_write(path: &Path, lost: u64, error: rusqlite::Error) -> CacheError {
        CacheError::damaged_or(path, error, |path, source| CacheError::Write { path, lost, source })
    }

    /// Returns [`CacheError::Damaged`] if the error reports damage, otherwise the error that `otherwise` creates.
    fn damaged_or(
        path: &Path,
        error: rusqlite::Error,
        otherwise: impl FnOnce(PathBuf, io::Error) -> CacheError,
    ) -> CacheError {
        let (path, is_damage) = (path.to_owned(), is_damage(&error));
        let source = io_error(error);
        if is_damage { CacheError::Damaged { path, source } } else { otherwise(path, source) }
    }
}

/// Whether another connection holds a lock on the file.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Converts an error of SQLite to an I/O error, with the kind of a disk error where it is one.
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

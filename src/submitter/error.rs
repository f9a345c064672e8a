//! Why a submitter cannot go on.

use std::path::PathBuf;

use super::collect::CollectError;
use crate::checkpoint::CheckpointError;
use crate::journal::JournalError;

/// Why a submitter cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SubmitterError {
    /// The list of submissions cannot be written.
    #[error(transparent)]
    List(#[from] CheckpointError),
    /// A journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Answers cannot be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// A file of requests cannot be written.
    #[error("cannot {action} a file of requests in {}: {source}", folder.display())]
    Spool {
        /// What was done to it.
        action: &'static str,
        /// Its folder.
        folder: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

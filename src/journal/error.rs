//! Why a journal cannot be read or written.

use std::io;
use std::path::PathBuf;

use crate::store::StoreError;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file or its folder cannot be read or written.
    #[error("cannot {action} the journal {}: {source}", path.display())]
    Io {
        /// The action that failed, as a verb for the message.
        action: &'static str,
        /// Path of the journal.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The copies in an object store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is damaged in the middle, or is no journal.
    #[error("the journal {} is damaged at byte {offset}: {what}; intact records before it: {intact}", path.display())]
    Damaged {
        /// Path of the journal.
        path: PathBuf,
        /// Byte offset at which the damage begins.
        offset: u64,
        /// The fault at that offset.
        what: &'static str,
        /// Number of records that were read before it.
        intact: u64,
    },
    /// The file was written by a later version of this program.
    #[error("the journal {} has format {found}, and this version reads {known}", path.display())]
    Version {
        /// Path of the journal.
        path: PathBuf,
        /// Format number of the file.
        found: u16,
        /// Newest format number that this version reads.
        known: u16,
    },
}

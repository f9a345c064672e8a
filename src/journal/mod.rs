//! The journal: every paid response and every terminal outcome that is not in the target table yet.
//!
//! There is one append-only file per batch, on a local disk. A record is written before anything else uses its
//! content, so that after `kill -9` only requests that were in flight are sent again (test
//! `recovery::every_fault_point`). Records are not flushed to the disk one by one: a power failure may cost the
//! newest answers, but never yields a wrong one. A torn tail is cut off; damage before it is an error. If the
//! checkpoint is in an object store, the journal is copied there every few seconds ([`Copies`]), in case the
//! machine is lost.

mod copies;
mod folder;
mod format;
mod pending_copies;
mod reader;
mod salvage;
mod shared;
mod writer;

pub use copies::{Copies, Restored};
pub use folder::{FormerJournal, JournalFolder, StrayAnswers};
pub use format::{JournalHeader, Record, RecordedOutcome};
pub use reader::{JournalReader, read_all};
pub use salvage::{Salvaged, salvage};
pub use shared::Journal;
pub use writer::JournalWriter;

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

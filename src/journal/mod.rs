//! The journal: every paid response and every terminal outcome that is not in the target table yet.
//!
//! One append-only file a batch, on a local disk. A record is written before anything else uses what it
//! holds, so that after `kill -9` only requests in flight are asked again (test
//! `recovery::every_fault_point`). It is not flushed to the disk record by record: a power failure may
//! cost the newest answers, never a wrong one. A torn tail is cut; damage before it is an error. With a checkpoint in an
//! object store it is copied there every few seconds ([`Copies`]), for when the machine is lost.

mod copies;
mod folder;
mod format;
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

/// A journal that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file or its folder is out of reach.
    #[error("cannot {action} the journal {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What is kept beside it is out of reach.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is damaged in the middle, or is no journal.
    #[error("the journal {} is damaged at byte {offset}: {what}; intact records before it: {intact}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// Records that were read before it.
        intact: u64,
    },
    /// The file was written by a later version of this program.
    #[error("the journal {} has format {found}, and this version reads {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: u16,
        /// Newest format that is known.
        known: u16,
    },
}

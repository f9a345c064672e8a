//! The journal: every paid response and every terminal outcome that is not in the target table yet, and which rows are
//! in a submission to a provider's Batch API.
//!
//! There is one append-only file per batch, on a local disk. A record is written before anything else uses its
//! content, so that after `kill -9` only requests that were in flight are sent again (test
//! `recovery::every_fault_point`). Records are not flushed to the disk one by one: a power failure may cost the
//! newest answers, but never yields a wrong one. A torn tail is cut off; damage before it is an error. If the
//! checkpoint is in an object store, the journal is copied there every few seconds ([`Copies`]), in case the
//! machine is lost.

mod copies;
mod epochs;
mod error;
mod folder;
mod format;
mod pending_copies;
mod reader;
mod salvage;
mod shared;
mod writer;

pub use copies::{Copies, Restored};
pub use epochs::{EpochJournals, epoch_file};
pub use error::JournalError;
pub use folder::{FormerJournal, JournalFolder, StrayAnswers};
pub use format::{JournalEntry, JournalHeader, Record, RecordedOutcome, SubmittedGroup, SubmittedRows};
pub use reader::{JournalReader, read_all};
pub use salvage::{Salvaged, salvage};
pub use shared::Journal;
pub use writer::JournalWriter;

//! Writes batches of outcomes to the target table: data files and one commit for each batch.
//!
//! A commit is a blind append with two `txn` actions, one for the `app_id` and one for the `app_id` with the lineage,
//! both at the batch's number. It succeeds only on a version of the table in which neither `txn` has reached that
//! number (test `recovery::every_fault_point`).

mod columns;
mod commit;
mod constraints;
mod error;
mod failed;
mod held;
mod history;
mod logged;
mod older;
mod ranking;
mod rebuild;
mod reload;
mod retry_commit;
mod target;
mod target_rows;

pub(crate) use columns::ServedColumns;
pub use commit::{Committed, ForeignRows, Sink};
pub use constraints::Constraints;
pub use error::TargetError;
pub use failed::{FailedError, FailedGroup, FailedRows, LISTED};
pub use logged::{committed, restored};
pub use older::{OlderAnswers, older};
pub use ranking::{RowOrder, ShownRow, ranked_rows};
pub use rebuild::Progress;
pub use reload::{FailedRow, FailedRowReader, OpenBatchFiles, Reloaded};
pub use retry_commit::RetryCommit;
pub use target::{check_columns, properties};
pub use target_rows::{ErrorRows, RowChoice, TargetReader, TargetRows};

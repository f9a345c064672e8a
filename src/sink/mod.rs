//! What is written: a batch of outcomes becomes data files and one commit.
//!
//! A commit is a blind append with two `txn` actions, the `app_id` and the `app_id` with the lineage, both
//! at the batch's number, and goes through only from a version of the table in which neither has come
//! that far (test `recovery::every_fault_point`).

mod columns;
mod commit;
mod constraints;
mod error;
mod failed;
mod history;
mod logged;
mod older;
mod output;
mod ranking;
mod rebuild;
mod reload;
mod retry_commit;
mod row_result;
mod target;

pub use commit::{Committed, OthersRows, Sink};
pub use constraints::{Constraints, Turned};
pub use error::TargetError;
pub use failed::{FailedError, FailedGroup, FailedRows, LISTED};
pub use logged::{committed, restored};
pub use older::{OlderAnswers, older};
pub use output::Output;
pub use ranking::{RowOrder, ShownRow, ranked_rows};
pub use rebuild::Progress;
pub use reload::{FailedReader, FailedRow, OpenBatchFiles, Reloaded, UnchangedStep};
pub use retry_commit::{RetryCommit, retry_app_id};
pub use row_result::{FilledBatch, Outcome, RowResult};
pub use target::{check_columns, properties};

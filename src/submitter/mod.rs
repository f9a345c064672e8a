//! The executor of a provider's Batch API: requests go out in files and come back within a day, at half the price.
//!
//! A file of requests is a submission. Which rows are in it is in the journals of their batches, and that it exists in the
//! list of submissions, before it is handed to the provider; its answers go into those journals.

mod collect;
mod context;
mod error;
mod followers;
mod late;
mod leaders;
mod limits;
mod line_id;
mod lost;
mod shared;
#[cfg(test)]
mod simulation;
mod spool;
mod spooled;
mod steps;
mod submission;
mod submission_events;
mod task;
mod unclaimed;
mod unjudged;
mod validation;

pub use collect::{CollectError, CollectionReport};
pub use context::{GuardError, SubmissionGuard, SubmitterContext, SubmitterNews, SubmitterStatus};
pub use error::SubmitterError;
pub use line_id::{InvalidLineId, LineId};
pub use shared::SharedSubmissions;
pub use spool::sweep;
pub use spooled::SpooledRows;
pub use submission::{CreationResult, SubmissionAction, SubmissionDriver, SubmissionPolicy};
pub use task::Submitter;

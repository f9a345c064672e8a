//! Errors that keep an enricher from starting, or end it.

use crate::budget::SpendingError;
use crate::journal::JournalError;
use crate::prompt::PromptError;
use crate::store::StoreError;
use crate::transport::EndpointError;

/// An error of the enricher. A failed row is no such error but an outcome.
#[derive(Debug, thiserror::Error)]
pub enum EnricherError {
    /// A template is wrong.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An endpoint cannot be made.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The condition of a step cannot be evaluated on the source's columns.
    #[error("step {step:?}: the condition {condition:?} is wrong: {message}")]
    When {
        /// Output of the step.
        step: String,
        /// The condition as the job states it.
        condition: String,
        /// What is wrong.
        message: String,
    },
    /// The job does not fit its target, or uses a simulator that was not started.
    #[error("{what}")]
    Mismatch {
        /// What does not fit.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What the job has spent cannot be recorded.
    #[error(transparent)]
    Spending(#[from] SpendingError),
    /// A file of the enricher cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task of the enricher died.
    #[error("a task of the engine died: {0}")]
    Task(String),
}

//! The errors of a service.

use std::sync::Arc;

use crate::run::{End, RunError};

/// Why posted rows get no outcomes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// The rows or their request cannot be taken as they are.
    #[error("{0}")]
    Invalid(String),
    /// The batch is larger than the window of the job.
    #[error("{0}")]
    TooLarge(String),
    /// Other rows were posted under the same name in the same epoch.
    #[error("a batch of this name and epoch has other rows; a name stands for one content")]
    OtherRows,
    /// As many rows as the window of the job holds wait for their outcomes. Later there is room again.
    #[error("the window is full: window.max_rows and window.max_bytes bound what waits for outcomes")]
    Full,
    /// The service is being stopped. One that is started again goes on.
    #[error("the service is stopping")]
    Stopping,
    /// The job has ended, and asks nothing any more.
    #[error("{}", in_words(.0))]
    Ended(Arc<Result<End, RunError>>),
    /// The journal of an epoch cannot be used.
    #[error("{0}")]
    Journal(String),
}

/// Returns why a job has ended.
pub(super) fn in_words(end: &Result<End, RunError>) -> String {
    match end {
        Ok(end) => end.message().unwrap_or_else(|| end.word().to_owned()),
        Err(error) => error.to_string(),
    }
}

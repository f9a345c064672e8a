//! What the caller of a run decides: its limits, where it begins, and when it stops.

use std::time::Duration;

use tokio::sync::watch;

use super::error::RunError;

/// Limits of a run, and where it begins.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Maximum time that requests in flight may take after a request to stop.
    pub grace: Duration,
    /// Maximum number of rows to send; `None` for no limit.
    pub max_rows: Option<u64>,
    /// Time after which no new request is sent; `None` for no limit.
    pub max_duration: Option<Duration>,
    /// Where the run begins.
    pub begin: Begin,
    /// Whether the user has confirmed that rows which the target has under another `app_id` are sent again.
    pub confirmed: bool,
    /// Whether the run stays until every submission to a provider's Batch API has come back.
    pub waits: bool,
    /// Whether rows are sent by themselves to providers with a Batch API, too. What is submitted stays submitted.
    pub asks_online: bool,
    /// Whether a job that starts over uses answers that were paid for earlier.
    pub keep_paid: bool,
}

/// Where a run begins. If the job is paused, only [`Begin::Unpaused`] and [`Begin::Restart`] are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// Where the last run ended.
    #[default]
    Continue,
    /// Where the last run ended, even if the job is paused.
    Unpaused,
    /// Where the last run ended, after earlier rows that the target lacks.
    Refill,
    /// At the start of the source. The target is emptied first.
    Restart,
}

/// Whether and how the caller wants a run to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopRequest {
    /// The run goes on.
    None,
    /// No new request is sent; requests in flight may end, and full batches are committed.
    Gently,
    /// The run ends at once; answers that were received are kept.
    Now,
}

/// Returns the result of `work`, which is done before a run begins, or `None` if the caller requests a stop first.
/// `work` may be dropped at any point, just as a process may be killed at any.
pub(crate) async fn unless_stopped<T>(
    stop: &watch::Receiver<StopRequest>,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<Option<T>, RunError> {
    let mut stop = stop.clone();
    let stop_requested = async {
        if stop.wait_for(|request| *request != StopRequest::None).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done.map(Some),
        () = stop_requested => Ok(None),
    }
}

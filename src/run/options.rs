//! What the caller wants of a run: its limits, where it begins, and when it is to stop.

use std::time::Duration;

use tokio::sync::watch;

use super::error::RunError;

/// How long a run may go on.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// How long requests in flight may take once the run is asked to stop.
    pub grace: Duration,
    /// Rows to ask about, at most.
    pub max_rows: Option<u64>,
    /// Time after which nothing new is asked.
    pub max_duration: Option<Duration>,
    /// Where it begins.
    pub begin: Begin,
    /// Whether what a run would ask about first is meant: rows that the target has under another `app_id`.
    pub confirmed: bool,
    /// Whether a job that starts over uses the answers that were paid before.
    pub keep_paid: bool,
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// Where the last one ended.
    #[default]
    GoOn,
    /// There too, though the job is paused.
    Unpaused,
    /// Where the last one ended, after the rows before that which the target lacks.
    Refill,
    /// At the start of the source, into an emptied target.
    Restart,
}

/// What the caller wants of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopRequest {
    /// Go on.
    None,
    /// Ask nothing new, keep what is in flight, commit what is full.
    Gently,
    /// End at once; what is answered is kept.
    Now,
}

/// What comes of something that is done before a run begins; none where the caller asks for the end first. It may be
/// left at any point, as a process may be killed at any.
pub(crate) async fn unless_stopped<T>(
    stop: &watch::Receiver<StopRequest>,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<Option<T>, RunError> {
    let mut stop = stop.clone();
    let asked = async {
        if stop.wait_for(|asked| *asked != StopRequest::None).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done.map(Some),
        () = asked => Ok(None),
    }
}

//! Looks at a job, its tables and its submissions without running it: check, status, forecast and batches.
//!
//! Nothing here writes to the target. A live check sends each provider a harmless question, and a forecast may send a
//! sample of rows. [`salvage`] changes damaged files, and [`cancel_submissions`] and [`give_up_submission`] the list of
//! submissions; nothing else changes files.

mod batches;
mod check;
mod forecast;
mod status;

pub use batches::{
    CancellationResult, ClosedReport, RemoteReport, SubmissionChoice, SubmissionReport, SubmissionsReport,
    cancel_submissions, give_up_submission, submission_to_give_up, submissions,
};
pub use check::{Finding, check, salvage};
pub use forecast::{BatchForecast, Estimate, Forecast, ForecastOptions, PartForecast, ShownPrompt, forecast};
pub use status::{
    CheckpointStatus, NextCommand, OutstandingBatch, PausedStatus, SourceStatus, Status, TargetStatus,
    status, target_before,
};

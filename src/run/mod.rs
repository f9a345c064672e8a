//! A run of a job, and what else sends rows of a table to a model: a retry, and a pilot.
//!
//! The loop of a run stands between where batches come from and where they go. It owns the checkpoint and the lease; the
//! [`Enricher`](crate::enricher::Enricher) does the rest. Nothing here prints: the caller listens to events.

mod copier;
mod end;
mod error;
mod exclusive;
mod feed;
mod history;
mod job_run;
pub(crate) mod pause;
mod pilot;
mod prepared_job;
mod reading;
mod recover;
pub(crate) mod retry;
mod run_budget;
mod start;
mod writable;

pub use end::{End, EndKind};
pub use error::{ErrorKind, RunError};
pub(crate) use exclusive::{Exclusive, holder, home};
pub use job_run::{Begin, RunOptions, StopRequest, run};
pub(crate) use job_run::{may_be_made, unless_stopped};
pub(crate) use pilot::{Answered, HeldJob, ask, may_ask};
pub use pilot::{Pilot, PilotSample};
pub(crate) use prepared_job::PreparedJob;
pub use prepared_job::check_templates;
pub(crate) use recover::Recoverer;
pub use retry::retry;
pub(crate) use run_budget::RunBudget;
pub use run_budget::Spent;
pub(crate) use start::COPIES;
pub(crate) use writable::{can_append, can_write};

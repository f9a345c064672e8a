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
mod options;
pub(crate) mod pause;
mod pilot;
mod prepared_job;
mod reading;
mod recover;
mod retry;
mod run_budget;
mod running;
mod session;
mod submission_guard;
mod writable;

pub use end::{End, EndKind};
pub use error::{ErrorKind, RunError};
pub(crate) use exclusive::{RETRY_FOLDER, holder, home};
pub(crate) use feed::{Delivery, Drain, Feed};
pub(crate) use job_run::check_creatable;
pub use job_run::run;
pub(crate) use options::unless_stopped;
pub use options::{Begin, RunOptions, StopRequest};
pub(crate) use pilot::{Answered, check_target, send_pilot};
pub use pilot::{Pilot, PilotSample};
pub(crate) use prepared_job::PreparedJob;
pub use prepared_job::check_templates;
pub(crate) use recover::Recoverer;
pub use retry::retry;
pub(crate) use run_budget::RunBudget;
pub use run_budget::Spent;
pub(crate) use running::Running;
pub use session::Scope;
pub(crate) use session::{COPIES, SERVED_FOLDER, Session};
pub(crate) use writable::{check_appendable, check_writable};

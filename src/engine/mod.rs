//! The engine: input and output around the ledger.
//!
//! [`Enricher`] takes batches of rows and gives them back with their outcomes; it owns the journal and the
//! dispatchers. [`run`] puts a source, a plan, a checkpoint and a sink around it. Nothing here prints.

mod anomalies;
mod check;
mod copying;
mod end;
mod enricher;
mod error;
mod error_rate;
mod exclusive;
mod feed;
mod forecast;
mod handing;
mod history;
mod inputs;
mod learned;
mod open_batch;
mod outcome;
mod pause;
mod prepare;
mod probation;
mod reading;
mod recover;
mod replies;
mod report;
mod retry;
mod run;
mod run_budget;
mod sharing;
mod start;
mod status;
mod step_provider;
mod stop;
mod window;

pub use check::{Finding, check, salvage};
pub use end::{End, EndKind};
pub use enricher::Enricher;
pub use error::{EngineError, ErrorKind};
pub use error_rate::TooManyErrors;
pub use feed::Loaded;
pub use forecast::{
    Estimate, Forecast, ForecastOptions, PartForecast, Pilot, PilotSample, ShownPrompt, forecast,
};
pub use learned::LearnedFile;
pub use prepare::{Prepared, check_templates, prepare};
pub use probation::Strictness;
pub use report::report;
pub use retry::retry;
pub use run::{Begin, RunOptions, StopRequest, run};
pub use run_budget::Spent;
pub use start::Journals;
pub use status::{
    CheckpointStatus, NextCommand, OutstandingBatch, PausedStatus, SourceStatus, Status, TargetStatus,
    status, target_before,
};
pub use stop::Stop;

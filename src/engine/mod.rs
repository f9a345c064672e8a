//! The engine: input and output around the ledger.
//!
//! [`Enricher`] takes batches of rows and gives them back with their outcomes; it owns the journal and the
//! dispatchers. [`run`] puts a source, a plan, a checkpoint and a sink around it. Nothing here prints.

mod enricher;
mod error;
mod error_rate;
mod lane;
mod open_batch;
mod outcome;
mod prepare;
mod probation;
mod reading;
mod run;
mod start;
mod stop;

pub use enricher::Enricher;
pub use error::EngineError;
pub use error_rate::TooManyErrors;
pub use prepare::{Prepared, prepare};
pub use run::{End, RunOptions, StopRequest, run};
pub use stop::Stop;

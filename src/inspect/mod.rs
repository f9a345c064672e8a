//! Looks at a job and its tables without running it: check, status and forecast.
//!
//! Nothing here writes to the target. A live check sends each provider a harmless question, and a forecast may send a
//! sample of rows; [`salvage`] alone changes files, and only damaged ones.

mod check;
mod forecast;
mod status;

pub use check::{Finding, check, salvage};
pub use forecast::{BatchForecast, Estimate, Forecast, ForecastOptions, PartForecast, ShownPrompt, forecast};
pub use status::{
    CheckpointStatus, NextCommand, OutstandingBatch, PausedStatus, SourceStatus, Status, TargetStatus,
    status, target_before,
};

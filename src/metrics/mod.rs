//! Metrics of a job: one row per batch, step and provider, in a Delta table of their own, exactly once.
//!
//! The rows of a batch are written to a file before the batch is committed ([`MetricsWriter`]), so that a run that dies
//! between that commit and the one to the metrics table leaves them to the next run. The load of a provider since the
//! previous batch (requests, throttling, waiting) is counted in a file that survives `kill -9` ([`Counters`]). It is
//! put on one row per batch and provider.

mod columns;
mod counters;
mod pending;
mod read;
mod row;
mod writer;

pub use counters::Counters;
pub use read::read;
pub use row::{LatencyQuantiles, Load, MetricsRow, RunKind, WAITS, metrics_of_batch};
pub use writer::{MetricsError, MetricsOwner, MetricsWriter, ProviderOfStep, look};

//! Figures of what a job did: one row per batch, step and provider, in a Delta table of their own, exactly once.
//!
//! The rows of a batch are written down before its commit ([`Keeper`]), so that a run that dies between the two
//! commits leaves them to the next one. What a provider itself did since the batch before, throttling and waiting, is
//! counted in a file that survives `kill -9` ([`Counters`]) and stands on one row of it a batch.

mod columns;
mod counters;
mod keeper;
mod pending;
mod read;
mod row;

pub use counters::Counters;
pub use keeper::{FiguresOwner, Keeper, MetricsError, ProviderOfStep, look};
pub use read::read;
pub use row::{AskedKind, LatencyQuantiles, Load, MetricsRow, WAITS, of_batch};

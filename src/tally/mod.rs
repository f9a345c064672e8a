//! Counts of a run's events: for the display, the summary and the metrics.
//!
//! [`Tally`] listens to events and adds up; whoever shows something reads its [`Totals`].

mod provider;
mod totals;
mod waits;

pub use provider::ProviderFigures;
pub use totals::{Tally, Totals};

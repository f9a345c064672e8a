//! Counts of a run's events: for the display, the summary and the metrics.
//!
//! [`Tally`] listens to events and adds them up; everything that shows figures reads its [`Totals`].

mod provider;
mod submissions;
mod totals;
mod waits;

pub use provider::ProviderFigures;
pub use submissions::SubmissionFigures;
pub use totals::{Tally, Totals};

//! Listeners of events: a tally for the last line, a progress line for terminals, a log for everyone else.

mod log;
mod progress;
mod tally;

pub use log::Log;
pub use progress::Progress;
pub use tally::{Tally, Totals};

//! What a run tells people: a tally that listens to its events, a display on terminals, a line in the log now
//! and then for everyone else, the log, and a page about all runs.

mod counted;
mod display;
mod figures;
mod layout;
mod log;
mod pace;
pub mod page;
mod periodic;
mod prometheus;
mod provider;
mod scrape;
mod screen;
mod tally;
mod waits;

pub use counted::counted;
pub use display::Display;
pub use log::Log;
pub use periodic::log_progress;
pub use prometheus::{RunResult, prometheus};
pub use provider::ProviderFigures;
pub use scrape::scrape;
pub use tally::{Tally, Totals};

//! Listeners of a run's events that people and monitoring see.
//!
//! A display on terminals, progress lines where standard error is no terminal, the log, and Prometheus metrics. They
//! read the tally at their own pace, so that rows never wait for a terminal.

mod display;
mod layout;
mod log;
mod moving_average;
mod periodic;
mod prometheus;
mod run_progress;
mod scrape;
mod screen;

pub use display::Display;
pub use log::Log;
pub use periodic::log_progress;
pub use prometheus::{RunResult, prometheus};
pub use scrape::scrape;

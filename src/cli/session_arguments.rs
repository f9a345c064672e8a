//! The arguments that `run` and `retry` have in common, and what each of them is for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::output::LogFormat;
use crate::checkpoint::Retrying;
use crate::config::duration;
use crate::run::Begin;

#[derive(Clone, Debug, Args)]
pub(super) struct SessionArguments {
    /// How long requests in flight may still take once the command begins to stop
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(super) grace: Duration,
    /// Send no new requests after this time
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(super) max_duration: Option<Duration>,
    /// What to do if another run holds the job
    #[arg(long, value_enum, default_value_t = IfRunning::Fail, value_name = "WHAT")]
    pub(super) if_running: IfRunning,
    /// Exit with status 3 if any row ended with an error
    #[arg(long)]
    pub(super) fail_on_errors: bool,
    /// Print only problems
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Format of messages on standard error; RUST_LOG sets how much is logged
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    /// Summary that is printed at the end
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) summary: SummaryFormat,
    /// Serve Prometheus metrics while the command runs, at http://HOST:PORT/metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) metrics_addr: Option<SocketAddr>,
    /// Write Prometheus metrics to this file at the end, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub(super) metrics_file: Option<PathBuf>,
    /// How often progress is logged if there is no display
    #[arg(long, hide = true, default_value = "30s", value_parser = positive_duration)]
    pub(super) progress_interval: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum SummaryFormat {
    /// Lines for people, on standard error
    #[default]
    Text,
    /// In addition a JSON object for scripts, on standard output
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum IfRunning {
    /// Exit with status 6
    Fail,
    /// Exit with status 0
    Skip,
}

/// What the session does.
#[derive(Clone, Debug)]
pub(super) enum SessionKind {
    /// Enriches at most `max_rows` rows, from where `begin` states.
    Run {
        max_rows: Option<u64>,
        begin: Begin,
        confirmed: bool,
        keep_paid: bool,
        waits: bool,
        asks_online: bool,
    },
    /// Sends failed rows again, at most `limit`. `typed` holds the options that select them, as text to be typed again.
    Retry { requested: Box<Retrying>, limit: Option<u64>, waits: bool, asks_online: bool, typed: String },
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| match time {
        Duration::ZERO => Err("it must be longer than that".into()),
        time => Ok(time),
    })
}

//! The data that the page is made from.

use chrono::{DateTime, Utc};

use crate::ident::AppId;
use crate::metrics::MetricsRow;

/// Everything that one page shows.
#[derive(Clone, Debug)]
pub struct Report {
    /// The job that the page is about.
    pub header: PageSubject,
    /// Figures of batches, in any order.
    pub metrics: Vec<MetricsRow>,
    /// A sample of rows with their outcomes.
    pub samples: Vec<Sample>,
    /// The rows that took longest, the longest first.
    pub slowest: Vec<Sample>,
    /// The rows that cost most, the most expensive first.
    pub dearest: Vec<Sample>,
}

/// The job that a page is about, with its last runs.
#[derive(Clone, Debug)]
pub struct PageSubject {
    /// Name under which the job writes to its target.
    pub app_id: AppId,
    /// Location of the source.
    pub source: String,
    /// Location of the target.
    pub target: String,
    /// When the page was made.
    pub made_at: DateTime<Utc>,
    /// How the last run ended, in words; `None` if no run is known.
    pub last_run: Option<String>,
    /// How runs ended that committed nothing, in words, newest first. The metrics table has no rows of these runs.
    pub without_commit: Vec<String>,
    /// The providers of the job.
    pub providers: Vec<ProviderLabel>,
}

/// A provider of a job, in words.
#[derive(Clone, Debug)]
pub struct ProviderLabel {
    /// Name of the provider in the job.
    pub name: String,
    /// Name of its model.
    pub model: String,
    /// Its prices, in words; `None` if the job states none.
    pub price: Option<String>,
}

/// A row with the outcome of one step.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Name of the step.
    pub step: String,
    /// Source file that holds the row.
    pub source_file: String,
    /// Number of the row in this file.
    pub source_row: i64,
    /// Names and texts of the columns that the step read.
    pub inputs: Vec<(String, String)>,
    /// The answer, or `None` if the row failed.
    pub answer: Option<String>,
    /// The error, or `None` if the row did not fail.
    pub error: Option<String>,
    /// Cost in millionths of a dollar.
    pub cost_microdollars: Option<i64>,
    /// Tokens of prompt and answer together.
    pub tokens: Option<u64>,
    /// Latency in milliseconds.
    pub latency_ms: Option<u64>,
}

//! The data that the page is made from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

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
    pub app_id: String,
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

/// Kind of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BatchKind {
    /// New rows of the source.
    Run,
    /// Failed rows that were sent again.
    Retry,
}

/// Figures of one batch, step and provider.
///
/// `requests`, `throttled`, `waited_ms` and the shares of quota are those of a provider, and stand on one of its rows
/// in each batch. The other counts can be added up freely.
#[derive(Clone, Debug)]
pub struct MetricsRow {
    /// Name under which the job writes to its target.
    pub app_id: String,
    /// Kind of the batch.
    pub kind: BatchKind,
    /// Id of the run or retry that made the batch.
    pub run_id: String,
    /// Number of the batch.
    pub batch_id: i64,
    /// Name of the step.
    pub step: String,
    /// Name of the provider; `None` for rows that were not sent.
    pub provider: Option<String>,
    /// When work on the batch began.
    pub started_at: DateTime<Utc>,
    /// When the batch was committed.
    pub committed_at: DateTime<Utc>,
    /// Number of rows that reached the step.
    pub rows: u64,
    /// Number of rows with an answer.
    pub answers: u64,
    /// Number of rows that the step skipped.
    pub skipped: u64,
    /// Number of rows with an error.
    pub errors: u64,
    /// Number of errors by class; their sum is `errors`.
    pub errors_by_class: BTreeMap<String, u64>,
    /// Number of answers taken from another row or a cache; nothing was paid for them.
    pub shared: u64,
    /// Tokens of prompts, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of prompts that the provider had cached.
    pub cached_tokens: u64,
    /// Tokens of answers, reasoning included.
    pub completion_tokens: u64,
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
    /// Cost in millionths of a dollar; `None` if the price is not known.
    pub cost_microdollars: Option<i64>,
    /// Median latency of answers, in milliseconds.
    pub latency_ms_p50: Option<u64>,
    /// 90th percentile of the latency, in milliseconds.
    pub latency_ms_p90: Option<u64>,
    /// 99th percentile of the latency, in milliseconds.
    pub latency_ms_p99: Option<u64>,
    /// Longest latency, in milliseconds.
    pub latency_ms_max: Option<u64>,
    /// Number of attempts at rows, failed ones included, but not refusals by a rate limit.
    pub attempts: u64,
    /// Number of requests sent.
    pub requests: u64,
    /// Number of requests refused by a rate limit (status 429).
    pub throttled: u64,
    /// Milliseconds that requests waited before they were sent, by reason.
    pub waited_ms: BTreeMap<String, u64>,
    /// Used share of the limit on requests, from 0 to 1; `None` without this limit.
    pub requests_share: Option<f64>,
    /// Used share of the limit on tokens, from 0 to 1; `None` without this limit.
    pub tokens_share: Option<f64>,
}

impl MetricsRow {
    /// Returns the number of answers to requests of their own, each with a latency.
    pub(super) fn asked(&self) -> u64 {
        self.answers.saturating_sub(self.shared)
    }

    /// Returns the number of rows with an answer or an error.
    pub(super) fn ended(&self) -> u64 {
        self.answers.saturating_add(self.errors)
    }

    /// Returns the tokens of prompts and answers together.
    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// Whether requests were sent whose price is not known.
    pub(super) fn is_unpriced(&self) -> bool {
        self.cost_microdollars.is_none() && self.provider.is_some() && self.tokens() > 0
    }
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

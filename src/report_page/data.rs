//! What the page is made from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

/// Everything that one page tells.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the page is about.
    pub header: PageSubject,
    /// What was measured, in any order.
    pub metrics: Vec<MetricsRow>,
    /// Some rows beside what was answered to them.
    pub samples: Vec<Sample>,
    /// The rows that took longest, the longest first.
    pub slowest: Vec<Sample>,
    /// The rows that cost most, the dearest first.
    pub dearest: Vec<Sample>,
}

/// What the page is about.
#[derive(Clone, Debug)]
pub struct PageSubject {
    /// Name under which the job writes to its target.
    pub app_id: String,
    /// The table that is read.
    pub source: String,
    /// The table that is written.
    pub target: String,
    /// When the page was made.
    pub made_at: DateTime<Utc>,
    /// How its last run ended, in words; none where nothing is known of one.
    pub last_run: Option<String>,
    /// The ends of runs that committed nothing, in words, newest first. The metrics table has no rows of such runs.
    pub without_commit: Vec<String>,
    /// Who is asked.
    pub providers: Vec<ProviderLabel>,
}

/// Who is asked, in words.
#[derive(Clone, Debug)]
pub struct ProviderLabel {
    /// Its name in the job.
    pub name: String,
    /// The model that answers.
    pub model: String,
    /// What it takes, in words; none when the job does not say.
    pub price: Option<String>,
}

/// What made a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BatchKind {
    /// New rows of the source.
    Run,
    /// Rows asked once more that had ended in an error.
    Retry,
}

/// What one batch, step and provider came to.
///
/// `requests`, `throttled`, `waited_ms` and the shares of quota are a provider's, and stand on one of its rows in
/// each batch. The other counts add up freely.
#[derive(Clone, Debug)]
pub struct MetricsRow {
    /// Name under which the job writes to its target.
    pub app_id: String,
    /// What made the batch.
    pub kind: BatchKind,
    /// The invocation that made the batch.
    pub run_id: String,
    /// Number of the batch.
    pub batch_id: i64,
    /// Name of the step.
    pub step: String,
    /// Who was asked; none for rows about which nobody was.
    pub provider: Option<String>,
    /// When the batch was begun.
    pub started_at: DateTime<Utc>,
    /// When the batch was committed.
    pub committed_at: DateTime<Utc>,
    /// Rows that came to the step.
    pub rows: u64,
    /// Rows with an answer.
    pub answers: u64,
    /// Rows that the step left out.
    pub skipped: u64,
    /// Rows with an error.
    pub errors: u64,
    /// Errors by their class; together they are `errors`.
    pub errors_by_class: BTreeMap<String, u64>,
    /// Answers that were another row's, or a cache's: nothing was paid for them.
    pub shared: u64,
    /// Tokens of requests, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of requests that the provider had cached.
    pub cached_tokens: u64,
    /// Tokens of answers, reasoning included.
    pub completion_tokens: u64,
    /// Tokens of reasoning.
    pub reasoning_tokens: u64,
    /// What was paid, in millionths of a dollar; none when the price is not known.
    pub cost_microdollars: Option<i64>,
    /// Median latency of answers.
    pub latency_ms_p50: Option<u64>,
    /// Latency that nine answers of ten kept within.
    pub latency_ms_p90: Option<u64>,
    /// Latency that 99 answers of a hundred kept within.
    pub latency_ms_p99: Option<u64>,
    /// The longest latency.
    pub latency_ms_max: Option<u64>,
    /// Attempts at rows, the failed ones included.
    pub attempts: u64,
    /// Requests sent.
    pub requests: u64,
    /// Requests refused for coming too fast (status 429).
    pub throttled: u64,
    /// Time that requests waited before they were sent, by what they waited for.
    pub waited_ms: BTreeMap<String, u64>,
    /// Share used of the limit on requests, from 0 to 1; none without such a limit.
    pub requests_share: Option<f64>,
    /// Share used of the limit on tokens, from 0 to 1; none without such a limit.
    pub tokens_share: Option<f64>,
}

impl MetricsRow {
    /// Answers that were asked for, each with a latency of its own.
    pub(super) fn asked(&self) -> u64 {
        self.answers.saturating_sub(self.shared)
    }

    /// Rows that ended in an answer or an error.
    pub(super) fn ended(&self) -> u64 {
        self.answers.saturating_add(self.errors)
    }

    /// Tokens of requests and answers.
    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// Whether something was asked whose price is not known.
    pub(super) fn is_unpriced(&self) -> bool {
        self.cost_microdollars.is_none() && self.provider.is_some() && self.tokens() > 0
    }
}

/// One row with what a step made of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Name of the step.
    pub step: String,
    /// The file that holds the row.
    pub source_file: String,
    /// Number of the row in its file.
    pub source_row: i64,
    /// Columns that the step read, each with its text.
    pub inputs: Vec<(String, String)>,
    /// What was answered.
    pub answer: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// What was paid, in millionths of a dollar.
    pub cost_microdollars: Option<i64>,
    /// Tokens of the request and the answer.
    pub tokens: Option<u64>,
    /// How long the answer took.
    pub latency_ms: Option<u64>,
}

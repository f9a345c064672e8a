//! Files and batches of the built-in simulator, as the job file configures them.

use schemars::JsonSchema;
use serde::Deserialize;

use super::batch_api::BatchShape;
use super::units::{ByteSize, Span};

/// Files and batches of the simulator: requests that are answered later, at another price.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchesSpec {
    /// The interface. Default: `openai`.
    #[serde(default)]
    pub shape: BatchShape,
    /// Whether an upload is announced first, and the response names another address to which the content goes, as at
    /// Together. Default: false.
    #[serde(default)]
    pub signed_uploads: bool,
    /// Time that a batch takes once it is validated; with `takes_sigma`, its median. Default: none.
    pub takes: Option<Span>,
    /// Spread of a log-normal `takes`, 0 to 10. Default: 0, always the same.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub takes_sigma: f64,
    /// Time that the validation of a batch takes. Default: none.
    pub validation: Option<Span>,
    /// Time after its creation at which a batch expires. Default: 24h.
    pub window: Option<Span>,
    /// Maximum number of lines in a file. Default: 50,000.
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// Maximum size of a file. Default: 200MB.
    pub max_bytes: Option<ByteSize>,
    /// Maximum tokens of prompts in batches that have not ended; one beyond it fails with `token_limit_exceeded`.
    /// Default: any number.
    #[schemars(range(min = 1))]
    pub enqueued_tokens: Option<u64>,
    /// Whether the creation of a batch beyond `enqueued_tokens` is refused, as in some of Azure's regions. Default: false;
    /// the batch is made and fails.
    #[serde(default)]
    pub refuses_enqueued: bool,
    /// Order of the answers. Default: `shuffled`.
    #[serde(default)]
    pub order: AnswerOrder,
    /// US dollars billed for a million tokens of prompts. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_input: f64,
    /// US dollars billed for a million tokens of answers. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_output: f64,
    /// Whether the metadata of a batch are dropped. Default: false.
    #[serde(default)]
    pub forgets_metadata: bool,
    /// Time after its creation from which a list shows a batch; `"1000d"` is never. Default: none.
    pub list_lag: Option<Span>,
    /// Time after its creation from which a batch is found by its id. Default: none.
    pub get_lag: Option<Span>,
    /// Time after its upload from which a batch can be made of a file. Default: none.
    pub file_lag: Option<Span>,
    /// Whether a file or batch is found only with the key that made it. Default: false.
    #[serde(default)]
    pub each_key_apart: bool,
    /// Whether a second creation with the same `Idempotency-Key` returns the first batch. Default: false.
    #[serde(default)]
    pub honours_key: bool,
    /// Share of creations whose batch is made and whose response is lost, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lost_creations: f64,
    /// Share of creations that are answered with 500 and make no batch, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub refused_creations: f64,
    /// Share of creations whose connection breaks, and whose batch is made `late_by` after that, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub late_creations: f64,
    /// See `late_creations`. Default: 1s.
    pub late_by: Option<Span>,
    /// Share of uploads that succeed and whose response is lost, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lost_uploads: f64,
    /// Share of other requests about files and batches that are answered with 503, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub failing_requests: f64,
    /// Share of requests about files and batches, creations too, that are answered with 429 and a `Retry-After` of one
    /// second, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub throttled_requests: f64,
    /// State that no batch leaves. Default: none.
    pub stuck: Option<StuckIn>,
    /// How batches fail in their validation. Default: they do not.
    pub failure: Option<BatchFailure>,
    /// Whether a line that a fault answers with 400 fails its whole file. Default: false.
    #[serde(default)]
    pub bad_line_fails_file: bool,
    /// Whether a batch that fails in its validation states no error. Default: false.
    #[serde(default)]
    pub hides_errors: bool,
    /// Share of the lines that are not worked on until their batch expires, 0 to 1; a batch with such a line ends as
    /// `expired` once the others are done. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub expired_lines: f64,
    /// Share of the lines that are in no file of answers and not billed, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub missing_lines: f64,
    /// Share of the lines that are billed and in no file of answers, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lost_lines: f64,
    /// Share of the lines whose answer comes twice, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub twice_lines: f64,
    /// Share of the lines beside whose answer there is one to a line that nobody sent, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub foreign_lines: f64,
    /// Share of the lines that are not worked on and come back with the status 0, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub status_zero_lines: f64,
    /// Share of the lines that come back with 429, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub throttled_lines: f64,
    /// Time for which a completed batch does not name its files. Default: none.
    pub late_output: Option<Span>,
    /// Whether there is an empty file of errors if no line failed. Default: false.
    #[serde(default)]
    pub empty_error_file: bool,
    /// Share of the downloads whose connection breaks in the middle, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cut_downloads: f64,
    /// Share of the downloads that end in the middle without a sign of it, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub short_downloads: f64,
    /// Whether a `Range` of a download is ignored. Default: false.
    #[serde(default)]
    pub ignores_ranges: bool,
    /// Whether downloads are compressed with gzip, asked for or not. Default: false.
    #[serde(default)]
    pub gzips_downloads: bool,
    /// Whether a batch does not state how many lines it has. Default: false.
    #[serde(default)]
    pub hides_counts: bool,
    /// Whether a batch that was seen as ended is seen once more as running. Default: false.
    #[serde(default)]
    pub revives: bool,
}

/// The order of the answers in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerOrder {
    /// Random order.
    #[default]
    Shuffled,
    /// Order of the lines in the file of requests.
    Kept,
    /// Reverse order of the lines.
    Reversed,
}

/// A state that no batch leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StuckIn {
    /// Before any line is worked on.
    Validating,
    /// After half of the lines.
    InProgress,
    /// After all lines.
    Finalizing,
}

/// How batches fail in their validation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchFailure {
    /// Code of the error. Default: the batch states no error.
    pub code: Option<String>,
    /// Number of the line that the error names, from 1. Default: none.
    pub line: Option<u64>,
    /// Only this number of first batches. Default: all.
    pub times: Option<u32>,
}

impl BatchesSpec {
    /// Returns the shares, each with its key.
    pub(super) fn shares(&self) -> [(&'static str, f64); 15] {
        [
            ("lost_creations", self.lost_creations),
            ("refused_creations", self.refused_creations),
            ("late_creations", self.late_creations),
            ("lost_uploads", self.lost_uploads),
            ("failing_requests", self.failing_requests),
            ("throttled_requests", self.throttled_requests),
            ("expired_lines", self.expired_lines),
            ("missing_lines", self.missing_lines),
            ("lost_lines", self.lost_lines),
            ("twice_lines", self.twice_lines),
            ("foreign_lines", self.foreign_lines),
            ("status_zero_lines", self.status_zero_lines),
            ("throttled_lines", self.throttled_lines),
            ("cut_downloads", self.cut_downloads),
            ("short_downloads", self.short_downloads),
        ]
    }
}

//! The job file as it is written: serde types, one field a key.
//!
//! The doc comment of a field is its reference: unit, default, what a wrong value does.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::units::{ByteSize, Span};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJob {
    /// Stable name of the job: half of what makes its writes exactly once. Letters, digits, `.`, `_`
    /// and `-`, at most 100. Required. Renaming it makes the job forget what it has done.
    pub(super) app_id: String,
    /// Share of a step's newest 1,000 answers and errors that may be errors, more than 0 and at most 1;
    /// beyond it the run stops. 1 allows them all. Default: 0.5.
    pub(super) max_error_rate: Option<f64>,
    pub(super) source: RawSource,
    pub(super) target: RawTarget,
    #[serde(default)]
    pub(super) checkpoint: RawCheckpoint,
    #[serde(default)]
    pub(super) journal: RawJournal,
    #[serde(default)]
    pub(super) batch: RawBatch,
    #[serde(default)]
    pub(super) window: RawWindow,
    #[serde(default)]
    pub(super) provider: BTreeMap<String, RawProvider>,
    #[serde(default)]
    pub(super) step: Vec<RawStep>,
    pub(super) simulator: Option<SimulatorSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    /// Delta table, Parquet file, or directory of Parquet files; relative to the job file. Required.
    pub(super) path: String,
    /// Whether to pass over the changes of commits that delete or rewrite rows of a Delta source,
    /// instead of refusing them. Their new files are not read. Default: false.
    #[serde(default)]
    pub(super) skip_change_commits: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    /// Delta table that takes the rows; created if missing; relative to the job file. Required.
    pub(super) path: String,
    /// Name of the struct column that says where each row came from and how it was answered.
    /// Default: `_enrich`.
    pub(super) metadata_column: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheckpoint {
    /// Folder of the checkpoint; relative to the job file. Default: `_checkpoints/<app_id>` in the
    /// target.
    pub(super) path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJournal {
    /// Folder of the journal, on a local disk; relative to the job file. Default: `journal` in the
    /// checkpoint's folder.
    pub(super) path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBatch {
    /// Most rows of a batch, which is also a commit and a file of the target. Default: 10,000.
    pub(super) max_rows: Option<u32>,
    /// Most bytes of a batch, as its rows take in memory (estimated from the Parquet footer).
    /// Default: 50 MB.
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWindow {
    /// Most rows that are open at once: read and not yet committed. A slow row holds back only its
    /// own batch until the window is full. Default: four batches.
    pub(super) max_rows: Option<u32>,
    /// Most bytes that are open at once; with `max_rows` it bounds the memory of a run.
    /// Default: 256 MB.
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProvider {
    /// Where the OpenAI-compatible interface begins, for example `https://api.openai.com/v1`, or
    /// `simulator` for the built-in one. Required.
    pub(super) base_url: String,
    /// The model's name at this provider. Required.
    pub(super) model: String,
    /// Environment variable that holds the key. Default: no key is sent.
    pub(super) api_key_env: Option<String>,
    /// File that holds the key, white space around it aside; relative to the job file.
    pub(super) api_key_file: Option<String>,
    /// Header that carries the key. Default: `Authorization: Bearer <key>`; with another name the
    /// bare key is its value (`api-key` for Azure).
    pub(super) api_key_header: Option<String>,
    /// Further headers, sent as they stand. Not for secrets.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Query parameters of every request (`api-version` for Azure).
    #[serde(default)]
    pub(super) query: BTreeMap<String, String>,
    /// Further fields of the request body, sent as they stand (OpenRouter's `provider.sort`).
    #[serde(default)]
    pub(super) extra_body: toml::Table,
    /// Name of the field that carries a step's `max_tokens`. Default: `max_tokens`; OpenAI's reasoning
    /// models want `max_completion_tokens`.
    pub(super) max_tokens_field: Option<String>,
    /// Requests per minute, at most. Default: not limited.
    pub(super) requests_per_minute: Option<u32>,
    /// Requests in flight at once, at most. Default: 64.
    pub(super) max_concurrency: Option<u32>,
    /// Longest time to connect. Default: 10 s.
    pub(super) connect_timeout: Option<Span>,
    /// Longest time for one attempt, from the first byte sent to the last one received.
    /// Default: 120 s.
    pub(super) request_timeout: Option<Span>,
    /// Attempts for one row at most; throttled ones do not count. Default: 5.
    pub(super) max_attempts: Option<u32>,
    /// Longest first delay before another attempt; it doubles with each. Default: 1 s.
    pub(super) min_backoff: Option<Span>,
    /// Longest delay before another attempt. Default: 60 s.
    pub(super) max_backoff: Option<Span>,
    /// Longest delay that the server may ask for; a longer one stops the run. Default: 10 min.
    pub(super) max_retry_after: Option<Span>,
    /// How long a provider may fail or throttle without one success before the run stops.
    /// Default: 15 min.
    pub(super) outage_deadline: Option<Span>,
    /// Largest response body, after decompression. Default: 16 MB.
    pub(super) max_response_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    /// Column of the target that takes the answers. Required.
    pub(super) output: String,
    /// Name of a `[provider.<name>]`. Default: the only one there is.
    pub(super) provider: Option<String>,
    /// Template of the user's message, over the row's columns (Jinja). Required.
    pub(super) prompt: String,
    /// Template of the system message. Default: none is sent.
    pub(super) system: Option<String>,
    /// Sampling temperature, 0 to 2. Default: not sent.
    pub(super) temperature: Option<f64>,
    /// Most tokens of an answer. Default: not sent.
    pub(super) max_tokens: Option<u32>,
    /// Further fields of the request body that belong to the question (`seed`, `top_p`); a change
    /// makes stored answers unfit.
    #[serde(default)]
    pub(super) extra_body: toml::Table,
    /// What happens to a row whose columns in the templates are all null: `skip` leaves the output
    /// null and asks nothing, `ask` asks. Default: `skip`.
    #[serde(default)]
    pub(super) null_inputs: super::job::NullInputs,
    /// Longest time for a row over all its attempts; waiting for a limit does not count.
    /// Default: 10 min.
    pub(super) row_deadline: Option<Span>,
}

/// How the built-in simulator behaves.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatorSpec {
    /// Time that an answer takes; with `latency_sigma`, its median. Default: none.
    pub latency: Option<Span>,
    /// Spread of a log-normal latency: standard deviation of the logarithm. Default: 0, fixed.
    #[serde(default)]
    pub latency_sigma: f64,
    /// Seed of latencies and of faults by share. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Key that a request must carry as a bearer token. Default: any or none will do.
    pub api_key: Option<String>,
    /// Model that it knows; another is refused. Default: any will do.
    pub model: Option<String>,
    /// Limit on requests. Default: none.
    pub requests: Option<LimitSpec>,
    /// Limit on tokens. Default: none.
    pub tokens: Option<LimitSpec>,
    /// What goes wrong; the first that matches a request counts.
    #[serde(default, rename = "fault")]
    pub faults: Vec<FaultSpec>,
    /// What happens to the first request, the second, and so on; a request beyond the last is refused
    /// loudly. Default: none.
    #[serde(default)]
    pub script: Vec<FaultSpec>,
}

/// A limit that the simulator enforces.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSpec {
    /// How many a minute.
    pub per_minute: u32,
    /// How it is counted. Default: a token bucket.
    #[serde(default)]
    pub window: LimitWindow,
    /// Seconds that a window lasts, or that a full bucket is worth. Default: 60 for windows, 1 for
    /// the bucket.
    pub seconds: Option<u32>,
}

/// How a limit is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitWindow {
    /// Refills steadily up to a burst.
    #[default]
    TokenBucket,
    /// Counts from the start of each window.
    FixedWindow,
    /// Counts over the window that ends now.
    SlidingWindow,
}

/// Something that goes wrong at the simulator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Only for prompts that contain this text. Default: every prompt.
    pub contains: Option<String>,
    /// Share of the requests that it happens to, 0 to 1. Default: 1.
    #[serde(default = "whole")]
    pub share: f64,
    /// Only for so many first requests of the same prompt. Default: all.
    pub times: Option<u32>,
    /// HTTP status to answer with. Default: 500, or 200 with `finish_reason`.
    pub status: Option<u16>,
    /// `code` of the error object.
    pub code: Option<String>,
    /// `message` of the error object.
    pub message: Option<String>,
    /// Value of a `Retry-After` header.
    pub retry_after: Option<String>,
    /// Answers with this `finish_reason` and no text.
    pub finish_reason: Option<String>,
    /// Sends this text as the whole body.
    pub body: Option<String>,
    /// Closes the connection in the middle of the answer.
    #[serde(default)]
    pub hang_up: bool,
    /// Further time before the answer.
    pub delay: Option<Span>,
}

fn whole() -> f64 {
    1.0
}

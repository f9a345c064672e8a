//! Behaviour of the built-in simulator, as the job file configures it. The doc comments are its reference, like those
//! of [`super::raw`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::simulated_batches::BatchesSpec;
use super::units::Span;

/// Maximum length of an embedding vector.
pub(crate) const MOST_DIMENSIONS: u32 = 65_536;

/// Behaviour of the built-in simulator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulatorSpec {
    /// Latency of an answer; with `latency_sigma`, its median. Default: none.
    pub latency: Option<Span>,
    /// Spread of a log-normal latency, 0 to 10: standard deviation of the logarithm. Default: 0, always the same.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub latency_sigma: f64,
    /// Maximum number of requests that are worked on at once; others wait in a queue, as at a self-hosted server.
    /// Default: all.
    #[schemars(range(min = 1))]
    pub slots: Option<u32>,
    /// Tokens that an answer reports as used, whatever its text; with `completion_sigma`, their median. At most the
    /// request's `max_tokens`. Default: as its text has.
    #[schemars(range(min = 1))]
    pub completion_tokens: Option<u32>,
    /// The possible answers, one of which is chosen for each prompt, except for requests with a JSON Schema. Default:
    /// one of the step's `classes`, else the beginning of the prompt's last line and a mark that is unique to the
    /// prompt.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Spread of log-normal `completion_tokens`, 0 to 10. Default: 0, always the same.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub completion_sigma: f64,
    /// Seed of latencies, lengths and of faults by share. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Key that a request must carry as a bearer token; other requests are refused with 401. Default: any or none
    /// will do.
    pub api_key: Option<String>,
    /// File with the accepted keys, one a line, read with each request. Default: `api_key` alone decides.
    pub api_keys_file: Option<String>,
    /// The only known model; requests for others are refused with 404. Default: any will do.
    pub model: Option<String>,
    /// Maximum tokens of the prompt and `max_tokens` together; a request with more is refused with 400 and the code
    /// `context_length_exceeded`. Default: any number.
    #[schemars(range(min = 1))]
    pub context_tokens: Option<u64>,
    /// Accepted forms of a JSON Schema, of `json_schema`, `json_object`, `tool`, `llama_cpp` and `vllm`; a request
    /// with another form is refused with 400 and the code `unsupported_parameter`. A schema in the text of a prompt
    /// is always accepted. Default: all of them.
    pub schema_forms: Option<Vec<SchemaFormName>>,
    /// Whether to accept a JSON Schema in any form and answer as if there were none. Default: false.
    #[serde(default)]
    pub ignores_schema: bool,
    /// Length of an embedding vector, at most 65,536; `dimensions` of the request takes precedence. Default: 8.
    #[schemars(range(min = 1, max = 65_536))]
    pub dimensions: Option<u32>,
    /// Maximum number of inputs in a request for embeddings; one with more is refused with 400. Default: 2048.
    #[schemars(range(min = 1))]
    pub max_inputs: Option<u32>,
    /// Maximum tokens of each input in a request for embeddings; one with more is refused with 400 and the code
    /// `context_length_exceeded`. Default: 8192.
    #[schemars(range(min = 1))]
    pub max_input_tokens: Option<u32>,
    /// Limit on requests; requests above it are refused with 429. Default: none.
    pub requests: Option<LimitSpec>,
    /// Limit on tokens of prompts and answers; requests above it are refused with 429. Default: none.
    pub tokens: Option<LimitSpec>,
    /// When the tokens of an answer are counted. Default: `max`.
    #[serde(default)]
    pub token_charge: SimulatedCharge,
    /// Whether refused requests count against the limits too. Default: false.
    #[serde(default)]
    pub count_refused: bool,
    /// The provider whose rate-limit headers are sent. Default: `none`.
    #[serde(default)]
    pub headers: HeaderFamily,
    /// How the response to a request above a limit states when to come back. Default: `seconds`.
    #[serde(default)]
    pub retry_after: DelayForm,
    /// Share of both limits that another client with the same key uses up, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub other_client: f64,
    /// US dollars billed for a million tokens of prompts. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_input: f64,
    /// US dollars billed for a million tokens of answers. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_output: f64,
    /// Whether an answer states its cost (`usage.cost`). Default: false.
    #[serde(default)]
    pub tells_cost: bool,
    /// Whether a request is completed and billed even if its client has disconnected. Default: false.
    #[serde(default)]
    pub bills_the_gone: bool,
    /// Service tiers besides the standard one (`default`), such as `[simulator.tiers.flex]`. A request for any other is
    /// refused with 400 and the parameter `service_tier`, and each answer states its tier. Default: none; the field
    /// `service_tier` is ignored.
    #[serde(default)]
    pub tiers: BTreeMap<String, TierSpec>,
    /// Files and batches. Default: the simulator has none.
    pub batches: Option<BatchesSpec>,
    /// Number of answers after which the quota is used up and every request is refused. Default: no end.
    pub quota: Option<u64>,
    /// Periods of different behaviour. Default: none.
    #[serde(default, rename = "phase")]
    pub phases: Vec<PhaseSpec>,
    /// Faults; the first one that matches a request applies. Default: nothing.
    #[serde(default, rename = "fault")]
    pub faults: Vec<FaultSpec>,
    /// Fault for the first request, the second, and so on; a request beyond the last is refused with 500 and the code
    /// `script_exhausted`. Default: `fault` alone decides.
    #[serde(default)]
    pub script: Vec<FaultSpec>,
}

/// A service tier of the simulator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TierSpec {
    /// US dollars billed for a million tokens of prompts. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_input: f64,
    /// US dollars billed for a million tokens of answers. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_output: f64,
    /// Share of requests for which there is no room, 0 to 1: 429 with the code `resource_unavailable`. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub no_room: f64,
    /// Share of requests that are answered by the standard tier, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub by_standard: f64,
    /// Whether every request is refused with 400, as by a project that may not use the tier. Default: false.
    #[serde(default)]
    pub forbidden: bool,
    /// Whether an answer does not state its tier. Default: false.
    #[serde(default)]
    pub silent: bool,
}

/// How a request carries a JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaFormName {
    /// `response_format` of type `json_schema`.
    JsonSchema,
    /// `response_format` of type `json_object`, with the schema in the text of the prompt.
    JsonObject,
    /// Parameters of a function in `tools`.
    Tool,
    /// `response_format` of type `json_object` with a `schema`, as in llama.cpp.
    LlamaCpp,
    /// `structured_outputs`, as in vLLM.
    Vllm,
}

/// A limit that the simulator enforces.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSpec {
    /// Amount per minute; at least 1. Required.
    #[schemars(range(min = 1))]
    pub per_minute: u32,
    /// How the limit is counted. Default: `token_bucket`.
    #[serde(default)]
    pub window: LimitWindow,
    /// Length of a window in seconds, or the seconds' worth that a full bucket holds; at least 1. Default: 60 for
    /// windows, 1 for the bucket.
    #[schemars(range(min = 1))]
    pub seconds: Option<u32>,
}

/// How a limit is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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

/// When the simulator counts the tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SimulatedCharge {
    /// With the request, at the maximum that `max_tokens` allows.
    #[default]
    Max,
    /// With the answer, at their actual number; a request passes while anything is left.
    Usage,
}

/// The rate-limit headers that the simulator sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeaderFamily {
    /// None.
    #[default]
    None,
    /// OpenAI's, with resets as Go durations.
    Openai,
    /// Azure's: OpenAI's names, with resets in whole seconds.
    Azure,
    /// Anthropic's, with resets as RFC 3339 timestamps.
    Anthropic,
    /// Groq's: requests are counted per day.
    Groq,
    /// OpenAI's, with the false statement that nothing is left.
    LyingEmpty,
    /// OpenAI's, with the false statement that the limit is 1 a minute and nothing is left.
    LyingSmall,
    /// OpenAI's, with the false statement that ten times as much is left as really is.
    LyingFull,
}

/// How the simulator states when to come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DelayForm {
    /// `retry-after` with a fraction of a second.
    #[default]
    Seconds,
    /// `retry-after` in whole seconds, rounded up.
    WholeSeconds,
    /// `retry-after-ms`.
    Millis,
    /// `retry-after` as an HTTP date.
    Date,
    /// In the text of the message only.
    Body,
    /// Not at all.
    None,
}

/// A period in which the simulator behaves differently.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseSpec {
    /// Start of the period, counted from the first request. Required.
    pub after: Span,
    /// Length of the period; if two overlap, the later one applies. Default: to the end.
    pub lasts: Option<Span>,
    /// Status with which every request is answered; 0 breaks the connection. Default: they are answered.
    pub status: Option<u16>,
    /// Value of a `Retry-After` header with that status. Default: none is sent.
    pub retry_after: Option<String>,
    /// Factor by which the limits are multiplied, more than 0. Default: 1.
    #[schemars(range(min = 0.001))]
    pub limits: Option<f64>,
    /// `other_client` during the period. Default: the simulator's `other_client`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub other_client: Option<f64>,
}

/// A fault of the simulator.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Only for prompts that contain this text. Default: every prompt.
    pub contains: Option<String>,
    /// Share of the requests that the fault affects, 0 to 1. Default: 1.
    #[serde(default = "whole")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// Only for this number of first requests with the same prompt. Default: all.
    pub times: Option<u32>,
    /// HTTP status of the response. Default: 200 with `finish_reason`, `text`, `wrong`, `body` or only a `delay`,
    /// else 500.
    pub status: Option<u16>,
    /// `code` of the error object. Default: `simulated_fault`.
    pub code: Option<String>,
    /// `message` of the error object. Default: a generic message.
    pub message: Option<String>,
    /// Value of a `Retry-After` header. Default: none is sent.
    pub retry_after: Option<String>,
    /// Answers with this `finish_reason` and no text. Default: an answer ends with `stop`.
    pub finish_reason: Option<String>,
    /// Answers with this text, like a successful answer. Default: an answer like any other.
    pub text: Option<String>,
    /// Answers with something other than what was requested, like a successful answer. Default: an answer like any
    /// other.
    pub wrong: Option<WrongForm>,
    /// Sends this text as the whole body. Default: the error object.
    pub body: Option<String>,
    /// Closes the connection in the middle of the answer. Default: false.
    #[serde(default)]
    pub hang_up: bool,
    /// Additional time before the answer. Default: none.
    pub delay: Option<Span>,
    /// Whether the fault comes at once, without the latency of an answer. Default: false.
    #[serde(default)]
    pub at_once: bool,
}

/// How an answer differs from what was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrongForm {
    /// A sentence without any JSON.
    Prose,
    /// The right JSON in a Markdown code block.
    Fenced,
    /// JSON with an additional property at its root.
    ExtraField,
    /// JSON with a value that is not among the allowed values; if none are listed, its first property has another
    /// type.
    WrongEnum,
    /// The right JSON, cut in the middle.
    CutJson,
    /// JSON without its first required property.
    MissingField,
    /// Embeddings, two of which carry the same index.
    WrongIndex,
    /// Embeddings in another order, each with its index.
    Shuffled,
    /// Embeddings without the last one.
    Fewer,
    /// Embeddings with one number more.
    OtherDimension,
}

fn whole() -> f64 {
    1.0
}

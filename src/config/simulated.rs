//! How the built-in simulator behaves, as the job file says it. The doc comments are its reference, like
//! those of [`super::raw`].

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::Span;

/// Most numbers in a vector of an embedding.
pub(crate) const MOST_DIMENSIONS: u32 = 65_536;

/// How the built-in simulator behaves.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulatorSpec {
    /// Time that an answer takes; with `latency_sigma`, its median. Default: none.
    pub latency: Option<Span>,
    /// Spread of a log-normal latency, 0 to 10: standard deviation of the logarithm. Default: 0, always
    /// the same.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub latency_sigma: f64,
    /// Requests that are worked on at once; others wait their turn, as at a server of one's own.
    /// Default: all.
    #[schemars(range(min = 1))]
    pub slots: Option<u32>,
    /// Tokens that an answer is said to have used, whatever its text; with `completion_sigma`, their
    /// median. `max_tokens` of the request is the most. Default: as its text has.
    #[schemars(range(min = 1))]
    pub completion_tokens: Option<u32>,
    /// What it answers: one of these for each prompt, save where a JSON Schema is given. Default: one of the step's
    /// `classes`, else the beginning of the prompt's last line and a mark of its own.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Spread of log-normal `completion_tokens`, 0 to 10. Default: 0, always the same.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub completion_sigma: f64,
    /// Seed of latencies, lengths and of faults by share. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Key that a request must carry as a bearer token; another is refused with 401. Default: any or none
    /// will do.
    pub api_key: Option<String>,
    /// File with the keys that are taken, one a line, read with each request. Default: `api_key` alone says.
    pub api_keys_file: Option<String>,
    /// Model that it knows; another is refused with 404. Default: any will do.
    pub model: Option<String>,
    /// Tokens that the prompt and `max_tokens` may have together; a request with more is refused with 400 and
    /// the code `context_length_exceeded`. Default: any number.
    #[schemars(range(min = 1))]
    pub context_tokens: Option<u64>,
    /// Forms of a JSON Schema that it takes, of `json_schema`, `json_object`, `tool`, `llama_cpp` and `vllm`; a
    /// request with another is refused with 400 and the code `unsupported_parameter`. A schema in the words of
    /// a prompt needs none. Default: all of them.
    pub schema_forms: Option<Vec<SchemaFormName>>,
    /// Whether it takes a JSON Schema in any form and answers as if there were none. Default: false.
    #[serde(default)]
    pub ignores_schema: bool,
    /// Numbers in a vector of an embedding, at most 65,536; `dimensions` of the request counts before it.
    /// Default: 8.
    #[schemars(range(min = 1, max = 65_536))]
    pub dimensions: Option<u32>,
    /// Inputs that a request for embeddings may have; one with more is refused with 400. Default: 2048.
    #[schemars(range(min = 1))]
    pub max_inputs: Option<u32>,
    /// Tokens that each input of a request for embeddings may have; one with more is refused with 400 and the
    /// code `context_length_exceeded`. Default: 8192.
    #[schemars(range(min = 1))]
    pub max_input_tokens: Option<u32>,
    /// Limit on requests; beyond it they are refused with 429. Default: none.
    pub requests: Option<LimitSpec>,
    /// Limit on tokens of prompt and answer; beyond it requests are refused with 429. Default: none.
    pub tokens: Option<LimitSpec>,
    /// When the tokens of an answer are counted. Default: `max`.
    #[serde(default)]
    pub token_charge: SimulatedCharge,
    /// Whether a request that is refused counts against the limits too. Default: false.
    #[serde(default)]
    pub count_refused: bool,
    /// Whose headers tell of the limits. Default: `none`.
    #[serde(default)]
    pub headers: HeaderFamily,
    /// How a request that is refused by a limit is told when to come back. Default: `seconds`.
    #[serde(default)]
    pub retry_after: DelayForm,
    /// Share of both limits that another client of the same key uses up, 0 to 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub other_client: f64,
    /// US dollars that it bills for a million tokens of prompts. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_input: f64,
    /// US dollars that it bills for a million tokens of answers. Default: nothing.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub price_per_million_output: f64,
    /// Whether an answer says what it cost (`usage.cost`). Default: false.
    #[serde(default)]
    pub tells_cost: bool,
    /// Whether a request is worked on to its end, and billed, when its client has gone. Default: false.
    #[serde(default)]
    pub bills_the_gone: bool,
    /// Answers after which the quota is used up and everything is refused. Default: no end.
    pub quota: Option<u64>,
    /// Times at which it behaves otherwise. Default: none.
    #[serde(default, rename = "phase")]
    pub phases: Vec<PhaseSpec>,
    /// What goes wrong; the first that matches a request counts. Default: nothing.
    #[serde(default, rename = "fault")]
    pub faults: Vec<FaultSpec>,
    /// What happens to the first request, the second, and so on; a request beyond the last is refused
    /// loudly. Default: `fault` alone decides.
    #[serde(default)]
    pub script: Vec<FaultSpec>,
}

/// How a request carries a JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaFormName {
    /// `response_format` of type `json_schema`.
    JsonSchema,
    /// `response_format` of type `json_object`; the schema stands in the words of the prompt.
    JsonObject,
    /// Parameters of a function in `tools`.
    Tool,
    /// `response_format` of type `json_object` with a `schema`, as llama.cpp has it.
    LlamaCpp,
    /// `structured_outputs`, as vLLM has it.
    Vllm,
}

/// A limit that the simulator enforces.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSpec {
    /// How many a minute; at least 1. Required.
    #[schemars(range(min = 1))]
    pub per_minute: u32,
    /// How it is counted. Default: `token_bucket`.
    #[serde(default)]
    pub window: LimitWindow,
    /// Seconds that a window lasts, or that a full bucket is worth; at least 1. Default: 60 for windows,
    /// 1 for the bucket.
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
    /// With the request, at the most that `max_tokens` allows.
    #[default]
    Max,
    /// With the answer, as it is; a request passes while anything is left.
    Usage,
}

/// Whose headers the simulator sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeaderFamily {
    /// None.
    #[default]
    None,
    /// OpenAI's, resets as Go durations.
    Openai,
    /// Azure's: OpenAI's names, resets in whole seconds.
    Azure,
    /// Anthropic's, resets as moments in RFC 3339.
    Anthropic,
    /// Groq's: requests are counted per day.
    Groq,
    /// OpenAI's, and they say that nothing is left, which is not true.
    LyingEmpty,
    /// OpenAI's, and they say that the limit is 1 a minute and nothing is left, which is not true.
    LyingSmall,
    /// OpenAI's, and they say that ten times as much is left as is true.
    LyingFull,
}

/// How the simulator says when to come back.
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
    /// In the words of the message only.
    Body,
    /// Not at all.
    None,
}

/// A time at which the simulator behaves otherwise.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseSpec {
    /// When it begins, after the first request. Required.
    pub after: Span,
    /// How long it lasts; of two at once the later one counts. Default: to the end.
    pub lasts: Option<Span>,
    /// Every request is answered with this status; 0 breaks the connection. Default: they are answered.
    pub status: Option<u16>,
    /// Value of a `Retry-After` header with that status. Default: none is sent.
    pub retry_after: Option<String>,
    /// What the limits are multiplied with, more than 0. Default: 1.
    #[schemars(range(min = 0.001))]
    pub limits: Option<f64>,
    /// `other_client` in that time. Default: as it stands there.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub other_client: Option<f64>,
}

/// Something that goes wrong at the simulator.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Only for prompts that contain this text. Default: every prompt.
    pub contains: Option<String>,
    /// Share of the requests that it happens to, 0 to 1. Default: 1.
    #[serde(default = "whole")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// Only for so many first requests of the same prompt. Default: all.
    pub times: Option<u32>,
    /// HTTP status to answer with. Default: 200 with `finish_reason`, `text`, `wrong`, `body` or only a
    /// `delay`, else 500.
    pub status: Option<u16>,
    /// `code` of the error object. Default: `simulated_fault`.
    pub code: Option<String>,
    /// `message` of the error object. Default: a sentence that says so.
    pub message: Option<String>,
    /// Value of a `Retry-After` header. Default: none is sent.
    pub retry_after: Option<String>,
    /// Answers with this `finish_reason` and no text. Default: an answer ends with `stop`.
    pub finish_reason: Option<String>,
    /// Answers with this text, as if nothing were wrong. Default: an answer like any other.
    pub text: Option<String>,
    /// Answers with something else than was asked for, as if nothing were wrong. Default: an answer like any
    /// other.
    pub wrong: Option<WrongForm>,
    /// Sends this text as the whole body. Default: the error object.
    pub body: Option<String>,
    /// Closes the connection in the middle of the answer. Default: false.
    #[serde(default)]
    pub hang_up: bool,
    /// Further time before the answer. Default: none.
    pub delay: Option<Span>,
    /// Whether it comes at once, without the time that an answer takes. Default: false.
    #[serde(default)]
    pub at_once: bool,
}

/// How an answer is something else than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrongForm {
    /// A sentence without any JSON.
    Prose,
    /// The right JSON in a block of Markdown.
    Fenced,
    /// JSON with a further property at its root.
    ExtraField,
    /// JSON with a value that is not in its list of values; where there is no list, its first property has
    /// another type.
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

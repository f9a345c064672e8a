//! The job file as it is written: serde types with one field for each key.
//!
//! The doc comment of a field is the key's reference ([`super::reference`]): its meaning, unit and range, and at its
//! end `Required.` or `Default: ….` The `schemars` attributes let editors find the mistakes that [`super::check`]
//! refuses.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::batch_api::RawBatchApi;
use super::raw_bounds::{RawAnomalies, RawBudget, RawMetrics};
use super::raw_source::RawSource;
use super::simulated::SimulatorSpec;
use super::units::{ByteSize, Span};

/// A job of enrich: the rows to read, the prompts to send for each row, and the table for the answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// The checks report a missing provider or step, in clearer words than serde's.
#[schemars(title = "enrich job", extend("required" = ["app_id", "provider", "step"]))]
pub(super) struct RawJob {
    /// Stable name of the job. Together with the target it makes the job's writes exactly once. 1 to 100 letters,
    /// digits, `.`, `_` and `-`, not beginning with `.`. A renamed job starts over: it sends every row again.
    /// Required.
    #[schemars(length(min = 1, max = 100), regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub(super) app_id: String,
    /// Share of errors among a step's newest 1,000 answers and errors above which the run stops; more than 0 and at
    /// most 1. 1 allows every row to fail. Default: 0.5.
    #[schemars(range(min = 0, max = 1))]
    pub(super) max_error_rate: Option<f64>,
    /// The table or files to read. Default: none, which only `enrich serve` takes, to which other programs post rows.
    pub(super) source: Option<RawSource>,
    /// The table to write. Default: none, which only `enrich serve` takes, if `checkpoint.path` is set.
    pub(super) target: Option<RawTarget>,
    /// Location of the run's plan and position. Default: in the target.
    #[serde(default)]
    pub(super) checkpoint: RawCheckpoint,
    /// Location of paid answers until they are in the target. Default: beside the checkpoint.
    #[serde(default)]
    pub(super) journal: RawJournal,
    /// Size of a batch, which is also a commit. Default: as its keys say.
    #[serde(default)]
    pub(super) batch: RawBatch,
    /// Limit on the rows that are read and not yet committed. Default: as its keys say.
    #[serde(default)]
    pub(super) window: RawWindow,
    /// Limits on spending. When one is reached, the run stops with status 5; with a larger budget it can go on.
    /// Default: no limit.
    #[serde(default)]
    pub(super) budget: RawBudget,
    /// Shares of unusual answers above which the run stops with status 3, shows samples, and pauses the job. Default:
    /// as its keys say.
    #[serde(default)]
    pub(super) anomalies: RawAnomalies,
    /// Table with figures of each batch. Default: beside the target.
    #[serde(default)]
    pub(super) metrics: RawMetrics,
    /// Cache of answers across runs and jobs. Default: answers are shared within a run alone.
    pub(super) cache: Option<RawCache>,
    /// The endpoints with their models and limits, each under a name of its own; at least one. Required.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub(super) provider: BTreeMap<String, RawProvider>,
    /// The prompts, each with the column for its answers; 1 to 100. Required.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    pub(super) step: Vec<RawStep>,
    /// Behaviour of the built-in simulator, for a provider whose `base_url` is `simulator` and for `enrich simulate`.
    /// Default: it answers everything at once.
    pub(super) simulator: Option<SimulatorSpec>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    /// Delta table for the rows, created if it is missing: a path, relative to the job file, or a URL as for the
    /// source. The source, or a place inside it, is refused. Required.
    #[schemars(length(min = 1))]
    pub(super) path: String,
    /// Name of the struct column that records where each row came from and how it was answered. A source that is
    /// itself the target of a job needs another name here. Default: `_enrich`.
    #[schemars(length(min = 1))]
    pub(super) metadata_column: Option<String>,
    /// Whether the target has the metadata column. Without it `enrich errors` recognizes a failed row by its text
    /// alone, `enrich retry` is refused, and a lost checkpoint can be rebuilt only while the log still holds the
    /// newest commit. An existing target that differs is refused. Default: true.
    pub(super) metadata: Option<bool>,
    /// What to do with columns of the source that an existing target does not have: `stop` refuses the run, `ignore`
    /// reads them and does not write them, `add` adds them to the table. Default: `stop`.
    #[serde(default)]
    pub(super) on_new_columns: super::job::OnNewColumns,
    /// What to do with columns of an existing target that the source has and `source.columns` leaves out: `stop`
    /// refuses the run, `null` writes rows that have null in them. Default: `stop`.
    #[serde(default)]
    pub(super) on_missing_columns: super::job::OnMissingColumns,
    /// Whether to refuse a target that does not exist, instead of creating it. For scheduled runs: a folder that is
    /// not mounted looks like one without a table. Default: false.
    #[serde(default)]
    pub(super) must_exist: bool,
    /// Columns of the source by whose values a new target is partitioned, outermost first. An existing target keeps
    /// its own partitions; other columns here are refused. Default: none.
    #[schemars(length(min = 1))]
    pub(super) partition_by: Option<Vec<String>>,
    /// Approximate size of a data file; a batch begins a new file when it is reached. A smaller batch makes one file
    /// (in each partition). Default: `100MB`.
    #[serde(default = "file_size")]
    pub(super) file_size: ByteSize,
}

pub(super) fn file_size() -> ByteSize {
    ByteSize::bytes(100_000_000)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheckpoint {
    /// Folder of the checkpoint: a local path, relative to the job file, or a URL of an object store, the same for
    /// every run. Default: `_checkpoints/<app_id>` in the target.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// With a checkpoint in an object store: how long a run holds the job without renewing its lease. It renews it
    /// every third of this time. After a machine is lost, no other one gets the job for this long. At least `1s`.
    /// Default: `60s`.
    pub(super) lease: Option<Span>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJournal {
    /// Folder of the journal, on a local disk that outlives the run, relative to the job file. Several jobs may use
    /// the same one. If it is lost, the answers in it have to be paid for again. Default: `journal` in the
    /// checkpoint's folder; with a checkpoint in an object store, beside a local target, else below
    /// `$XDG_STATE_HOME/enrich` (`~/.local/state/enrich`).
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// With a checkpoint in an object store the journal is copied there, so that another machine can go on. Answers
    /// are copied when the oldest one not yet copied has this age: the most that a lost machine costs. At least
    /// `100ms`. Default: `5s`.
    pub(super) copy_every: Option<Span>,
    /// Answers are copied earlier when this many bytes are not yet copied. Default: `4MB`.
    pub(super) copy_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCache {
    /// File of the cache on a local disk, relative to the job file; several jobs may use one at once. A request that
    /// was answered before, by the same model at the same address, is not paid for again. Required.
    #[schemars(length(min = 1))]
    pub(super) path: String,
    /// Approximate size of the cache; the least recently used answers are removed first. Default: 1 GB.
    pub(super) max_bytes: Option<ByteSize>,
    /// Maximum age of an answer; an older one is requested again. Default: 30 days.
    pub(super) max_age: Option<Span>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBatch {
    /// Maximum number of rows in a batch, which is also a commit and a file of the target; at least 1. Default:
    /// 10,000.
    #[schemars(range(min = 1))]
    pub(super) max_rows: Option<u32>,
    /// Maximum size of a batch's rows in memory (estimated from the Parquet footer). A larger row makes a batch of
    /// its own. Default: 50 MB.
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWindow {
    /// Maximum number of rows that are read and not yet committed; at least 1. A slow row holds back only its own
    /// batch until the window is full. One batch may always be open, even if it is larger. Default: four batches.
    #[schemars(range(min = 1))]
    pub(super) max_rows: Option<u32>,
    /// Maximum size of these rows in memory; together with `max_rows` it bounds the memory of a run. Default: 256 MB.
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProvider {
    /// Base URL of the OpenAI-compatible interface, for example `https://api.openai.com/v1`; `/chat/completions` is
    /// added to it. Or `simulator` for the built-in simulator. A URL with a user or a password is refused. Required.
    #[schemars(regex(pattern = "^(simulator|https?://.+)$"))]
    pub(super) base_url: String,
    /// The model's name at this provider. After a change, stored answers that are not yet in the target are requested
    /// again. Required.
    #[schemars(length(min = 1))]
    pub(super) model: String,
    /// Environment variable that holds the key; white space around the key is ignored. If the variable is not set,
    /// the run does not begin. Default: no key is sent.
    #[schemars(length(min = 1))]
    pub(super) api_key_env: Option<String>,
    /// File that holds the key, relative to the job file; white space around the key is ignored. The file is read
    /// again when the key is refused. Not together with `api_key_env`. Default: no key is sent.
    #[schemars(length(min = 1))]
    pub(super) api_key_file: Option<String>,
    /// Command that prints the key, as a list of the program and its arguments: `["gcloud", "auth",
    /// "print-access-token"]`. White space around the key is ignored. The command runs in the job file's folder
    /// without a shell, before the first request and again when the key is refused, for at most 30 s. If it then
    /// prints another key (as when `api_key_file` has another key), the run goes on with that key. Not together with
    /// the other two. Default: no key is sent.
    #[schemars(length(min = 1))]
    pub(super) api_key_command: Option<Vec<String>>,
    /// PEM file with certificates of authorities that are trusted besides the system's, relative to the job file: for
    /// a company's gateway. Default: the system's alone.
    #[schemars(length(min = 1))]
    pub(super) ca_file: Option<String>,
    /// PEM file with the client certificate, for an endpoint that requires one, relative to the job file. Needs
    /// `client_key`. Default: none.
    #[schemars(length(min = 1))]
    pub(super) client_certificate: Option<String>,
    /// PEM file with the private key of `client_certificate`, not encrypted. Default: none.
    #[schemars(length(min = 1))]
    pub(super) client_key: Option<String>,
    /// Header that carries the key. Any header other than the default carries the bare key (`api-key` for Azure).
    /// Default: `Authorization`, as `Bearer <key>`.
    #[schemars(length(min = 1))]
    pub(super) api_key_header: Option<String>,
    /// Further headers of every request, sent unchanged. Not for secrets: they do not belong in the job file.
    /// Default: none.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Query parameters of every request (`api-version` for Azure). Default: none.
    #[serde(default)]
    pub(super) query: BTreeMap<String, String>,
    /// Further fields of the request body that concern the endpoint, sent unchanged (OpenRouter's `provider.sort`).
    /// Stored answers are still used after a change, so fields that change the answer belong in the step's
    /// `extra_body`, which takes precedence. Default: none.
    #[serde(default)]
    #[schemars(with = "Map<String, Value>")]
    pub(super) extra_body: toml::Table,
    /// Name of the request field that carries a step's `max_tokens`. OpenAI's reasoning models refuse the default and
    /// need `max_completion_tokens`. Default: `max_tokens`.
    #[schemars(length(min = 1))]
    pub(super) max_tokens_field: Option<String>,
    /// How the schema of a typed answer is sent: `json_schema`, `tool` (a tool that the model must call),
    /// `json_object`, `llama_cpp`, `vllm`, `words` (in the prompt), or `auto`, which begins with the first and goes
    /// on to `tool`, `json_object` and `words` while the endpoint refuses or ignores it. Answers are checked in any
    /// case. Default: `auto`.
    #[serde(default)]
    pub(super) schema_form: super::step::SchemaForm,
    /// Maximum number of tokens that the model accepts for a prompt and its `max_tokens` together. A longer prompt is
    /// not sent: it goes to the next provider of its step that can take it, or is handled as `on_too_long` says.
    /// Tokens are counted with the model's encoding if it is known, else estimated, with a tenth left free. Default:
    /// the provider decides.
    #[schemars(range(min = 1))]
    pub(super) context_window: Option<u32>,
    /// Maximum number of texts in one request for embeddings; at least 1. Default: 128.
    #[schemars(range(min = 1))]
    pub(super) inputs_per_request: Option<u32>,
    /// Maximum number of tokens of all texts in one request for embeddings; at least 1. A larger text is sent alone.
    /// Default: 100,000.
    #[schemars(range(min = 1))]
    pub(super) input_tokens_per_request: Option<u64>,
    /// A name for the limits below, if other sections have the same key: sections with the same name share one quota,
    /// as two models of an account or two service tiers may. Each of the keys from `requests_per_minute` to
    /// `token_charge` need stand in one of them only. Default: limits of its own.
    #[schemars(length(min = 1))]
    pub(super) limits: Option<String>,
    /// Maximum number of requests per minute, spread evenly; at least 1. If the provider's real limit is lower, fewer
    /// are sent. Default: learned from what the provider says and refuses.
    #[schemars(range(min = 1))]
    pub(super) requests_per_minute: Option<u32>,
    /// Maximum number of tokens per minute, of prompts and answers together; at least 1. A request that is larger
    /// than one second's share waits until that share is unused, and is sent alone. Default: learned.
    #[schemars(range(min = 1))]
    pub(super) tokens_per_minute: Option<u64>,
    /// Maximum number of prompt tokens per minute, for a provider that counts them separately. Not together with
    /// `tokens_per_minute`. Default: learned.
    #[schemars(range(min = 1))]
    pub(super) input_tokens_per_minute: Option<u64>,
    /// Maximum number of answer tokens per minute, for a provider that counts them separately. Not together with
    /// `tokens_per_minute`. Default: learned.
    #[schemars(range(min = 1))]
    pub(super) output_tokens_per_minute: Option<u64>,
    /// The tokens that the provider counts for an answer: `max`, a request's `max_tokens` when it arrives, or
    /// `actual`, the tokens that the answer used. Default: learned; `actual` until the provider refuses a request
    /// that it should have taken.
    pub(super) token_charge: Option<super::job::TokenCharge>,
    /// US dollars for a million tokens of prompts. The cost that the provider itself states for a request
    /// (`usage.cost`) takes precedence. Default: not known.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_input: Option<f64>,
    /// US dollars for a million tokens of prompts that the provider had in its cache. Default:
    /// `price_per_million_input`.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_cached_input: Option<f64>,
    /// US dollars for a million tokens of answers. Default: not known.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_output: Option<f64>,
    /// The service tier that requests ask for (`service_tier` in their bodies): `flex`, `priority`, `default` or
    /// whatever else the provider has. The tier that an answer states decides what it costs. A tier that the provider
    /// refuses stops the run with status 4. Stored answers are still used after a change. Default: none is sent.
    #[schemars(length(min = 1))]
    pub(super) service_tier: Option<String>,
    /// Prices of answers by service tier, such as `[provider.x.tier_prices.flex]`; those above are the standard
    /// tier's. A budget reckons with the dearest. Default: every tier costs the same.
    #[serde(default)]
    pub(super) tier_prices: BTreeMap<String, RawTierPrices>,
    /// How long a row may wait because the service tier has no room (429 `resource_unavailable`, 498) before it is
    /// sent without `service_tier`. Needs `service_tier`. Default: for ever.
    pub(super) tier_fallback_after: Option<Span>,
    /// Asks the provider through its Batch API: requests go out in files, and their answers come within a day, at the
    /// price `tier_prices.batch`. Default: each request is sent by itself.
    pub(super) batch: Option<RawBatchApi>,
    /// Maximum number of requests in flight; at least 1. If the process is killed, these may be paid for twice.
    /// Default: 64; fewer where more do not make the provider any faster.
    #[schemars(range(min = 1))]
    pub(super) max_concurrency: Option<u32>,
    /// Timeout for connecting. Default: 10 s.
    pub(super) connect_timeout: Option<Span>,
    /// Timeout for one attempt, from the first byte sent to the last one received. Default: 120 s; with the service
    /// tier `flex` 15 min.
    pub(super) request_timeout: Option<Span>,
    /// What to do about a request that has taken at least 10 s, and at least 8 times the 99th percentile of the times
    /// of its step's newest 1,000 answers: `auto` sends a second request beside it, takes the answer that comes
    /// first, and aborts the other; both may be billed. `off` waits. Default: `auto`.
    #[serde(default)]
    pub(super) hedge: super::job::Hedge,
    /// Share of requests that may be such second ones, more than 0 and at most 1; one is always allowed. Default:
    /// 0.01.
    #[schemars(range(min = 0, max = 1))]
    pub(super) hedge_share: Option<f64>,
    /// Maximum number of attempts for one row; at least 1. Attempts that were refused by a rate limit or an outage do
    /// not count. Default: 5.
    #[schemars(range(min = 1))]
    pub(super) max_attempts: Option<u32>,
    /// Maximum delay before the second attempt. It doubles with each attempt; the actual delay is a random part of
    /// it. Default: 250 ms.
    pub(super) min_backoff: Option<Span>,
    /// Maximum delay before any attempt, unless the server asks for more. Default: 60 s.
    pub(super) max_backoff: Option<Span>,
    /// Longest delay that a throttling server may ask for; a longer one stops the run with status 4. Default: 10 min.
    pub(super) max_retry_after: Option<Span>,
    /// How long a provider may fail or throttle without one success before the run stops with status 4. Default: 15
    /// min.
    pub(super) outage_deadline: Option<Span>,
    /// Maximum size of a response body, after decompression; a larger one is a failed attempt. Default: 16 MB.
    pub(super) max_response_bytes: Option<ByteSize>,
}

/// Prices of a service tier.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTierPrices {
    /// US dollars for a million tokens of prompts. Required.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_input: f64,
    /// US dollars for a million tokens of prompts that the provider had in its cache. Default:
    /// `price_per_million_input`.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_cached_input: Option<f64>,
    /// US dollars for a million tokens of answers. Required.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_output: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    /// Column of the target for the answers, as text unless `kind`, `fields` or `schema` says otherwise. A name that
    /// the source, the metadata or an earlier step has is refused. Required.
    #[schemars(length(min = 1))]
    pub(super) output: String,
    /// `chat` requests an answer to the prompt, `embedding` the prompt's vector, a list of 32-bit floats. A request
    /// for embeddings carries several rows, and each number takes 4 bytes of memory until its batch is written.
    /// Default: `chat`.
    #[serde(default)]
    pub(super) kind: super::step::StepKind,
    /// Length of the vectors, at least 1; for models that let one choose. Default: what the model gives.
    #[schemars(range(min = 1))]
    pub(super) dimensions: Option<u32>,
    /// How vectors are sent: `float`, or `base64`, which is a third as long. Default: not sent; the endpoint decides.
    pub(super) encoding: Option<super::step::VectorEncoding>,
    /// Name of a `[provider.<name>]`, or a list of them: rows go to the first, and to the next while the first fails
    /// or refuses to answer at all. Default: the only one there is.
    pub(super) provider: Option<OneOrMore>,
    /// Other providers for rows that meet a condition: `[{ when = "length(body) < 8000", provider = "small" }]`. The
    /// first condition that a row meets counts; all other rows go to `provider`. Conditions are as in `when`.
    /// Default: none.
    #[serde(default)]
    pub(super) route: Vec<RawRoute>,
    /// What to do with a prompt that is longer than the `context_window` of each of its providers: `fail` makes the
    /// row an error that costs nothing, `truncate` cuts the end of the rendered template. Default: `fail`.
    pub(super) on_too_long: Option<super::step::OnTooLong>,
    /// Whether to send rows to all providers of the list at once, to each as many as it takes, instead of to the
    /// first. Default: false.
    #[serde(default)]
    pub(super) balance: bool,
    /// SQL condition on the row's columns and the outputs of earlier steps (`triage.urgent AND length(body) > 20`). A
    /// row that does not meet it is not sent, and its output is null. Default: every row is sent.
    #[schemars(length(min = 1))]
    pub(super) when: Option<String>,
    /// SQL condition, as in `when`, on rows that cannot wait for a batch: they are sent before the others, each by
    /// itself, to the first provider of the list without a section `batch`. Only for a step whose first provider has
    /// one. Default: no row is urgent.
    #[schemars(length(min = 1))]
    pub(super) urgent_when: Option<String>,
    /// Template of the user message (Jinja) over the source's columns and the outputs of earlier steps: `{{ name }}`,
    /// or `{{ row["a name"] }}` if the name is not an identifier, and `{{ triage.urgency }}` for a field of a typed
    /// output. An unknown column is refused before the first call. A row whose earlier step failed ends as an error
    /// of class `upstream`. Besides Jinja's filters there are `tojson`, `date("%d %B %Y")` and
    /// `truncate_tokens(500)`, which counts tokens as OpenAI's newer models do. Either this or `prompt_file` is
    /// needed. Default: what `prompt_file` holds.
    #[schemars(length(min = 1))]
    pub(super) prompt: Option<String>,
    /// File that holds the template, relative to the job file. Not together with `prompt`. Default: `prompt` holds it.
    #[schemars(length(min = 1))]
    pub(super) prompt_file: Option<String>,
    /// Template of the system message, like `prompt`. Default: none is sent.
    pub(super) system: Option<String>,
    /// File of examples that are sent to the model before each row, relative to the job file. Each line is a JSON
    /// object with `input`, the columns that the template names, and `output`, the answer, which must be valid for
    /// the step. Default: none.
    #[schemars(length(min = 1))]
    pub(super) examples: Option<String>,
    /// The allowed answers: the column holds one of them, or an error. They are listed after the prompt, and also
    /// sent in the provider's `schema_form` if there are at most 250 and `max_tokens` has room for a small object.
    /// Case matters. At least one class, each once and without white space at its ends. Default: any text.
    #[schemars(length(min = 1))]
    pub(super) classes: Option<Vec<String>>,
    /// The fields of an answer, which become a struct column: `string`, `int`, `float`, `bool`, `date` or
    /// `timestamp`, with a `?` at the end if it may be null, a list as `"[string]"`, one of several texts as `["low",
    /// "high"]`, an object as `{ name = "string" }`, a list of objects in brackets. Answers are checked against the
    /// fields. If a row fails, the column is null and `<output>_error` holds the error. Default: the answer is a
    /// text.
    #[schemars(with = "Option<Map<String, Value>>", length(min = 1))]
    pub(super) fields: Option<toml::Table>,
    /// The same as a JSON Schema, here or in a file (a path relative to the job file). References must stay within
    /// the schema; a schema that columns cannot hold is refused. Not together with `fields`. Default: as for
    /// `fields`.
    pub(super) schema: Option<FileOrTable>,
    /// Content of the column of a text answer if a row fails: `text` for an `ERROR:` string, `null` for null, with
    /// the string in `<output>_error`, where other kinds of answers always have it. Default: `text`.
    pub(super) on_error: Option<super::step::OnError>,
    /// Whether each field has a column of its own, `<output>_<field>`, instead of all in one struct. Default: false.
    pub(super) flat: Option<bool>,
    /// Whether to keep the text of a typed answer as well, in `<output>_raw`. Default: false.
    pub(super) keep_raw: Option<bool>,
    /// Whether to remove a `<think>…</think>` block at the beginning of an answer, which reasoning models write.
    /// Default: true with `classes`, `fields` and `schema`, else false.
    pub(super) strip_reasoning: Option<bool>,
    /// How often a row is sent again if its answer does not fit `classes`, `fields` or `schema`, together with the
    /// answer and its mistake; each time is paid for. At most 10; after that the row is an error. Default: 2.
    #[schemars(range(min = 0, max = 10))]
    pub(super) max_repairs: Option<u32>,
    /// Whether rows with the same request share one answer, whose tokens are paid for once: rows of this run, and
    /// with a `[cache]` those of other runs and jobs. Default: true, unless `temperature` is more than 0.
    pub(super) share: Option<bool>,
    /// Sampling temperature, 0 to 2. Default: not sent.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub(super) temperature: Option<f64>,
    /// Maximum number of tokens of an answer, reasoning included; at least 1. If an answer is cut off before its
    /// first word, the row is an error. Default: not sent.
    #[schemars(range(min = 1))]
    pub(super) max_tokens: Option<u32>,
    /// Maximum number of tokens of one further attempt after an answer was cut off by a token limit; more than
    /// `max_tokens`. Both attempts are paid for. Default: none; a `classes`, `fields` or `schema` answer that is cut
    /// off is an error of class `length`, and a text is kept as it is.
    #[schemars(range(min = 1))]
    pub(super) max_tokens_retry: Option<u32>,
    /// Further fields of the request body that affect the answer (`seed`, `top_p`, `reasoning_effort`), sent
    /// unchanged. After a change, stored answers that are not yet in the target are requested again. Default: none.
    #[serde(default)]
    #[schemars(with = "Map<String, Value>")]
    pub(super) extra_body: toml::Table,
    /// What to do with a row whose columns in the templates are all null. Default: `skip`.
    #[serde(default)]
    pub(super) null_inputs: super::step::NullInputs,
    /// Maximum time for a row over all its attempts and the delays between them; waiting for a limit does not count.
    /// After that the row is an error. Default: 10 min.
    pub(super) row_deadline: Option<Span>,
}

/// Providers for the rows that meet a condition.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    /// SQL condition, as in the step's `when`. Required.
    #[schemars(length(min = 1))]
    pub(super) when: String,
    /// Name of a `[provider.<name>]`, or a list of them. Required.
    pub(super) provider: OneOrMore,
}

/// A path to a file, or the file's content as a table.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FileOrTable {
    File(String),
    Table(toml::Table),
}

impl JsonSchema for FileOrTable {
    fn schema_name() -> Cow<'static, str> {
        "file or table".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "file or table", "type": ["string", "object"], "examples": ["any"] })
    }
}

/// A name or a list of names.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl JsonSchema for OneOrMore {
    fn schema_name() -> Cow<'static, str> {
        "name or list".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "name or list",
            "type": ["string", "array"],
            "items": { "type": "string" },
            "minItems": 1,
            "examples": ["any"],
        })
    }
}

impl OneOrMore {
    pub(super) fn names(&self) -> &[String] {
        match self {
            OneOrMore::One(name) => std::slice::from_ref(name),
            OneOrMore::More(names) => names,
        }
    }
}

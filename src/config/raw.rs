//! The job file as it is written: serde types, one field a key.
//!
//! The doc comment of a field is its reference ([`super::reference`]): unit, what a wrong value does where
//! that is not plain, and at its end `Required.` or `Default: ….` The `schemars` attributes say to editors
//! what [`super::check`] refuses.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::anomalies::RawAnomalies;
use super::budget::RawBudget;
use super::metrics::RawMetrics;
use super::simulated::SimulatorSpec;
use super::units::{ByteSize, Span};

/// A job of enrich: what is read, what is asked about each row, and where the answers go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
// A missing provider or step is told by the checks, in better words than serde's.
#[schemars(title = "enrich job", extend("required" = ["app_id", "source", "target", "provider", "step"]))]
pub(super) struct RawJob {
    /// Stable name of the job: with the target, what makes its writes exactly once. 1 to 100 letters,
    /// digits, `.`, `_` and `-`, not beginning with `.`. A job that is renamed has done nothing yet: it
    /// asks about every row again. Required.
    #[schemars(length(min = 1, max = 100), regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub(super) app_id: String,
    /// Share of a step's newest 1,000 answers and errors that may be errors, more than 0 and at most 1;
    /// beyond it the run stops. 1 allows them all. Default: 0.5.
    #[schemars(range(min = 0, max = 1))]
    pub(super) max_error_rate: Option<f64>,
    /// What is read. Required.
    pub(super) source: RawSource,
    /// What is written. Required.
    pub(super) target: RawTarget,
    /// Where the run's plan and position are kept. Default: in the target.
    #[serde(default)]
    pub(super) checkpoint: RawCheckpoint,
    /// Where paid answers are kept until they are in the target. Default: beside the checkpoint.
    #[serde(default)]
    pub(super) journal: RawJournal,
    /// How large a commit becomes. Default: as its keys say.
    #[serde(default)]
    pub(super) batch: RawBatch,
    /// How much is open at once. Default: as its keys say.
    #[serde(default)]
    pub(super) window: RawWindow,
    /// What may be spent; when it is, the run stops with status 5, and a larger budget lets it go on.
    /// Default: no limit.
    #[serde(default)]
    pub(super) budget: RawBudget,
    /// What of the answers is so unusual that the run stops, with status 3, shows samples, and pauses the job. Default:
    /// as its keys say.
    #[serde(default)]
    pub(super) anomalies: RawAnomalies,
    /// Where figures of each batch are kept. Default: in a table beside the target.
    #[serde(default)]
    pub(super) metrics: RawMetrics,
    /// Answers that are kept across runs and jobs. Default: answers are shared within a run alone.
    pub(super) cache: Option<RawCache>,
    /// The endpoints with their models and limits, each under a name of its own; at least one. Required.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub(super) provider: BTreeMap<String, RawProvider>,
    /// The prompts, each with the column for its answers; 1 to 100. Required.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    pub(super) step: Vec<RawStep>,
    /// How the built-in simulator behaves, for a provider whose `base_url` is `simulator` and for
    /// `enrich simulate`. Default: it answers everything at once.
    pub(super) simulator: Option<SimulatorSpec>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    /// Delta table, Parquet file, or directory of Parquet files, in which folders named `column=value` are
    /// columns of text: a local path, relative to the job file, or a URL: `file://`, `s3://`, `az://`,
    /// `abfss://` or `gs://`. Keys, region and endpoint of a store come from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AZURE_STORAGE_ACCOUNT_NAME`,
    /// `GOOGLE_APPLICATION_CREDENTIALS`, …) and from where the store's own tools keep them. Required.
    #[schemars(length(min = 1))]
    pub(super) path: String,
    /// Whether to pass over the changes of commits that delete or rewrite rows of a Delta source,
    /// instead of refusing them. The rows that such a commit writes are not read. Default: false.
    #[serde(default)]
    pub(super) skip_change_commits: bool,
    /// The columns that are read and carried to the target, in this order; templates know no others.
    /// Default: all.
    #[schemars(length(min = 1))]
    pub(super) columns: Option<Vec<String>>,
    /// What becomes of columns of Parquet files that a Delta table cannot hold, such as times of day, or numbers that are
    /// whole in one file and not in another: `stop` refuses the run unless `columns` leaves them out, `skip` leaves
    /// them out, `text` carries them as text. Default: `stop`.
    #[serde(default)]
    pub(super) on_unsupported: super::job::OnUnsupported,
    /// Whether byte strings in Parquet files are text where nothing says what they are, as some old writers leave
    /// it. Default: false.
    #[serde(default)]
    pub(super) binary_as_text: bool,
    /// Which rows are read: an SQL condition over the columns of the source, also those that are not
    /// carried. The others are passed over for good, so that a later change of it concerns rows that are
    /// not planned yet. Files and row groups whose statistics or partition values rule it out are not
    /// opened. Functions of the time or of chance are refused. Default: every row.
    #[serde(rename = "where")]
    #[schemars(length(min = 1))]
    pub(super) condition: Option<String>,
    /// Version of a Delta source to begin with: what it and later versions add is read, and nothing of
    /// what was there before. Has no effect once there is a checkpoint. Default: the whole table, as it
    /// is at the first run.
    pub(super) starting_version: Option<u64>,
    /// The same by time: the first version made then or later, `2026-05-01T08:00:00Z` or a day. Not
    /// together with `starting_version`. Default: as for `starting_version`.
    #[schemars(length(min = 1))]
    pub(super) starting_timestamp: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    /// Delta table that takes the rows, created if it is missing: a path or a URL as for the source, relative
    /// to the job file. The source, or a place inside it, is refused. Required.
    #[schemars(length(min = 1))]
    pub(super) path: String,
    /// Name of the struct column that says where each row came from and how it was answered. A source
    /// that is itself the target of a job needs another one here. Default: `_enrich`.
    #[schemars(length(min = 1))]
    pub(super) metadata_column: Option<String>,
    /// Whether there is such a column. Without it `enrich errors` knows a failed row by its text alone,
    /// `enrich retry` is refused, and a lost checkpoint is rebuilt only while the log still holds the
    /// newest commit. An existing target that says otherwise is refused. Default: true.
    pub(super) metadata: Option<bool>,
    /// What happens to columns of the source that an existing target does not have: `stop` refuses the
    /// run, `ignore` reads them and does not write them, `add` adds them to the table. Default: `stop`.
    #[serde(default)]
    pub(super) on_new_columns: super::job::OnNewColumns,
    /// What happens to columns of an existing target that the source has and `source.columns` leaves out: `stop` refuses
    /// the run, `null` writes rows that have null in them. Default: `stop`.
    #[serde(default)]
    pub(super) on_missing_columns: super::job::OnMissingColumns,
    /// Whether a target that is not there is refused instead of made: for cron, to which a folder that is not mounted looks
    /// like one without a table. Default: false.
    #[serde(default)]
    pub(super) must_exist: bool,
    /// Columns of the source by whose values a new target is partitioned, outermost first. An existing
    /// target keeps its own; naming others for it is refused. Default: none.
    #[schemars(length(min = 1))]
    pub(super) partition_by: Option<Vec<String>>,
    /// About how large a data file becomes; a batch begins a new file when it is reached. A batch that is
    /// smaller makes one file (in each partition). Default: `100MB`.
    #[serde(default = "file_size")]
    pub(super) file_size: ByteSize,
}

fn file_size() -> ByteSize {
    ByteSize::bytes(100_000_000)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCheckpoint {
    /// Folder of the checkpoint: a local path relative to the job file, or a URL of an object store, the
    /// same for every run. Default: `_checkpoints/<app_id>` in the target.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// With a checkpoint in an object store: how long a run has the job after it last said so there, which it does
    /// three times as often. When a machine vanishes, this long no other one gets the job. At least `1s`.
    /// Default: `60s`.
    pub(super) lease: Option<Span>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJournal {
    /// Folder of the journal, on a local disk that outlives the run, relative to the job file. Several
    /// jobs may name the same one. When it is lost, what it held is paid for again. Default: `journal` in
    /// the checkpoint's folder; with a checkpoint in an object store, beside a local target, else below
    /// `$XDG_STATE_HOME/enrich` (`~/.local/state/enrich`).
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// With a checkpoint in an object store the journal is copied there, so that another machine can go on. Answers
    /// are copied when the oldest one that is not is this old: what a vanished machine costs at most.
    /// At least `100ms`. Default: `5s`.
    pub(super) copy_every: Option<Span>,
    /// They are copied earlier when so much of them is not. Default: `4MB`.
    pub(super) copy_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCache {
    /// File of the answers on a local disk, relative to the job file; several jobs may use one at once. A question that was
    /// asked before, of the same model at the same address, is not paid for again. Required.
    #[schemars(length(min = 1))]
    pub(super) path: String,
    /// Bytes that it takes, about; the answers that were used longest ago go first. Default: 1 GB.
    pub(super) max_bytes: Option<ByteSize>,
    /// Age beyond which an answer is asked for again. Default: 30 days.
    pub(super) max_age: Option<Span>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBatch {
    /// Most rows of a batch, which is also a commit and a file of the target; at least 1.
    /// Default: 10,000.
    #[schemars(range(min = 1))]
    pub(super) max_rows: Option<u32>,
    /// Most bytes of a batch, as its rows take in memory (estimated from the Parquet footer). A row that
    /// is larger makes a batch of its own. Default: 50 MB.
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWindow {
    /// Most rows that are open at once, read and not yet committed; at least 1. A slow row holds back
    /// only its own batch until the window is full. One batch may always be open, whatever stands here.
    /// Default: four batches.
    #[schemars(range(min = 1))]
    pub(super) max_rows: Option<u32>,
    /// Most bytes that are open at once; with `max_rows` it bounds the memory of a run.
    /// Default: 256 MB.
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProvider {
    /// Where the OpenAI-compatible interface begins, for example `https://api.openai.com/v1`;
    /// `/chat/completions` is added to it. Or `simulator` for the built-in one. A user or a password in
    /// it is refused. Required.
    #[schemars(regex(pattern = "^(simulator|https?://.+)$"))]
    pub(super) base_url: String,
    /// The model's name at this provider. After a change, answers that are stored and not yet in the
    /// target are asked for again. Required.
    #[schemars(length(min = 1))]
    pub(super) model: String,
    /// Environment variable that holds the key, white space around it aside; one that is not set stops
    /// the run before it begins. Default: no key is sent.
    #[schemars(length(min = 1))]
    pub(super) api_key_env: Option<String>,
    /// File that holds the key, white space around it aside; relative to the job file. It is read again when the key is
    /// refused. Not together with `api_key_env`. Default: no key is sent.
    #[schemars(length(min = 1))]
    pub(super) api_key_file: Option<String>,
    /// Command whose output is the key, white space around it aside, as a list of the program and its arguments, run in the
    /// job file's folder without a shell: `["gcloud", "auth", "print-access-token"]`. It is run before the first request,
    /// within 30 s, and again when the key is refused, as `api_key_file` is read again: another key is used then, and the
    /// run goes on. Not together with the other two. Default: no key is sent.
    #[schemars(length(min = 1))]
    pub(super) api_key_command: Option<Vec<String>>,
    /// File with certificates of authorities in PEM that are trusted besides the system's, relative to the job file: for a
    /// gateway of a company. Default: the system's alone.
    #[schemars(length(min = 1))]
    pub(super) ca_file: Option<String>,
    /// File with our own certificate in PEM, for an endpoint that asks for one, relative to the job file. Goes with
    /// `client_key`. Default: none.
    #[schemars(length(min = 1))]
    pub(super) client_certificate: Option<String>,
    /// File with the key of `client_certificate` in PEM, not encrypted. Default: none.
    #[schemars(length(min = 1))]
    pub(super) client_key: Option<String>,
    /// Header that carries the key. With another name than the default's the bare key is its value
    /// (`api-key` for Azure). Default: `Authorization`, as `Bearer <key>`.
    #[schemars(length(min = 1))]
    pub(super) api_key_header: Option<String>,
    /// Further headers of every request, sent as they stand. Not for secrets: the job file is no place
    /// for them. Default: none.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Query parameters of every request (`api-version` for Azure). Default: none.
    #[serde(default)]
    pub(super) query: BTreeMap<String, String>,
    /// Further fields of the request body that have to do with the endpoint, sent as they stand
    /// (OpenRouter's `provider.sort`). Stored answers are used after a change too: what changes the
    /// answer belongs into the step's `extra_body`, whose fields win. Default: none.
    #[serde(default)]
    #[schemars(with = "Map<String, Value>")]
    pub(super) extra_body: toml::Table,
    /// Name of the field that carries a step's `max_tokens`; OpenAI's models that reason refuse the
    /// default and want `max_completion_tokens`. Default: `max_tokens`.
    #[schemars(length(min = 1))]
    pub(super) max_tokens_field: Option<String>,
    /// How it is told what a typed answer holds: `json_schema`, `tool` (a tool that has to be called), `json_object`,
    /// `llama_cpp`, `vllm`, `words` (in the prompt), or `auto`, which begins with the first and goes on to `tool`,
    /// `json_object` and `words` while the endpoint refuses or ignores it. Answers are checked in any case.
    /// Default: `auto`.
    #[serde(default)]
    pub(super) schema_form: super::step::SchemaForm,
    /// Tokens of a prompt and its `max_tokens` together that the model takes. A longer prompt is not sent: it goes to the
    /// next provider of its step that can take it, or `on_too_long` says what becomes of it. Counted as the model
    /// counts where its encoding is known, else nearly so, with a tenth left free. Default: the provider says.
    #[schemars(range(min = 1))]
    pub(super) context_window: Option<u32>,
    /// Texts in one request for embeddings, at most; at least 1. Default: 128.
    #[schemars(range(min = 1))]
    pub(super) inputs_per_request: Option<u32>,
    /// Tokens of the texts of one request for embeddings, at most; at least 1. A text that is larger goes alone.
    /// Default: 100,000.
    #[schemars(range(min = 1))]
    pub(super) input_tokens_per_request: Option<u64>,
    /// Requests per minute, at most, spread evenly; at least 1. A provider whose real limit is lower is
    /// asked less. Default: learned from what the provider says and refuses.
    #[schemars(range(min = 1))]
    pub(super) requests_per_minute: Option<u32>,
    /// Tokens per minute of prompts and answers together, at most; at least 1. A request that is larger
    /// than what a second allows waits for an empty moment and goes alone. Default: learned.
    #[schemars(range(min = 1))]
    pub(super) tokens_per_minute: Option<u64>,
    /// Tokens per minute of prompts, for a provider that counts them apart. Not together with
    /// `tokens_per_minute`. Default: learned.
    #[schemars(range(min = 1))]
    pub(super) input_tokens_per_minute: Option<u64>,
    /// Tokens per minute of answers, for a provider that counts them apart. Not together with
    /// `tokens_per_minute`. Default: learned.
    #[schemars(range(min = 1))]
    pub(super) output_tokens_per_minute: Option<u64>,
    /// What the provider counts for an answer: `max`, a request's `max_tokens` as it arrives, or `actual`,
    /// what the answer used. Default: learned; `actual` until the provider refuses a request that it
    /// should have taken.
    pub(super) token_charge: Option<super::job::TokenCharge>,
    /// US dollars for a million tokens of prompts. What a provider itself says that a request cost
    /// (`usage.cost`) counts instead. Default: not known.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_input: Option<f64>,
    /// US dollars for a million tokens of prompts that the provider had in its cache.
    /// Default: `price_per_million_input`.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_cached_input: Option<f64>,
    /// US dollars for a million tokens of answers. Default: not known.
    #[schemars(range(min = 0))]
    pub(super) price_per_million_output: Option<f64>,
    /// Requests in flight at once, at most; at least 1. These are what a kill can make you pay twice.
    /// Default: 64; fewer where more do not make the provider any faster.
    #[schemars(range(min = 1))]
    pub(super) max_concurrency: Option<u32>,
    /// Longest time to connect. Default: 10 s.
    pub(super) connect_timeout: Option<Span>,
    /// Longest time for one attempt, from the first byte sent to the last one received.
    /// Default: 120 s.
    pub(super) request_timeout: Option<Span>,
    /// What is done about a request that is at least 10 s old, and 8 times as old as all but the slowest hundredth of its
    /// step's newest 1,000 answers took: `auto` sends a second one beside it, takes the answer that comes first, and cuts
    /// the other off; both may be billed. `off` waits. Default: `auto`.
    #[serde(default)]
    pub(super) hedge: super::job::Hedge,
    /// Share of requests that may be such second ones, more than 0 and at most 1; one is always allowed. Default: 0.01.
    #[schemars(range(min = 0, max = 1))]
    pub(super) hedge_share: Option<f64>,
    /// Attempts for one row, at most; at least 1. Those that a limit or an outage refused do not count.
    /// Default: 5.
    #[schemars(range(min = 1))]
    pub(super) max_attempts: Option<u32>,
    /// Longest delay before the second attempt; it doubles with each, and a random part of it is waited.
    /// Default: 250 ms.
    pub(super) min_backoff: Option<Span>,
    /// Longest delay before any attempt, unless the server asks for more. Default: 60 s.
    pub(super) max_backoff: Option<Span>,
    /// Longest delay that a server that throttles may ask for; a longer one stops the run with status 4.
    /// Default: 10 min.
    pub(super) max_retry_after: Option<Span>,
    /// How long a provider may fail or throttle without one success before the run stops with status 4.
    /// Default: 15 min.
    pub(super) outage_deadline: Option<Span>,
    /// Largest response body, after decompression; a larger one is a failed attempt. Default: 16 MB.
    pub(super) max_response_bytes: Option<ByteSize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    /// Column of the target that takes the answers, as text where nothing else is said. A name that the source, the
    /// metadata or an earlier step has is refused. Required.
    #[schemars(length(min = 1))]
    pub(super) output: String,
    /// What is asked for: `chat` for an answer to the prompt, `embedding` for the vector of it, a list of 32-bit floats;
    /// several rows go into one request then, and each number takes 4 bytes of memory until its batch is written.
    /// Default: `chat`.
    #[serde(default)]
    pub(super) kind: super::step::StepKind,
    /// Numbers in a vector, at least 1; for models that let one choose. Default: what the model gives.
    #[schemars(range(min = 1))]
    pub(super) dimensions: Option<u32>,
    /// How vectors are sent: `float`, or `base64`, which is a third as long. Default: as the endpoint likes.
    pub(super) encoding: Option<super::step::VectorEncoding>,
    /// Name of a `[provider.<name>]`, or a list of them: the first is asked, the next while it fails or
    /// refuses to answer at all. Default: the only one there is.
    pub(super) provider: Option<OneOrMore>,
    /// Other providers for rows that meet a condition: `[{ when = "length(body) < 8000", provider = "small" }]`, of which the
    /// first that is met counts; `provider` is for all other rows. Conditions are as in `when`. Default: none.
    #[serde(default)]
    pub(super) route: Vec<RawRoute>,
    /// What becomes of a prompt that is longer than the `context_window` of each of its providers: `fail` makes the row an
    /// error that costs nothing, `truncate` cuts what the template made at its end. Default: `fail`.
    pub(super) on_too_long: Option<super::step::OnTooLong>,
    /// Whether rows go to all providers of the list at once, each as much as it takes, instead of to the
    /// first. Default: false.
    #[serde(default)]
    pub(super) balance: bool,
    /// SQL condition on the row's columns and the outputs of earlier steps (`triage.urgent AND length(body) > 20`); a row
    /// that does not meet it is not asked about, and its output is null. Default: every row is asked about.
    #[schemars(length(min = 1))]
    pub(super) when: Option<String>,
    /// Template of the user's message (Jinja) over the source's columns and the outputs of earlier steps: `{{ name }}`, or
    /// `{{ row["a name"] }}` where the name is no identifier, and `{{ triage.urgency }}` for a field of a typed
    /// output. A column that is not there is refused before the first call; a row whose earlier step failed ends as
    /// an error of class `upstream`. Beside Jinja's filters there are `tojson`, `date("%d %B %Y")` and
    /// `truncate_tokens(500)`, which counts as OpenAI's newer models do. This or `prompt_file` is needed.
    /// Default: what `prompt_file` holds.
    #[schemars(length(min = 1))]
    pub(super) prompt: Option<String>,
    /// File that holds the template, relative to the job file. Not together with `prompt`. Default: `prompt` says it.
    #[schemars(length(min = 1))]
    pub(super) prompt_file: Option<String>,
    /// Template of the system message, like `prompt`. Default: none is sent.
    pub(super) system: Option<String>,
    /// File of examples that the model sees before each row, relative to the job file: a line each, as JSON, with
    /// `input`, the columns that the template names, and `output`, the answer, which must be one that the step takes.
    /// Default: none.
    #[schemars(length(min = 1))]
    pub(super) examples: Option<String>,
    /// The answers that there may be: the column holds one of them, or an error. They are named to the model after
    /// the prompt, and in the provider's `schema_form` as well where they are at most 250 and `max_tokens` has room for a
    /// small object; letters count as they stand here. At least one, each once and without white space at its ends.
    /// Default: any text.
    #[schemars(length(min = 1))]
    pub(super) classes: Option<Vec<String>>,
    /// What an answer holds, field by field, in a struct column: `string`, `int`, `float`, `bool`, `date` or `timestamp`,
    /// with a `?` at its end where it may be null, a list as `"[string]"`, one of several texts as
    /// `["low", "high"]`, an object as `{ name = "string" }`, a list of those in brackets. Answers are held against it;
    /// the column is null where a row failed, and `<output>_error` says why. Default: the answer is a text.
    #[schemars(with = "Option<Map<String, Value>>", length(min = 1))]
    pub(super) fields: Option<toml::Table>,
    /// The same as a JSON Schema, here or in a file (a path relative to the job file). References lead into the schema
    /// itself only; what a column cannot hold is refused. Not together with `fields`. Default: as for `fields`.
    pub(super) schema: Option<FileOrTable>,
    /// What stands in the column of an answer that is text where a row failed: `text` for an `ERROR:` string, `null` for
    /// nothing, with the string in `<output>_error`, as other answers always have it. Default: `text`.
    pub(super) on_error: Option<super::step::OnError>,
    /// Whether each field has a column of its own, `<output>_<field>`, instead of all in one struct. Default: false.
    pub(super) flat: Option<bool>,
    /// Whether the text of a typed answer is kept as well, in `<output>_raw`. Default: false.
    pub(super) keep_raw: Option<bool>,
    /// Whether a block `<think>…</think>` at the beginning of an answer is left out, as models write it that think aloud.
    /// Default: true with `classes`, `fields` and `schema`, else false.
    pub(super) strip_reasoning: Option<bool>,
    /// How often a row whose answer is not what `classes`, `fields` or `schema` ask for is asked again, with its answer
    /// and what is wrong with it; each is paid for. At most 10; after that the row is an error. Default: 2.
    #[schemars(range(min = 0, max = 10))]
    pub(super) max_repairs: Option<u32>,
    /// Whether rows with the same question share one answer, whose tokens are paid for once: those of this run, and with a
    /// `[cache]` those of others. Default: true, unless `temperature` is more than 0.
    pub(super) share: Option<bool>,
    /// Sampling temperature, 0 to 2. Default: not sent.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub(super) temperature: Option<f64>,
    /// Most tokens of an answer, reasoning included; at least 1. An answer that it cuts off before its
    /// first word is an error of its row. Default: not sent.
    #[schemars(range(min = 1))]
    pub(super) max_tokens: Option<u32>,
    /// Most tokens of one further attempt, where a limit on tokens cut an answer off; more than `max_tokens`. Both attempts
    /// are paid for. Default: none; a `classes`, `fields` or `schema` answer that is cut off is an error of class `length`, and
    /// a text is kept as it is.
    #[schemars(range(min = 1))]
    pub(super) max_tokens_retry: Option<u32>,
    /// Further fields of the request body that belong to the question (`seed`, `top_p`,
    /// `reasoning_effort`), sent as they stand. After a change, answers that are stored and not yet in the
    /// target are asked for again. Default: none.
    #[serde(default)]
    #[schemars(with = "Map<String, Value>")]
    pub(super) extra_body: toml::Table,
    /// What happens to a row whose columns in the templates are all null. Default: `skip`.
    #[serde(default)]
    pub(super) null_inputs: super::step::NullInputs,
    /// Longest time for a row over all its attempts and the delays between them; waiting for a limit does
    /// not count. Beyond it the row ends with an error. Default: 10 min.
    pub(super) row_deadline: Option<Span>,
}

/// Where rows go that meet a condition.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    /// SQL condition, as in the step's `when`. Required.
    #[schemars(length(min = 1))]
    pub(super) when: String,
    /// Name of a `[provider.<name>]`, or a list of them. Required.
    pub(super) provider: OneOrMore,
}

/// A path to a file or what would stand in it.
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

//! The validated job: every value checked, every path resolved, every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::anomalies::Anomalies;
use super::batch_api::BatchApiSettings;
use super::budget::{Budget, PriceTable};
use super::key::ApiKey;
use super::simulated::SimulatorSpec;
use super::source_spec::SourceSpec;
use super::step::{SchemaForm, StepSpec};
use super::units::ByteSize;
use crate::ident::AppId;
use crate::store::Location;

/// Maximum number of providers in a job.
pub const MOST_PROVIDERS: usize = 64;

/// A validated job.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job file, for messages.
    pub file: PathBuf,
    /// Stable name of the job.
    pub app_id: AppId,
    /// Maximum share of errors among a step's newest outcomes; more than 0, and 1 for no limit.
    pub max_error_rate: f64,
    /// The table or files to read.
    pub source: SourceSpec,
    /// The table to write.
    pub target: TargetSpec,
    /// Locations of the state that the job keeps from run to run.
    pub places: StatePlaces,
    /// Limits on the size of a batch.
    pub batch: BatchLimits,
    /// Limits on the rows that are read and not yet committed.
    pub window: WindowLimits,
    /// Limits on spending.
    pub budget: Budget,
    /// Limits on unusual answers.
    pub anomalies: Anomalies,
    /// The metrics table, with figures of each batch; `None` if there is none.
    pub metrics: Option<Location>,
    /// The cache of answers across runs and jobs.
    pub cache: Option<CacheSpec>,
    /// The providers of the job file. Steps refer to them by index.
    pub providers: Vec<Provider>,
    /// The steps, in their order.
    pub steps: Vec<Arc<StepSpec>>,
    /// Behaviour of the built-in simulator, if the job configures or uses it.
    pub simulator: Option<SimulatorSpec>,
    /// Whether the `base_url` of a provider is the built-in simulator.
    pub simulated: bool,
}

/// Cache of answers across runs and jobs.
#[derive(Clone, Debug)]
pub struct CacheSpec {
    /// The cache file.
    pub path: PathBuf,
    /// Approximate maximum size in bytes.
    pub max_bytes: u64,
    /// Maximum age of an answer.
    pub max_age: Duration,
}

/// Locations of the state that a job keeps from run to run.
#[derive(Clone, Debug)]
pub struct StatePlaces {
    /// Folder of the checkpoint.
    pub checkpoint: Location,
    /// How long a run holds the job without renewing its lease; for a checkpoint in an object store.
    pub lease: Duration,
    /// Local folder of locks and of the history of runs.
    pub state: PathBuf,
    /// Local folder of the journal.
    pub journal: PathBuf,
    /// When the journal is copied to a checkpoint's folder in an object store.
    pub copying: Copying,
}

/// Limits on the part of a journal that is not yet copied.
#[derive(Clone, Copy, Debug)]
pub struct Copying {
    /// Maximum age of the oldest record that is not yet copied.
    pub every: Duration,
    /// Maximum number of bytes that are not yet copied.
    pub bytes: u64,
}

/// The table to write.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    /// Location of the table.
    pub location: Location,
    /// Name of the struct column with each row's origin and history; `None` if it is off.
    pub metadata_column: Option<String>,
    /// What to do with columns of the source that the table does not have.
    pub on_new_columns: OnNewColumns,
    /// What to do with columns of the table that the source has and the job does not carry.
    pub on_missing_columns: OnMissingColumns,
    /// Whether a missing table is refused instead of created.
    pub must_exist: bool,
    /// Partition columns of a new table; an existing table must have the same.
    pub partition_by: Option<Vec<String>>,
    /// Approximate size of a data file.
    pub file_size: ByteSize,
}

/// Limits on the size of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Maximum number of rows; at least 1.
    pub max_rows: u32,
    /// Maximum bytes in memory, except that a batch has at least one row.
    pub max_bytes: u64,
}

/// Limits on the rows that are read and not yet committed.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    /// Maximum number of rows, except that one batch may always be open.
    pub max_rows: u64,
    /// Maximum bytes in memory, except that one batch may always be open.
    pub max_bytes: u64,
}

/// One endpoint with its model and limits.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Name in the job file.
    pub name: String,
    /// Base URL of the interface; `None` for the built-in simulator, whose address is known once it has started.
    pub endpoint: Option<Url>,
    /// The model's name.
    pub model: String,
    /// The key and the header that carries it.
    pub key: Option<ApiKey>,
    /// Certificates for the connections.
    pub tls: Tls,
    /// Further request headers.
    pub headers: BTreeMap<String, String>,
    /// Query parameters of every request.
    pub query: BTreeMap<String, String>,
    /// Further fields of the request body.
    pub extra_body: Map<String, Value>,
    /// Name of the request field that carries `max_tokens`.
    pub max_tokens_field: String,
    /// How the schema of an answer is sent.
    pub schema_form: SchemaForm,
    /// Maximum tokens of prompt and answer together; `None` if the job file does not set it.
    pub context_window: Option<u32>,
    /// Maximum number of texts in one request for embeddings.
    pub inputs_per_request: u32,
    /// Maximum tokens of these texts together.
    pub input_tokens_per_request: u64,
    /// Name of the limits that it shares with other providers; `None` for limits of its own. Providers that share them
    /// have the same ones in the fields below.
    pub limits: Option<String>,
    /// Maximum requests per minute; `None` if the limit is to be learned.
    pub requests_per_minute: Option<u32>,
    /// Maximum tokens per minute.
    pub token_limits: TokenLimits,
    /// The tokens that an answer counts for; `None` if that is to be learned.
    pub token_charge: Option<TokenCharge>,
    /// Prices of tokens; `None` if the job file does not set them.
    pub prices: Option<Arc<PriceTable>>,
    /// The service tier that requests ask for; `None` for the provider's own choice.
    pub service_tier: Option<String>,
    /// How long a row may wait for room in the service tier before it is sent without one; `None` for ever.
    pub tier_fallback_after: Option<Duration>,
    /// How its Batch API is used; `None` if each request is sent by itself.
    pub batch: Option<BatchApiSettings>,
    /// Maximum number of requests in flight.
    pub max_concurrency: u32,
    /// Whether the number of requests in flight is learned, because the job file sets none: fewer are kept in flight
    /// if more do not make the provider faster.
    pub learns_concurrency: bool,
    /// Timeout for connecting.
    pub connect_timeout: Duration,
    /// Timeout for one attempt, from the first byte sent to the last one received.
    pub request_timeout: Duration,
    /// Maximum share of requests that are second attempts for stragglers; 0 for none.
    pub hedge_share: f64,
    /// How failed attempts are retried.
    pub retry: RetryPolicy,
    /// Maximum bytes of a response body, after decompression.
    pub max_response_bytes: u64,
}

/// Certificates for the connections to a provider, in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of authorities that are trusted besides the system's.
    pub authorities: Option<Vec<u8>>,
    /// The client certificate, followed by its private key.
    pub identity: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({}, {})", self.authorities.is_some(), self.identity.is_some())
    }
}

/// Maximum tokens per minute; `None` if the limit is to be learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// Limit on prompts and answers together.
    pub total: Option<u64>,
    /// Limit on prompts.
    pub input: Option<u64>,
    /// Limit on answers.
    pub output: Option<u64>,
}

/// The tokens that an answer counts for against a token limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenCharge {
    /// The request's `max_tokens`, counted when the request arrives.
    Max,
    /// The tokens that the answer used, counted when the answer is complete.
    Actual,
}

/// What to do about a request that takes far longer than others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hedge {
    /// A second request is sent beside it.
    #[default]
    Auto,
    /// No second request is sent.
    Off,
}

/// How failed attempts are retried.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Maximum number of attempts for one row.
    pub max_attempts: u32,
    /// First delay before jitter; doubles with each attempt.
    pub min_backoff: Duration,
    /// Maximum delay before jitter.
    pub max_backoff: Duration,
    /// Longest delay that a server may ask for.
    pub max_retry_after: Duration,
    /// Time without one success after which the run stops.
    pub outage_deadline: Duration,
}

/// What to do with columns of the source that an existing target does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNewColumns {
    /// The run is refused.
    #[default]
    Stop,
    /// The columns are read and not written.
    Ignore,
    /// The columns are added to the table; they are null in its existing rows.
    Add,
}

/// What to do with columns of an existing target that the source has and the job leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissingColumns {
    /// The run is refused.
    #[default]
    Stop,
    /// The columns are null in new rows.
    Null,
}

impl Job {
    /// Whether a provider is used for embeddings only.
    #[must_use]
    pub fn only_embeds(&self, provider: usize) -> bool {
        let uses_it = |step: &&Arc<StepSpec>| step.all_providers().any(|used| used == provider);
        let mut steps = self.steps.iter().filter(uses_it).peekable();
        steps.peek().is_some() && steps.all(|step| step.params.vectors.is_some())
    }
}

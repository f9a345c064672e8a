//! The validated job: every value checked, every path resolved, every default filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::anomalies::Anomalies;
use super::budget::{Budget, Prices};
use super::check::{Checker, Environment};
use super::error::{ConfigError, NO_KEY};
use super::key::ApiKey;
use super::overrides;
use super::raw::RawJob;
use super::simulated::SimulatorSpec;
use super::step::{SchemaForm, StepSpec};
use super::units::ByteSize;
use crate::store::Location;

/// Providers that a job can have.
pub const MOST_PROVIDERS: usize = 64;

/// A validated job.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job file, for messages.
    pub file: PathBuf,
    /// Stable name of the job.
    pub app_id: String,
    /// Share of a step's newest outcomes that may be errors; more than 0, and 1 for no limit.
    pub max_error_rate: f64,
    /// What is read.
    pub source: SourceSpec,
    /// What is written.
    pub target: TargetSpec,
    /// Where it keeps what it needs from run to run.
    pub places: StatePlaces,
    /// How large a batch becomes.
    pub batch: BatchLimits,
    /// How much is open at once.
    pub window: WindowLimits,
    /// What may be spent.
    pub budget: Budget,
    /// What of the answers is so unusual that the run stops.
    pub anomalies: Anomalies,
    /// The table for figures of each batch; none if they are not kept.
    pub metrics: Option<Location>,
    /// Where answers are kept across runs and jobs.
    pub cache: Option<CacheSpec>,
    /// The providers that steps use.
    pub providers: Vec<Provider>,
    /// The steps, in their order.
    pub steps: Vec<StepSpec>,
    /// How the built-in simulator behaves, if the job says so or uses it.
    pub simulator: Option<SimulatorSpec>,
    /// Whether a provider's `base_url` asks for the built-in simulator.
    pub simulated: bool,
}

/// Answers across runs and jobs.
#[derive(Clone, Debug)]
pub struct CacheSpec {
    /// The file.
    pub path: PathBuf,
    /// Bytes that it may take, about.
    pub max_bytes: u64,
    /// Age of an answer, at most.
    pub max_age: Duration,
}

/// Where a job keeps what it needs from run to run.
#[derive(Clone, Debug)]
pub struct StatePlaces {
    /// Folder of the checkpoint.
    pub checkpoint: Location,
    /// How long a run has the job after it last said so; for a checkpoint in an object store.
    pub lease: Duration,
    /// Local folder of locks and of the history of runs.
    pub state: PathBuf,
    /// Local folder of the journal.
    pub journal: PathBuf,
    /// How the journal is copied to a checkpoint's folder in an object store.
    pub copying: Copying,
}

/// How a journal is copied.
#[derive(Clone, Copy, Debug)]
pub struct Copying {
    /// Age of the oldest record that is not copied, at most.
    pub every: Duration,
    /// Bytes that are not copied, at most.
    pub bytes: u64,
}

/// What is read.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// As it stands in the job file.
    pub written: String,
    /// Where that is.
    pub location: Location,
    /// Whether commits that change rows are passed over instead of refused.
    pub skip_change_commits: bool,
    /// The columns that are carried to the target; none for all.
    pub columns: Option<Vec<String>>,
    /// What becomes of columns that a target cannot hold.
    pub on_unsupported: OnUnsupported,
    /// Whether byte strings without an annotation are text.
    pub binary_as_text: bool,
    /// The SQL condition that rows must meet.
    pub condition: Option<String>,
    /// Where a job begins that has no checkpoint; none for the whole table.
    pub start: Option<SourceStart>,
}

/// The first version of a Delta source that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStart {
    /// By its number.
    Version(u64),
    /// The first that was made then or later.
    Timestamp(DateTime<Utc>),
}

impl SourceStart {
    /// The key of the job file that says so.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            SourceStart::Version(_) => "starting_version",
            SourceStart::Timestamp(_) => "starting_timestamp",
        }
    }

    /// Its number, where that is said.
    #[must_use]
    pub const fn version(self) -> Option<u64> {
        match self {
            SourceStart::Version(version) => Some(version),
            SourceStart::Timestamp(_) => None,
        }
    }
}

/// What is written.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    /// The table.
    pub location: Location,
    /// Name of the struct column with each row's origin and history; none where it is off.
    pub metadata_column: Option<String>,
    /// What happens to columns of the source that the table does not have.
    pub on_new_columns: OnNewColumns,
    /// What happens to columns of the table that the source has and the job does not carry.
    pub on_missing_columns: OnMissingColumns,
    /// Whether a table that is not there is refused instead of made.
    pub must_exist: bool,
    /// Columns that partition a table that is made; of one that is there, those that it must have.
    pub partition_by: Option<Vec<String>>,
    /// Bytes of a data file, about.
    pub file_size: ByteSize,
}

/// How large a batch becomes.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Rows at most; at least 1.
    pub max_rows: u32,
    /// Bytes in memory at most, except that a batch has at least one row.
    pub max_bytes: u64,
}

/// How much is open at once.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    /// Rows at most, except that one batch may always be open.
    pub max_rows: u64,
    /// Bytes at most, except that one batch may always be open.
    pub max_bytes: u64,
}

/// One endpoint with its model and limits.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Name in the job file.
    pub name: String,
    /// Where chat completions are asked for; none for the built-in simulator, whose address is
    /// known when it has started.
    pub endpoint: Option<Url>,
    /// The model's name.
    pub model: String,
    /// The key and the header that carries it.
    pub key: Option<ApiKey>,
    /// Who it is trusted by, and what it trusts.
    pub tls: Tls,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// Further fields of the body.
    pub extra_body: Map<String, Value>,
    /// Name of the field that carries `max_tokens`.
    pub max_tokens_field: String,
    /// How it is told what an answer must hold.
    pub schema_form: SchemaForm,
    /// Tokens of prompt and answer together, at most; none if nobody said.
    pub context_window: Option<u32>,
    /// Texts in one request for embeddings, at most.
    pub inputs_per_request: u32,
    /// Their tokens together, at most.
    pub input_tokens_per_request: u64,
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute.
    pub token_limits: TokenLimits,
    /// What an answer counts for; none if that is to be learned.
    pub token_charge: Option<TokenCharge>,
    /// What its tokens cost; none if nobody said.
    pub prices: Option<Prices>,
    /// Requests in flight.
    pub max_concurrency: u32,
    /// Whether fewer may be in flight where more bring nothing: nobody said how many are right.
    pub learns_concurrency: bool,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for one attempt.
    pub request_timeout: Duration,
    /// Share of requests that may be second attempts for stragglers; 0 for none.
    pub hedge_share: f64,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
    /// Bytes of a response body, decompressed.
    pub max_response_bytes: u64,
}

/// Certificates for the connections to a provider, in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Of authorities that are trusted besides the system's.
    pub authorities: Option<Vec<u8>>,
    /// Our own, with its key behind it.
    pub identity: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({}, {})", self.authorities.is_some(), self.identity.is_some())
    }
}

/// Tokens per minute; none where that is to be learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// Of prompts and answers together.
    pub total: Option<u64>,
    /// Of prompts.
    pub input: Option<u64>,
    /// Of answers.
    pub output: Option<u64>,
}

/// What an answer counts for against a limit on tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenCharge {
    /// The request's `max_tokens`, as it arrives.
    Max,
    /// What it used, once it is there.
    Actual,
}

/// What is done about a request that takes far longer than others do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hedge {
    /// A second request is sent beside it.
    #[default]
    Auto,
    /// It is waited for.
    Off,
}

/// How failed attempts are repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts for one row.
    pub max_attempts: u32,
    /// First delay before jitter; doubles with each attempt.
    pub min_backoff: Duration,
    /// Longest delay before jitter.
    pub max_backoff: Duration,
    /// Longest delay that the server may ask for.
    pub max_retry_after: Duration,
    /// Time without one success after which the run stops.
    pub outage_deadline: Duration,
}

/// What becomes of columns of Parquet files that a Delta table cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnsupported {
    /// The run is refused, unless `columns` leaves them out.
    #[default]
    Stop,
    /// They are left out.
    Skip,
    /// They are carried as text.
    Text,
}

/// What happens to columns of the source that an existing target does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNewColumns {
    /// The run is refused.
    #[default]
    Stop,
    /// They are read and not written.
    Ignore,
    /// The table gets them; they are null in the rows it has.
    Add,
}

/// What happens to columns of an existing target that the source has and the job leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissingColumns {
    /// The run is refused.
    #[default]
    Stop,
    /// They are null in new rows.
    Null,
}

impl Job {
    /// Whether a provider is asked for nothing but vectors.
    #[must_use]
    pub fn only_embeds(&self, provider: usize) -> bool {
        let asks = |step: &&StepSpec| step.all_providers().any(|asked| asked == provider);
        let mut steps = self.steps.iter().filter(asks).peekable();
        steps.peek().is_some() && steps.all(|step| step.params.vectors.is_some())
    }

    /// Reads and validates a job file. Keys are read from the environment and from files here.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake found.
    pub fn load(file: &Path) -> Result<Job, ConfigError> {
        Job::of_text(file, &read(file)?, &[], Keys::Read)
    }

    /// Reads and validates a job file for a command that calls no provider: keys are neither needed nor read.
    ///
    /// # Errors
    /// As [`Job::load`], without those about keys.
    pub fn load_without_keys(file: &Path) -> Result<Job, ConfigError> {
        Job::of_text(file, &read(file)?, &[], Keys::Unneeded)
    }

    /// Reads and validates a job file with some of its keys set otherwise, each written as
    /// `section.key=value`.
    ///
    /// # Errors
    /// As [`Job::load`], and when a key cannot be set.
    pub fn load_set(file: &Path, set: &[String], keys: Keys) -> Result<Job, ConfigError> {
        Job::of_text(file, &read(file)?, set, keys)
    }

    /// Validates the text of a job, with some of its keys set otherwise. `file` gives the folder for relative
    /// paths.
    ///
    /// # Errors
    /// As [`Job::load_set`].
    pub fn of_text(file: &Path, text: &str, set: &[String], keys: Keys) -> Result<Job, ConfigError> {
        let environment: Environment<'_> = &|name| std::env::var(name).ok();
        let environment = (keys == Keys::Read).then_some(environment);
        if set.is_empty() {
            return Job::check(file, text, environment);
        }
        let syntax = |error| ConfigError::from_toml(file, text, NO_KEY, &error);
        let mut table: toml::Table = toml::from_str(text).map_err(syntax)?;
        for written in set {
            overrides::set(&mut table, written).map_err(|message| ConfigError::Set { message })?;
        }
        let raw: RawJob = serde_path_to_error::deserialize(table)
            .map_err(|error| ConfigError::merged(file, &error.path().to_string(), error.inner()))?;
        Job::validate(file, raw, environment)
    }

    /// Validates the text of a job file. `file` gives the folder for relative paths; `environment`
    /// looks up variables.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake found.
    pub fn parse(
        file: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Job, ConfigError> {
        Job::check(file, text, Some(&environment))
    }

    fn check(file: &Path, text: &str, environment: Option<Environment<'_>>) -> Result<Job, ConfigError> {
        let document = toml::Deserializer::parse(text)
            .map_err(|error| ConfigError::from_toml(file, text, NO_KEY, &error))?;
        let raw: RawJob = serde_path_to_error::deserialize(document)
            .map_err(|error| ConfigError::from_toml(file, text, &error.path().to_string(), error.inner()))?;
        Job::validate(file, raw, environment)
    }

    fn validate(file: &Path, raw: RawJob, environment: Option<Environment<'_>>) -> Result<Job, ConfigError> {
        let folder = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Checker { file, folder, environment }.job(raw)
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { path: file.to_owned(), source })
}

/// Whether a command calls a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It does: keys are read.
    Read,
    /// It does not: keys are neither needed nor read.
    Unneeded,
}

//! Validates a raw job and resolves it to a [`Job`], with an error for the first mistake.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::error::ConfigError;
use super::job::{
    BatchLimits, CacheSpec, Hedge, Job, MOST_PROVIDERS, Provider, RetryPolicy, TargetSpec, Tls, TokenLimits,
    WindowLimits,
};
use super::key::{self, ApiKey, KeySource};
use super::raw::{RawCache, RawJob, RawProvider};
use super::simulated::{MOST_DIMENSIONS, SimulatorSpec};
use super::source_spec::QUERY_RESULTS;
use super::units::{ByteSize, Span};
use crate::ident::Money;
use crate::store::Location;

const MAX_ERROR_RATE: f64 = 0.5;
/// Default share of requests that may be hedges.
const HEDGE_SHARE: f64 = 0.01;
/// The service tier whose answers may take long, and the time for one.
pub(super) const FLEX: &str = "flex";
pub(super) const FLEX_TIMEOUT: Duration = Duration::from_secs(900);
const METADATA_COLUMN: &str = "_enrich";

/// Looks up environment variables.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) struct Checker<'a> {
    pub(super) file: &'a Path,
    pub(super) folder: &'a Path,
    /// `None` if keys and certificates are not needed; they are not read then.
    pub(super) environment: Option<Environment<'a>>,
    /// Whether the job's rows are posted by other programs, so that it needs neither source nor target.
    pub(super) is_served: bool,
}

impl Checker<'_> {
    pub(super) fn wrong(&self, key: impl Into<String>, message: impl Into<String>) -> ConfigError {
        ConfigError::value(self.file, key, message)
    }

    pub(super) fn distinct(
        &self,
        key: &str,
        columns: Option<Vec<String>>,
    ) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(columns) = columns else { return Ok(None) };
        if columns.is_empty() {
            return Err(self.wrong(key, "is empty; name columns, or take it out"));
        }
        let twice = columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(column));
        match twice {
            Some((_, column)) => Err(self.wrong(key, format!("names {column:?} twice"))),
            None => Ok(Some(columns)),
        }
    }

    pub(super) fn job(&self, raw: RawJob) -> Result<Job, ConfigError> {
        self.app_id(&raw.app_id)?;
        let max_error_rate = raw.max_error_rate.unwrap_or(MAX_ERROR_RATE);
        if !(max_error_rate > 0.0 && max_error_rate <= 1.0) {
            return Err(self.wrong(
                "max_error_rate",
                format!("is {max_error_rate}; it must be more than 0 and at most 1, which allows every row to fail"),
            ));
        }
        let has_target = raw.target.is_some();
        let (raw_source, raw_target) = self.ends(raw.source, raw.target, &raw.checkpoint)?;
        let mut source = self.source(raw_source)?;
        let target = TargetSpec {
            location: self.location("target.path", &raw_target.path)?,
            metadata_column: self.metadata_column(raw_target.metadata, raw_target.metadata_column)?,
            on_new_columns: raw_target.on_new_columns,
            on_missing_columns: raw_target.on_missing_columns,
            must_exist: raw_target.must_exist,
            partition_by: self.distinct("target.partition_by", raw_target.partition_by)?,
            file_size: raw_target.file_size,
        };
        if source.location.is_same_place(&target.location) {
            return Err(self.wrong(
                "target.path",
                "is the source: every row written would become a row to read. Give the answers a table of their own",
            ));
        }
        if target.location.is_inside(&source.location) || source.location.is_inside(&target.location) {
            return Err(self.wrong(
                "target.path",
                "and source.path lie one inside the other: what is written could be read again, or removed as foreign. Put them beside each other",
            ));
        }
        let beside = has_target.then_some(&target.location);
        let places = self.places(&raw.app_id, beside, &raw.checkpoint, &raw.journal)?;
        if source.query.is_some() {
            source.location = places.checkpoint.join(QUERY_RESULTS);
        }
        let batch = BatchLimits {
            max_rows: self.positive("batch.max_rows", raw.batch.max_rows, 10_000)?,
            max_bytes: self.positive_bytes("batch.max_bytes", raw.batch.max_bytes, 50_000_000)?,
        };
        let default_window = batch.max_rows.saturating_mul(4);
        let window = WindowLimits {
            max_rows: u64::from(self.positive("window.max_rows", raw.window.max_rows, default_window)?),
            max_bytes: self.positive_bytes("window.max_bytes", raw.window.max_bytes, 256_000_000)?,
        };
        let mut providers = raw
            .provider
            .into_iter()
            .map(|(name, provider)| self.provider(name, provider))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(beyond) = providers.get(MOST_PROVIDERS) {
            let what =
                format!("is the {}th provider; a job has {MOST_PROVIDERS} at most", MOST_PROVIDERS + 1);
            return Err(self.wrong(format!("provider.{}", beyond.name), what));
        }
        self.share_limits(&mut providers)?;
        let simulated = providers.iter().any(|provider| provider.endpoint.is_none());
        if let Some(spec) = &raw.simulator {
            self.simulator(spec)?;
        }
        let anomalies = self.anomalies(&raw.anomalies)?;
        let metrics = if has_target { self.metrics(&raw.metrics, &source, &target)? } else { None };
        let cache = raw.cache.map(|cache| self.cache(&cache)).transpose()?;
        let steps = self.steps(raw.step, &providers, target.metadata_column.as_deref())?;
        let budget = self.budget(&raw.budget, &providers, &steps)?;
        Ok(Job {
            file: self.file.to_owned(),
            app_id: raw.app_id.into(),
            max_error_rate,
            source,
            target,
            places,
            batch,
            window,
            budget,
            anomalies,
            metrics,
            cache,
            providers,
            steps,
            simulator: raw.simulator.or_else(|| simulated.then(SimulatorSpec::default)),
            simulated,
        })
    }

    fn cache(&self, raw: &RawCache) -> Result<CacheSpec, ConfigError> {
        Ok(CacheSpec {
            path: self.local("cache.path", &raw.path)?,
            max_bytes: self.positive_bytes("cache.max_bytes", raw.max_bytes, 1_000_000_000)?,
            max_age: self.positive_span(
                "cache.max_age",
                raw.max_age,
                Duration::from_secs(30 * 24 * 3_600),
            )?,
        })
    }

    fn app_id(&self, app_id: &str) -> Result<(), ConfigError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if app_id.is_empty() || app_id.len() > 100 || !app_id.chars().all(allowed) || app_id.starts_with('.')
        {
            return Err(self.wrong(
                "app_id",
                format!(
                    "is {app_id:?}; it takes 1 to 100 letters, digits, `_`, `-` and `.`, and does not begin with `.`"
                ),
            ));
        }
        Ok(())
    }

    fn metadata_column(
        &self,
        metadata: Option<bool>,
        named: Option<String>,
    ) -> Result<Option<String>, ConfigError> {
        match named {
            Some(_) if metadata == Some(false) => Err(self.wrong(
                "target.metadata_column",
                "names a column that target.metadata = false takes away; keep one of the two",
            )),
            Some(name) if name.is_empty() => Err(self.wrong("target.metadata_column", "is empty")),
            Some(name) => Ok(Some(name)),
            None => Ok((metadata != Some(false)).then(|| METADATA_COLUMN.to_owned())),
        }
    }

    pub(super) fn location(&self, key: &str, written: &str) -> Result<Location, ConfigError> {
        if written.trim().is_empty() {
            return Err(self.wrong(key, "is empty"));
        }
        let resolve = if key == "source.path" { Location::resolve } else { Location::resolve_to_write };
        resolve(written, self.folder).map_err(|error| self.wrong(key, error.to_string()))
    }

    pub(super) fn local(&self, key: &str, written: &str) -> Result<PathBuf, ConfigError> {
        let location = self.location(key, written)?;
        let path = location.path().map(Path::to_owned);
        path.ok_or_else(|| self.wrong(key, format!("is {location}; it must be a local folder")))
    }

    pub(super) fn positive(&self, key: &str, given: Option<u32>, default: u32) -> Result<u32, ConfigError> {
        match given {
            Some(0) => Err(self.wrong(key, "is 0; it must be at least 1")),
            other => Ok(other.unwrap_or(default)),
        }
    }

    pub(super) fn tokens(&self, key: &str, given: Option<u64>) -> Result<Option<u64>, ConfigError> {
        match given {
            Some(0) => Err(self.wrong(key, "is 0; it must be at least 1")),
            other => Ok(other),
        }
    }

    pub(super) fn positive_bytes(
        &self,
        key: &str,
        given: Option<ByteSize>,
        default: u64,
    ) -> Result<u64, ConfigError> {
        match given.map(ByteSize::get) {
            Some(0) => Err(self.wrong(key, "is 0; it must be at least 1 byte")),
            other => Ok(other.unwrap_or(default)),
        }
    }

    pub(super) fn positive_span(
        &self,
        key: &str,
        given: Option<Span>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        match given {
            Some(Span(span)) if span.is_zero() => Err(self.wrong(key, "is 0; it must be longer than that")),
            other => Ok(other.map_or(default, |Span(span)| span)),
        }
    }

    fn provider(&self, name: String, raw: RawProvider) -> Result<Provider, ConfigError> {
        let key = |field: &str| format!("provider.{name}.{field}");
        let endpoint = match raw.base_url.as_str() {
            "simulator" => None,
            written => Some(self.endpoint(&key("base_url"), written)?),
        };
        if raw.model.is_empty() {
            return Err(self.wrong(key("model"), "is empty"));
        }
        let retry = RetryPolicy {
            max_attempts: self.positive(&key("max_attempts"), raw.max_attempts, 5)?,
            min_backoff: self.positive_span(
                &key("min_backoff"),
                raw.min_backoff,
                Duration::from_millis(250),
            )?,
            max_backoff: self.positive_span(&key("max_backoff"), raw.max_backoff, Duration::from_secs(60))?,
            max_retry_after: self.positive_span(
                &key("max_retry_after"),
                raw.max_retry_after,
                Duration::from_secs(600),
            )?,
            outage_deadline: self.positive_span(
                &key("outage_deadline"),
                raw.outage_deadline,
                Duration::from_secs(900),
            )?,
        };
        let requests_per_minute = match raw.requests_per_minute {
            Some(_) => Some(self.positive(&key("requests_per_minute"), raw.requests_per_minute, 1)?),
            None => None,
        };
        let token_limits = TokenLimits {
            total: self.tokens(&key("tokens_per_minute"), raw.tokens_per_minute)?,
            input: self.tokens(&key("input_tokens_per_minute"), raw.input_tokens_per_minute)?,
            output: self.tokens(&key("output_tokens_per_minute"), raw.output_tokens_per_minute)?,
        };
        if token_limits.total.is_some() && (token_limits.input.is_some() || token_limits.output.is_some()) {
            return Err(self.wrong(
                key("tokens_per_minute"),
                "counts both kinds of tokens together; it does not go with input_tokens_per_minute or output_tokens_per_minute",
            ));
        }
        self.check_batch_provider(&name, &raw, endpoint.as_ref())?;
        let prices = self.prices(&name, &raw)?;
        let batch =
            raw.batch.as_ref().map(|batch| self.batch_api(&name, batch, endpoint.as_ref())).transpose()?;
        let service_tier = raw.service_tier.clone().filter(|tier| !tier.is_empty());
        let tier_fallback_after = match raw.tier_fallback_after {
            Some(_) if service_tier.is_none() => {
                return Err(self.wrong(
                    key("tier_fallback_after"),
                    "needs service_tier: without it requests ask for no tier to fall back from",
                ));
            }
            Some(after) => {
                Some(self.positive_span(&key("tier_fallback_after"), Some(after), FLEX_TIMEOUT)?)
            }
            None => None,
        };
        let request_timeout = match service_tier.as_deref() {
            Some(FLEX) => FLEX_TIMEOUT,
            _ => Duration::from_secs(120),
        };
        let api_key = self.key(&name, &raw)?;
        let tls = self.tls(&name, &raw)?;
        for header in raw.headers.keys() {
            if !is_header_name(header) {
                return Err(
                    self.wrong(key("headers"), format!("has {header:?}, which is no name of a header"))
                );
            }
        }
        let hedge_share = raw.hedge_share.unwrap_or(HEDGE_SHARE);
        if !(hedge_share > 0.0 && hedge_share <= 1.0) {
            return Err(self.wrong(
                key("hedge_share"),
                format!("is {hedge_share}; it must be more than 0 and at most 1 (hedge = \"off\" sends no second requests)"),
            ));
        }
        Ok(Provider {
            hedge_share: if raw.hedge == Hedge::Auto { hedge_share } else { 0.0 },
            endpoint,
            model: raw.model,
            key: api_key,
            tls,
            headers: raw.headers,
            query: raw.query,
            extra_body: self.json(&key("extra_body"), raw.extra_body)?,
            max_tokens_field: raw.max_tokens_field.unwrap_or_else(|| "max_tokens".to_owned()),
            schema_form: raw.schema_form,
            context_window: match raw.context_window {
                Some(_) => Some(self.positive(&key("context_window"), raw.context_window, 1)?),
                None => None,
            },
            inputs_per_request: self.positive(&key("inputs_per_request"), raw.inputs_per_request, 128)?,
            input_tokens_per_request: self
                .tokens(&key("input_tokens_per_request"), raw.input_tokens_per_request)?
                .unwrap_or(100_000),
            limits: raw.limits.filter(|name| !name.is_empty()),
            requests_per_minute,
            token_limits,
            token_charge: raw.token_charge,
            prices,
            service_tier,
            tier_fallback_after,
            batch,
            learns_concurrency: raw.max_concurrency.is_none(),
            max_concurrency: self.positive(&key("max_concurrency"), raw.max_concurrency, 64)?,
            connect_timeout: self.positive_span(
                &key("connect_timeout"),
                raw.connect_timeout,
                Duration::from_secs(10),
            )?,
            request_timeout: self.positive_span(
                &key("request_timeout"),
                raw.request_timeout,
                request_timeout,
            )?,
            retry,
            max_response_bytes: self.positive_bytes(
                &key("max_response_bytes"),
                raw.max_response_bytes,
                16_000_000,
            )?,
            name,
        })
    }

    fn endpoint(&self, key: &str, written: &str) -> Result<Url, ConfigError> {
        let url = Url::parse(written)
            .map_err(|error| self.wrong(key, format!("is {written:?}, which is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(self.wrong(key, format!("is {written:?}; it begins with http:// or https://")));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                self.wrong(key, "holds a user or a password; keys come from api_key_env or api_key_file")
            );
        }
        Ok(url)
    }

    fn key(&self, provider: &str, raw: &RawProvider) -> Result<Option<ApiKey>, ConfigError> {
        let key = |field: &str| format!("provider.{provider}.{field}");
        let header = raw.api_key_header.clone().unwrap_or_else(|| "authorization".to_owned());
        if !is_header_name(&header) {
            let message = format!("is {header:?}, which is no name of a header");
            return Err(self.wrong(key("api_key_header"), message));
        }
        let sources = [
            ("api_key_env", raw.api_key_env.is_some()),
            ("api_key_file", raw.api_key_file.is_some()),
            ("api_key_command", raw.api_key_command.is_some()),
        ];
        let mut sources_given = sources.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name);
        let Some(field) = sources_given.next() else { return Ok(None) };
        if let Some(second) = sources_given.next() {
            return Err(self.wrong(key(second), format!("and {field} are both set; keep one")));
        }
        if raw
            .api_key_command
            .as_ref()
            .is_some_and(|arguments| arguments.first().is_none_or(String::is_empty))
        {
            return Err(self.wrong(key(field), "is empty; it names a program, and its arguments after it"));
        }
        let Some(environment) = self.environment else { return Ok(None) };
        let wrong = |message: String| self.wrong(key(field), message);
        let (secret, source) = match (&raw.api_key_env, &raw.api_key_file, &raw.api_key_command) {
            (Some(variable), ..) => {
                let set = environment(variable).ok_or_else(|| {
                    wrong(format!("names the variable {variable}, which is not set; set it, or take the line out for an endpoint without keys"))
                })?;
                (key::checked(&set), KeySource::Variable)
            }
            (None, Some(file), _) => {
                let source = KeySource::File(self.folder.join(file));
                (source.read(), source)
            }
            (None, None, arguments) => {
                let arguments = arguments.clone().unwrap_or_default();
                let source = KeySource::Command { arguments, folder: self.folder.to_owned() };
                (source.read(), source)
            }
        };
        let bearer = header.eq_ignore_ascii_case("authorization");
        Ok(Some(ApiKey::new(header, bearer, secret.map_err(wrong)?, source)))
    }

    /// Reads the certificates of a provider. Like keys, they are read only if there is an environment.
    fn tls(&self, provider: &str, raw: &RawProvider) -> Result<Tls, ConfigError> {
        let key = |field: &str| format!("provider.{provider}.{field}");
        let missing = match (&raw.client_certificate, &raw.client_key) {
            (Some(_), None) => Some(("client_certificate", "client_key")),
            (None, Some(_)) => Some(("client_key", "client_certificate")),
            _ => None,
        };
        if let Some((there, missing)) = missing {
            return Err(self.wrong(key(there), format!("is set without {missing}; they go together")));
        }
        if self.environment.is_none() {
            return Ok(Tls::default());
        }
        let read = |field: &str, file: &Option<String>| {
            let Some(file) = file else { return Ok(None) };
            let path = self.folder.join(file);
            let text = std::fs::read(&path).map_err(|error| {
                self.wrong(key(field), format!("names {}, which cannot be read: {error}", path.display()))
            })?;
            if !text.starts_with(b"-----BEGIN") && !text.windows(11).any(|part| part == b"\n-----BEGIN") {
                return Err(self.wrong(key(field), format!("names {}, which is no PEM file", path.display())));
            }
            Ok(Some(text))
        };
        let authorities = read("ca_file", &raw.ca_file)?;
        let certificate = read("client_certificate", &raw.client_certificate)?;
        let private = read("client_key", &raw.client_key)?;
        let identity = certificate
            .zip(private)
            .map(|(certificate, private)| [certificate.as_slice(), b"\n", private.as_slice()].concat());
        Ok(Tls { authorities, identity })
    }

    pub(super) fn json(&self, key: &str, table: toml::Table) -> Result<Map<String, Value>, ConfigError> {
        match serde_json::to_value(table) {
            Ok(Value::Object(map)) => Ok(map),
            _ => Err(self.wrong(key, "cannot be written as JSON")),
        }
    }

    fn simulator(&self, spec: &SimulatorSpec) -> Result<(), ConfigError> {
        if spec.faults.iter().any(|fault| !(0.0..=1.0).contains(&fault.share)) {
            return Err(self.wrong("simulator.fault.share", "lies outside 0 to 1"));
        }
        for (name, sigma) in
            [("latency_sigma", spec.latency_sigma), ("completion_sigma", spec.completion_sigma)]
        {
            if !(0.0..=10.0).contains(&sigma) {
                return Err(self.wrong(format!("simulator.{name}"), "lies outside 0 to 10"));
            }
        }
        let prices = [
            ("price_per_million_input", spec.price_per_million_input),
            ("price_per_million_output", spec.price_per_million_output),
        ];
        for (name, price) in prices {
            if Money::per_million(price).is_none() {
                return Err(self.wrong(format!("simulator.{name}"), "lies outside 0 to 1,000,000"));
            }
        }
        for (name, tier) in &spec.tiers {
            let wrong = |field: &str, bounds: &str| {
                self.wrong(format!("simulator.tiers.{name}.{field}"), format!("lies outside {bounds}"))
            };
            let shares = [("no_room", tier.no_room), ("by_standard", tier.by_standard)];
            if let Some((field, _)) = shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
                return Err(wrong(field, "0 to 1"));
            }
            let prices = [
                ("price_per_million_input", tier.price_per_million_input),
                ("price_per_million_output", tier.price_per_million_output),
            ];
            if let Some((field, _)) = prices.iter().find(|(_, price)| Money::per_million(*price).is_none()) {
                return Err(wrong(field, "0 to 1,000,000"));
            }
        }
        if let Some(batches) = &spec.batches {
            self.simulated_batches(batches)?;
        }
        let others = spec.phases.iter().filter_map(|phase| phase.other_client);
        if others.chain([spec.other_client]).any(|share| !(0.0..=1.0).contains(&share)) {
            return Err(self.wrong("simulator.other_client", "lies outside 0 to 1"));
        }
        let factors = spec.phases.iter().filter_map(|phase| phase.limits);
        if factors.into_iter().any(|factor| !(factor > 0.0 && factor.is_finite())) {
            return Err(self.wrong("simulator.phase.limits", "is not more than 0"));
        }
        let least_one = [spec.slots, spec.completion_tokens, spec.max_inputs, spec.max_input_tokens];
        if least_one.contains(&Some(0)) || spec.context_tokens == Some(0) {
            return Err(self.wrong("simulator", "has a 0 where it must be at least 1"));
        }
        if spec.dimensions.is_some_and(|dimensions| !(1..=MOST_DIMENSIONS).contains(&dimensions)) {
            return Err(self.wrong("simulator.dimensions", "lies outside 1 to 65,536"));
        }
        let limits = [("requests", &spec.requests), ("tokens", &spec.tokens)];
        for (name, limit) in limits {
            if limit.as_ref().is_some_and(|limit| limit.per_minute == 0 || limit.seconds == Some(0)) {
                return Err(self.wrong(format!("simulator.{name}"), "has a 0; it must be at least 1"));
            }
        }
        Ok(())
    }
}

/// Whether a name is a token as defined in RFC 9110, section 5.6.2.
fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

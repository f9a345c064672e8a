//! The checks of the sections about Batch APIs: a provider's, and the simulator's.

use std::time::Duration;

use url::Url;

use super::batch_api::{BatchApiSettings, BatchShape, RawBatchApi};
use super::check::Checker;
use super::error::ConfigError;
use super::simulated_batches::BatchesSpec;
use super::units::{ByteSize, Span, duration};
use crate::ident::Money;

const WINDOW: &str = "24h";
const BATCH_DEADLINE: Duration = Duration::from_secs(26 * 3600);
const POLL: Duration = Duration::from_secs(60);
const LEAST_POLL: Duration = Duration::from_secs(10);
const RECREATE_AFTER: Duration = Duration::from_secs(900);
const LEAST_RECREATE_AFTER: Duration = Duration::from_secs(300);
const FIRST_REQUESTS: u32 = 200;
const MAX_FILE_BYTES: u64 = 190_000_000;
/// Together takes files of 100 MB.
const MAX_FILE_BYTES_AT_TOGETHER: u64 = 95_000_000;
const LEAST_FILE_BYTES: u64 = 64_000;

impl Checker<'_> {
    pub(super) fn batch_api(
        &self,
        name: &str,
        raw: &RawBatchApi,
        endpoint: Option<&Url>,
    ) -> Result<BatchApiSettings, ConfigError> {
        let key = |field: &str| format!("provider.{name}.batch.{field}");
        let span = |field: &str, written: Option<Span>, usual: Duration| {
            self.positive_span(&key(field), written, usual)
        };
        let shape = raw.shape;
        let host = endpoint.and_then(Url::host_str).unwrap_or_default();
        if let Some(own) = BatchShape::of_host(host).filter(|own| *own != shape) {
            let (is, own) = (shape.name(), own.name());
            return Err(self.wrong(
                key("shape"),
                format!("is \"{is}\", and {host} has a Batch API of its own: set shape = \"{own}\""),
            ));
        }
        let poll = span("poll", raw.poll, POLL)?;
        let is_here = endpoint.is_none_or(|url| {
            matches!(url.host(), Some(url::Host::Ipv4(address)) if address.is_loopback())
                || url.host_str() == Some("localhost")
        });
        if poll < LEAST_POLL && !is_here {
            return Err(self.wrong(key("poll"), "is less than 10s"));
        }
        let recreate_after = span("recreate_after", raw.recreate_after, RECREATE_AFTER)?;
        if recreate_after < LEAST_RECREATE_AFTER && !raw.idempotent && !is_here {
            return Err(self.wrong(
                key("recreate_after"),
                "is less than 5m: a batch that the list shows late would be made twice",
            ));
        }
        let window = raw.window.clone().unwrap_or_else(|| WINDOW.to_owned());
        if window.is_empty() {
            return Err(self.wrong(key("window"), "is empty"));
        }
        if shape == BatchShape::Mistral && !is_whole_hours(&window) {
            return Err(self.wrong(
                key("window"),
                format!("is \"{window}\"; Mistral counts in whole hours, like \"24h\""),
            ));
        }
        let usual_bytes = match shape {
            BatchShape::Together => MAX_FILE_BYTES_AT_TOGETHER,
            BatchShape::Openai | BatchShape::Mistral => MAX_FILE_BYTES,
        };
        let max_bytes = raw.max_bytes.map_or(usual_bytes, ByteSize::get);
        if max_bytes < LEAST_FILE_BYTES {
            return Err(self.wrong(key("max_bytes"), "is less than 64KB"));
        }
        if raw.enqueued_tokens == Some(0) {
            return Err(self.wrong(key("enqueued_tokens"), "must be at least 1"));
        }
        Ok(BatchApiSettings {
            shape,
            window,
            max_requests: self.positive(&key("max_requests"), raw.max_requests, 50_000)?,
            max_bytes,
            max_outstanding: self.positive(&key("max_outstanding"), raw.max_outstanding, 500_000)?.into(),
            enqueued_tokens: raw.enqueued_tokens,
            first_requests: Some(raw.first_requests.unwrap_or(FIRST_REQUESTS))
                .filter(|requests| *requests > 0),
            deadline: span("deadline", raw.deadline, BATCH_DEADLINE)?,
            max_submissions: self.positive(&key("max_submissions"), raw.max_submissions, 3)?,
            repairs: raw.repairs,
            poll,
            is_idempotent: raw.idempotent,
            recreate_after,
            keeps_files: raw.keep_files,
        })
    }

    pub(super) fn simulated_batches(&self, spec: &BatchesSpec) -> Result<(), ConfigError> {
        let wrong =
            |field: &str, what: &str| Err(self.wrong(format!("simulator.batches.{field}"), what.to_owned()));
        if let Some((field, _)) = spec.shares().iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return wrong(field, "lies outside 0 to 1");
        }
        if !(0.0..=10.0).contains(&spec.takes_sigma) {
            return wrong("takes_sigma", "lies outside 0 to 10");
        }
        if spec.max_requests == Some(0) || spec.enqueued_tokens == Some(0) {
            return wrong("max_requests", "and enqueued_tokens must be at least 1");
        }
        let prices = [
            ("price_per_million_input", spec.price_per_million_input),
            ("price_per_million_output", spec.price_per_million_output),
        ];
        match prices.iter().find(|(_, price)| Money::per_million(*price).is_none()) {
            Some((field, _)) => wrong(field, "lies outside 0 to 1,000,000"),
            None => Ok(()),
        }
    }
}

/// Whether a text is a time of some hours and no part of one.
fn is_whole_hours(text: &str) -> bool {
    const HOUR: u128 = 3_600_000_000_000;
    duration(text).is_ok_and(|time| !time.is_zero() && time.as_nanos().is_multiple_of(HOUR))
}

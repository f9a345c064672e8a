//! From a refusal to its class.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::fault::{Class, Failure};
use crate::wire::{self, ErrorBody, ErrorObject};

/// Codes and types of a 429 that is about money, not about rate.
const QUOTA: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
];

/// Classifies a response whose status is not a success.
#[must_use]
pub fn classify(status: u16, body: &[u8], model: &str, delay: Option<Duration>) -> Failure {
    let parsed: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let error = parsed.error.unwrap_or_else(|| ErrorObject {
        message: parsed.message.or(parsed.detail).and_then(wire::text),
        ..ErrorObject::default()
    });
    let class = class_of(status, &error, model, delay.is_some());
    let said = error.message.clone().unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let code = error.code.as_deref().or(error.kind.as_deref());
    let detail = match code.filter(|code| *code != status.to_string()) {
        Some(code) => format!("HTTP {status} {code}: {said}"),
        None => format!("HTTP {status}: {said}"),
    };
    Failure::new(class, detail.trim_end_matches([':', ' '])).with_delay(delay)
}

/// Classifies an error that came inside a successful response.
#[must_use]
pub(super) fn classify_inner(error: &ErrorObject, model: &str, delay: Option<Duration>) -> Failure {
    let status =
        error.code.as_deref().and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    // Without a status the names decide, where they are those of a refusal.
    let class = match class_of(400, error, model, delay.is_some()) {
        Class::BadRequest => class_of(status.unwrap_or(502), error, model, delay.is_some()),
        named => named,
    };
    let said = error.message.as_deref().unwrap_or("no message");
    let code = error.code.as_deref().or(error.kind.as_deref()).unwrap_or("error");
    Failure::new(class, format!("{code} inside an HTTP 200: {said}")).with_delay(delay)
}

fn class_of(status: u16, error: &ErrorObject, model: &str, has_delay: bool) -> Class {
    let is = |names: &[&str]| {
        [&error.code, &error.kind].into_iter().flatten().any(|found| names.contains(&found.as_str()))
    };
    let flagged = |value: &Value| value.get("flagged_input").is_some() || value.get("reasons").is_some();
    match status {
        300..=399 => Class::Redirect,
        401 => Class::Auth,
        403 if error.metadata.as_ref().is_some_and(flagged) => Class::ContentFilter,
        403 if is(&["content_filter", "content_policy_violation"]) => Class::ContentFilter,
        403 => Class::Auth,
        402 if is(&["in_flight_budget_exhausted"]) => Class::RateLimited,
        402 => Class::Billing,
        404 if is(&["model_not_found"]) || error.param.as_deref() == Some("model") => Class::UnknownModel,
        404 if error.message.as_deref().is_some_and(|message| message.contains(model)) => Class::UnknownModel,
        404 => Class::NotFound,
        413 => Class::TooLarge,
        429 if is(QUOTA) => Class::Quota,
        429 => Class::RateLimited,
        503 if has_delay => Class::RateLimited,
        408 | 409 | 425 | 498 | 500..=599 => Class::ServerError,
        _ if is(&["model_not_found"]) => Class::UnknownModel,
        _ if is(&["context_length_exceeded", "string_above_max_length"]) => Class::TooLong,
        _ if is(&["content_filter", "content_policy_violation"]) => Class::ContentFilter,
        _ => Class::BadRequest,
    }
}

/// The delay that the headers ask for: `retry-after-ms`, else `retry-after` as seconds or as a date.
#[must_use]
pub(super) fn delay_of<'a>(header: impl Fn(&str) -> Option<&'a str>, now: DateTime<Utc>) -> Option<Duration> {
    let seconds =
        |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if let Some(millis) = header("retry-after-ms").and_then(seconds) {
        return Duration::try_from_secs_f64(millis / 1e3).ok();
    }
    let text = header("retry-after")?;
    if let Some(number) = seconds(text) {
        return Duration::try_from_secs_f64(number).ok();
    }
    let date = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some((date.with_timezone(&Utc) - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, body: &str) -> Class {
        classify(status, body.as_bytes(), "gpt-x", None).class
    }

    #[test]
    fn refusals_are_told_apart_by_status_and_typed_fields() {
        assert_eq!(class(429, r#"{"error":{"code":"rate_limit_exceeded"}}"#), Class::RateLimited);
        assert_eq!(class(429, r#"{"error":{"code":"insufficient_quota"}}"#), Class::Quota);
        assert_eq!(class(429, r#"{"error":{"type":"insufficient_quota"}}"#), Class::Quota);
        assert_eq!(class(429, r#"{"error":{"message":"see insufficient_quota"}}"#), Class::RateLimited);
        assert_eq!(class(404, r#"{"error":{"message":"no such model: gpt-x"}}"#), Class::UnknownModel);
        assert_eq!(class(404, r#"{"detail":"Not Found"}"#), Class::NotFound);
        assert_eq!(
            class(403, r#"{"error":{"code":403,"metadata":{"reasons":["x"]}}}"#),
            Class::ContentFilter
        );
        assert_eq!(class(403, "forbidden"), Class::Auth);
        assert_eq!(class(402, r#"{"error":{"code":"in_flight_budget_exhausted"}}"#), Class::RateLimited);
        assert_eq!(class(402, "{}"), Class::Billing);
        assert_eq!(class(400, r#"{"error":{"code":"context_length_exceeded"}}"#), Class::TooLong);
        assert_eq!(class(400, r#"{"error":{"code":"content_filter"}}"#), Class::ContentFilter);
        assert_eq!(class(422, r#"{"detail":[{"msg":"field required"}]}"#), Class::BadRequest);
        assert_eq!(class(413, ""), Class::TooLarge);
        assert_eq!(class(529, "overloaded"), Class::ServerError);
        assert_eq!(class(308, ""), Class::Redirect);
        let busy = classify(503, b"", "gpt-x", Some(Duration::from_secs(3)));
        assert_eq!((busy.class, busy.delay), (Class::RateLimited, Some(Duration::from_secs(3))));
    }

    #[test]
    fn the_detail_is_in_the_providers_words() {
        let failure =
            classify(400, br#"{"error":{"message":"bad\nthing","type":"invalid_request_error"}}"#, "m", None);
        assert_eq!(failure.detail, "HTTP 400 invalid_request_error: bad thing");
        assert_eq!(classify(500, b"", "m", None).detail, "HTTP 500");
    }

    #[test]
    fn delays_are_read_in_every_form() {
        let now = DateTime::parse_from_rfc3339("2026-11-21T10:00:00Z").unwrap().with_timezone(&Utc);
        let read =
            |name: &'static str, value: &'static str| delay_of(|asked| (asked == name).then_some(value), now);
        assert_eq!(read("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(read("retry-after", "1.5"), Some(Duration::from_millis(1_500)));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "Sat, 21 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("retry-after", "Sat, 21 Nov 2026 09:00:30 GMT"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "soon"), None);
        assert_eq!(read("retry-after", "-1"), None);
        assert_eq!(read("retry-after", "1e300"), None);
    }
}

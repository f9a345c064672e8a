//! Classifies refused requests by their status, headers and body.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::fault::{Class, Failure, Policy, Scarce};
use crate::wire::{self, BatchError, ErrorBody, ErrorObject, Limits, Quota};

/// Code of OpenAI's refusal of a request for whose service tier there is no room.
const NO_ROOM: &str = "resource_unavailable";

/// Error codes and types that are about money, not about rate.
const QUOTA: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "contract_spend_limit_reached",
    "organization_on_hold",
    "budget_exceeded",
];
/// Phrases in the messages of a 400, 403 or 429 that is about money and has no code for it.
const QUOTA_WORDS: &[&str] = &[
    "Your credit balance is too low",
    "Budget has been exceeded",
    "Key limit exceeded",
    "You have reached your specified API usage limits",
    "insufficient balance",
    "Insufficient Balance",
];
/// Error codes and types of a prompt that is longer than the model's context.
const TOO_LONG: &[&str] = &[
    "context_length_exceeded",
    "string_above_max_length",
    "exceed_context_size_error",
    "ContextWindowExceededError",
];
/// Phrases for a prompt that is too long, from servers that have no code for it (vLLM, Mistral, LiteLLM, older builds
/// of llama.cpp).
const TOO_LONG_WORDS: &[&str] = &[
    "maximum context length is",
    "maximum model length of",
    "context window",
    "exceeds the available context size",
    "exceeds context size",
    "too large for model with",
    "input is too large to process",
    "longer than the maximum model length",
    "ContextWindowExceededError",
];
/// Codes of refusals of a line of a batch that would come again.
const LINE_REFUSALS: &[&str] = &["invalid_request", "invalid_request_error", "bad_request", "invalid_model"];
/// Codes and phrases of refusals after which a retry may succeed: the model wrote no JSON, or the body was garbled on
/// its way.
const AGAIN: &[&str] = &["json_validate_failed"];
const AGAIN_WORDS: &[&str] = &["We could not parse the JSON body of your request"];

/// The facts that the headers of a response state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResponseHeaders {
    /// How long the server asks to wait before the next request.
    pub delay: Option<Duration>,
    /// Whether a retry makes sense, if the server states it (`x-should-retry`).
    pub should_retry: Option<bool>,
    /// The rate limits and what is left of them.
    pub limits: Limits,
    /// Cost of the response in US dollars, if a gateway states it (`x-litellm-response-cost`).
    pub cost: Option<f64>,
}

impl ResponseHeaders {
    /// Whether a header may be one that [`ResponseHeaders::read`] looks for.
    #[must_use]
    pub fn may_state(header: &str) -> bool {
        Limits::may_state(header)
            || ["retry-after-ms", "retry-after", "x-should-retry", "x-litellm-response-cost"]
                .contains(&header)
    }

    /// Reads the headers of a response that arrived at `now`.
    #[must_use]
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, now: DateTime<Utc>) -> ResponseHeaders {
        let should_retry = match header("x-should-retry") {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let cost = header("x-litellm-response-cost").and_then(|text| text.trim().parse().ok());
        let cost = cost.filter(|cost: &f64| cost.is_finite() && *cost >= 0.0);
        ResponseHeaders {
            delay: delay_of(&header, now),
            should_retry,
            limits: Limits::read(&header, now),
            cost,
        }
    }
}

/// Classifies a response whose status is not a success.
#[must_use]
pub fn classify(status: u16, body: &[u8], model: &str, headers: &ResponseHeaders) -> Failure {
    let parsed = parse(body);
    // Mistral and vLLM have these fields at the top level of the body.
    let error = parsed.error.filter(|error| !error.is_empty()).unwrap_or_else(|| ErrorObject {
        message: parsed.message.or(parsed.detail).and_then(wire::text),
        code: parsed.code.and_then(wire::text),
        kind: parsed.kind.and_then(wire::text),
        param: parsed.param.and_then(wire::text),
        ..ErrorObject::default()
    });
    let delay = headers.delay.or_else(|| delay_in(&error).filter(|_| matches!(status, 429 | 503)));
    let class = match (class_of(status, &error, model, delay.is_some()), headers.should_retry) {
        // If waiting does not help, the rate limit is a quota that is used up.
        (Class::RateLimited, Some(false)) => Class::Quota,
        (class, Some(false)) if class.policy() == Policy::Retry => Class::BadRequest,
        (class, Some(true)) if class.policy() == Policy::Reject => Class::ServerError,
        (class, _) => class,
    };
    let message = error.message.clone().unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let code = error.code.as_deref().or(error.kind.as_deref());
    let detail = match code.filter(|code| *code != status.to_string()) {
        Some(code) => format!("HTTP {status} {code}: {message}"),
        None => format!("HTTP {status}: {message}"),
    };
    let scarce = (class == Class::RateLimited).then(|| scarce(status, &error, &headers.limits)).flatten();
    Failure::new(class, detail.trim_end_matches([':', ' '])).with_delay(delay).with_scarce(scarce)
}

/// Classifies an error inside a successful response.
#[must_use]
pub(super) fn classify_inner(error: &ErrorObject, model: &str, headers: &ResponseHeaders) -> Failure {
    let status =
        error.code.as_deref().and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    let delay = headers.delay.or_else(|| delay_in(error).filter(|_| matches!(status, Some(429 | 503))));
    // Code and type decide if they name a known refusal, else the status in the error, else 502.
    let class = match class_of(400, error, model, delay.is_some()) {
        Class::BadRequest => class_of(status.unwrap_or(502), error, model, delay.is_some()),
        named => named,
    };
    let message = error.message.as_deref().unwrap_or("no message");
    let code = error.code.as_deref().or(error.kind.as_deref()).unwrap_or("error");
    Failure::new(class, format!("{code} inside an HTTP 200: {message}")).with_delay(delay)
}

/// Classifies the error of a line of a batch that states no response. Returns `None` if it is none of the line itself, as
/// when a batch expires.
#[must_use]
pub fn classify_line(error: &BatchError, model: &str) -> Option<Failure> {
    let code = error.code.as_deref()?;
    let stated =
        ErrorObject { code: error.code.clone(), message: error.message.clone(), ..ErrorObject::default() };
    let status = code.parse().ok().filter(|code| (400..600).contains(code));
    let class = match (class_of(400, &stated, model, false), status) {
        (Class::BadRequest, Some(status)) => class_of(status, &stated, model, false),
        (Class::BadRequest, None) if !LINE_REFUSALS.contains(&code) => return None,
        (named, _) => named,
    };
    let message = error.message.as_deref().unwrap_or("no message");
    Some(Failure::new(class, format!("{code}: {message}")))
}

/// Parses the body of a refusal. Google wraps its object into a list.
fn parse(body: &[u8]) -> ErrorBody {
    let is_list = body.trim_ascii_start().first() == Some(&b'[');
    let list = || serde_json::from_slice::<Vec<ErrorBody>>(body).ok()?.into_iter().next();
    let parsed = if is_list { list() } else { serde_json::from_slice(body).ok() };
    parsed.unwrap_or_default()
}

/// The delay that an error asks for: from Google's `details`, else from the wording of the message.
fn delay_in(error: &ErrorObject) -> Option<Duration> {
    let detailed = error.details.as_ref().and_then(Value::as_array).and_then(|details| {
        details.iter().find_map(|detail| wire::duration(detail.get("retryDelay")?.as_str()?))
    });
    detailed.or_else(|| wire::delay_in_text(error.message.as_deref()?))
}

/// Returns the quantity that a rate-limit refusal is about, by its code and type, else by its headers.
fn scarce(status: u16, error: &ErrorObject, limits: &Limits) -> Option<Scarce> {
    let named = |names: &[&str]| {
        [&error.code, &error.kind].into_iter().flatten().any(|found| names.contains(&found.as_str()))
    };
    let tokens = [limits.tokens, limits.input_tokens, limits.output_tokens];
    match status {
        503 => Some(Scarce::Capacity),
        498 => Some(Scarce::TierRoom),
        _ if named(&[NO_ROOM]) => Some(Scarce::TierRoom),
        _ if named(&["tokens", "input_tokens", "output_tokens"]) => Some(Scarce::Tokens),
        _ if named(&["requests"]) => Some(Scarce::Requests),
        _ if limits.requests.is_spent() => Some(Scarce::Requests),
        _ if tokens.iter().any(Quota::is_spent) => Some(Scarce::Tokens),
        _ => None,
    }
}

fn class_of(status: u16, error: &ErrorObject, model: &str, has_delay: bool) -> Class {
    let is = |names: &[&str]| {
        [&error.code, &error.kind].into_iter().flatten().any(|found| names.contains(&found.as_str()))
    };
    let message = error.message.as_deref().unwrap_or_default();
    let mentions = |words: &[&str]| words.iter().any(|words| message.contains(words));
    let flagged = |value: &Value| value.get("flagged_input").is_some() || value.get("reasons").is_some();
    let is_about_money = || is(QUOTA) || mentions(QUOTA_WORDS) || is_daily(error);
    let is_too_long = || is(TOO_LONG) || mentions(TOO_LONG_WORDS);
    match status {
        300..=399 => Class::Redirect,
        400 | 403 | 422 if error.param.as_deref() == Some("service_tier") => Class::ServiceTier,
        401 => Class::Auth,
        403 if error.metadata.as_ref().is_some_and(flagged) => Class::ContentFilter,
        403 if is(&["content_filter", "content_policy_violation"]) => Class::ContentFilter,
        403 if is_about_money() => Class::Quota,
        403 => Class::Auth,
        402 if is(&["in_flight_budget_exhausted"]) => Class::RateLimited,
        402 => Class::Billing,
        404 if is(&["model_not_found"]) || error.param.as_deref() == Some("model") => Class::UnknownModel,
        404 if message.contains(model) => Class::UnknownModel,
        404 => Class::NotFound,
        413 => Class::TooLarge,
        429 if is(&[NO_ROOM]) => Class::RateLimited,
        429 if is_about_money() => Class::Quota,
        429 if wire::requested_beyond_limit(message) => Class::TooLong,
        429 => Class::RateLimited,
        // Groq: no room in the tier `flex`.
        498 => Class::RateLimited,
        503 if has_delay => Class::RateLimited,
        // Self-hosted servers answer an input that is too long with 500.
        500 if is_too_long() => Class::TooLong,
        408 | 409 | 425 | 500..=599 => Class::ServerError,
        _ if is(&["model_not_found"]) => Class::UnknownModel,
        _ if is_too_long() => Class::TooLong,
        _ if is(&["content_filter", "content_policy_violation"]) => Class::ContentFilter,
        _ if is_about_money() => Class::Quota,
        _ if is(AGAIN) || mentions(AGAIN_WORDS) => Class::InvalidResponse,
        _ => Class::BadRequest,
    }
}

/// Whether Google's error details name a quota per day.
fn is_daily(error: &ErrorObject) -> bool {
    let details = error.details.as_ref().and_then(Value::as_array).into_iter().flatten();
    let violations = details.filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    violations
        .filter_map(|violation| violation.get("quotaId")?.as_str())
        .any(|quota| quota.contains("PerDay"))
}

/// The delay that the headers ask for: `retry-after-ms`, else `retry-after` as seconds or as a date.
fn delay_of<'a>(header: impl Fn(&str) -> Option<&'a str>, now: DateTime<Utc>) -> Option<Duration> {
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
        classify(status, body.as_bytes(), "gpt-x", &ResponseHeaders::default()).class
    }

    #[test]
    fn refusals_are_distinguished_by_status_and_typed_fields() {
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
        let delayed = ResponseHeaders { delay: Some(Duration::from_secs(3)), ..ResponseHeaders::default() };
        let busy = classify(503, b"", "gpt-x", &delayed);
        assert_eq!((busy.class, busy.delay), (Class::RateLimited, Some(Duration::from_secs(3))));
    }

    #[test]
    fn a_line_without_a_response_is_refused_by_its_code() {
        let class = |code: &str, message: &str| {
            let error = BatchError {
                code: Some(code.into()),
                message: Some(message.into()),
                ..BatchError::default()
            };
            classify_line(&error, "gpt-x").map(|failure| failure.class)
        };
        assert_eq!(class("content_filter", "no"), Some(Class::ContentFilter));
        assert_eq!(class("invalid_model", "Invalid model specified"), Some(Class::BadRequest));
        assert_eq!(class("bad_request", "maximum context length is 10"), Some(Class::TooLong));
        assert_eq!(class("429", "slow down"), Some(Class::RateLimited));
        assert_eq!(class("insufficient_quota", "pay"), Some(Class::Quota));
        assert_eq!(class("batch_expired", "late"), None);
        assert_eq!(class("timeout", "Request timeout"), None);
        assert_eq!(classify_line(&BatchError::default(), "gpt-x"), None);
    }

    #[test]
    fn a_prompt_that_is_too_long_is_known_in_every_servers_words() {
        for body in [
            r#"{"error":{"code":400,"message":"request (5031 tokens) exceeds the available context size (4096 tokens)","type":"exceed_context_size_error","n_prompt_tokens":5031,"n_ctx":4096}}"#,
            r#"{"object":"error","message":"This model's maximum context length is 10 tokens. However, you requested 50 tokens.","type":"BadRequestError","param":null,"code":400}"#,
            r#"{"error":{"message":"litellm.ContextWindowExceededError: too many","type":null,"code":"400"}}"#,
            r#"{"object":"error","message":"Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length","type":"invalid_request_prompt","code":"3051"}"#,
        ] {
            assert_eq!(class(400, body), Class::TooLong, "{body}");
        }
        let embedding = r#"{"error":{"code":500,"message":"input is too large to process. increase the physical batch size","type":"server_error"}}"#;
        assert_eq!(class(500, embedding), Class::TooLong);
        let large = "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 44962.";
        let used =
            "Rate limit reached for gpt-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 4962.";
        let error = |message: &str| serde_json::json!({"error": {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}});
        assert_eq!(class(429, &error(large).to_string()), Class::TooLong, "no wait makes it smaller");
        assert_eq!(class(429, &error(used).to_string()), Class::RateLimited);
    }

    #[test]
    fn refusals_for_money_stop_the_run_under_every_status() {
        let budget = r#"{"error":{"message":"Budget has been exceeded! Current cost: 10.51, Max budget: 10.00","type":"budget_exceeded","code":"400"}}"#;
        let credit = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#;
        let key = r#"{"error":{"message":"Key limit exceeded (monthly limit).","code":403}}"#;
        let daily = r#"[{"error":{"code":429,"message":"You exceeded your current quota","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}]"#;
        for (status, body) in [(400, budget), (429, budget), (400, credit), (403, key), (429, daily)] {
            assert_eq!(class(status, body), Class::Quota, "{status} {body}");
        }
    }

    #[test]
    fn what_may_be_right_the_next_time_is_sent_again() {
        let groq = r#"{"error":{"message":"Failed to generate JSON.","type":"invalid_request_error","code":"json_validate_failed"}}"#;
        let garbled = r#"{"error":{"message":"We could not parse the JSON body of your request. (HINT: …)","type":"invalid_request_error"}}"#;
        for body in [groq, garbled] {
            assert_eq!(class(400, body).policy(), Policy::Retry, "{body}");
        }
    }

    #[test]
    fn the_detail_is_in_the_providers_words() {
        let failure = classify(
            400,
            br#"{"error":{"message":"bad\nthing","type":"invalid_request_error"}}"#,
            "m",
            &ResponseHeaders::default(),
        );
        assert_eq!(failure.detail, "HTTP 400 invalid_request_error: bad thing");
        assert_eq!(classify(500, b"", "m", &ResponseHeaders::default()).detail, "HTTP 500");
    }

    #[test]
    fn delays_are_read_in_every_form() {
        let now = DateTime::parse_from_rfc3339("2026-11-21T10:00:00Z").unwrap().with_timezone(&Utc);
        let read = |name: &'static str, value: &'static str| {
            delay_of(|header| (header == name).then_some(value), now)
        };
        assert_eq!(read("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(read("retry-after", "1.5"), Some(Duration::from_millis(1_500)));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "Sat, 21 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("retry-after", "Sat, 21 Nov 2026 09:00:30 GMT"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "soon"), None);
        assert_eq!(read("retry-after", "-1"), None);
        assert_eq!(read("retry-after", "1e300"), None);
    }

    #[test]
    fn what_is_scarce_and_for_how_long_is_read_from_names_headers_and_words() {
        let headers_of = |headers: &'static [(&str, &str)]| {
            let find = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            ResponseHeaders::read(find, DateTime::UNIX_EPOCH)
        };
        let refused = |body: &str, headers: &ResponseHeaders| classify(429, body.as_bytes(), "m", headers);
        let tokens = refused(
            r#"{"error":{"type":"tokens","code":"rate_limit_exceeded","message":"Please try again in 1.5s."}}"#,
            &ResponseHeaders::default(),
        );
        assert_eq!((tokens.scarce, tokens.delay), (Some(Scarce::Tokens), Some(Duration::from_millis(1_500))));
        let spent = headers_of(&[
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "0"),
            ("retry-after", "7"),
        ]);
        let requests = refused(r#"{"error":{"message":"try again in 1s"}}"#, &spent);
        let expected = (Some(Scarce::Requests), Some(Duration::from_secs(7)));
        assert_eq!((requests.scarce, requests.delay), expected, "a header counts more than words");
        let google = r#"[{"error":{"code":429,"message":"quota","details":[{"x":1},{"retryDelay":"46s"}]}}]"#;
        assert_eq!(refused(google, &ResponseHeaders::default()).delay, Some(Duration::from_secs(46)));
        let never = headers_of(&[("x-should-retry", "false")]);
        assert_eq!(refused("{}", &never).class, Class::Quota);
        assert_eq!(classify(500, b"", "m", &never).class, Class::BadRequest);
        let again = headers_of(&[("x-should-retry", "true")]);
        assert_eq!(classify(400, b"", "m", &again).class, Class::ServerError);
        assert_eq!(classify(401, b"", "m", &again).class, Class::Auth);
    }
}

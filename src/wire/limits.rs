//! The rate limits that the headers of a response state, in one type for all header families.
//!
//! Sources: the rate-limit pages of OpenAI and Azure (`x-ratelimit-…`, resets as Go durations or whole seconds),
//! Anthropic (`anthropic-ratelimit-…`, resets in RFC 3339), Groq (OpenAI's names, requests per day) and OpenRouter
//! (`x-ratelimit-…` without a unit, resets as milliseconds since 1970). Reading is lenient: a value that cannot be
//! read counts as missing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// Longest time to the reset of a limit per minute. A limit with a longer one is a limit per hour or per day.
const LONGEST_MINUTE: Duration = Duration::from_secs(90);
/// Smallest numbers that are read as a time in seconds and in milliseconds since 1970. Smaller ones are a number of
/// seconds from now.
const FIRST_EPOCH_SECOND: f64 = 1e9;
const FIRST_EPOCH_MILLISECOND: f64 = 1e12;

/// The headers that state one limit.
struct QuotaHeaders {
    limit: &'static str,
    remaining: &'static str,
    reset: &'static str,
}

/// OpenAI's limit on requests.
const OPENAI_REQUESTS: QuotaHeaders = QuotaHeaders {
    limit: "x-ratelimit-limit-requests",
    remaining: "x-ratelimit-remaining-requests",
    reset: "x-ratelimit-reset-requests",
};
/// OpenAI's limit on tokens.
const OPENAI_TOKENS: QuotaHeaders = QuotaHeaders {
    limit: "x-ratelimit-limit-tokens",
    remaining: "x-ratelimit-remaining-tokens",
    reset: "x-ratelimit-reset-tokens",
};
/// LiteLLM's proxy states the limits of the caller's key beside those of the provider behind it.
const LITELLM_REQUESTS: QuotaHeaders = QuotaHeaders {
    limit: "x-ratelimit-api_key-limit-requests",
    remaining: "x-ratelimit-api_key-remaining-requests",
    reset: "x-ratelimit-api_key-reset-requests",
};
/// LiteLLM's limit on tokens of the caller's key.
const LITELLM_TOKENS: QuotaHeaders = QuotaHeaders {
    limit: "x-ratelimit-api_key-limit-tokens",
    remaining: "x-ratelimit-api_key-remaining-tokens",
    reset: "x-ratelimit-api_key-reset-tokens",
};
/// Anthropic's limit on requests.
const ANTHROPIC_REQUESTS: QuotaHeaders = QuotaHeaders {
    limit: "anthropic-ratelimit-requests-limit",
    remaining: "anthropic-ratelimit-requests-remaining",
    reset: "anthropic-ratelimit-requests-reset",
};
/// Anthropic's limit on tokens.
const ANTHROPIC_TOKENS: QuotaHeaders = QuotaHeaders {
    limit: "anthropic-ratelimit-tokens-limit",
    remaining: "anthropic-ratelimit-tokens-remaining",
    reset: "anthropic-ratelimit-tokens-reset",
};
/// Anthropic's limit on tokens of prompts.
const ANTHROPIC_INPUT: QuotaHeaders = QuotaHeaders {
    limit: "anthropic-ratelimit-input-tokens-limit",
    remaining: "anthropic-ratelimit-input-tokens-remaining",
    reset: "anthropic-ratelimit-input-tokens-reset",
};
/// Anthropic's limit on tokens of answers.
const ANTHROPIC_OUTPUT: QuotaHeaders = QuotaHeaders {
    limit: "anthropic-ratelimit-output-tokens-limit",
    remaining: "anthropic-ratelimit-output-tokens-remaining",
    reset: "anthropic-ratelimit-output-tokens-reset",
};
/// OpenRouter's limit on requests.
const OPENROUTER: QuotaHeaders = QuotaHeaders {
    limit: "x-ratelimit-limit",
    remaining: "x-ratelimit-remaining",
    reset: "x-ratelimit-reset",
};

/// The rate limits that a response states.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Limit on requests.
    pub requests: Quota,
    /// Limit on tokens of prompts and answers together.
    pub tokens: Quota,
    /// Limit on tokens of prompts.
    pub input_tokens: Quota,
    /// Limit on tokens of answers.
    pub output_tokens: Quota,
}

/// A rate limit as a response states it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// Number of requests or tokens that a window allows.
    pub limit: Option<u64>,
    /// Number of requests or tokens that is left in the window.
    pub remaining: Option<u64>,
    /// When the limit is full again.
    pub reset: Option<Reset>,
}

/// When a limit is full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Time until then, from when the response was read.
    pub after: Duration,
    /// Whether the server stated it in whole seconds.
    pub is_rounded: bool,
}

impl Limits {
    /// Reads the headers of a response that arrived at `now`.
    #[must_use]
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>, now: DateTime<Utc>) -> Limits {
        let is_stated = |names: &QuotaHeaders| header(names.limit).is_some();
        let quota = |names: &QuotaHeaders| Quota {
            limit: header(names.limit).and_then(count),
            remaining: header(names.remaining).and_then(count),
            reset: header(names.reset).and_then(|text| reset(text, now)),
        };
        let (requests, tokens) = (quota(&LITELLM_REQUESTS), quota(&LITELLM_TOKENS));
        if requests.limit.is_some() || tokens.limit.is_some() {
            return Limits { requests, tokens, ..Limits::default() };
        }
        if is_stated(&OPENAI_REQUESTS) || is_stated(&OPENAI_TOKENS) {
            let (requests, tokens) = (quota(&OPENAI_REQUESTS), quota(&OPENAI_TOKENS));
            return Limits { requests, tokens, ..Limits::default() };
        }
        if [ANTHROPIC_REQUESTS, ANTHROPIC_TOKENS, ANTHROPIC_INPUT, ANTHROPIC_OUTPUT].iter().any(is_stated) {
            return Limits {
                requests: quota(&ANTHROPIC_REQUESTS),
                tokens: quota(&ANTHROPIC_TOKENS),
                input_tokens: quota(&ANTHROPIC_INPUT),
                output_tokens: quota(&ANTHROPIC_OUTPUT),
            };
        }
        Limits { requests: quota(&OPENROUTER), ..Limits::default() }
    }

    /// Whether a header may be one that [`Limits::read`] looks for.
    #[must_use]
    pub fn may_state(header: &str) -> bool {
        header.contains("ratelimit")
    }
}

impl Quota {
    /// Whether the limit is per hour or per day, so that it states nothing about the next minute.
    #[must_use]
    pub fn is_longer_than_minute(&self) -> bool {
        self.reset.is_some_and(|reset| reset.after > LONGEST_MINUTE)
    }

    /// Whether nothing of the limit is left.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.remaining == Some(0)
    }
}

fn count(text: &str) -> Option<u64> {
    let number: f64 = text.trim().parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, saturating")]
    (number.is_finite() && number >= 0.0).then_some(number as u64)
}

/// Reads the time to a reset: a length of time, a moment in RFC 3339, or a number. A number is seconds from now, or
/// seconds or milliseconds since 1970.
fn reset(text: &str, now: DateTime<Utc>) -> Option<Reset> {
    let text = text.trim();
    let until = |moment: DateTime<Utc>| (moment - now).to_std().unwrap_or_default();
    if let Ok(number) = text.parse::<f64>() {
        if !number.is_finite() || number < 0.0 {
            return None;
        }
        let millis = if number >= FIRST_EPOCH_MILLISECOND { number } else { number * 1e3 };
        if number >= FIRST_EPOCH_SECOND {
            #[expect(clippy::cast_possible_truncation, reason = "checked by what it is added to")]
            let since = TimeDelta::try_milliseconds(millis as i64)?;
            let moment = DateTime::<Utc>::UNIX_EPOCH.checked_add_signed(since)?;
            return Some(Reset { after: until(moment), is_rounded: number < FIRST_EPOCH_MILLISECOND });
        }
        let after = Duration::try_from_secs_f64(number).ok()?;
        return Some(Reset { after, is_rounded: !text.contains('.') });
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        let is_rounded = moment.timestamp_subsec_nanos() == 0;
        return Some(Reset { after: until(moment.with_timezone(&Utc)), is_rounded });
    }
    let after = duration(text)?;
    Some(Reset { after, is_rounded: after.subsec_nanos() == 0 })
}

/// Whether a message states that one request asks for more than a limit allows: `Limit 30000, Requested 44962`
/// (OpenAI's wording). Waiting does not make that request pass.
#[must_use]
pub fn requested_beyond_limit(message: &str) -> bool {
    let number = |name: &str| {
        let (_, rest) = message.split_once(name)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    match (number("Limit "), number("Requested ")) {
        (Some(limit), Some(requested)) => requested > limit,
        _ => false,
    }
}

/// Reads a length of time in Go's notation: `1s`, `6m0s`, `12ms`, `1h2m3.5s`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (duration, rest) = leading_duration(text)?;
    rest.is_empty().then_some(duration)
}

/// The delay that an error message asks for: `try again in 1.5s`, `Please retry in 46s`, `retry after 20 seconds`. The
/// wording decides nothing but the length of a wait.
#[must_use]
pub fn delay_in_text(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    ["try again in ", "retry in ", "retry after ", "try again after "]
        .into_iter()
        .filter_map(|words| lower.split_once(words))
        .find_map(|(_, rest)| leading_duration(rest).map(|(duration, _)| duration))
}

/// The length of time at the beginning of a text, and the rest of it.
fn leading_duration(text: &str) -> Option<(Duration, &str)> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut is_some = false;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        let Ok(number) = number.parse::<f64>() else { break };
        let spaceless = after.trim_start_matches(' ');
        let letters = spaceless.find(|c: char| !c.is_alphabetic()).unwrap_or(spaceless.len());
        let (unit, after) = spaceless.split_at_checked(letters)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" | "millisecond" | "milliseconds" => 1e-3,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            _ => break,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        is_some = true;
        rest = after;
    }
    is_some.then_some((sum, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-11-21T10:00:00Z").unwrap().with_timezone(&Utc)
    }

    fn read(headers: &[(&str, &'static str)]) -> Limits {
        Limits::read(|name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value), now())
    }

    fn quota(limit: u64, remaining: u64, after: Duration, is_rounded: bool) -> Quota {
        let reset = Some(Reset { after, is_rounded });
        Quota { limit: Some(limit), remaining: Some(remaining), reset }
    }

    #[test]
    fn a_request_that_asks_for_more_than_its_limit_is_known() {
        assert!(requested_beyond_limit("Limit 30000, Requested 44962. The input must be reduced."));
        assert!(!requested_beyond_limit("Limit 30000, Used 29000, Requested 4962."));
        assert!(!requested_beyond_limit("Limit reached"));
    }

    #[test]
    fn go_durations_are_read_in_every_form() {
        let read =
            ["1s", "6m0s", "12ms", "1h2m3.5s", "2m59.56s", "1.5", "", "soon", "5 parsecs"].map(duration);
        let millis = read.map(|found| found.map(|found| found.as_millis()));
        assert_eq!(
            millis,
            [Some(1_000), Some(360_000), Some(12), Some(3_723_500), Some(179_560), None, None, None, None]
        );
    }

    #[test]
    fn every_family_of_headers_is_read_into_one_type() {
        let openai = read(&[
            ("x-ratelimit-limit-requests", "500"),
            ("x-ratelimit-remaining-requests", "499"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-limit-tokens", "30000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        assert_eq!(openai.requests, quota(500, 499, Duration::from_millis(120), false));
        assert_eq!(openai.tokens, quota(30_000, 0, Duration::from_secs(360), true));
        assert!(
            openai.tokens.is_longer_than_minute()
                && openai.tokens.is_spent()
                && !openai.requests.is_longer_than_minute()
        );
        let litellm = read(&[
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-api_key-limit-requests", "60"),
            ("x-ratelimit-api_key-remaining-requests", "12"),
        ]);
        let own = Quota { limit: Some(60), remaining: Some(12), reset: None };
        assert_eq!(litellm.requests, own, "the caller's key counts, not the provider behind the proxy");
        let azure = read(&[("x-ratelimit-limit-requests", "60"), ("x-ratelimit-reset-requests", "7")]);
        let reset = Some(Reset { after: Duration::from_secs(7), is_rounded: true });
        assert_eq!(azure.requests, Quota { limit: Some(60), remaining: None, reset });
        let anthropic = read(&[
            ("anthropic-ratelimit-input-tokens-limit", "50000"),
            ("anthropic-ratelimit-input-tokens-remaining", "49000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-21T10:00:01Z"),
            ("anthropic-ratelimit-output-tokens-remaining", "7"),
        ]);
        assert_eq!(anthropic.input_tokens, quota(50_000, 49_000, Duration::from_secs(1), true));
        assert_eq!(anthropic.output_tokens.remaining, Some(7));
        let openrouter = read(&[
            ("x-ratelimit-limit", "20"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1795255230500"),
        ]);
        assert_eq!(openrouter.requests.limit, Some(20));
        assert_eq!(openrouter.requests.reset.unwrap().after, Duration::from_millis(30_500));
        let garbage = read(&[("x-ratelimit-limit-requests", "many"), ("x-ratelimit-reset-requests", "-1")]);
        assert_eq!(garbage, Limits::default());
        assert_eq!(read(&[]), Limits::default());
    }

    #[test]
    fn delays_are_found_in_messages() {
        let found = |text| delay_in_text(text).map(|delay| delay.as_millis());
        assert_eq!(found("Rate limit reached for gpt-x. Please try again in 1.5s. Visit …"), Some(1_500));
        assert_eq!(found("Please try again in 250ms."), Some(250));
        assert_eq!(found("You exceeded your quota. Please retry in 46.39s."), Some(46_390));
        assert_eq!(found("Please retry after 20 seconds."), Some(20_000));
        assert_eq!(found("try again in 6m0s"), Some(360_000));
        assert_eq!(found("try again in a while"), None);
        assert_eq!(found("nothing of that kind"), None);
    }
}

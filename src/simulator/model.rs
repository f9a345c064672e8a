//! How a simulated provider behaves over time: limits, another client, outages, latency, and lengths of answers. Pure
//! state; the caller brings the time. The server adds HTTP, and the rehearsals of admission run it in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::answer::chance;
use super::limit::Limiter;
use crate::clock::Instant;
use crate::config::{DelayForm, HeaderFamily, PhaseSpec, SimulatedCharge, SimulatorSpec};

const MINUTES_A_DAY: f64 = 1_440.0;

/// State of a simulated provider.
#[derive(Debug)]
pub struct SimulatedModel {
    spec: SimulatorSpec,
    requests: Option<Limiter>,
    tokens: Option<Limiter>,
    /// When the first request arrived.
    start: Option<Instant>,
    /// Factor by which the limits are multiplied now.
    factor: f64,
    /// When the other client sends its next request.
    other: Option<Instant>,
    /// When each slot becomes free.
    slots: BinaryHeap<Reverse<Instant>>,
    answered: u64,
    arrived: u64,
}

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRefusal {
    /// HTTP status, or 0 if the connection breaks instead.
    pub status: u16,
    /// `type` of the error object.
    pub kind: &'static str,
    /// `code` of the error object.
    pub code: &'static str,
    /// `message` of the error object.
    pub message: String,
    /// Headers that state when to try again.
    pub headers: Vec<(&'static str, String)>,
}

impl SimulatedModel {
    /// Creates a provider that has received no requests.
    #[must_use]
    pub fn new(spec: &SimulatorSpec, now: Instant) -> Self {
        SimulatedModel {
            requests: spec.requests.as_ref().map(|limit| Limiter::new(limit, now)),
            tokens: spec.tokens.as_ref().map(|limit| Limiter::new(limit, now)),
            spec: spec.clone(),
            start: None,
            factor: 1.0,
            other: None,
            slots: BinaryHeap::new(),
            answered: 0,
            arrived: 0,
        }
    }

    /// Admits or refuses a request; `max_tokens` is 0 if it has none.
    ///
    /// # Errors
    /// When the request is refused.
    pub fn admit(
        &mut self,
        prompt_tokens: u64,
        max_tokens: u64,
        now: Instant,
        wall: DateTime<Utc>,
    ) -> Result<(), ModelRefusal> {
        self.arrived += 1;
        let start = *self.start.get_or_insert(now);
        let phase = self.phase(now - start).cloned();
        let share = phase.as_ref().and_then(|phase| phase.other_client).unwrap_or(self.spec.other_client);
        self.other_client(share, now);
        let factor = phase.as_ref().and_then(|phase| phase.limits).unwrap_or(1.0);
        for limiter in [&mut self.requests, &mut self.tokens].into_iter().flatten() {
            limiter.advance(now);
            limiter.scale(factor / self.factor, now);
        }
        self.factor = factor;
        if let Some(PhaseSpec { status: Some(status), retry_after, .. }) = phase {
            let headers = retry_after.map(|value| ("retry-after", value)).into_iter().collect();
            let message = "The server is not available.".to_owned();
            return Err(ModelRefusal { status, kind: "server_error", code: "unavailable", message, headers });
        }
        if self.spec.quota.is_some_and(|quota| self.answered >= quota) {
            let message = "You exceeded your current quota, please check your plan and billing details.";
            return Err(ModelRefusal {
                status: 429,
                kind: "insufficient_quota",
                code: "insufficient_quota",
                message: message.to_owned(),
                headers: Vec::new(),
            });
        }
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let (needs, charge) = match self.spec.token_charge {
            SimulatedCharge::Max => {
                ((prompt_tokens + max_tokens) as f64, (prompt_tokens + max_tokens) as f64)
            }
            SimulatedCharge::Usage => (1.0, 0.0),
        };
        let by_requests = self.requests.as_ref().and_then(|limiter| limiter.wait(1.0, now));
        let by_tokens = self.tokens.as_ref().and_then(|limiter| limiter.wait(needs, now));
        let kind = if by_requests >= by_tokens { "requests" } else { "tokens" };
        let wait = by_requests.max(by_tokens);
        if wait.is_none() || self.spec.count_refused {
            if let Some(limiter) = &mut self.requests {
                limiter.take(1.0, now);
            }
            if let Some(limiter) = &mut self.tokens {
                limiter.take(charge, now);
            }
        }
        wait.map_or(Ok(()), |wait| Err(self.refusal(kind, wait, wall)))
    }

    /// Schedules an admitted request, which needs the time `duration` once it has a slot. Returns when it will be done.
    pub fn work(&mut self, duration: Duration, now: Instant) -> Instant {
        let Some(slots) = self.spec.slots else { return now + duration };
        let begins = if self.slots.len() < slots as usize {
            now
        } else {
            self.slots.pop().map_or(now, |Reverse(free)| free.max(now))
        };
        self.slots.push(Reverse(begins + duration));
        begins + duration
    }

    /// Counts an answer that was sent and used `tokens`, the prompt's included.
    pub fn answered(&mut self, tokens: u64, now: Instant) {
        self.answered += 1;
        if let Some(limiter) =
            self.tokens.as_mut().filter(|_| self.spec.token_charge == SimulatedCharge::Usage)
        {
            limiter.advance(now);
            #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
            limiter.take(tokens as f64, now);
        }
    }

    /// Returns how long the `nth` answer to a prompt takes; `nth` counts from 0.
    #[must_use]
    pub fn latency(&self, prompt: &str, nth: u64) -> Duration {
        let spec = &self.spec;
        spec.latency.map_or(Duration::ZERO, |median| {
            median.0.mul_f64(log_normal(spec.latency_sigma, spec.seed, "latency", prompt, nth))
        })
    }

    /// Returns the number of tokens of the `nth` answer to a prompt, or `None` if the settings of the simulator have no
    /// `completion_tokens`.
    #[must_use]
    pub fn completion_tokens(&self, prompt: &str, nth: u64, max_tokens: Option<u64>) -> Option<u64> {
        let spec = &self.spec;
        let median = f64::from(spec.completion_tokens?);
        let drawn = median * log_normal(spec.completion_sigma, spec.seed, "length", prompt, nth);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let tokens = (drawn.round() as u64).max(1);
        Some(max_tokens.map_or(tokens, |most| tokens.min(most)))
    }

    /// Returns the rate limit headers of a response that is sent at `now`.
    #[must_use]
    pub fn headers(&self, now: Instant, wall: DateTime<Utc>) -> Vec<(String, String)> {
        let family = self.spec.headers;
        let mut headers = Vec::new();
        if family == HeaderFamily::None {
            return headers;
        }
        let limits = [("requests", &self.requests), ("tokens", &self.tokens)];
        for (unit, limiter) in limits {
            let Some(limiter) = limiter else { continue };
            let stated = StatedLimit::of(family, unit, limiter, now);
            let names = ["limit", "remaining", "reset"];
            let values = [
                format!("{:.0}", stated.limit),
                format!("{:.0}", stated.remaining.floor()),
                match family {
                    HeaderFamily::Azure => stated.reset.as_secs_f64().ceil().to_string(),
                    HeaderFamily::Anthropic => {
                        (wall + stated.reset).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
                    }
                    _ => go_duration(stated.reset),
                },
            ];
            for (name, value) in names.into_iter().zip(values) {
                let name = match family {
                    HeaderFamily::Anthropic => format!("anthropic-ratelimit-{unit}-{name}"),
                    _ => format!("x-ratelimit-{name}-{unit}"),
                };
                headers.push((name, value));
            }
        }
        headers
    }

    fn phase(&self, elapsed: Duration) -> Option<&PhaseSpec> {
        self.spec.phases.iter().rfind(|phase| {
            elapsed >= phase.after.0 && phase.lasts.is_none_or(|lasts| elapsed < phase.after.0 + lasts.0)
        })
    }

    /// Charges the requests that the other client has sent by `now`. They are spread evenly and take its share of the
    /// request limit, or of the token limit if only tokens are limited. One that is refused is skipped.
    fn other_client(&mut self, share: f64, now: Instant) {
        if share <= 0.0 {
            self.other = None;
            return;
        }
        let (limiter, amount) = match (&mut self.requests, &mut self.tokens) {
            (Some(requests), _) => (requests, 1.0),
            (None, Some(tokens)) => {
                let amount = (tokens.per_minute() / 6_000.0).max(1.0);
                (tokens, amount)
            }
            (None, None) => return,
        };
        let every = Duration::from_secs_f64(amount * 60.0 / (limiter.per_minute() * share));
        let mut next = self.other.unwrap_or(now);
        while next <= now {
            limiter.advance(next);
            if limiter.wait(amount, next).is_none() {
                limiter.take(amount, next);
            }
            next += every;
        }
        self.other = Some(next);
    }

    fn refusal(&self, kind: &'static str, wait: Duration, wall: DateTime<Utc>) -> ModelRefusal {
        let seconds = format!("{:.3}", wait.as_secs_f64() + 0.000_5);
        let mut message = format!("Rate limit reached for {kind}.");
        let header = match self.spec.retry_after {
            DelayForm::Seconds => Some(("retry-after", seconds.clone())),
            DelayForm::WholeSeconds => Some(("retry-after", wait.as_secs_f64().ceil().to_string())),
            DelayForm::Millis => Some(("retry-after-ms", (wait.as_secs_f64() * 1e3).ceil().to_string())),
            DelayForm::Date => {
                let moment = wall + wait + Duration::from_secs(1);
                Some(("retry-after", moment.format("%a, %d %b %Y %H:%M:%S GMT").to_string()))
            }
            DelayForm::Body | DelayForm::None => None,
        };
        if matches!(self.spec.retry_after, DelayForm::Body | DelayForm::Seconds) {
            message = format!("{message} Please try again in {seconds}s.");
        }
        ModelRefusal {
            status: 429,
            kind,
            code: "rate_limit_exceeded",
            message,
            headers: header.into_iter().collect(),
        }
    }
}

/// A limit as the headers state it.
struct StatedLimit {
    limit: f64,
    remaining: f64,
    reset: Duration,
}

impl StatedLimit {
    fn of(family: HeaderFamily, unit: &str, limiter: &Limiter, now: Instant) -> StatedLimit {
        let (limit, remaining, reset) = (limiter.per_minute(), limiter.remaining(), limiter.reset(now));
        match family {
            HeaderFamily::LyingEmpty => StatedLimit { limit, remaining: 0.0, reset: Duration::from_secs(60) },
            HeaderFamily::LyingSmall => {
                StatedLimit { limit: 1.0, remaining: 0.0, reset: Duration::from_secs(60) }
            }
            HeaderFamily::LyingFull => {
                StatedLimit { limit: limit * 10.0, remaining: limit * 10.0, reset: Duration::from_millis(1) }
            }
            HeaderFamily::Groq if unit == "requests" => {
                let used = (limit - remaining).max(1.0);
                let per_day = limit * MINUTES_A_DAY;
                StatedLimit { limit: per_day, remaining: per_day - used, reset: Duration::from_secs(7_200) }
            }
            _ => StatedLimit { limit, remaining, reset },
        }
    }
}

/// Returns a log-normal factor with median 1, or 1 if `sigma` is 0 (Box and Muller, 1958).
pub(super) fn log_normal(sigma: f64, seed: u64, purpose: &str, prompt: &str, nth: u64) -> f64 {
    if sigma == 0.0 {
        return 1.0;
    }
    let (u, v) = (chance(seed, purpose, prompt, 2 * nth), chance(seed, purpose, prompt, 2 * nth + 1));
    let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    (sigma * normal).exp()
}

/// Formats a duration as Go does, to the millisecond.
fn go_duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}ms", duration.as_millis()),
        seconds @ 1..60 => format!("{seconds}.{:03}s", duration.subsec_millis()),
        seconds => format!("{}m{}.{:03}s", seconds / 60, seconds % 60, duration.subsec_millis()),
    }
}

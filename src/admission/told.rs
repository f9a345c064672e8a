//! What the provider's headers say is left of a limit, and how far that can be relied on.
//!
//! Headers count what other clients use too, but they are old when they arrive, and some are wrong. Where
//! they describe a window that ends at one moment and is used up as we use it, they are kept to the last
//! request. Otherwise the limit is taken to refill steadily, and they only pull our own count down.

use std::time::Duration;

use crate::clock::Instant;
use crate::wire::Quota;

/// Responses that must agree, and for how long, before a window is believed in.
const AGREE_TIMES: u32 = 8;
const AGREE_FOR: Duration = Duration::from_secs(3);
/// Responses come late by different times; resets are rounded to seconds.
const TOLERANCE: Duration = Duration::from_millis(1_500);
/// So much of a second's rate is let through beyond what a steadily refilled limit is said to hold: it is
/// an estimate.
const SLACK_SECONDS: f64 = 0.1;

/// What is known from headers of one limit.
#[derive(Debug, Default)]
pub(super) struct Told {
    limit: Option<f64>,
    newest: Option<Newest>,
    window: Option<Window>,
}

/// The response that was sent last of those that were heard.
#[derive(Clone, Copy, Debug)]
struct Newest {
    remaining: f64,
    /// All that had been sent when its request had been, itself included.
    mark: f64,
    sent: Instant,
    reset: Instant,
}

/// A window that may be one.
#[derive(Clone, Copy, Debug)]
struct Window {
    reset: Instant,
    since: Instant,
    agreed: u32,
}

impl Told {
    /// What the limit allows in a second, if headers say so.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.limit.map(|per_minute| per_minute / 60.0)
    }

    /// A response to a request that was sent at a time, when so much had been sent in all, says this.
    pub(super) fn heard(&mut self, quota: &Quota, sent: Instant, mark: f64, now: Instant) {
        if quota.is_long() {
            // A count per day says nothing about the minute; when it is used up, a refusal says so.
            *self = Told::default();
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a limit is far below 2^52")]
        if let Some(limit) = quota.limit.filter(|limit| *limit > 0) {
            self.limit = Some(limit as f64);
        }
        let (Some(remaining), Some(reset)) = (quota.remaining, quota.reset) else { return };
        if self.newest.is_some_and(|newest| newest.mark >= mark) {
            return;
        }
        let rounding = if reset.is_rounded { Duration::from_secs(1) } else { Duration::ZERO };
        let reset = now + reset.after.saturating_sub(rounding);
        #[expect(clippy::cast_precision_loss, reason = "a count is far below 2^52")]
        let remaining = remaining as f64;
        self.weigh(remaining, reset, now);
        self.newest = Some(Newest { remaining, mark, sent, reset });
    }

    /// How long until an amount should be sent, when so much has been sent in all and the limit refills at
    /// `per_second`; none if now.
    pub(super) fn wait(&self, amount: f64, mark: f64, per_second: f64, now: Instant) -> Option<Duration> {
        let newest = self.newest.as_ref()?;
        let left = newest.remaining - (mark - newest.mark);
        if self.is_window() {
            let until = newest.reset.checked_duration_since(now)?;
            return (left < amount && !until.is_zero()).then_some(until);
        }
        let refilled = now.saturating_duration_since(newest.sent).as_secs_f64() * per_second;
        let missing = amount.min(per_second) - (left + refilled + per_second * SLACK_SECONDS);
        (missing > 0.0)
            .then(|| Duration::try_from_secs_f64(missing / per_second).unwrap_or(Duration::from_secs(1)))
    }

    fn is_window(&self) -> bool {
        self.window.is_some_and(|window| {
            window.agreed >= AGREE_TIMES && window.reset.saturating_duration_since(window.since) >= AGREE_FOR
        })
    }

    /// Compares a response with the one before it: does it describe the same window?
    fn weigh(&mut self, remaining: f64, reset: Instant, now: Instant) {
        let near = |a: Instant, b: Instant| a.max(b) - a.min(b) <= TOLERANCE;
        let new = Window { reset, since: now, agreed: 0 };
        self.window = match (self.window, self.newest) {
            (Some(window), Some(newest)) if near(window.reset, reset) && remaining < newest.remaining => {
                Some(Window { agreed: window.agreed + 1, ..window })
            }
            // The next window has begun.
            (Some(window), Some(_)) if now + TOLERANCE >= window.reset && reset > window.reset => {
                Some(Window { reset, ..window })
            }
            _ => Some(new),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::wire::Reset;

    fn quota(remaining: u64, reset: Duration) -> Quota {
        Quota {
            limit: Some(600),
            remaining: Some(remaining),
            reset: Some(Reset { after: reset, is_rounded: false }),
        }
    }

    /// Ten responses a second over five seconds, each to what was sent just before it.
    fn after(says: impl Fn(u64) -> Quota) -> (Told, Instant) {
        let start = clock::now();
        let mut told = Told::default();
        let mut now = start;
        for nth in 1..=50_u32 {
            now = start + Duration::from_millis(u64::from(nth) * 100);
            told.heard(&says(nth.into()), now, nth.into(), now);
        }
        (told, now)
    }

    #[test]
    fn a_window_that_is_used_up_is_waited_for() {
        let ends = |nth: u64| Duration::from_secs(60) - Duration::from_millis(nth * 100);
        let (told, now) = after(|nth| quota(53 - nth, ends(nth)));
        assert_eq!(told.per_second(), Some(10.0));
        assert_eq!(told.wait(1.0, 52.0, 10.0, now), None);
        assert_eq!(told.wait(1.0, 53.0, 10.0, now), Some(Duration::from_secs(55)));
    }

    #[test]
    fn a_limit_that_refills_holds_back_no_more_than_it_must() {
        let (told, now) = after(|_| quota(0, Duration::from_secs(60)));
        let wait = told.wait(1.0, 51.0, 10.0, now).unwrap();
        assert!(
            wait <= Duration::from_millis(110),
            "an empty one that is never refused is no wall: {wait:?}"
        );
    }

    #[test]
    fn a_count_per_day_is_not_one_per_minute() {
        let (told, now) = after(|nth| quota(53 - nth, Duration::from_secs(7_200)));
        assert_eq!((told.per_second(), told.wait(1.0, 60.0, 10.0, now)), (None, None));
    }
}

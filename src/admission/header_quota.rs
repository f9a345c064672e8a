//! What the provider's headers state about a limit and what is left of it, and how far they can be relied on.
//!
//! Headers also count what other clients use, but they are old when they arrive, and some are wrong. If they describe a
//! window that ends at one moment and is used up as requests are sent, it is obeyed to the last request. Otherwise the
//! limit is taken to refill steadily, and headers only lower the program's own count.

use std::time::Duration;

use crate::clock::Instant;
use crate::wire::Quota;

/// Number of responses that must agree before a window is believed in, and minimum time from the first of them to the
/// window's end.
const AGREE_TIMES: u32 = 8;
const MIN_WINDOW_SEEN: Duration = Duration::from_secs(3);
/// Smallest stated limit that is believed. A smaller one is ignored together with its remaining amount and its reset:
/// some servers state 0 or 1 whatever they let through, others state a limit per second. If it is true, refusals teach
/// it.
const MIN_LIMIT: u64 = 10;
/// Largest difference of two resets that count as the same: responses come late by different times, and resets are
/// rounded to seconds.
const TOLERANCE: Duration = Duration::from_millis(1_500);
/// Time after which one request tests whether a window that headers state as used up really is.
const LOOK_AFTER: Duration = Duration::from_secs(5);
/// Other clients use a window too if more is used than this multiple of what was sent, and by more than the second.
const SHARED: f64 = 1.1;
const SHARED_LEAST: f64 = 10.0;
/// Part of a second's rate that is let through above the estimate of what a steadily refilled limit holds.
const SLACK_SECONDS: f64 = 0.1;

/// The state of one limit, as headers describe it.
#[derive(Debug, Default)]
pub(super) struct HeaderQuota {
    limit: Option<f64>,
    newest: Option<Newest>,
    window: Option<QuotaWindow>,
}

/// Of all responses so far, the one whose request was sent last.
#[derive(Clone, Copy, Debug)]
struct Newest {
    remaining: f64,
    /// Total sent when its request was sent, this included.
    mark: f64,
    /// Total sent when the response came.
    sent_by_then: f64,
    sent: Instant,
    reset: Instant,
}

/// A window that headers may describe.
#[derive(Clone, Copy, Debug)]
struct QuotaWindow {
    reset: Instant,
    since: Instant,
    agreed: u32,
    /// Amount of it that all clients used, and the part of it that was sent from here.
    used: f64,
    own: f64,
}

impl HeaderQuota {
    /// The stated limit per second, or `None` if headers state none.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.limit.map(|per_minute| per_minute / 60.0)
    }

    /// Takes up the quota that a response stated. `sent` is when its request was sent, `mark` the total that had been
    /// sent by then and `sent_by_now` the total by now, in requests or tokens.
    pub(super) fn take_up_headers(
        &mut self,
        quota: &Quota,
        sent: Instant,
        mark: f64,
        sent_by_now: f64,
        now: Instant,
    ) {
        if quota.is_longer_than_minute() {
            // A count per day says nothing about the minute; when it is used up, a refusal shows it.
            *self = HeaderQuota::default();
            return;
        }
        if quota.limit.is_some_and(|limit| limit < MIN_LIMIT) {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a limit is far below 2^52")]
        if let Some(limit) = quota.limit {
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
        self.match_window(remaining, mark, reset, now);
        self.newest = Some(Newest { remaining, mark, sent_by_then: sent_by_now, sent, reset });
    }

    /// Returns how long to wait before an amount is sent, or `None` if it may be sent now. `mark` is the total sent so
    /// far; the limit refills at `per_second`.
    pub(super) fn wait(&self, amount: f64, mark: f64, per_second: f64, now: Instant) -> Option<Duration> {
        let newest = self.newest.as_ref()?;
        let left = newest.remaining - (mark - newest.mark);
        if let Some(window) = self.window.filter(QuotaWindow::is_believed) {
            // It is not known whether a response counts requests that arrived while it was made. Where other clients
            // use the limit too, it is taken not to.
            let left =
                if window.is_shared() { left } else { newest.remaining - (mark - newest.sent_by_then) };
            let until = newest.reset.checked_duration_since(now)?;
            if left >= amount || until.is_zero() {
                return None;
            }
            // The provider may not count over this window after all: a single request tests that.
            let is_quiet = mark <= newest.sent_by_then;
            let looked = now.saturating_duration_since(newest.sent);
            return match LOOK_AFTER.checked_sub(looked).filter(|left| !left.is_zero()) {
                None if is_quiet => None,
                Some(left) if is_quiet => Some(left.min(until)),
                _ => Some(until),
            };
        }
        let refilled = now.saturating_duration_since(newest.sent).as_secs_f64() * per_second;
        let missing = amount.min(per_second) - (left + refilled + per_second * SLACK_SECONDS);
        (missing > 0.0)
            .then(|| Duration::try_from_secs_f64(missing / per_second).unwrap_or(Duration::from_secs(1)))
    }

    /// Compares a response with the one before it: whether it describes the same window.
    fn match_window(&mut self, remaining: f64, mark: f64, reset: Instant, now: Instant) {
        let near = |a: Instant, b: Instant| a.max(b) - a.min(b) <= TOLERANCE;
        let new = QuotaWindow { reset, since: now, agreed: 0, used: 0.0, own: 0.0 };
        self.window = match (self.window, self.newest) {
            (Some(window), Some(newest)) if near(window.reset, reset) && remaining < newest.remaining => {
                Some(QuotaWindow {
                    agreed: window.agreed + 1,
                    used: window.used + newest.remaining - remaining,
                    own: window.own + mark - newest.mark,
                    ..window
                })
            }
            // The next window has begun.
            (Some(window), Some(_)) if now + TOLERANCE >= window.reset && reset > window.reset => {
                Some(QuotaWindow { reset, used: window.used / 2.0, own: window.own / 2.0, ..window })
            }
            _ => Some(new),
        };
    }
}

impl QuotaWindow {
    fn is_believed(&self) -> bool {
        self.agreed >= AGREE_TIMES && self.reset.saturating_duration_since(self.since) >= MIN_WINDOW_SEEN
    }

    /// Whether other clients use it too.
    fn is_shared(&self) -> bool {
        self.used > self.own * SHARED && self.used > self.own + SHARED_LEAST
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

    /// Takes up ten responses a second for five seconds, each to a request sent just before it.
    fn after(says: impl Fn(u64) -> Quota) -> (HeaderQuota, Instant) {
        let start = clock::now();
        let mut header_quota = HeaderQuota::default();
        let mut now = start;
        for nth in 1..=50_u32 {
            now = start + Duration::from_millis(u64::from(nth) * 100);
            header_quota.take_up_headers(&says(nth.into()), now, nth.into(), nth.into(), now);
        }
        (header_quota, now)
    }

    #[test]
    fn a_window_that_is_used_up_is_waited_for() {
        let ends = |nth: u64| Duration::from_secs(60) - Duration::from_millis(nth * 100);
        let (header_quota, now) = after(|nth| quota(53 - nth, ends(nth)));
        assert_eq!(header_quota.per_second(), Some(10.0));
        assert_eq!(header_quota.wait(1.0, 52.0, 10.0, now), None);
        assert_eq!(header_quota.wait(1.0, 53.0, 10.0, now), Some(Duration::from_secs(55)));
    }

    #[test]
    fn a_used_up_window_is_tried_with_a_single_request() {
        let ends = |nth: u64| Duration::from_secs(60) - Duration::from_millis(nth * 100);
        let (header_quota, now) = after(|nth| quota(50 - nth, ends(nth)));
        assert_eq!(header_quota.wait(1.0, 50.0, 10.0, now), Some(LOOK_AFTER));
        let later = now + LOOK_AFTER;
        assert_eq!(header_quota.wait(1.0, 50.0, 10.0, later), None);
        assert_eq!(
            header_quota.wait(1.0, 51.0, 10.0, later),
            Some(Duration::from_secs(50)),
            "it is under way"
        );
    }

    #[test]
    fn what_is_in_flight_counts_where_others_use_the_limit_too() {
        let ends = |nth: u64| Duration::from_secs(60) - Duration::from_millis(nth * 100);
        let (header_quota, now) = after(|nth| quota(200 - 3 * nth, ends(nth)));
        assert_eq!(header_quota.wait(1.0, 99.0, 10.0, now), None);
        assert_eq!(header_quota.wait(1.0, 100.0, 10.0, now), Some(Duration::from_secs(55)));
    }

    #[test]
    fn a_limit_that_refills_holds_back_no_more_than_it_must() {
        let (header_quota, now) = after(|_| quota(0, Duration::from_secs(60)));
        let wait = header_quota.wait(1.0, 51.0, 10.0, now).unwrap();
        assert!(
            wait <= Duration::from_millis(110),
            "an empty one that is never refused is no wall: {wait:?}"
        );
    }

    #[test]
    fn a_limit_of_one_is_not_believed() {
        for limit in [0, 1, 9] {
            let (header_quota, now) =
                after(|_| Quota { limit: Some(limit), ..quota(0, Duration::from_secs(60)) });
            assert_eq!(
                (header_quota.per_second(), header_quota.wait(1.0, 51.0, 10.0, now)),
                (None, None),
                "{limit}"
            );
        }
    }

    #[test]
    fn a_count_per_day_is_not_one_per_minute() {
        let (header_quota, now) = after(|nth| quota(53 - nth, Duration::from_secs(7_200)));
        assert_eq!((header_quota.per_second(), header_quota.wait(1.0, 60.0, 10.0, now)), (None, None));
    }
}

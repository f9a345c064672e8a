//! A bucket of requests or tokens whose rate may change, and which takes refunds and carries debts.
//!
//! It is nearly empty at the start and after a time in which no request waited for it, so that no window of the
//! provider, however short, sees a burst on top of the steady rate. Only what a waiting request lost by waking late is
//! made up for, up to what the bucket holds.

use std::time::Duration;

use crate::clock::Instant;

/// Seconds' worth of the rate that a bucket holds at most while no request waits for it; at least one request or token.
const IDLE_SECONDS: f64 = 0.05;
/// Seconds' worth of the rate that can be made up for after waking late.
const HELD_SECONDS: f64 = 1.0;
/// Multiple of the rate at which it is made up for: a refusal comes before much more is sent.
const CATCH_UP: f64 = 6.0;
/// Rounding error of sums of fractions.
const SLACK: f64 = 1e-6;

/// A token bucket (J. Turner, "New Directions in Communications", 1986) with debts.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    per_second: f64,
    level: f64,
    held_seconds: f64,
    /// The amount that can be sent at once, however much is held.
    at_once: f64,
    at: Instant,
    /// Whether a request waits for it.
    is_awaited: bool,
}

impl Bucket {
    pub(super) fn new(per_second: f64, now: Instant) -> Self {
        let level = 1.0_f64.max(per_second * IDLE_SECONDS);
        Bucket { per_second, level, held_seconds: HELD_SECONDS, at_once: level, at: now, is_awaited: false }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Whether it is what holds requests back: a request waits for it, or nearly nothing is left.
    pub(super) fn is_bound(&self) -> bool {
        self.is_awaited || self.level < self.per_second * IDLE_SECONDS
    }

    /// Changes the rate at which it fills.
    pub(super) fn set_rate(&mut self, per_second: f64, now: Instant) {
        self.refill(now);
        self.per_second = per_second;
    }

    /// Empties it; a debt stays.
    pub(super) fn drain(&mut self, now: Instant) {
        self.refill(now);
        self.level = self.level.min(0.0);
    }

    /// Returns how long until an amount can be taken, or `None` if it can be taken now. An amount larger than a
    /// second's worth waits for that second's worth, and leaves a debt.
    pub(super) fn wait(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        self.refill(now);
        let needed = amount.min((self.per_second * HELD_SECONDS).max(1.0)) - self.level;
        let needed_at_once = amount.min(self.most_at_once()) - self.at_once;
        if needed <= SLACK && needed_at_once <= SLACK {
            return None;
        }
        self.is_awaited = true;
        let wait = (needed / self.per_second).max(needed_at_once / (self.per_second * CATCH_UP));
        Some(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX / 4).max(Duration::from_micros(1)))
    }

    /// Sets how many seconds' worth can be made up for; [`HELD_SECONDS`] at least.
    pub(super) fn set_capacity_seconds(&mut self, seconds: f64) {
        self.held_seconds = seconds.max(HELD_SECONDS);
    }

    pub(super) fn take(&mut self, amount: f64, now: Instant) {
        self.refill(now);
        self.is_awaited = false;
        self.level -= amount;
        self.at_once -= amount;
    }

    /// Takes what was used beyond what was taken, or gives back what was not used.
    pub(super) fn correct(&mut self, more: f64, now: Instant) {
        self.refill(now);
        self.level = (self.level - more).min(self.held());
        self.at_once = (self.at_once - more).min(self.most_at_once());
    }

    fn most_at_once(&self) -> f64 {
        1.0_f64.max(self.per_second * IDLE_SECONDS)
    }

    /// The most that it can hold.
    fn held(&self) -> f64 {
        (self.per_second * self.held_seconds).max(1.0)
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let most = if self.is_awaited { self.held() } else { 1.0_f64.max(self.per_second * IDLE_SECONDS) };
        // A refund may have lifted the level above what an idle bucket holds.
        self.level = (self.level + elapsed * self.per_second).min(most.max(self.level));
        self.at_once = (self.at_once + elapsed * self.per_second * CATCH_UP).min(self.most_at_once());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn an_idle_bucket_allows_no_burst_and_a_late_waiter_loses_nothing() {
        let start = clock::now();
        let mut bucket = Bucket::new(100.0, start);
        let later = start + Duration::from_secs(60);
        let mut at_once = 0;
        while bucket.wait(1.0, later).is_none() {
            bucket.take(1.0, later);
            at_once += 1;
        }
        assert_eq!(at_once, 5);
        // A request waits for it, and looks half a second too late.
        let late = later + Duration::from_millis(500);
        let (mut made_up, mut now) = (0, late);
        while now < late + Duration::from_millis(500) {
            match bucket.wait(1.0, now) {
                None => {
                    bucket.take(1.0, now);
                    made_up += 1;
                }
                Some(wait) => now += wait,
            }
            let most = 6.0 + (now - late).as_secs_f64() * 600.0;
            assert!(f64::from(made_up) <= most, "{made_up} at once");
        }
        assert!((99..=101).contains(&made_up), "{made_up}");
    }

    #[test]
    fn debts_are_paid_back_and_what_is_larger_than_the_bucket_goes_alone() {
        let start = clock::now();
        let mut bucket = Bucket::new(100.0, start);
        let wait = bucket.wait(1_000.0, start).unwrap();
        assert!(wait < Duration::from_secs(1), "it waits for a full bucket: {wait:?}");
        let full = start + Duration::from_secs(1);
        assert_eq!(bucket.wait(1_000.0, full), None);
        bucket.take(1_000.0, full);
        let wait = bucket.wait(1.0, full).unwrap();
        assert!((wait.as_secs_f64() - 9.01).abs() < 0.01, "{wait:?}");
        bucket.correct(-500.0, full);
        let wait = bucket.wait(1.0, full).unwrap();
        assert!((wait.as_secs_f64() - 4.01).abs() < 0.01, "{wait:?}");
        bucket.correct(100.0, full);
        let wait = bucket.wait(1.0, full).unwrap();
        assert!((wait.as_secs_f64() - 5.01).abs() < 0.01, "{wait:?}");
    }
}

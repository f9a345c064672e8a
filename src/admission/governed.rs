//! A configured number of requests per minute, by governor's GCRA on the caller's clock.
//!
//! Like [`super::bucket`], it allows no burst at the start or after a time in which no request waited. governor has no
//! setting for that, so its clock stands still while no request waits.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::Instant;

/// Share of the limit that is used. The rest is for requests that arrive closer together than they were sent, at
/// providers that count over windows as short as a second.
pub(super) const MARGIN: f64 = 0.995;
/// Seconds' worth of the rate that is available at most while no request waits; at least one request.
const IDLE_SECONDS: f64 = 0.05;

/// The configured limit on requests.
pub(super) struct ConfiguredRequestLimit {
    limiter: RateLimiter<NotKeyed, InMemoryState, SetClock, StateInformationMiddleware>,
    clock: SetClock,
    period: Duration,
    at: Instant,
    /// Whether a request waits for it.
    is_awaited: bool,
    /// Requests that were available after the last call.
    left: u32,
    idle_burst: u32,
}

impl std::fmt::Debug for ConfiguredRequestLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Governed({:?})", self.period)
    }
}

impl ConfiguredRequestLimit {
    pub(super) fn new(per_minute: u32, now: Instant) -> Self {
        let period = Duration::from_secs_f64(60.0 / (f64::from(per_minute) * MARGIN));
        let burst = NonZeroU32::new(per_minute.div_ceil(60)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period).expect("a period is longer than nothing").allow_burst(burst);
        let clock = SetClock::default();
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone())
            .with_middleware::<StateInformationMiddleware>();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of a number that fits")]
        let idle_burst = ((f64::from(per_minute) / 60.0 * IDLE_SECONDS) as u32).max(1);
        if let Some(rest) = NonZeroU32::new(burst.get() - idle_burst) {
            // governor's bucket begins full: take out what must not be in it.
            let _ = limiter.check_n(rest);
        }
        ConfiguredRequestLimit {
            limiter,
            clock,
            period,
            at: now,
            is_awaited: false,
            left: idle_burst,
            idle_burst,
        }
    }

    /// Takes a request, or returns how long until one is available.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let room = self.idle_burst.saturating_sub(self.left);
        let counted = if self.is_awaited { passed } else { passed.min(self.period * room) };
        let elapsed = self.clock.advance(counted);
        match self.limiter.check() {
            Ok(state) => {
                self.left = state.remaining_burst_capacity();
                self.is_awaited = false;
                Ok(())
            }
            Err(refused) => {
                self.left = 0;
                self.is_awaited = true;
                Err(refused.wait_time_from(elapsed).max(Duration::from_micros(1)))
            }
        }
    }
}

/// A clock that moves only when it is advanced.
#[derive(Clone, Debug, Default)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn advance(&self, by: Duration) -> Duration {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.0.fetch_add(nanos, Ordering::Relaxed).saturating_add(nanos))
    }
}

impl Clock for SetClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

const _: fn() = || {
    fn is_reference<T: Reference>() {}
    is_reference::<Duration>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn at_once(governed: &mut ConfiguredRequestLimit, now: Instant) -> u32 {
        (0..).take_while(|_| governed.take(now).is_ok()).count().try_into().unwrap()
    }

    #[test]
    fn the_limit_is_used_and_kept() {
        let start = clock::now();
        let mut governed = ConfiguredRequestLimit::new(6_000, start);
        let (mut sent, mut now) = (0, start);
        while now - start < Duration::from_secs(60) {
            match governed.take(now) {
                Ok(()) => sent += 1,
                Err(wait) => now += wait,
            }
        }
        assert!((5_965..=5_975).contains(&sent), "{sent} requests in a minute");
    }

    #[test]
    fn an_idle_limit_allows_no_burst_and_a_late_waiter_loses_nothing() {
        let start = clock::now();
        let mut governed = ConfiguredRequestLimit::new(6_000, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(at_once(&mut governed, later), 5);
        assert_eq!(at_once(&mut governed, later + Duration::from_millis(500)), 49);
        assert_eq!(at_once(&mut governed, later + Duration::from_secs(30)), 100, "a second's worth");
    }

    #[test]
    fn limits_of_few_requests_are_kept_too() {
        let start = clock::now();
        let mut governed = ConfiguredRequestLimit::new(3, start);
        assert_eq!(at_once(&mut governed, start), 1);
        let wait = governed.take(start).unwrap_err();
        assert!((wait.as_secs_f64() - 20.1).abs() < 0.05, "{wait:?}");
    }
}

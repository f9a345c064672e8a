//! Rate limits as providers enforce them. Pure state; the caller brings the time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::config::{LimitSpec, LimitWindow};

/// Tolerance for rounding in sums of fractions.
const SLACK: f64 = 1e-6;

/// One limit on requests or on tokens.
#[derive(Debug)]
pub(super) struct Limiter {
    window: LimitWindow,
    /// Length of a window, or time in which an empty bucket refills.
    seconds: f64,
    per_second: f64,
    /// Smallest capacity of a window or bucket.
    least: f64,
    /// Amount taken from the bucket and not refilled, or taken in the window.
    used: f64,
    /// Token bucket: when `used` was computed. Fixed window: when the window began.
    since: Instant,
    taken: VecDeque<(Instant, f64)>,
}

impl Limiter {
    pub(super) fn new(spec: &LimitSpec, now: Instant) -> Self {
        let default = if spec.window == LimitWindow::TokenBucket { 1 } else { 60 };
        Limiter {
            window: spec.window,
            seconds: f64::from(spec.seconds.unwrap_or(default)),
            per_second: f64::from(spec.per_minute) / 60.0,
            least: 1.0,
            used: 0.0,
            since: now,
            taken: VecDeque::new(),
        }
    }

    /// Multiplies the limit by `factor` from now on.
    pub(super) fn scale(&mut self, factor: f64, now: Instant) {
        self.advance(now);
        self.per_second *= factor;
    }

    /// Amount that the limit allows per minute.
    pub(super) fn per_minute(&self) -> f64 {
        self.per_second * 60.0
    }

    fn capacity(&self) -> f64 {
        (self.per_second * self.seconds).max(self.least)
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Refills the bucket, or drops what has left the window.
    pub(super) fn advance(&mut self, now: Instant) {
        match self.window {
            LimitWindow::TokenBucket => {
                let refilled = (now - self.since).as_secs_f64() * self.per_second;
                self.used = (self.used - refilled).max(0.0);
                self.since = now;
            }
            LimitWindow::FixedWindow => {
                let windows = ((now - self.since).as_secs_f64() / self.seconds + 1e-9).floor();
                if windows >= 1.0 {
                    self.since += self.length().mul_f64(windows);
                    self.used = 0.0;
                }
            }
            LimitWindow::SlidingWindow => {
                while let Some((at, taken)) = self.taken.front().copied() {
                    if now - at < self.length() {
                        break;
                    }
                    self.used = (self.used - taken).max(0.0);
                    self.taken.pop_front();
                }
            }
        }
    }

    /// How long until `amount` can be taken, after [`Limiter::advance`]; `None` if it can be taken now. An amount
    /// above the capacity passes once nothing else counts against it.
    pub(super) fn wait(&self, amount: f64, now: Instant) -> Option<Duration> {
        let room = self.capacity() - amount.min(self.capacity()) + SLACK;
        if self.used <= room {
            return None;
        }
        Some(match self.window {
            LimitWindow::TokenBucket => Duration::from_secs_f64((self.used - room) / self.per_second),
            LimitWindow::FixedWindow => self.since + self.length() - now,
            LimitWindow::SlidingWindow => {
                let mut used = self.used;
                let freed = self.taken.iter().find(|(_, taken)| {
                    used -= taken;
                    used <= room
                });
                freed.map_or(Duration::ZERO, |(at, _)| *at + self.length() - now)
            }
        })
    }

    /// Takes an amount, whether or not there is room for it.
    pub(super) fn take(&mut self, amount: f64, now: Instant) {
        self.used += amount;
        if self.window == LimitWindow::SlidingWindow && amount > 0.0 {
            self.taken.push_back((now, amount));
        }
    }

    /// What is left of a minute's allowance, as headers state it.
    pub(super) fn remaining(&self) -> f64 {
        (self.per_minute() - self.used).max(0.0).min(self.per_minute())
    }

    /// Time until the limit is full again if nothing more is taken.
    pub(super) fn reset(&self, now: Instant) -> Duration {
        match self.window {
            LimitWindow::TokenBucket => Duration::from_secs_f64(self.used / self.per_second),
            LimitWindow::FixedWindow => (self.since + self.length()).saturating_duration_since(now),
            LimitWindow::SlidingWindow => self
                .taken
                .back()
                .map_or(Duration::ZERO, |(at, _)| (*at + self.length()).saturating_duration_since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Sends a request every 100 ms for three minutes. Returns how many pass.
    fn through(window: LimitWindow, seconds: Option<u32>) -> u32 {
        let start = clock::now();
        let mut limiter = Limiter::new(&LimitSpec { per_minute: 60, window, seconds }, start);
        let mut passed = 0;
        for tenth in 0..1_800 {
            let now = start + Duration::from_millis(tenth * 100);
            limiter.advance(now);
            if limiter.wait(1.0, now).is_none() {
                limiter.take(1.0, now);
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn every_kind_of_window_lets_its_limit_through_and_no_more() {
        assert_eq!(through(LimitWindow::TokenBucket, None), 180);
        assert_eq!(through(LimitWindow::TokenBucket, Some(30)), 209);
        assert_eq!(through(LimitWindow::FixedWindow, None), 180);
        assert_eq!(through(LimitWindow::SlidingWindow, None), 180);
        assert_eq!(through(LimitWindow::SlidingWindow, Some(10)), 180);
    }

    #[test]
    fn the_time_to_wait_is_when_there_is_room() {
        for window in [LimitWindow::TokenBucket, LimitWindow::FixedWindow, LimitWindow::SlidingWindow] {
            let start = clock::now();
            let mut limiter = Limiter::new(&LimitSpec { per_minute: 600, window, seconds: Some(10) }, start);
            for tenth in 0..100 {
                limiter.take(1.0, start + Duration::from_millis(tenth));
            }
            let now = start + Duration::from_secs(1);
            limiter.advance(now);
            if let Some(wait) = limiter.wait(30.0, now) {
                let later = now + wait + Duration::from_micros(1);
                limiter.advance(later);
                assert_eq!(limiter.wait(30.0, later), None, "{window:?} after {wait:?}");
            }
            assert!(limiter.remaining() > 500.0, "a minute's allowance is 600");
        }
    }
}

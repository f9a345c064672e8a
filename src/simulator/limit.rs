//! Limits as providers enforce them. Pure state under the caller's time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::config::{LimitSpec, LimitWindow};

/// One limit on requests or on tokens.
#[derive(Debug)]
pub(super) struct Limiter {
    window: LimitWindow,
    /// What a full bucket or a window holds.
    capacity: f64,
    /// How long a window lasts.
    length: Duration,
    per_second: f64,
    /// Bucket: what it holds, as of `since`. Window: what was taken since `since`.
    level: f64,
    since: Instant,
    taken: VecDeque<(Instant, f64)>,
}

impl Limiter {
    pub(super) fn new(spec: &LimitSpec, now: Instant) -> Self {
        let default = if spec.window == LimitWindow::TokenBucket { 1 } else { 60 };
        let seconds = spec.seconds.unwrap_or(default);
        let per_second = f64::from(spec.per_minute) / 60.0;
        let capacity = (per_second * f64::from(seconds)).max(1.0);
        Limiter {
            window: spec.window,
            capacity,
            length: Duration::from_secs(seconds.into()),
            per_second,
            level: if spec.window == LimitWindow::TokenBucket { capacity } else { 0.0 },
            since: now,
            taken: VecDeque::new(),
        }
    }

    /// Takes an amount; or says how long to wait. More than the capacity goes through when nothing else
    /// stands against it.
    pub(super) fn take(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        match self.window {
            LimitWindow::TokenBucket => {
                let refilled = (now - self.since).as_secs_f64() * self.per_second;
                self.level = (self.level + refilled).min(self.capacity);
                self.since = now;
                let needed = amount.min(self.capacity);
                if self.level + 1e-9 < needed {
                    return Err(Duration::from_secs_f64((needed - self.level) / self.per_second));
                }
                self.level -= amount;
                Ok(())
            }
            LimitWindow::FixedWindow => {
                let windows = (now - self.since).as_secs_f64() / self.length.as_secs_f64();
                if windows >= 1.0 {
                    self.since += self.length.mul_f64(windows.floor());
                    self.level = 0.0;
                }
                if self.level > 0.0 && self.level + amount > self.capacity + 1e-9 {
                    return Err(self.since + self.length - now);
                }
                self.level += amount;
                Ok(())
            }
            LimitWindow::SlidingWindow => {
                while let Some((at, taken)) = self.taken.front().copied() {
                    if now - at < self.length {
                        break;
                    }
                    self.level -= taken;
                    self.taken.pop_front();
                }
                if let Some((oldest, _)) = self.taken.front()
                    && self.level + amount > self.capacity + 1e-9
                {
                    return Err(*oldest + self.length - now);
                }
                self.level += amount;
                self.taken.push_back((now, amount));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Greedy requests over three minutes; how many go through.
    fn through(window: LimitWindow, seconds: Option<u32>) -> u32 {
        let start = clock::now();
        let mut limiter = Limiter::new(&LimitSpec { per_minute: 60, window, seconds }, start);
        let mut passed = 0;
        for tenth in 0..1_800 {
            passed += u32::from(limiter.take(1.0, start + Duration::from_millis(tenth * 100)).is_ok());
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
}

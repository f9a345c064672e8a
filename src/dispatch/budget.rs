//! Retries as a share of traffic: a provider that fails now and then is not asked twice as much for it.
//! (M. Brooker, "Fixing retries with token buckets and circuit breakers", 2022.) It slows retries and never
//! gives one up.

use std::time::Duration;

use crate::clock::Instant;

/// Retries for each first attempt.
const SHARE: f64 = 0.2;
/// Retries that are always possible, in a second, so that the last rows are not left waiting.
const FLOOR: f64 = 1.0;
/// Retries that can be saved up.
const MOST: f64 = 20.0;

#[derive(Debug)]
pub(super) struct RetryBudget {
    level: f64,
    at: Instant,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> Self {
        RetryBudget { level: MOST, at: now }
    }

    /// A first attempt was sent.
    pub(super) fn earn(&mut self) {
        self.level = (self.level + SHARE).min(MOST);
    }

    /// Takes a retry; or says when there is one.
    pub(super) fn spend(&mut self, now: Instant) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + elapsed * FLOOR).min(MOST);
        if self.level < 1.0 {
            return Err(now + Duration::from_secs_f64((1.0 - self.level) / FLOOR));
        }
        self.level -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn retries_are_a_share_of_traffic_and_never_stop() {
        let mut now = clock::now();
        let mut budget = RetryBudget::new(now);
        while budget.spend(now).is_ok() {}
        (0..100).for_each(|_| budget.earn());
        let mut retries = 0;
        while budget.spend(now).is_ok() {
            retries += 1;
        }
        assert!((19..=20).contains(&retries), "{retries} retries");
        for _ in 0..5 {
            now = budget.spend(now).unwrap_err() + Duration::from_millis(1);
            budget.spend(now).unwrap();
        }
    }
}

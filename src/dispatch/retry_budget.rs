//! Limits retries to a share of the traffic, so that they do not multiply the load on a failing provider (M. Brooker,
//! "Fixing retries with token buckets and circuit breakers", 2022): each answer earns a retry, and a first attempt a
//! part of one. Retries are held back only while there is something else to send, and none is given up.

use std::time::Duration;

use crate::clock::Instant;

/// Retries that an answer earns.
const PER_ANSWER: f64 = 1.0;
/// Retries that a first attempt earns.
const PER_FIRST_ATTEMPT: f64 = 0.2;
/// Retries per second that are always possible.
const PER_SECOND: f64 = 1.0;
/// The most retries that can be saved up.
const MAX_SAVED: f64 = 100.0;

#[derive(Debug)]
pub(super) struct RetryBudget {
    level: f64,
    at: Instant,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> Self {
        RetryBudget { level: MAX_SAVED, at: now }
    }

    /// Notes that a first attempt was sent.
    pub(super) fn first_attempt(&mut self) {
        self.earn(PER_FIRST_ATTEMPT);
    }

    /// Notes that a request was answered.
    pub(super) fn answered(&mut self) {
        self.earn(PER_ANSWER);
    }

    fn earn(&mut self, retries: f64) {
        self.level = (self.level + retries).min(MAX_SAVED);
    }

    /// Takes a retry. With nothing else to send there is always one; otherwise `Err` holds when there will be one.
    pub(super) fn spend(&mut self, has_fresh: bool, now: Instant) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.earn(elapsed.as_secs_f64() * PER_SECOND);
        if self.level < 1.0 && has_fresh {
            return Err(now + Duration::from_secs_f64((1.0 - self.level) / PER_SECOND));
        }
        self.level = (self.level - 1.0).max(0.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn spent(budget: &mut RetryBudget, now: Instant) -> u32 {
        let mut retries = 0;
        while retries < 1_000 && budget.spend(true, now).is_ok() {
            retries += 1;
        }
        retries
    }

    #[test]
    fn beside_fresh_rows_retries_are_as_many_as_answers() {
        let mut now = clock::now();
        let mut budget = RetryBudget::new(now);
        spent(&mut budget, now);
        (0..50).for_each(|_| budget.answered());
        assert_eq!(spent(&mut budget, now), 50);
        (0..50).for_each(|_| budget.first_attempt());
        assert!((9..=10).contains(&spent(&mut budget, now)));
        for _ in 0..5 {
            now = budget.spend(true, now).unwrap_err() + Duration::from_millis(1);
            budget.spend(true, now).unwrap();
        }
    }

    #[test]
    fn with_nothing_else_to_send_retries_are_the_traffic() {
        let now = clock::now();
        let mut budget = RetryBudget::new(now);
        spent(&mut budget, now);
        (0..500).for_each(|_| budget.spend(false, now).unwrap());
        assert!(budget.spend(true, now).is_err());
    }
}

//! A request on its way through its attempts.

use std::cmp::Ordering;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::dispatcher::Request;
use crate::clock::{Instant, Jitter};
use crate::config::RetryPolicy;
use crate::fault::{Class, Failure};

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) attempts: u32,
    /// Admission's generation when it was last sent.
    pub(super) generation: u64,
    /// Time in attempts and in delays between them; waiting for admission does not count.
    pub(super) spent: Duration,
    delays: ExponentialBackoff,
}

/// What becomes of a request after a failed attempt of its own.
pub(super) enum Next {
    Again(Pending, Duration),
    GiveUp(Pending, Failure),
}

impl Pending {
    pub(super) fn new(request: Request, policy: &RetryPolicy) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(policy.min_backoff)
            .with_max_delay(policy.max_backoff)
            .with_factor(2.0)
            .with_max_times(policy.max_attempts as usize - 1)
            .build();
        Pending { request, attempts: 0, generation: 0, spent: Duration::ZERO, delays }
    }

    /// Time that is left for attempts.
    pub(super) fn left(&self) -> Duration {
        self.request.deadline.saturating_sub(self.spent)
    }

    pub(super) fn after(mut self, failure: &Failure, jitter: &mut Jitter, most_asked: Duration) -> Next {
        let attempts = self.attempts;
        let times = if attempts == 1 { "attempt" } else { "attempts" };
        let Some(delay) = self.delays.next() else {
            let detail = format!("{} (after {attempts} {times})", failure.detail);
            return Next::GiveUp(self, Failure::new(failure.class, detail));
        };
        // Full jitter; a delay that the server asks for is a lower bound.
        let asked = failure.delay.unwrap_or_default().min(most_asked);
        let delay = jitter.full(delay).max(asked);
        self.spent += delay;
        if self.left().is_zero() {
            let limit = humantime::format_duration(self.request.deadline);
            let detail =
                format!("no answer within {limit} and {attempts} {times}; the last failure was {failure}");
            return Next::GiveUp(self, Failure::new(Class::Deadline, detail));
        }
        Next::Again(self, delay)
    }
}

/// A retry and when it is due; the earliest is the greatest, for a binary heap.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) order: u64,
    pub(super) pending: Pending,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

//! A request on its way through its attempts.

use std::cmp::Ordering;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::request::Request;
use crate::clock::{self, Instant, Jitter};
use crate::config::{RetryPolicy, Shape};
use crate::fault::{Class, Failure};
use crate::meter::Encoding;

/// A row that meets outage after outage is asked no longer than that.
const MOST_REFUNDS: u32 = 3;

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) attempts: u32,
    /// Failed attempts since the provider's last pause, and which that was.
    failures: (u64, u32),
    /// How often such attempts may still be given back.
    refunds: u32,
    /// Time in attempts and in delays between them; waiting for admission does not count.
    pub(super) spent: Duration,
    /// Tokens of the prompt, once it came to that; none inside where they cannot be counted.
    counted: Option<Option<f64>>,
    delays: ExponentialBackoff,
    /// Rows that it may go together with, itself included.
    pub(super) together: usize,
    /// When it came.
    pub(super) since: Instant,
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
        Pending {
            request,
            attempts: 0,
            failures: (0, 0),
            refunds: MOST_REFUNDS,
            spent: Duration::ZERO,
            counted: None,
            delays,
            together: usize::MAX,
            since: clock::now(),
        }
    }

    /// Tokens of the prompt, counted the first time.
    pub(super) fn input(&mut self, encoding: Option<Encoding>) -> Option<f64> {
        let texts = self.request.question.messages().iter().map(|message| message.content.as_str());
        let texts = texts.chain(self.request.params.shape.as_ref().map(Shape::text));
        *self.counted.get_or_insert_with(|| {
            let count = encoding?.count(texts)?;
            u32::try_from(count).ok().map(f64::from)
        })
    }

    /// An attempt of its own failed, in this generation of admission's.
    pub(super) fn failed_in(&mut self, generation: u64) {
        let (before, failures) = self.failures;
        self.failures = (generation, if before == generation { failures + 1 } else { 1 });
    }

    /// What failed in this generation was the provider's trouble: the row gets its attempts back.
    pub(super) fn refund(&mut self, generation: u64) {
        let (failed_in, failures) = self.failures;
        if failed_in == generation && failures > 0 && self.refunds > 0 {
            self.attempts -= failures.min(self.attempts);
            self.failures = (generation, 0);
            self.refunds -= 1;
        }
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

//! A request that is pending, through all its attempts.

use std::cmp::Ordering;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::admission::ResponseCounts;
use crate::clock::{self, Instant, Jitter};
use crate::config::{RetryPolicy, Shape};
use crate::executor::Request;
use crate::fault::{Class, Failure};
use crate::tokens::tokenizer::Encoding;

/// Number of times that a row gets its attempts back after outages, so that it is not sent for ever.
const MOST_REFUNDS: u32 = 3;
/// The most attempts of a row that do not count because its provider fails most requests.
const MAX_EXCUSED: u32 = 20;

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) request: Request,
    pub(super) attempts: u32,
    /// Number of second attempts that were sent beside `attempts`.
    pub(super) second_attempts: u32,
    /// Generation of the provider's last pause, and failed attempts since then.
    failures: (u64, u32),
    /// Number of times that failed attempts may still be given back.
    refunds: u32,
    /// Attempts in a brownout that did not count.
    excused: u32,
    /// Refusals (429, 503 with a delay) of this request while others were answered.
    pub(super) refusals: u32,
    /// All refusals of this request, its own or not.
    pub(super) throttled: u32,
    /// Whether it was refused several times and a harmless question was answered since.
    pub(super) is_suspect: bool,
    /// Generation of the provider's last pause, and the request's own refusals since then.
    own_refusals: (u64, u32),
    /// The provider's counts of answers and refusals when this request was last refused.
    pub(super) refused_at: Option<ResponseCounts>,
    /// When it was first refused for want of room in the service tier.
    no_room_since: Option<Instant>,
    /// Why its last answer could not be read. If the next one fails in the same way, so would all others.
    unreadable: Option<String>,
    /// The delay before its last retry.
    delay: Duration,
    /// Time in attempts and in the delays between them; waiting for admission does not count.
    pub(super) spent: Duration,
    /// Tokens of the prompt, once they were needed; `Some(None)` if they cannot be counted.
    counted: Option<Option<f64>>,
    delays: ExponentialBackoff,
    /// Maximum number of rows in the request that it is sent in, itself included.
    pub(super) together: usize,
    /// When it arrived.
    pub(super) since: Instant,
}

/// What to do with a request after a failed attempt of its own.
pub(super) enum RetryDecision {
    Again(PendingRequest, Duration),
    GiveUp(PendingRequest, Failure),
}

impl PendingRequest {
    pub(super) fn new(request: Request, policy: &RetryPolicy) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(policy.min_backoff)
            .with_max_delay(policy.max_backoff)
            .with_factor(2.0)
            .without_max_times()
            .build();
        PendingRequest {
            request,
            attempts: 0,
            second_attempts: 0,
            failures: (0, 0),
            refunds: MOST_REFUNDS,
            excused: 0,
            refusals: 0,
            throttled: 0,
            is_suspect: false,
            own_refusals: (0, 0),
            refused_at: None,
            no_room_since: None,
            unreadable: None,
            delay: policy.min_backoff,
            spent: Duration::ZERO,
            counted: None,
            delays,
            together: usize::MAX,
            since: clock::now(),
        }
    }

    /// Returns the tokens of the prompt, or `None` if they cannot be counted. They are counted once.
    pub(super) fn input(&mut self, encoding: Option<Encoding>) -> Option<f64> {
        let texts = self.request.question.messages().iter().map(|message| message.content.as_str());
        let texts = texts.chain(self.request.params.shape.as_ref().map(Shape::text));
        *self.counted.get_or_insert_with(|| {
            let count = encoding?.count_short(texts)?;
            u32::try_from(count).ok().map(f64::from)
        })
    }

    /// Returns the number of attempts that count, second attempts included.
    pub(super) fn sent(&self) -> u32 {
        self.attempts.saturating_add(self.second_attempts)
    }

    /// Counts a failed attempt of its own in this generation of admission.
    pub(super) fn note_failure(&mut self, generation: u64) {
        let (before, failures) = self.failures;
        self.failures = (generation, if before == generation { failures + 1 } else { 1 });
    }

    /// Counts a refusal, while others were answered, in this generation of admission.
    pub(super) fn note_refusal(&mut self, generation: u64) {
        let (before, refusals) = self.own_refusals;
        self.own_refusals = (generation, if before == generation { refusals + 1 } else { 1 });
        self.refusals += 1;
    }

    /// Takes back the last attempt: it does not count.
    pub(super) fn take_back_attempt(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// Takes back an attempt that failed in a brownout, unless [`MAX_EXCUSED`] were taken back. Returns whether it did.
    pub(super) fn excuse(&mut self) -> bool {
        let is_excused = self.excused < MAX_EXCUSED;
        if is_excused {
            self.excused += 1;
            self.take_back_attempt();
        }
        is_excused
    }

    /// Gives the row its attempts of this generation back, since the provider's trouble made them fail.
    pub(super) fn refund(&mut self, generation: u64) {
        let (refused_in, refusals) = self.own_refusals;
        if refused_in == generation {
            self.refusals = self.refusals.saturating_sub(refusals);
            self.own_refusals = (generation, 0);
        }
        let (failed_in, failures) = self.failures;
        if failed_in == generation && failures > 0 && self.refunds > 0 {
            self.attempts -= failures.min(self.attempts);
            self.failures = (generation, 0);
            self.refunds -= 1;
        }
    }

    /// Whether the attempt that failed was the last: by number, or because its answer is unreadable as the last one
    /// was.
    pub(super) fn is_last(&self, failure: &Failure, policy: &RetryPolicy) -> bool {
        let is_same =
            || failure.class == Class::InvalidResponse && self.unreadable.as_ref() == Some(&failure.detail);
        self.attempts >= policy.max_attempts || is_same()
    }

    /// Time left for attempts.
    pub(super) fn left(&self) -> Duration {
        self.request.deadline.saturating_sub(self.spent)
    }

    /// Returns how long to wait for room in the service tier until the next attempt, each time twice as long. The time
    /// does not count, as that for admission does not.
    pub(super) fn wait_for_room(
        &mut self,
        failure: &Failure,
        policy: &RetryPolicy,
        jitter: &mut Jitter,
    ) -> Duration {
        self.delay = self.delays.next().unwrap_or(policy.max_backoff);
        jitter.full(self.delay).max(failure.delay.unwrap_or_default().min(policy.max_retry_after))
    }

    /// Notes that the service tier had no room for it.
    pub(super) fn note_no_room(&mut self, now: Instant) {
        self.no_room_since.get_or_insert(now);
    }

    /// Whether the service tier had no room for it for at least this long.
    pub(super) fn has_waited_for_room(&self, time: Duration) -> bool {
        self.no_room_since.is_some_and(|since| clock::now().saturating_duration_since(since) >= time)
    }

    /// Decides what to do after an attempt that failed. `is_excused` means that the attempt does not count.
    pub(super) fn after(
        mut self,
        failure: &Failure,
        is_excused: bool,
        policy: &RetryPolicy,
        jitter: &mut Jitter,
    ) -> RetryDecision {
        let attempts = self.attempts.max(self.refusals);
        let times = if attempts == 1 { "attempt" } else { "attempts" };
        if !is_excused {
            let unreadable = (failure.class == Class::InvalidResponse).then(|| failure.detail.clone());
            let is_same = unreadable.is_some() && unreadable == self.unreadable;
            self.unreadable = unreadable;
            if attempts >= policy.max_attempts || is_same {
                let detail = format!("{} (after {attempts} {times})", failure.detail);
                self.attempts = attempts;
                return RetryDecision::GiveUp(self, Failure::new(failure.class, detail));
            }
            self.delay = self.delays.next().unwrap_or(policy.max_backoff);
        }
        // Full jitter; a delay that the server asks for is a lower bound.
        let requested = failure.delay.unwrap_or_default().min(policy.max_retry_after);
        let delay = jitter.full(self.delay).max(requested);
        self.spent += delay;
        if self.left().is_zero() {
            let limit = humantime::format_duration(self.request.deadline);
            let detail =
                format!("no answer within {limit} and {attempts} {times}; the last failure was {failure}");
            return RetryDecision::GiveUp(self, Failure::new(Class::Deadline, detail));
        }
        RetryDecision::Again(self, delay)
    }
}

/// A retry and when it is due. The earliest is the greatest, for a binary heap.
#[derive(Debug)]
pub(super) struct DueRetry {
    pub(super) at: Instant,
    /// Number of the retry in the order of scheduling; among retries due at one time the lowest comes first.
    pub(super) order: u64,
    pub(super) pending: PendingRequest,
}

impl PartialEq for DueRetry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DueRetry {}

impl PartialOrd for DueRetry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DueRetry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

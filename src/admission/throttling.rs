//! Refusals for too much load (429, 503 with a delay), and what causes them.
//!
//! Three causes look alike: a limit that was exceeded, one request that is refused whatever else is sent, and a server
//! that refuses a share of all requests at any rate. A limit is obeyed. A request that alone is refused does not slow
//! down others. In the third case sending less does not help: refusals that come as often at a part of the rate as at
//! the full rate are not about the rate, and the rate is restored.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::log::SendLog;
use super::trial::{SentOutcome, TrialVerdict, Trials};
use crate::clock::Instant;

/// Number of newest outcomes that are compared with the share that is refused at any rate.
const NEWEST: usize = 50;
/// Parts of the highest rate at which answers came lately: a rate above the first is high, one up to the second is low.
const HIGH: f64 = 0.5;
const LOW: f64 = 0.4;
/// Time over which the highest rate is measured, and between two measurements. The first spans a whole window of the
/// providers that count over windows, so that a burst which they let through does not count as a rate.
const PEAK_OVER: Duration = Duration::from_secs(60);
const PEAK_EVERY: Duration = Duration::from_millis(500);
/// Half-life of the highest rate, in seconds.
const PEAK_HALF_LIFE_SECONDS: f64 = 300.0;
/// Number of refusals at a low rate before a verdict is given.
const MIN_REFUSALS: f64 = 6.0;
/// Share of requests that is assumed to be refused at any rate, before it is known.
const ASSUMED_SHARE: f64 = 0.03;
/// Number of outcomes over which shares are measured; older ones fade.
const MEMORY: f64 = 500.0;
/// Refusals count as equally frequent at the low rate if their share is at least this part of the way from the share
/// that a limit would refuse to the share that was refused at the high rate.
const MIN_SHARE_AS_OFTEN: f64 = 0.35;
/// They count as more frequent, as after a used-up burst, if their share is more than this multiple of the share at
/// the high rate plus the second constant.
const MORE_OFTEN: f64 = 2.5;
const MORE_OFTEN_LEAST: f64 = 0.02;
/// Share of refusals above which a limit is assumed, however little is sent.
const MAX_USUAL_SHARE: f64 = 0.5;
/// While a limit is assumed, a low rate is not lowered further after at least this number of requests at a low rate,
/// of which at most this share was refused.
const MIN_LOW: f64 = 20.0;
const MAX_SHARE_AT_LIMIT: f64 = 0.25;
/// Time after a refusal for which a low rate is held, until the cause of the refusals is known.
const HOLD_LOW_RATE_FOR: Duration = Duration::from_secs(10);
/// Time for which a limit is assumed after it was found to cause the refusals: at first, and at most.
const LIMIT_BELIEVED: Duration = Duration::from_secs(60);
const LIMIT_BELIEVED_AT_MOST: Duration = Duration::from_secs(3_600);
/// Time without a refusal after which the share that is refused at any rate is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
/// Number of answers per refusal, both of other requests, from which a second refusal of a request concerns that
/// request alone.
const ANSWERS_PER_REFUSAL: u64 = 4;
/// Time over which the send rate is measured, and the time used instead if fewer than [`MIN_SENT`] requests were sent
/// in the first.
const RATE_OVER: Duration = Duration::from_secs(1);
const SLOW_RATE_OVER: Duration = Duration::from_secs(10);
const MIN_SENT: f64 = 10.0;

/// Answers and refusals of a provider so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseCounts {
    answers: u64,
    refusals: u64,
}

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRequest {
    /// Requests are numbered in the order in which they are sent.
    pub(super) number: u64,
    /// The send rate at that time, in requests per second.
    pub(super) rate: f64,
    pub(super) sent: Instant,
}

/// The refusals of one provider.
#[derive(Debug)]
pub(super) struct Throttling {
    counts: ResponseCounts,
    /// When requests were sent, refused ones included.
    sent: SendLog,
    /// When answers came.
    answered: SendLog,
    /// The highest rate of answers over [`PEAK_OVER`], per second, and when it was last measured.
    peak: f64,
    peak_at: Instant,
    trials: Trials,
    /// Outcomes of requests that were sent at high and at low rates.
    high: Outcomes,
    low: Outcomes,
    /// The newest outcomes; `true` is a refusal.
    newest: VecDeque<bool>,
    /// The share of requests that is refused at any rate, once it is known.
    usual: Option<f64>,
    refused_at: Option<Instant>,
    limit_believed_until: Option<Instant>,
    /// How long a limit will be assumed the next time.
    limit_believed_for: Duration,
}

/// Outcomes of requests; older ones fade.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    all: f64,
    refused: f64,
    /// Sum of the rates at which they were sent.
    rates: f64,
}

/// What a refusal means for the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Remedy {
    /// Lower the rate.
    SendLess,
    /// Wait and keep the rate: it is not known yet whether sending less helps.
    Hold,
    /// Sending less did not help: restore the former rate.
    TakeBack,
    /// Send this many requests per second for a while, to see whether that helps.
    Try(f64),
    /// A trial is under way, and the refusal is part of it.
    InTrial,
}

impl Throttling {
    pub(super) fn new(now: Instant) -> Self {
        Throttling {
            counts: ResponseCounts::default(),
            sent: SendLog::new(now),
            answered: SendLog::new(now),
            peak: 0.0,
            peak_at: now,
            trials: Trials::default(),
            high: Outcomes::default(),
            low: Outcomes::default(),
            newest: VecDeque::new(),
            usual: None,
            refused_at: None,
            limit_believed_until: None,
            limit_believed_for: LIMIT_BELIEVED,
        }
    }

    pub(super) fn counts(&self) -> ResponseCounts {
        self.counts
    }

    pub(super) fn refusals(&self) -> u64 {
        self.counts.refusals
    }

    /// Counts a request that is sent. Returns the send rate, in requests per second.
    pub(super) fn sends(&mut self, now: Instant) -> f64 {
        let lately = self.sent.sum(RATE_OVER, now);
        let rate = if lately >= MIN_SENT {
            lately / RATE_OVER.as_secs_f64()
        } else {
            self.sent.sum(SLOW_RATE_OVER, now).max(1.0) / SLOW_RATE_OVER.as_secs_f64()
        };
        self.sent.add(1.0, now);
        rate
    }

    /// Counts an answer; `in_flight` holds the requests without an outcome. Returns the verdict if a trial ends.
    pub(super) fn answered(
        &mut self,
        request: &SentRequest,
        in_flight: &BTreeMap<u64, Instant>,
        now: Instant,
    ) -> Option<TrialVerdict> {
        self.counts.answers += 1;
        self.answered.add(1.0, now);
        // The peak changes slowly, so that it need not be measured at each answer.
        if now.saturating_duration_since(self.peak_at) >= PEAK_EVERY {
            let lately = self.answered.sum(PEAK_OVER, now) / PEAK_OVER.as_secs_f64();
            self.peak = self.peak_now(now).max(lately);
            self.peak_at = now;
        }
        self.count(request, false, in_flight, now)
    }

    /// Counts a refusal; `in_flight` holds the requests without an outcome. Returns the verdict if a trial ends.
    pub(super) fn refused(
        &mut self,
        request: &SentRequest,
        in_flight: &BTreeMap<u64, Instant>,
        now: Instant,
    ) -> Option<TrialVerdict> {
        self.counts.refusals += 1;
        if self.refused_at.is_some_and(|at| now.saturating_duration_since(at) > FORGOTTEN_AFTER) {
            self.usual = None;
            self.high = Outcomes::default();
            self.low = Outcomes::default();
        }
        self.refused_at = Some(now);
        self.count(request, true, in_flight, now)
    }

    /// Whether another refusal of a request that was last refused at the counts `since` concerns that request alone:
    /// other requests were answered meanwhile, and few were refused.
    pub(super) fn is_own(&self, since: ResponseCounts) -> bool {
        let answers = self.counts.answers - since.answers;
        let others = self.counts.refusals - since.refusals;
        answers > 0 && others * ANSWERS_PER_REFUSAL <= answers
    }

    /// Whether the newest refusals are no more than the share that is refused at any rate. Where no limit is known, a
    /// few refusals are no reason to look for one. `pending` is the number of requests, sent before the refused one,
    /// that may still be answered.
    pub(super) fn is_usual(&self, has_limit: bool, pending: usize) -> bool {
        let Some(share) = self.usual.or((!has_limit).then_some(ASSUMED_SHARE)) else { return false };
        let refused = self.newest.iter().filter(|refused| **refused).count();
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let [refused, newest, pending] =
            [refused, self.newest.len(), pending.min(NEWEST)].map(|count| count as f64);
        let expected = (newest + pending) * share;
        refused <= expected + 4.0 * expected.sqrt() + 2.0
            && refused <= (newest + pending) * MAX_USUAL_SHARE + 2.0
    }

    /// Decides what to do about a refusal that nothing else explains. `rate` is the rate to which refusals have
    /// lowered sending, if they have.
    pub(super) fn judge(&mut self, rate: Option<f64>, now: Instant) -> Remedy {
        let is_low = rate.is_some_and(|rate| rate <= self.peak_now(now) * LOW);
        if self.limit_believed_until.is_some_and(|until| now < until) {
            let is_rare = self.low.all >= MIN_LOW && self.low.share() <= MAX_SHARE_AT_LIMIT;
            return if is_low && is_rare { Remedy::Hold } else { Remedy::SendLess };
        }
        self.limit_believed_until = None;
        if self.trials.is_under_way() {
            return Remedy::InTrial;
        }
        if self.usual.take().is_some() {
            // More than the known share is refused, because more is sent: it was a limit.
            self.believe_in_limit(now);
            return Remedy::SendLess;
        }
        if let Some(rate) = self.trials.begin(self.sent.sum(RATE_OVER, now) / RATE_OVER.as_secs_f64(), now) {
            return Remedy::Try(rate);
        }
        let Some(rate) = rate.filter(|rate| *rate <= self.peak_now(now) * LOW) else {
            return Remedy::SendLess;
        };
        if self.low.refused < MIN_REFUSALS {
            // With hardly an answer between the refusals there is a limit, and it is lower than this rate.
            let is_rare = self.low.share() <= MAX_USUAL_SHARE || self.low.all < MIN_REFUSALS;
            return if is_rare { Remedy::Hold } else { Remedy::SendLess };
        }
        // A limit would refuse a smaller share of what is sent at the low rate.
        let part = self.low.rate().max(rate) / self.high.rate().max(f64::MIN_POSITIVE);
        let by_limit = (1.0 - (1.0 - self.high.share()) / part.min(1.0)).max(0.0);
        let share = self.low.share();
        let high = self.high.share();
        let least = by_limit + (high - by_limit) * MIN_SHARE_AS_OFTEN;
        let is_as_often = (least..=high * MORE_OFTEN + MORE_OFTEN_LEAST).contains(&share);
        self.low = Outcomes::default();
        if share > MAX_USUAL_SHARE || !is_as_often {
            self.believe_in_limit(now);
            return Remedy::SendLess;
        }
        self.take_back(share);
        Remedy::TakeBack
    }

    fn believe_in_limit(&mut self, now: Instant) {
        self.limit_believed_until = Some(now + self.limit_believed_for);
        self.limit_believed_for = (self.limit_believed_for * 4).min(LIMIT_BELIEVED_AT_MOST);
        self.low = Outcomes::default();
    }

    /// Whether the learned rate must not grow now, because the cause of the newest refusals is not known yet.
    pub(super) fn holds_rate(&self, rate: Option<f64>, now: Instant) -> bool {
        if self.trials.is_under_way() {
            return true;
        }
        let is_recent =
            self.refused_at.is_some_and(|at| now.saturating_duration_since(at) < HOLD_LOW_RATE_FOR);
        is_recent
            && self.usual.is_none()
            && self.limit_believed_until.is_none_or(|until| now >= until)
            && rate.is_some_and(|rate| rate <= self.peak_now(now) * LOW)
    }

    fn peak_now(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.peak_at).as_secs_f64();
        self.peak * (-age / PEAK_HALF_LIFE_SECONDS).exp2()
    }

    fn count(
        &mut self,
        request: &SentRequest,
        is_refused: bool,
        in_flight: &BTreeMap<u64, Instant>,
        now: Instant,
    ) -> Option<TrialVerdict> {
        let SentRequest { number, rate, sent } = *request;
        let refused = f64::from(u8::from(is_refused));
        self.newest.push_back(is_refused);
        if self.newest.len() > NEWEST {
            self.newest.pop_front();
        }
        if let Some(usual) = &mut self.usual {
            *usual += (refused - *usual) / MEMORY;
        }
        let peak = self.peak_now(now);
        if rate > peak * HIGH {
            self.high.count(rate, refused);
        } else if rate <= peak * LOW {
            self.low.count(rate, refused);
        }
        let verdict = self.trials.count(number, SentOutcome { is_refused, sent }, in_flight)?;
        match verdict {
            TrialVerdict::Limit(_) => self.believe_in_limit(now),
            TrialVerdict::AnyRate(share) => self.take_back(share),
        }
        Some(verdict)
    }

    /// Records that refusals come at any rate, and for which share of requests.
    fn take_back(&mut self, share: f64) {
        self.low = Outcomes::default();
        self.high = Outcomes::default();
        self.newest.clear();
        self.usual = Some(share);
    }
}

impl Outcomes {
    fn count(&mut self, rate: f64, refused: f64) {
        if self.all >= MEMORY {
            let kept = (MEMORY - 1.0) / self.all;
            self.all *= kept;
            self.refused *= kept;
            self.rates *= kept;
        }
        self.all += 1.0;
        self.refused += refused;
        self.rates += rate;
    }

    fn share(&self) -> f64 {
        self.refused / self.all.max(1.0)
    }

    fn rate(&self) -> f64 {
        self.rates / self.all.max(1.0)
    }
}

//! How much of one kind, requests or tokens, may be sent in a second: as configured, as the provider's
//! headers say, or as its refusals teach.
//!
//! Learning is additive increase and multiplicative decrease (D. Chiu and R. Jain, 1989) with a remembered
//! ceiling, as in CUBIC (S. Ha, I. Rhee and L. Xu, 2008): quickly back to where the last refusal was, slowly
//! past it, and quicker again the longer nothing is refused. It grows only while it is what holds requests
//! back.

use std::time::Duration;

use super::bucket::Bucket;
use super::governed::{Governed, MARGIN};
use super::log::SendLog;
use super::told::Told;
use crate::clock::Instant;
use crate::wire::Quota;

/// The rate after a refusal, of what the provider was found to allow.
const AFTER_REFUSAL: f64 = 0.97;
/// A refusal so soon after the last one takes more.
const SOON: Duration = Duration::from_secs(10);
const AFTER_REFUSAL_SOON: f64 = 0.85;
/// Growth in a second, of the ceiling: far below it, near it, and beyond it.
const GROWTH_BELOW: f64 = 0.05;
const GROWTH_NEAR: f64 = 0.01;
const GROWTH_BEYOND: f64 = 0.000_5;
const MOST_GROWTH: f64 = 0.03;
/// Growth in a second, of the rate, while the ceiling is a guess.
const GROWTH_UNSURE: f64 = 0.25;
/// Growth beyond the ceiling doubles in this time, and in a multiple of it where the ceiling was met again
/// and again.
const GROWTH_DOUBLES: f64 = 12.0;
/// What a refusal is measured by: at least this much of the time before it.
const LEAST_MEASURED: Duration = Duration::from_secs(2);
const MOST_MEASURED: Duration = Duration::from_secs(60);
/// Windows over which providers count.
const WINDOWS: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(10), Duration::from_secs(1)];
/// Such a share of a window's limit is all of it.
const FULL: f64 = 0.97;
/// How long until a full window is looked at again.
const A_MOMENT: Duration = Duration::from_millis(100);
/// A ceiling that is remembered from a former run is tested from here.
const FROM_MEMORY: f64 = 0.97;

/// The pace of one kind.
#[derive(Debug)]
pub(super) struct Pace {
    /// Requests, as configured.
    governed: Option<Governed>,
    /// Tokens, as configured.
    bucket: Option<Bucket>,
    /// As configured, before any margin.
    configured: Option<f64>,
    told: Told,
    /// What headers say the limit is, where none is configured.
    stated: Option<Bucket>,
    learned: Option<Learned>,
    /// All that was sent.
    sent: f64,
    log: SendLog,
    /// What answers turned out to have used, when they came.
    done: SendLog,
    /// The provider counts what was used over a window as long as this: it is kept to as well.
    window: Option<Duration>,
    /// Since when it goes on without a pause; none before the first request.
    since: Option<Instant>,
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Learned {
    bucket: Bucket,
    ceiling: f64,
    /// Whether the ceiling was measured, not guessed.
    is_sure: bool,
    grew: Instant,
    /// For how long it has been beyond the ceiling while it held requests back, in seconds.
    beyond: f64,
    /// How often the ceiling was met where it was before.
    met_again: u32,
}

impl Pace {
    /// The pace of requests.
    pub(super) fn of_requests(per_minute: Option<u32>, now: Instant) -> Self {
        let governed = per_minute.map(|per_minute| Governed::new(per_minute, now));
        Pace { governed, configured: per_minute.map(|limit| f64::from(limit) / 60.0), ..Pace::new(now) }
    }

    /// The pace of tokens of some kind.
    #[expect(clippy::cast_precision_loss, reason = "a limit is far below 2^52")]
    pub(super) fn of_tokens(per_minute: Option<u64>, now: Instant) -> Self {
        let configured = per_minute.map(|limit| limit as f64 / 60.0);
        Pace { bucket: configured.map(|rate| Bucket::new(rate * MARGIN, now)), configured, ..Pace::new(now) }
    }

    fn new(now: Instant) -> Self {
        Pace {
            governed: None,
            bucket: None,
            configured: None,
            told: Told::default(),
            stated: None,
            learned: None,
            sent: 0.0,
            log: SendLog::new(now),
            done: SendLog::new(now),
            window: None,
            since: None,
            refused: None,
        }
    }

    /// What the limit is taken to be, in a second; none if nothing is known.
    pub(super) fn limit(&self) -> Option<f64> {
        let known = self.configured.or_else(|| self.told.per_second());
        match (&self.learned, known) {
            (Some(learned), Some(known)) => Some(learned.ceiling.min(known)),
            (Some(learned), None) => Some(learned.ceiling),
            (None, known) => known,
        }
    }

    /// What was learned from refusals, in a second.
    pub(super) fn ceiling(&self) -> Option<f64> {
        self.learned.as_ref().map(|learned| learned.ceiling)
    }

    /// Takes up what a former run learned.
    pub(super) fn remember(&mut self, ceiling: f64, now: Instant) {
        let most = self.configured.map_or(f64::INFINITY, |rate| rate * MARGIN);
        if ceiling > 0.0 && ceiling < most {
            self.learn(ceiling, ceiling * FROM_MEMORY, true, now);
        }
    }

    /// Whether there is a limit of this kind.
    pub(super) fn is_limited(&self) -> bool {
        self.limit().is_some()
    }

    /// How long until an amount may be sent, as far as governor is not asked; none if now.
    pub(super) fn wait(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        self.grow(now);
        let refills = self.limit();
        let told = refills.and_then(|refills| self.told.wait(amount, self.sent, refills, now));
        let full = self.window.filter(|window| self.is_full(*window, now)).map(|_| A_MOMENT);
        let buckets = [
            self.bucket.as_mut(),
            self.stated.as_mut(),
            self.learned.as_mut().map(|learned| &mut learned.bucket),
        ];
        buckets.into_iter().flatten().filter_map(|bucket| bucket.wait(amount, now)).chain(told).chain(full).max()
    }

    /// Takes a request from governor; or says how long it takes until there is one.
    pub(super) fn govern(&mut self, now: Instant) -> Result<(), Duration> {
        self.governed.as_mut().map_or(Ok(()), |governed| governed.take(now))
    }

    /// Takes an amount that is sent now; returns all that was sent.
    pub(super) fn take(&mut self, amount: f64, now: Instant) -> f64 {
        for bucket in [&mut self.bucket, &mut self.stated].into_iter().flatten() {
            bucket.take(amount, now);
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.take(amount, now);
        }
        self.log.add(amount, now);
        self.since.get_or_insert(now);
        self.sent += amount;
        self.sent
    }

    /// An amount that was sent at a time turned out to be more by this much, or less.
    pub(super) fn settle(&mut self, more: f64, sent: Instant, now: Instant) {
        for bucket in [&mut self.bucket, &mut self.stated].into_iter().flatten() {
            bucket.settle(more, now);
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.settle(more, now);
        }
        self.log.add(more, sent);
    }

    /// An answer came that used so much.
    pub(super) fn used(&mut self, amount: f64, now: Instant) {
        self.done.add(amount, now);
    }

    /// Whether a refusal has its reason in answers that came close together, not in a limit that is lower
    /// than configured: then their window is kept to from now on.
    pub(super) fn explains(&mut self, now: Instant) -> bool {
        let Some(limit) = self.configured else { return false };
        let fill = |window: Duration| self.done.sum(window, now) / (limit * window.as_secs_f64());
        let fullest = WINDOWS.into_iter().max_by(|a, b| fill(*a).total_cmp(&fill(*b)));
        let Some(fullest) = fullest.filter(|window| fill(*window) >= FULL) else { return false };
        self.window = Some(fullest);
        true
    }

    fn is_full(&self, window: Duration, now: Instant) -> bool {
        self.configured.is_some_and(|limit| self.done.sum(window, now) >= limit * window.as_secs_f64() * FULL)
    }

    /// A response to a request that was sent at a time, when so much had been sent in all, says this.
    pub(super) fn heard(&mut self, quota: &Quota, sent: Instant, mark: f64, now: Instant) {
        self.told.heard(quota, sent, mark, self.sent, now);
        if self.configured.is_some() {
            return;
        }
        let Some(rate) = self.told.per_second().map(|rate| rate * MARGIN) else {
            self.stated = None;
            return;
        };
        match &mut self.stated {
            Some(bucket) if (bucket.per_second() - rate).abs() > rate * 1e-6 => bucket.set_rate(rate, now),
            Some(_) => {}
            None => self.stated = Some(Bucket::new(rate, now)),
        }
    }

    /// A request was refused, the first since the last pause; the provider wants a delay, or one was chosen
    /// for it.
    pub(super) fn refused(&mut self, sent: Instant, delay: Duration, now: Instant) {
        let going = self.since.map_or(Duration::ZERO, |since| sent.saturating_duration_since(since));
        // A long delay is the rest of a long window: what it allowed was sent in the time before.
        let measured = going.min((delay * 10).clamp(LEAST_MEASURED, MOST_MEASURED));
        let allowed = self.log.sum(measured, sent) / (measured + delay).as_secs_f64().max(1e-3);
        let is_soon = self.refused.is_some_and(|last| now.saturating_duration_since(last) < SOON);
        let known = self.configured.or_else(|| self.told.per_second());
        let rate_before = self
            .learned
            .as_ref()
            .map(|learned| learned.bucket.per_second())
            .or_else(|| known.map(|known| known * MARGIN));
        let measured_is_enough = measured >= Duration::from_millis(500) && allowed > 0.0;
        let mut ceiling = match (measured_is_enough, rate_before) {
            (true, Some(before)) => allowed.min(before),
            (true, None) => allowed,
            (false, Some(before)) => before * AFTER_REFUSAL_SOON,
            (false, None) => (self.sent / going.max(LEAST_MEASURED).as_secs_f64()).max(1e-3),
        };
        if is_soon && let Some(before) = rate_before {
            ceiling = ceiling.min(before * AFTER_REFUSAL_SOON);
        }
        self.learn(ceiling, ceiling * AFTER_REFUSAL, measured_is_enough, now);
        self.refused = Some(now);
    }

    /// A pause is over.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.since = Some(now);
        if let Some(learned) = &mut self.learned {
            learned.bucket.drain(now);
            learned.grew = now;
        }
    }

    fn learn(&mut self, ceiling: f64, rate: f64, is_sure: bool, now: Instant) {
        let ceiling = ceiling.max(1.0 / 60.0);
        let rate = rate.max(1.0 / 60.0);
        let met_again = self.learned.as_ref().map_or(0, |learned| {
            let is_same = (learned.ceiling - ceiling).abs() < learned.ceiling * 0.05;
            if is_same { (learned.met_again + 1).min(4) } else { 0 }
        });
        let mut bucket = match self.learned.take() {
            Some(learned) => learned.bucket,
            None => Bucket::new(rate, now),
        };
        bucket.set_rate(rate, now);
        self.learned = Some(Learned { bucket, ceiling, is_sure, grew: now, beyond: 0.0, met_again });
    }

    /// Grows what was learned, if it has held requests back since it was last looked at.
    fn grow(&mut self, now: Instant) {
        let most = self.configured.or_else(|| self.told.per_second()).map(|rate| rate * MARGIN);
        let Some(learned) = &mut self.learned else { return };
        let elapsed = now.saturating_duration_since(learned.grew).as_secs_f64();
        if elapsed < 0.1 {
            return;
        }
        learned.grew = now;
        // Long gaps are times in which nothing was to be sent.
        let elapsed = elapsed.min(1.0);
        let (rate, ceiling) = (learned.bucket.per_second(), learned.ceiling);
        if !learned.bucket.is_bound() {
            return;
        }
        let growth = if !learned.is_sure {
            GROWTH_UNSURE * (rate / ceiling).min(1.0)
        } else if rate < 0.9 * ceiling {
            GROWTH_BELOW
        } else if rate < ceiling {
            GROWTH_NEAR
        } else {
            learned.beyond += elapsed;
            let doubles = GROWTH_DOUBLES * f64::from(1 + learned.met_again);
            (GROWTH_BEYOND * (learned.beyond / doubles).exp2()).min(MOST_GROWTH)
        };
        let rate = rate + ceiling.max(rate * 0.5) * growth * elapsed;
        if most.is_some_and(|most| rate >= most) {
            self.learned = None;
            return;
        }
        learned.bucket.set_rate(rate, now);
        learned.ceiling = ceiling.max(rate);
    }
}

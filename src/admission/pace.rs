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
use super::header_quota::HeaderQuota;
use super::log::SendLog;
use crate::clock::Instant;
use crate::wire::Quota;

/// The rate after a refusal, of what the provider was found to allow.
const AFTER_REFUSAL: f64 = 0.97;
/// A refusal so soon after the last one takes more.
const SOON: Duration = Duration::from_secs(10);
const AFTER_REFUSAL_SOON: f64 = 0.85;
/// Growth in a second, of the ceiling: far below it, near it, and beyond it.
const GROWTH_BELOW: f64 = 0.05;
const GROWTH_NEAR: f64 = 0.02;
const GROWTH_BEYOND: f64 = 0.001;
const MOST_GROWTH: f64 = 0.02;
/// The same where the provider counts over a long window, and where it is not yet known over which.
const MOST_GROWTH_LONG: f64 = 0.004;
const MOST_GROWTH_UNKNOWN: f64 = 0.01;
/// So many seconds beyond the ceiling are more than the longest window.
const LONG_WITHOUT_REFUSAL: f64 = 65.0;
/// Growth in a second, of the rate, while the ceiling is a guess.
const GROWTH_UNSURE: f64 = 0.4;
/// Growth beyond the ceiling doubles in this time, and in a multiple of it where the ceiling was met again
/// and again.
const GROWTH_DOUBLES: f64 = 8.0;
/// The remembered ceiling falls no further at once than to this, and to this where nothing was measured.
const FORGOTTEN: f64 = 0.7;
const FORGOTTEN_UNMEASURED: f64 = 0.9;
/// Refusals that lasted so long were those of a window that was used up; the ceiling is what that allowed,
/// and falls no further than to this.
const LONG_EPISODE: Duration = Duration::from_secs(3);
const FORGOTTEN_AT_LAST: f64 = 0.25;
/// What a refusal is measured by: at least this much of the time before it, if it went on for so long.
const LEAST_MEASURED: Duration = Duration::from_secs(10);
const MOST_MEASURED: Duration = Duration::from_secs(60);
const LEAST_GOING: Duration = Duration::from_millis(500);
/// So many refusals without an answer between them lower the rate.
const MOST_LOWERED: u32 = 2;
/// So many refusals sooner than that are a limit.
const HICCUPS: u32 = 4;
/// Less than so much, let through before a refusal, tells nothing of a limit.
const LEAST_LET_THROUGH: f64 = 5.0;
const LEAST_IN_A_MINUTE: f64 = 3.0;
/// What so little taught is a guess.
const LEAST_SURE: f64 = 20.0;
/// A burst of refusals looks like a window that is used up, until that happens again: after the first one the rate
/// before it is reached again in this time.
const REGROWN_IN_SECONDS: f64 = 60.0;
/// Windows over which providers count.
const WINDOWS: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(10), Duration::from_secs(1)];
/// Those that a refusal can be measured by alone. It is known which after some refusals, and the newest of
/// them count most.
const LONG_WINDOWS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(10)];
const LEAST_HELD: u32 = 2;
const HELD_OF: u32 = 4;
/// Such a share of a window's limit may be all of it, and such a share is.
const NEARLY_FULL: f64 = 0.95;
const FULL: f64 = 0.98;
/// A window that was less than full speaks so much more against it than one that was more.
const LESS_THAN_FULL: f64 = 4.0;
/// A window that one refusal spoke for is kept to for so long.
const KEPT_TO: Duration = Duration::from_secs(60);
/// So much of a window's limit can be made up for.
const HELD_OF_WINDOW: f64 = 0.4;
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
    told: HeaderQuota,
    /// What headers say the limit is, where none is configured.
    stated: Option<Bucket>,
    learned: Option<LearnedRate>,
    /// The rate of a trial, while there is one.
    trial: Option<Bucket>,
    /// All that was sent.
    sent: f64,
    log: SendLog,
    /// What answers turned out to have used, when they came.
    done: SendLog,
    /// The provider counts what was used over a window as long as this: it is kept to as well.
    window: Option<Duration>,
    /// How far off full each of the windows was when a request was refused, all refusals together.
    off: [f64; WINDOWS.len()],
    /// Those refusals, and the newest of them.
    explained: u32,
    explained_at: Instant,
    /// Since when it goes on without a pause; none before the first request.
    since: Option<Instant>,
    /// The first request.
    first: Option<Instant>,
    refused: Option<Instant>,
    /// Whether the provider was found to count over a long window: what goes too fast now is refused later,
    /// all at once.
    is_long: bool,
    /// How much each of the long windows held when a request was refused.
    held: [WindowLoad; LONG_WINDOWS.len()],
    /// Refusals that came before anything could be measured.
    unmeasured: u32,
    /// Refusals without an answer between them.
    episode: Option<Episode>,
    /// Of these, the long ones so far.
    walls: u32,
}

/// What a window held at the refusals so far.
#[derive(Clone, Copy, Debug, Default)]
struct WindowLoad {
    times: u32,
    /// A moving mean, and that of the distance from it.
    mean: f64,
    off: f64,
}

/// What is known after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitKnowledge {
    /// No limit.
    Nothing,
    /// Roughly what is allowed.
    Ceiling,
}

/// One refusal after the other.
#[derive(Clone, Copy, Debug)]
struct Episode {
    /// When the first of the refused requests was sent.
    began: Instant,
    refusals: u32,
    /// How long it had gone well before, a minute at most, and what was sent in that time; measured with pauses and
    /// without.
    before: [(Duration, f64); 2],
    /// What was remembered then.
    ceiling: Option<f64>,
}

#[derive(Debug)]
struct LearnedRate {
    bucket: Bucket,
    ceiling: f64,
    /// Whether the ceiling was measured, not guessed.
    is_sure: bool,
    grew: Instant,
    /// For how long it has been beyond the ceiling while it held requests back, in seconds.
    beyond: f64,
    /// How often the ceiling was met where it was before.
    met_again: u32,
    /// What it grows by in a second after the first burst of refusals.
    regrows: Option<f64>,
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
            told: HeaderQuota::default(),
            stated: None,
            learned: None,
            trial: None,
            sent: 0.0,
            log: SendLog::new(now),
            done: SendLog::new(now),
            window: None,
            off: [0.0; WINDOWS.len()],
            explained: 0,
            explained_at: now,
            since: None,
            first: None,
            refused: None,
            is_long: false,
            held: [WindowLoad::default(); LONG_WINDOWS.len()],
            unmeasured: 0,
            episode: None,
            walls: 0,
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

    /// What was learned from refusals, in a second, as far as it was measured.
    pub(super) fn ceiling(&self) -> Option<f64> {
        self.learned.as_ref().filter(|learned| learned.is_sure).map(|learned| learned.ceiling)
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

    /// Requests a second that are held to because of refusals, where any are.
    pub(super) fn learned_rate(&self) -> Option<f64> {
        self.learned.as_ref().map(|learned| learned.bucket.per_second())
    }

    /// What refusals taught seems to be wrong: the rate grows quickly from where it is.
    pub(super) fn distrust_learned(&mut self) {
        self.episode = None;
        self.unmeasured = 0;
        if let Some(learned) = &mut self.learned {
            learned.ceiling = learned.bucket.per_second();
            learned.is_sure = false;
        }
    }

    /// For a while no more than this is sent in a second.
    pub(super) fn begin_trial(&mut self, per_second: f64, now: Instant) {
        self.trial = Some(Bucket::new(per_second, now));
    }

    /// The trial is over; refusals come at any rate, so that what they taught goes, or are about a limit: `allowed` a
    /// second were answered before it.
    pub(super) fn end_trial(&mut self, allowed: Option<f64>, now: Instant) {
        self.trial = None;
        match allowed {
            None => {
                self.episode = None;
                self.unmeasured = 0;
                self.learned = None;
            }
            Some(allowed) if self.learned.is_none() => {
                self.learn(allowed, allowed * AFTER_REFUSAL, false, now)
            }
            Some(_) => {}
        }
    }

    /// How long until an amount may be sent, as far as governor is not asked; none if now. With `holds_rate` what was
    /// learned does not grow now.
    pub(super) fn wait(&mut self, amount: f64, holds_rate: bool, now: Instant) -> Option<Duration> {
        if holds_rate {
            if let Some(learned) = &mut self.learned {
                learned.grew = now;
            }
        } else {
            self.grow(now);
        }
        let refills = self.limit();
        let told = refills.and_then(|refills| self.told.wait(amount, self.sent, refills, now));
        self.forget_window(now);
        let full = self.window.filter(|window| self.is_full(*window, now)).map(|_| A_MOMENT);
        let buckets = [
            self.bucket.as_mut(),
            self.stated.as_mut(),
            self.learned.as_mut().map(|learned| &mut learned.bucket),
            self.trial.as_mut(),
        ];
        buckets
            .into_iter()
            .flatten()
            .filter_map(|bucket| bucket.wait(amount, now))
            .chain(told)
            .chain(full)
            .max()
    }

    /// Takes a request from governor; or says how long it takes until there is one.
    pub(super) fn govern(&mut self, now: Instant) -> Result<(), Duration> {
        self.governed.as_mut().map_or(Ok(()), |governed| governed.take(now))
    }

    /// Takes an amount that is sent now; returns all that was sent.
    pub(super) fn take(&mut self, amount: f64, now: Instant) -> f64 {
        for bucket in [&mut self.bucket, &mut self.stated, &mut self.trial].into_iter().flatten() {
            bucket.take(amount, now);
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.take(amount, now);
        }
        self.log.add(amount, now);
        self.since.get_or_insert(now);
        self.first.get_or_insert(now);
        self.sent += amount;
        self.sent
    }

    /// An amount that was sent at a time turned out to be more by this much, or less.
    pub(super) fn correct(&mut self, more: f64, sent: Instant, now: Instant) {
        for bucket in [&mut self.bucket, &mut self.stated].into_iter().flatten() {
            bucket.correct(more, now);
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.correct(more, now);
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
        let fills = WINDOWS.map(|window| self.done.sum(window, now) / (limit * window.as_secs_f64()));
        if fills.iter().all(|fill| *fill < NEARLY_FULL) {
            return false;
        }
        // Whichever window the provider counts over, that one was just full.
        for (off, fill) in self.off.iter_mut().zip(fills) {
            *off += (fill - 1.0).max((1.0 - fill) * LESS_THAN_FULL);
        }
        self.explained += 1;
        self.explained_at = now;
        let nearest = self.off.iter().zip(WINDOWS).min_by(|(a, _), (b, _)| a.total_cmp(b));
        self.window = nearest.map(|(_, window)| window);
        if let (Some(window), Some(bucket)) = (self.window, &mut self.bucket) {
            // What a full window holds back is made up for in the next ones.
            bucket.hold(window.as_secs_f64() * HELD_OF_WINDOW);
        }
        true
    }

    /// Chance may have chosen a window; the more refusals spoke for it, the longer it is kept to.
    fn forget_window(&mut self, now: Instant) {
        let known = now.saturating_duration_since(self.explained_at);
        if self.window.is_none() || known < KEPT_TO * self.explained.saturating_pow(2) {
            return;
        }
        self.window = None;
        if let Some(bucket) = &mut self.bucket {
            bucket.hold(0.0);
            bucket.drain(now);
        }
    }

    fn is_full(&self, window: Duration, now: Instant) -> bool {
        self.configured.is_some_and(|limit| self.done.sum(window, now) >= limit * window.as_secs_f64() * FULL)
    }

    /// Whether answers state the limit.
    pub(super) fn is_stated(&self) -> bool {
        self.told.per_second().is_some()
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
    pub(super) fn refused(&mut self, sent: Instant, delay: Duration, now: Instant) -> LimitKnowledge {
        let going = self.since.map_or(Duration::ZERO, |since| sent.saturating_duration_since(since));
        match &mut self.episode {
            Some(episode) => episode.refusals += 1,
            None => {
                // Pauses are part of a long window, where that was not used up faster.
                let is_whole = self.is_long && self.sent_long_enough(sent);
                let sums = |before: Duration| (before, self.log.sum(before, sent));
                let lately = sums(going.min(MOST_MEASURED));
                let before = if is_whole { [sums(MOST_MEASURED), lately] } else { [lately; 2] };
                let ceiling = self.ceiling();
                self.episode = Some(Episode { began: sent, refusals: 1, before, ceiling });
                if self.sent_long_enough(sent) {
                    self.note_held(sent);
                }
            }
        }
        self.is_long |= delay >= LONG_EPISODE;
        // A long delay is the rest of a long window: what it allowed was sent in the time before.
        let measured = going.min((delay * 10).clamp(LEAST_MEASURED, MOST_MEASURED));
        let allowed = self.log.sum(measured, sent) / (measured + delay).as_secs_f64().max(1e-3);
        let is_soon = self.refused.is_some_and(|last| now.saturating_duration_since(last) < SOON);
        let has_gone = self.first.map_or(Duration::ZERO, |first| sent.saturating_duration_since(first));
        // From what was let through, not from silence.
        let tells = |let_through: f64| {
            let_through >= LEAST_LET_THROUGH
                || (let_through >= LEAST_IN_A_MINUTE && has_gone >= MOST_MEASURED)
        };
        let let_through = self.log.sum(measured, sent);
        let known = self.configured.or_else(|| self.told.per_second()).map(|known| known * MARGIN);
        let is_told = if known.is_some() { let_through >= 1.0 } else { tells(let_through) };
        let is_measured = measured >= LEAST_GOING && is_told;
        let is_sure =
            is_measured && (known.is_some() || let_through >= LEAST_SURE || has_gone >= MOST_MEASURED);
        let (before, remembered) = match (&self.learned, known) {
            (Some(learned), _) => (learned.bucket.per_second(), learned.ceiling),
            (None, Some(known)) => (known, known),
            (None, None) if is_measured => (allowed, allowed),
            (None, None) => {
                // Too soon to tell a limit from a hiccup; the pause is enough until it comes again.
                self.unmeasured += 1;
                if self.unmeasured < HICCUPS {
                    return LimitKnowledge::Nothing;
                }
                let let_through = self.log.sum(MOST_MEASURED, sent);
                if !tells(let_through) {
                    return LimitKnowledge::Nothing;
                }
                let all = self.first.map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
                let guess = let_through / all.clamp(LEAST_GOING, MOST_MEASURED).as_secs_f64();
                (guess, guess)
            }
        };
        if !is_measured && self.episode.is_some_and(|episode| episode.refusals > MOST_LOWERED) {
            // One refusal after the other says that it is too early, not that it is ever less.
            return LimitKnowledge::Ceiling;
        }
        let rate = before * if is_soon { AFTER_REFUSAL_SOON } else { AFTER_REFUSAL };
        // Pauses are part of a long window: what was sent in all of it is what it allows.
        let in_all = self.is_long && self.sent_long_enough(sent);
        let held = |window: Duration| self.log.sum(window, sent) / (window + delay).as_secs_f64();
        let allowed = match self.long_window() {
            _ if !in_all => allowed,
            Some(window) => held(window),
            // In the middle, until it is known; what holds a pause may hold too little.
            None => {
                let [longest, shorter] = LONG_WINDOWS.map(held);
                if shorter > longest { (longest * shorter).sqrt() } else { longest }
            }
        };
        let (rate, ceiling) = if in_all || is_measured {
            (rate.min(allowed * AFTER_REFUSAL), allowed.clamp(remembered * FORGOTTEN, before.max(remembered)))
        } else {
            (rate, remembered * FORGOTTEN_UNMEASURED)
        };
        self.learn(ceiling, rate, is_sure, now);
        self.refused = Some(now);
        LimitKnowledge::Ceiling
    }

    /// Notes what the long windows held when a request was refused that was sent at a time.
    fn note_held(&mut self, sent: Instant) {
        for (held, window) in self.held.iter_mut().zip(LONG_WINDOWS) {
            let sum = self.log.sum(window, sent);
            if held.times > 0 && held.mean > 0.0 {
                held.off += ((sum / held.mean - 1.0).abs() - held.off) / f64::from(held.times.min(HELD_OF));
            }
            held.times += 1;
            held.mean += (sum - held.mean) / f64::from(held.times.min(HELD_OF));
        }
    }

    /// The window over which the provider seems to count: whichever it is, that one holds the same at each
    /// refusal.
    fn long_window(&self) -> Option<Duration> {
        let known = self.held.iter().zip(LONG_WINDOWS).filter(|(held, _)| held.times >= LEAST_HELD);
        known.min_by(|(a, _), (b, _)| a.off.total_cmp(&b.off)).map(|(_, window)| window)
    }

    fn sent_long_enough(&self, sent: Instant) -> bool {
        self.first.is_some_and(|first| sent.saturating_duration_since(first) >= MOST_MEASURED)
    }

    /// A request that was sent at a time was answered. Where nobody said how long to wait, it is known only
    /// now how long the refusals lasted, and so how much is allowed in all.
    pub(super) fn answered_after_pause(&mut self, sent: Instant, now: Instant) {
        let Some(episode) = self.episode.take() else { return };
        let lasted = sent.saturating_duration_since(episode.began);
        let [(before, sent_before), _] = episode.before;
        if episode.refusals < 3 || lasted < LONG_EPISODE || sent_before < LEAST_LET_THROUGH {
            return;
        }
        let allowed = episode.before.map(|(before, sent)| sent / (before + lasted).as_secs_f64().max(1e-3));
        // After the first burst it was fast, so that a window was used up before its end.
        let allowed = if self.walls < 2 { allowed[0].max(allowed[1]) } else { allowed[0] };
        let least = episode.ceiling.map_or(0.0, |ceiling| ceiling * FORGOTTEN_AT_LAST);
        let ceiling = allowed.max(least);
        self.is_long = true;
        self.learned = self.learned.take().map(|learned| LearnedRate { ceiling, is_sure: false, ..learned });
        self.walls += 1;
        let is_sure = self.walls > 1 || self.long_window().is_some() || self.told.per_second().is_some();
        self.learn(ceiling, ceiling * AFTER_REFUSAL, is_sure, now);
        if let Some(learned) = self.learned.as_mut().filter(|_| !is_sure) {
            let rate = sent_before / before.as_secs_f64().max(1e-3);
            learned.regrows = Some(rate / REGROWN_IN_SECONDS);
        }
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
            if is_same { (learned.met_again + 1).min(2) } else { 0 }
        });
        let is_sure = is_sure || self.learned.as_ref().is_some_and(|learned| learned.is_sure);
        let mut bucket = match self.learned.take() {
            Some(learned) => learned.bucket,
            None => Bucket::new(rate, now),
        };
        bucket.set_rate(rate, now);
        self.learned =
            Some(LearnedRate { bucket, ceiling, is_sure, grew: now, beyond: 0.0, met_again, regrows: None });
    }

    /// Grows what was learned, if it has held requests back since it was last looked at.
    fn grow(&mut self, now: Instant) {
        let most = self.configured.or_else(|| self.told.per_second()).map(|rate| rate * MARGIN);
        let is_long = self.is_long;
        let long_growth = self.long_window().map_or(MOST_GROWTH_UNKNOWN, |_| MOST_GROWTH_LONG);
        let Some(learned) = &mut self.learned else { return };
        let is_wary = is_long && learned.beyond < LONG_WITHOUT_REFUSAL;
        let most_growth = if is_wary { long_growth } else { MOST_GROWTH };
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
            (GROWTH_BEYOND * (learned.beyond / doubles).exp2()).min(most_growth)
        };
        let grown = learned.regrows.unwrap_or_else(|| ceiling.max(rate * 0.5) * growth);
        let rate = rate + grown * elapsed;
        if most.is_some_and(|most| rate >= most) {
            self.learned = None;
            return;
        }
        learned.bucket.set_rate(rate, now);
        learned.ceiling = ceiling.max(rate);
    }
}

//! The rate at which one kind, requests or tokens, may be sent: as configured, as the provider's headers state, or as
//! its refusals teach.
//!
//! Learning is additive increase and multiplicative decrease (D. Chiu and R. Jain, 1989) with a remembered ceiling, as
//! in CUBIC (S. Ha, I. Rhee and L. Xu, 2008): the rate returns quickly to where the last refusal was, passes it slowly,
//! and grows faster again the longer nothing is refused. It grows only while it is what holds requests back.

use std::time::Duration;

use super::bucket::Bucket;
use super::governed::{ConfiguredRequestLimit, MARGIN};
use super::header_quota::HeaderQuota;
use super::learned_rate::{Episode, LearnedRate, LimitKnowledge, WindowLoad};
use super::log::SendLog;
use crate::clock::Instant;
use crate::wire::Quota;

/// The rate after a refusal, as a part of the rate before it, or of the rate that the provider was found to allow if
/// that is lower.
const AFTER_REFUSAL: f64 = 0.97;
/// A refusal within this time of the previous one lowers the rate more, to this part of the rate before it.
const SOON: Duration = Duration::from_secs(10);
const AFTER_REFUSAL_SOON: f64 = 0.85;
/// Growth of the rate per second, as a part of the ceiling: below nine tenths of the ceiling, from there to the
/// ceiling, at first beyond it, and at most beyond it.
const GROWTH_BELOW: f64 = 0.05;
const GROWTH_NEAR: f64 = 0.02;
const GROWTH_BEYOND: f64 = 0.001;
const MOST_GROWTH: f64 = 0.02;
/// Maximum growth beyond the ceiling for a provider that counts over a long window: if the window is known, and if it
/// is not known yet.
const MOST_GROWTH_LONG: f64 = 0.004;
const MOST_GROWTH_UNKNOWN: f64 = 0.01;
/// Seconds beyond the ceiling after which the maximum for a long window no longer applies. Longer than the longest
/// window.
const LONG_WITHOUT_REFUSAL: f64 = 65.0;
/// Growth of the rate per second, as a part of the rate, while the ceiling is a guess.
const GROWTH_UNSURE: f64 = 0.4;
/// Seconds in which growth beyond the ceiling doubles. Twice or three times as long if refusals met the same ceiling
/// again once or more often.
const GROWTH_DOUBLES: f64 = 8.0;
/// Minimum part of the remembered ceiling that is kept after a refusal that allowed a measurement, and the part that
/// is kept after one that did not.
const MIN_CEILING_KEPT: f64 = 0.7;
const CEILING_KEPT_UNMEASURED: f64 = 0.9;
/// Refusals that last at least this long show that a window was used up. The ceiling is then what that window allowed,
/// but at least the second constant's part of the former ceiling.
const LONG_EPISODE: Duration = Duration::from_secs(3);
const MIN_CEILING_KEPT_LONG: f64 = 0.25;
/// Time before a refusal over which the rate is measured. It is ten times the delay, but between the first two
/// constants and no longer than sending went on. A time shorter than the third is no measurement.
const LEAST_MEASURED: Duration = Duration::from_secs(10);
const MOST_MEASURED: Duration = Duration::from_secs(60);
const LEAST_GOING: Duration = Duration::from_millis(500);
/// Maximum number of refusals, with no answer between them, that lower the rate although nothing was measured.
const MAX_LOWERINGS: u32 = 2;
/// Number of refusals too early for a measurement after which a limit is assumed.
const UNMEASURED_REFUSALS_FOR_LIMIT: u32 = 4;
/// Minimum amount let through before a refusal for the refusal to show a limit. The second applies from a minute after
/// the first request.
const LEAST_LET_THROUGH: f64 = 5.0;
const LEAST_IN_A_MINUTE: f64 = 3.0;
/// Minimum amount let through before a refusal for its ceiling to count as measured and not as guessed.
const LEAST_SURE: f64 = 20.0;
/// Seconds in which the rate grows back after the first burst of refusals. A burst looks like a used-up window, but
/// only a second one confirms that.
const REGROWN_IN_SECONDS: f64 = 60.0;
/// Windows over which providers count.
const WINDOWS: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(10), Duration::from_secs(1)];
/// Windows so long that the amount sent in one of them measures the limit.
const LONG_WINDOWS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(10)];
/// Number of refusals from which a long window can be chosen by its loads, and the number of newest refusals over
/// which loads are averaged.
const MIN_LOADS: u32 = 2;
const LOADS_AVERAGED: u32 = 4;
/// Used part of a window's limit from which the window may explain a refusal, and from which it counts as full.
const NEARLY_FULL: f64 = 0.95;
const FULL: f64 = 0.98;
/// Weight of what was missing from a full window at a refusal, as evidence against this window, compared with what was
/// beyond a full one.
const LESS_THAN_FULL: f64 = 4.0;
/// Time for which a window is obeyed after one refusal that a full window explained; after several, multiplied by the
/// square of their number.
const WINDOW_OBEYED_FOR: Duration = Duration::from_secs(60);
/// Part of a window's limit that the bucket may hold, to be sent after a full window held requests back.
const HELD_OF_WINDOW: f64 = 0.4;
/// Time until a full window is checked again.
const FULL_WINDOW_RECHECK: Duration = Duration::from_millis(100);
/// The first rate for a ceiling that a former run learned, as a part of that ceiling.
const FROM_MEMORY: f64 = 0.97;

/// The pace of one kind, requests or one kind of tokens.
#[derive(Debug)]
pub(super) struct Pace {
    /// The configured limit on requests.
    governed: Option<ConfiguredRequestLimit>,
    /// The configured limit on tokens.
    bucket: Option<Bucket>,
    /// The configured limit per second, before any margin.
    configured: Option<f64>,
    header_quota: HeaderQuota,
    /// The limit that headers state, where none is configured.
    stated: Option<Bucket>,
    learned: Option<LearnedRate>,
    /// The rate of a trial, while one is under way.
    trial: Option<Bucket>,
    /// Total amount sent.
    sent: f64,
    log: SendLog,
    /// Amounts that answers used, by when the answers came.
    used_log: SendLog,
    /// Window over which the provider seems to count used amounts; it is obeyed as well.
    window: Option<Duration>,
    /// For each window, the sum of how far it was from full at the refusals that a full window explained.
    off: [f64; WINDOWS.len()],
    /// Number of those refusals, and when the newest came.
    explained_refusals: u32,
    explained_at: Instant,
    /// When sending last began or resumed after a pause; `None` before the first request.
    running_since: Option<Instant>,
    /// When the first request was sent.
    first_sent: Option<Instant>,
    /// When a refusal last lowered the rate.
    refused: Option<Instant>,
    /// Whether the provider seems to count over a long window: too high a rate is refused later, and all at once.
    is_long: bool,
    /// The load of each long window at refusals.
    held: [WindowLoad; LONG_WINDOWS.len()],
    /// Number of refusals that came before anything could be measured.
    unmeasured: u32,
    /// The refusals since the last answer, if any.
    episode: Option<Episode>,
    /// Number of episodes so far that lasted at least [`LONG_EPISODE`].
    long_episodes: u32,
}

impl Pace {
    pub(super) fn of_requests(per_minute: Option<u32>, now: Instant) -> Self {
        let governed = per_minute.map(|per_minute| ConfiguredRequestLimit::new(per_minute, now));
        Pace { governed, configured: per_minute.map(|limit| f64::from(limit) / 60.0), ..Pace::new(now) }
    }

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
            header_quota: HeaderQuota::default(),
            stated: None,
            learned: None,
            trial: None,
            sent: 0.0,
            log: SendLog::new(now),
            used_log: SendLog::new(now),
            window: None,
            off: [0.0; WINDOWS.len()],
            explained_refusals: 0,
            explained_at: now,
            running_since: None,
            first_sent: None,
            refused: None,
            is_long: false,
            held: [WindowLoad::default(); LONG_WINDOWS.len()],
            unmeasured: 0,
            episode: None,
            long_episodes: 0,
        }
    }

    /// The assumed limit per second, or `None` if nothing is known.
    pub(super) fn limit(&self) -> Option<f64> {
        let known = self.configured.or_else(|| self.header_quota.per_second());
        match (&self.learned, known) {
            (Some(learned), Some(known)) => Some(learned.ceiling.min(known)),
            (Some(learned), None) => Some(learned.ceiling),
            (None, known) => known,
        }
    }

    /// The limit per second that refusals taught, or `None` if it was not measured.
    pub(super) fn ceiling(&self) -> Option<f64> {
        self.learned.as_ref().filter(|learned| learned.is_sure).map(|learned| learned.ceiling)
    }

    /// Takes over the ceiling that a former run learned, unless the configured limit is no higher.
    pub(super) fn remember(&mut self, ceiling: f64, now: Instant) {
        let most = self.configured.map_or(f64::INFINITY, |rate| rate * MARGIN);
        if ceiling > 0.0 && ceiling < most {
            self.learn(ceiling, ceiling * FROM_MEMORY, true, now);
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limit().is_some()
    }

    /// The rate per second to which refusals lowered sending, or `None` if they did not.
    pub(super) fn learned_rate(&self) -> Option<f64> {
        self.learned.as_ref().map(|learned| learned.bucket.per_second())
    }

    /// Treats the learned ceiling as a guess, so that the rate grows quickly from where it is.
    pub(super) fn distrust_learned(&mut self) {
        self.episode = None;
        self.unmeasured = 0;
        if let Some(learned) = &mut self.learned {
            learned.ceiling = learned.bucket.per_second();
            learned.is_sure = false;
        }
    }

    /// Limits sending to `per_second` until the trial ends.
    pub(super) fn begin_trial(&mut self, per_second: f64, now: Instant) {
        self.trial = Some(Bucket::new(per_second, now));
    }

    /// Ends the trial. `None` means that refusals come at any rate: what they taught is dropped. `Some` means that they
    /// are about a limit: `allowed` is what was answered per second before the trial.
    pub(super) fn end_trial(&mut self, allowed: Option<f64>, now: Instant) {
        self.trial = None;
        match allowed {
            None => {
                self.episode = None;
                self.unmeasured = 0;
                self.learned = None;
            }
            Some(allowed) if self.learned.is_none() => {
                self.learn(allowed, allowed * AFTER_REFUSAL, false, now);
            }
            Some(_) => {}
        }
    }

    /// Returns how long until `amount` may be sent, or `None` if it may be sent now. The configured limit on requests
    /// is left to [`Pace::govern`]. With `holds_rate` the learned rate does not grow now.
    pub(super) fn wait(&mut self, amount: f64, holds_rate: bool, now: Instant) -> Option<Duration> {
        if holds_rate {
            if let Some(learned) = &mut self.learned {
                learned.grew = now;
            }
        } else {
            self.grow(now);
        }
        let refills = self.limit();
        let header_quota =
            refills.and_then(|refills| self.header_quota.wait(amount, self.sent, refills, now));
        self.forget_window(now);
        let full = self.window.filter(|window| self.is_full(*window, now)).map(|_| FULL_WINDOW_RECHECK);
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
            .chain(header_quota)
            .chain(full)
            .max()
    }

    /// Takes one request from the configured limit, or returns how long until one may be sent.
    pub(super) fn govern(&mut self, now: Instant) -> Result<(), Duration> {
        self.governed.as_mut().map_or(Ok(()), |governed| governed.take(now))
    }

    /// Takes an amount that is sent now. Returns the total sent.
    pub(super) fn take(&mut self, amount: f64, now: Instant) -> f64 {
        for bucket in [&mut self.bucket, &mut self.stated, &mut self.trial].into_iter().flatten() {
            bucket.take(amount, now);
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.take(amount, now);
        }
        self.log.add(amount, now);
        self.running_since.get_or_insert(now);
        self.first_sent.get_or_insert(now);
        self.sent += amount;
        self.sent
    }

    /// Corrects an amount that was sent at `sent` by `more`, which is negative if less was used than taken.
    pub(super) fn correct(&mut self, more: f64, sent: Instant, now: Instant) {
        for bucket in [&mut self.bucket, &mut self.stated].into_iter().flatten() {
            bucket.correct(more, now);
        }
        if let Some(learned) = &mut self.learned {
            learned.bucket.correct(more, now);
        }
        self.log.add(more, sent);
    }

    /// Notes the amount that an answer used.
    pub(super) fn used(&mut self, amount: f64, now: Instant) {
        self.used_log.add(amount, now);
    }

    /// Returns whether a nearly full window of used amounts explains a refusal, so that the limit need not be lower
    /// than configured. If so, the window that fits the refusals so far best is obeyed from now on.
    pub(super) fn explains(&mut self, now: Instant) -> bool {
        let Some(limit) = self.configured else { return false };
        let fills = WINDOWS.map(|window| self.used_log.sum(window, now) / (limit * window.as_secs_f64()));
        if fills.iter().all(|fill| *fill < NEARLY_FULL) {
            return false;
        }
        // The window that the provider counts over, whichever it is, was full just now.
        for (off, fill) in self.off.iter_mut().zip(fills) {
            *off += (fill - 1.0).max((1.0 - fill) * LESS_THAN_FULL);
        }
        self.explained_refusals += 1;
        self.explained_at = now;
        let nearest = self.off.iter().zip(WINDOWS).min_by(|(a, _), (b, _)| a.total_cmp(b));
        self.window = nearest.map(|(_, window)| window);
        if let (Some(window), Some(bucket)) = (self.window, &mut self.bucket) {
            // What a full window holds back is made up for in later ones.
            bucket.set_capacity_seconds(window.as_secs_f64() * HELD_OF_WINDOW);
        }
        true
    }

    /// Drops a window that chance may have chosen. The more refusals a full window explained, the longer it is obeyed.
    fn forget_window(&mut self, now: Instant) {
        let known = now.saturating_duration_since(self.explained_at);
        if self.window.is_none() || known < WINDOW_OBEYED_FOR * self.explained_refusals.saturating_pow(2) {
            return;
        }
        self.window = None;
        if let Some(bucket) = &mut self.bucket {
            bucket.set_capacity_seconds(0.0);
            bucket.drain(now);
        }
    }

    fn is_full(&self, window: Duration, now: Instant) -> bool {
        self.configured
            .is_some_and(|limit| self.used_log.sum(window, now) >= limit * window.as_secs_f64() * FULL)
    }

    /// Whether headers state the limit.
    pub(super) fn is_stated(&self) -> bool {
        self.header_quota.per_second().is_some()
    }

    /// Takes up what a response states of this limit. `sent` is when its request was sent, `mark` the total that had
    /// been sent by then, in requests or tokens.
    pub(super) fn take_up_headers(&mut self, quota: &Quota, sent: Instant, mark: f64, now: Instant) {
        self.header_quota.take_up_headers(quota, sent, mark, self.sent, now);
        if self.configured.is_some() {
            return;
        }
        let Some(rate) = self.header_quota.per_second().map(|rate| rate * MARGIN) else {
            self.stated = None;
            return;
        };
        match &mut self.stated {
            Some(bucket) if (bucket.per_second() - rate).abs() > rate * 1e-6 => bucket.set_rate(rate, now),
            Some(_) => {}
            None => self.stated = Some(Bucket::new(rate, now)),
        }
    }

    /// Lowers the rate after the first refusal since the last pause. `sent` is when the refused request was sent,
    /// `delay` the pause that follows: as long as the provider asks for, or as admission has chosen. Returns whether
    /// the allowed rate is known.
    pub(super) fn refused(&mut self, sent: Instant, delay: Duration, now: Instant) -> LimitKnowledge {
        let going = self
            .running_since
            .map_or(Duration::ZERO, |running_since| sent.saturating_duration_since(running_since));
        match &mut self.episode {
            Some(episode) => episode.refusals += 1,
            None => {
                // The time of pauses belongs to a long window, unless the window was used up before its end. So the
                // amount is measured in both ways.
                let is_whole = self.is_long && self.sent_long_enough(sent);
                let sums = |before: Duration| (before, self.log.sum(before, sent));
                let lately = sums(going.min(MOST_MEASURED));
                let before = if is_whole { [sums(MOST_MEASURED), lately] } else { [lately; 2] };
                let ceiling = self.ceiling();
                self.episode = Some(Episode { began: sent, refusals: 1, before, ceiling });
                if self.sent_long_enough(sent) {
                    self.note_loads(sent);
                }
            }
        }
        self.is_long |= delay >= LONG_EPISODE;
        // A long delay is the rest of a long window: what the window allowed was sent in the time before.
        let measured = going.min((delay * 10).clamp(LEAST_MEASURED, MOST_MEASURED));
        let allowed = self.log.sum(measured, sent) / (measured + delay).as_secs_f64().max(1e-3);
        let is_soon = self.refused.is_some_and(|last| now.saturating_duration_since(last) < SOON);
        let has_gone =
            self.first_sent.map_or(Duration::ZERO, |first_sent| sent.saturating_duration_since(first_sent));
        // Only amounts that were let through show a limit; a time in which nothing was sent does not.
        let shows_limit = |let_through: f64| {
            let_through >= LEAST_LET_THROUGH
                || (let_through >= LEAST_IN_A_MINUTE && has_gone >= MOST_MEASURED)
        };
        let let_through = self.log.sum(measured, sent);
        let known = self.configured.or_else(|| self.header_quota.per_second()).map(|known| known * MARGIN);
        let is_enough = if known.is_some() { let_through >= 1.0 } else { shows_limit(let_through) };
        let is_measured = measured >= LEAST_GOING && is_enough;
        let is_sure =
            is_measured && (known.is_some() || let_through >= LEAST_SURE || has_gone >= MOST_MEASURED);
        let (before, remembered) = match (&self.learned, known) {
            (Some(learned), _) => (learned.bucket.per_second(), learned.ceiling),
            (None, Some(known)) => (known, known),
            (None, None) if is_measured => (allowed, allowed),
            (None, None) => {
                // It is too early to distinguish a limit from a passing fault: a pause is enough until more refusals
                // come.
                self.unmeasured += 1;
                if self.unmeasured < UNMEASURED_REFUSALS_FOR_LIMIT {
                    return LimitKnowledge::Nothing;
                }
                let let_through = self.log.sum(MOST_MEASURED, sent);
                if !shows_limit(let_through) {
                    return LimitKnowledge::Nothing;
                }
                let all = self
                    .first_sent
                    .map_or(Duration::ZERO, |first_sent| now.saturating_duration_since(first_sent));
                let guess = let_through / all.clamp(LEAST_GOING, MOST_MEASURED).as_secs_f64();
                (guess, guess)
            }
        };
        if !is_measured && self.episode.is_some_and(|episode| episode.refusals > MAX_LOWERINGS) {
            // Further refusals without an answer mean that the pause was too short, not that the limit is lower still.
            return LimitKnowledge::Ceiling;
        }
        let rate = before * if is_soon { AFTER_REFUSAL_SOON } else { AFTER_REFUSAL };
        // The time of pauses belongs to a long window: what the window allows is the amount sent in all of it.
        let in_all = self.is_long && self.sent_long_enough(sent);
        let held = |window: Duration| self.log.sum(window, sent) / (window + delay).as_secs_f64();
        let allowed = match self.long_window() {
            _ if !in_all => allowed,
            Some(window) => held(window),
            // Until the window is known: the rate over the longest one, or the geometric mean of both if that is
            // higher, because a pause may lie in the longest.
            None => {
                let [longest, shorter] = LONG_WINDOWS.map(held);
                if shorter > longest { (longest * shorter).sqrt() } else { longest }
            }
        };
        let (rate, ceiling) = if in_all || is_measured {
            (
                rate.min(allowed * AFTER_REFUSAL),
                allowed.clamp(remembered * MIN_CEILING_KEPT, before.max(remembered)),
            )
        } else {
            (rate, remembered * CEILING_KEPT_UNMEASURED)
        };
        self.learn(ceiling, rate, is_sure, now);
        self.refused = Some(now);
        LimitKnowledge::Ceiling
    }

    /// Records the amount sent in each long window before `sent`, when a refused request was sent.
    fn note_loads(&mut self, sent: Instant) {
        for (held, window) in self.held.iter_mut().zip(LONG_WINDOWS) {
            let sum = self.log.sum(window, sent);
            if held.times > 0 && held.mean > 0.0 {
                held.off +=
                    ((sum / held.mean - 1.0).abs() - held.off) / f64::from(held.times.min(LOADS_AVERAGED));
            }
            held.times += 1;
            held.mean += (sum - held.mean) / f64::from(held.times.min(LOADS_AVERAGED));
        }
    }

    /// The window over which the provider seems to count: the one whose amount varies least from refusal to refusal.
    /// `None` if too few refusals were seen.
    fn long_window(&self) -> Option<Duration> {
        let known = self.held.iter().zip(LONG_WINDOWS).filter(|(held, _)| held.times >= MIN_LOADS);
        known.min_by(|(a, _), (b, _)| a.off.total_cmp(&b.off)).map(|(_, window)| window)
    }

    fn sent_long_enough(&self, sent: Instant) -> bool {
        self.first_sent.is_some_and(|first_sent| sent.saturating_duration_since(first_sent) >= MOST_MEASURED)
    }

    /// Notes that a request sent after the last pause was answered, which ends the episode. If the provider stated no
    /// delay, only now is it known how long the refusals lasted, and so what rate the window allows.
    pub(super) fn answered_after_pause(&mut self, sent: Instant, now: Instant) {
        let Some(episode) = self.episode.take() else { return };
        let lasted = sent.saturating_duration_since(episode.began);
        let [(before, sent_before), _] = episode.before;
        if episode.refusals < 3 || lasted < LONG_EPISODE || sent_before < LEAST_LET_THROUGH {
            return;
        }
        let allowed = episode.before.map(|(before, sent)| sent / (before + lasted).as_secs_f64().max(1e-3));
        // Before the first two long episodes the rate may have been so high that a window was used up before its end.
        let allowed = if self.long_episodes < 2 { allowed[0].max(allowed[1]) } else { allowed[0] };
        let least = episode.ceiling.map_or(0.0, |ceiling| ceiling * MIN_CEILING_KEPT_LONG);
        let ceiling = allowed.max(least);
        self.is_long = true;
        self.learned = self.learned.take().map(|learned| LearnedRate { ceiling, is_sure: false, ..learned });
        self.long_episodes += 1;
        let is_sure = self.long_episodes > 1
            || self.long_window().is_some()
            || self.header_quota.per_second().is_some();
        self.learn(ceiling, ceiling * AFTER_REFUSAL, is_sure, now);
        if let Some(learned) = self.learned.as_mut().filter(|_| !is_sure) {
            let rate = sent_before / before.as_secs_f64().max(1e-3);
            learned.regrows = Some(rate / REGROWN_IN_SECONDS);
        }
    }

    /// Notes that a pause is over.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.running_since = Some(now);
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

    /// Raises the learned rate if it held requests back since the last call.
    fn grow(&mut self, now: Instant) {
        let most = self.configured.or_else(|| self.header_quota.per_second()).map(|rate| rate * MARGIN);
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
        // In longer gaps there was nothing to send.
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

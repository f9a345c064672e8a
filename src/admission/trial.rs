//! A short trial at a lower rate, which shows whether refusals are about the rate.
//!
//! If refusals are scattered among answers, only a part of the rate is sent for a while. A limit refuses nothing, or
//! much less, of that part; a server that refuses a share of all requests refuses the same share.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;

/// Number and size of the parts into which the newest outcomes are divided, and the minimum number of parts with a
/// refusal. Refusals are scattered if that many parts have one, and if each part has more answers than refusals.
const PARTS: usize = 4;
const PART: usize = 15;
const MIN_SCATTERED: usize = 3;
/// The most outcomes over which the refused share is measured.
const NEWEST: usize = 200;
/// Part of the former rate that is sent during a trial.
const RATE_PART: f64 = 0.3;
/// A trial ends when this many refusals would have come if sending less did not help.
const EXPECTED_REFUSALS: f64 = 8.0;
/// A trial that would take longer is not begun.
const MAX_DURATION: Duration = Duration::from_secs(15);
/// Refusals come as often if their share, divided by the share before the trial, is in this range. A limit would refuse
/// nothing at such a low rate; but only few refusals are counted, and their number varies by chance.
const SHARE_RATIO_AS_OFTEN: std::ops::RangeInclusive<f64> = 0.2..=2.5;

/// Maximum number of outcomes that wait for outcomes of earlier requests, or twice the number of requests in flight if
/// that is more.
const MIN_WAITING: usize = 1_000;

/// The newest outcomes, and the trial while there is one.
///
/// Outcomes are counted in the order in which the requests were sent. Refusals come sooner than answers, so that
/// otherwise a limit that was just reached would look like refusals among answers.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// The newest outcomes; `true` is a refusal.
    newest: VecDeque<bool>,
    /// Outcomes of requests sent after one that is still in flight, by the number of the request.
    waiting: BTreeMap<u64, SentOutcome>,
    trial: Option<Trial>,
}

/// The outcome of a request, and when the request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentOutcome {
    pub(super) is_refused: bool,
    pub(super) sent: Instant,
}

/// A trial under way.
#[derive(Clone, Copy, Debug)]
struct Trial {
    began: Instant,
    /// Share of requests that was refused before it, and requests per second that were answered.
    share: f64,
    allowed: f64,
    /// Outcomes of requests that were sent during it, and the refusals among them.
    outcomes: f64,
    refused: f64,
}

/// What a trial showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TrialVerdict {
    /// Less is refused when less is sent: there is a limit, of this many requests per second.
    Limit(f64),
    /// As much is refused when less is sent: this share of requests.
    AnyRate(f64),
}

impl Trials {
    pub(super) fn is_under_way(&self) -> bool {
        self.trial.is_some()
    }

    /// Begins a trial if refusals are scattered and it would be short. `rate` is the latest send rate, in requests per
    /// second. Returns the rate of the trial, per second, or `None` if none begins.
    pub(super) fn begin(&mut self, rate: f64, now: Instant) -> Option<f64> {
        let share = self.scattered_share()?;
        let per_second = rate * RATE_PART;
        if per_second * share * MAX_DURATION.as_secs_f64() < EXPECTED_REFUSALS {
            return None;
        }
        self.trial =
            Some(Trial { began: now, share, allowed: rate * (1.0 - share), outcomes: 0.0, refused: 0.0 });
        Some(per_second)
    }

    /// Counts the outcome of a request; `in_flight` holds the numbers of those without one. Returns the verdict if a
    /// trial ends.
    pub(super) fn count<T>(
        &mut self,
        number: u64,
        outcome: SentOutcome,
        in_flight: &BTreeMap<u64, T>,
    ) -> Option<TrialVerdict> {
        self.waiting.insert(number, outcome);
        let most_waiting = MIN_WAITING.max(in_flight.len() * 2);
        let oldest = in_flight.first_key_value().map_or(u64::MAX, |(oldest, _)| *oldest);
        let mut verdict = None;
        while self.waiting.first_key_value().is_some_and(|(first, _)| *first < oldest)
            || self.waiting.len() > most_waiting
        {
            let (_, outcome) = self.waiting.pop_first()?;
            verdict = verdict.or(self.count_in_order(outcome));
        }
        verdict
    }

    fn count_in_order(&mut self, SentOutcome { is_refused, sent }: SentOutcome) -> Option<TrialVerdict> {
        self.newest.push_back(is_refused);
        if self.newest.len() > NEWEST {
            self.newest.pop_front();
        }
        let trial = self.trial.as_mut().filter(|trial| sent > trial.began)?;
        trial.outcomes += 1.0;
        trial.refused += f64::from(u8::from(is_refused));
        if trial.outcomes * trial.share < EXPECTED_REFUSALS {
            return None;
        }
        let share = trial.refused / trial.outcomes;
        let is_as_often = SHARE_RATIO_AS_OFTEN.contains(&(share / trial.share));
        let verdict =
            if is_as_often { TrialVerdict::AnyRate(share) } else { TrialVerdict::Limit(trial.allowed) };
        self.trial = None;
        self.newest.clear();
        Some(verdict)
    }

    /// The share of refusals among the newest outcomes, if they are scattered.
    fn scattered_share(&self) -> Option<f64> {
        if self.newest.len() < PARTS * PART {
            return None;
        }
        let mut parts = [0; PARTS];
        for (at, is_refused) in self.newest.iter().rev().take(PARTS * PART).enumerate() {
            parts[at / PART] += usize::from(*is_refused);
        }
        let scattered = parts.iter().filter(|refused| **refused > 0).count();
        let is_mostly_answered = parts.iter().all(|refused| refused * 2 < PART);
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let share =
            self.newest.iter().filter(|is_refused| **is_refused).count() as f64 / self.newest.len() as f64;
        (scattered >= MIN_SCATTERED && is_mostly_answered).then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Counts outcomes of requests that are sent one after the other, each answered before the next is sent.
    struct TrialFeed {
        trials: Trials,
        sent: u64,
        now: Instant,
    }

    impl TrialFeed {
        fn new() -> Self {
            TrialFeed { trials: Trials::default(), sent: 0, now: clock::now() }
        }

        fn count(&mut self, outcomes: impl IntoIterator<Item = bool>) -> Option<TrialVerdict> {
            let mut verdict = None;
            for is_refused in outcomes {
                self.sent += 1;
                self.now += Duration::from_millis(1);
                let outcome = SentOutcome { is_refused, sent: self.now };
                verdict = verdict.or(self.trials.count(self.sent, outcome, &BTreeMap::<u64, ()>::new()));
            }
            verdict
        }
    }

    fn every_tenth(count: u32) -> impl Iterator<Item = bool> {
        (0..count).map(|at| at % 10 == 9)
    }

    #[test]
    fn refusals_that_come_as_often_at_a_lower_rate_are_not_about_the_rate() {
        let mut feed = TrialFeed::new();
        assert_eq!(feed.count(every_tenth(100)), None);
        let rate = feed.trials.begin(1_000.0, feed.now).expect("a trial");
        assert_eq!(rate, 300.0);
        let Some(TrialVerdict::AnyRate(share)) = feed.count(every_tenth(100)) else {
            panic!("no such verdict")
        };
        assert!((0.09..0.11).contains(&share), "{share}");
        assert!(!feed.trials.is_under_way());
    }

    #[test]
    fn refusals_that_stop_at_a_lower_rate_are_about_a_limit() {
        let mut feed = TrialFeed::new();
        feed.count(every_tenth(100));
        feed.trials.begin(1_000.0, feed.now).expect("a trial");
        assert_eq!(feed.count([false; 100]), Some(TrialVerdict::Limit(900.0)));
    }

    #[test]
    fn a_window_that_is_used_up_is_not_tried() {
        let mut feed = TrialFeed::new();
        feed.count([false; 100]);
        feed.count([true; 40]);
        assert_eq!(feed.trials.begin(1_000.0, feed.now), None, "one refusal after the other");
    }

    #[test]
    fn refusals_are_looked_at_when_earlier_requests_have_their_outcome() {
        let mut feed = TrialFeed::new();
        feed.count([false; 100]);
        // The first of forty is still in flight: the refusals of the others, which came at once, do not count yet.
        let first = feed.sent + 1;
        for number in first + 1..first + 40 {
            let outcome = SentOutcome { is_refused: number % 3 == 0, sent: feed.now };
            feed.trials.count(number, outcome, &BTreeMap::from([(first, ())]));
        }
        assert_eq!(feed.trials.begin(1_000.0, feed.now), None);
        feed.trials.count(
            first,
            SentOutcome { is_refused: false, sent: feed.now },
            &BTreeMap::<u64, ()>::new(),
        );
        assert!(feed.trials.begin(1_000.0, feed.now).is_some());
    }

    #[test]
    fn a_trial_that_would_take_long_is_not_begun() {
        let mut feed = TrialFeed::new();
        feed.count(every_tenth(100));
        assert_eq!(feed.trials.begin(10.0, feed.now), None);
    }
}

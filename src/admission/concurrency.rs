//! How many requests may be in flight at once.
//!
//! The first goes alone: it shows whether key and model are right. Then eight go, and eight times as many from round
//! trip to round trip, up to the number that is configured; a provider that answered a number at once within the
//! last day begins with that number. Where none is configured the number grows for as long as that makes the
//! provider faster: a server that queues what it cannot work on (vLLM, Ollama) refuses nothing, it only answers
//! later.

use crate::clock::Instant;

/// What the first answers add to the number in flight, each: eight times as many from round to round.
const OPENING_STEP: u32 = 7;
/// Where the number is learned, the first to be compared with.
const FIRST_COMPARED: u32 = 8;
/// Where the number is learned, how it grows: by the first factor while that is worth it, then by the second.
const GROWTH: [u32; 2] = [4, 2];
/// Of the growth in requests in flight, this share must come back as growth in throughput.
const WORTH: f64 = 0.25;
/// Rounds at a number that was found right before a higher one is tried again.
const HELD_ROUNDS: u32 = 12;
/// A provider most of whose answers are failures is asked by so many at once, at least.
const LEAST_HALVED: u32 = 4;

/// The number of requests in flight.
#[derive(Debug)]
pub(super) struct Concurrency {
    most: u32,
    limit: u32,
    /// Less than the limit, at the start and after a pause.
    ramp: Option<u32>,
    /// Whether it grows as at the start: nothing went wrong so far.
    is_opening: bool,
    /// Whether anything was heard.
    has_answered: bool,
    /// The most that were in flight when an answer came, since anything went wrong.
    healthy: u32,
    learning: Option<Learning>,
}

#[derive(Debug)]
struct Learning {
    /// The number before the last growth and what was done at it, in a second.
    before: Option<(u32, f64)>,
    /// Rounds for which the number is held; none while it grows.
    held: Option<u32>,
    /// Which factor of [`GROWTH`] it grows by.
    factor: usize,
    round: Round,
}

/// As many answers as requests may be in flight, or twice as many.
#[derive(Debug, Default)]
struct Round {
    began: Option<Instant>,
    answers: u32,
    /// Tokens, or answers where nobody counts tokens.
    work: f64,
    /// Answers that came while the limit held others back.
    bound: u32,
}

impl Concurrency {
    /// `learns` tells whether `most` is a bound rather than somebody's wish.
    pub(super) fn new(most: u32, learns: bool) -> Self {
        let learning =
            learns.then(|| Learning { before: None, held: None, factor: 0, round: Round::default() });
        Concurrency {
            most,
            limit: if learns { FIRST_COMPARED.min(most) } else { most },
            ramp: Some(1),
            is_opening: true,
            has_answered: false,
            healthy: 0,
            learning,
        }
    }

    /// How many may be in flight now.
    pub(super) fn now(&self) -> u32 {
        self.ramp.map_or(self.limit, |ramp| ramp.min(self.limit))
    }

    /// What was learned; none if nothing was to be.
    pub(super) fn learned(&self) -> Option<u32> {
        self.learning.as_ref().and_then(|learning| learning.held.map(|_| self.limit))
    }

    /// Takes up what a former run learned.
    pub(super) fn remember(&mut self, limit: u32) {
        if let Some(learning) = &mut self.learning {
            self.limit = limit.clamp(1, self.most);
            learning.held = Some(0);
        }
    }

    /// Takes up that a former run had so many in flight without trouble: as many may go at once.
    pub(super) fn open_with(&mut self, in_flight: u32) {
        self.ramp = Some(in_flight.max(1)).filter(|ramp| *ramp < self.limit);
    }

    /// The most that were in flight without trouble, where anything was.
    pub(super) fn healthy(&self) -> Option<u32> {
        (self.healthy > 0).then_some(self.healthy)
    }

    /// Whether anything was heard.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Only one until it is answered, then twice as many from round to round.
    pub(super) fn collapse(&mut self) {
        self.ramp = Some(1);
        self.is_opening = false;
        self.healthy = 0;
    }

    /// Half as many.
    pub(super) fn halve(&mut self) {
        self.ramp = Some((self.now() / 2).max(LEAST_HALVED)).filter(|ramp| *ramp < self.limit);
        self.is_opening = false;
        self.healthy = 0;
    }

    /// As many as are allowed: what they were held back for was no reason.
    pub(super) fn reopen(&mut self) {
        self.ramp = None;
    }

    /// A request was answered, with so many tokens, while so many were in flight; `is_bound` tells that others waited
    /// for its place, and `is_paced` that a limit holds back the requests that may be in flight.
    pub(super) fn answered(
        &mut self,
        tokens: f64,
        in_flight: u32,
        is_bound: bool,
        is_paced: bool,
        now: Instant,
    ) {
        self.healthy = self.healthy.max(in_flight);
        if let Some(ramp) = self.ramp {
            // The first answer of all opens what was configured at once, where a limit holds it back.
            let ramp = match (is_paced, self.is_opening) {
                (true, true) => u32::MAX,
                (true, false) => ramp.saturating_mul(2),
                // Nobody knows how many a second are right.
                (false, true) => ramp.saturating_add(OPENING_STEP),
                (false, false) => ramp.saturating_add(1),
            };
            self.ramp = Some(ramp).filter(|ramp| *ramp < self.limit);
        }
        self.has_answered = true;
        let Some(learning) = &mut self.learning else { return };
        let round = &mut learning.round;
        let began = *round.began.get_or_insert(now);
        round.answers += 1;
        round.work += tokens.max(1.0);
        round.bound += u32::from(is_bound);
        if round.answers < self.limit.saturating_mul(2) {
            return;
        }
        let round = std::mem::take(round);
        if round.bound * 2 < round.answers {
            return;
        }
        let seconds = now.saturating_duration_since(began).as_secs_f64().max(1e-6);
        self.compare(round.work / seconds);
    }

    /// Ends a round in which so much was done in a second.
    fn compare(&mut self, done: f64) {
        let Some(learning) = &mut self.learning else { return };
        if let Some(rounds) = learning.held {
            learning.held = Some(rounds + 1);
            if rounds + 1 >= HELD_ROUNDS && self.limit < self.most {
                learning.held = None;
                learning.factor = GROWTH.len() - 1;
                learning.before = Some((self.limit, done));
                self.limit = (self.limit + self.limit / 4 + 1).min(self.most);
            }
            return;
        }
        if let Some((limit, before)) = learning.before {
            let grown = f64::from(self.limit) / f64::from(limit) - 1.0;
            if done < before * (1.0 + WORTH * grown) {
                learning.factor += 1;
                self.limit = limit;
                match GROWTH.get(learning.factor) {
                    Some(factor) => self.limit = limit.saturating_mul(*factor).min(self.most),
                    None => {
                        learning.factor = GROWTH.len() - 1;
                        learning.held = Some(0);
                    }
                }
                return;
            }
        }
        learning.before = Some((self.limit, done));
        if self.limit == self.most {
            learning.held = Some(0);
        } else {
            self.limit = self.limit.saturating_mul(GROWTH[learning.factor]).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    /// A server with so many slots, each a second an answer, asked by rounds.
    fn settled(slots: u32, most: u32) -> u32 {
        let mut concurrency = Concurrency::new(most, true);
        let mut now = clock::now();
        let mut highest = 0;
        for _ in 0..60 {
            let at_once = concurrency.now();
            // So long does each answer take when more are in flight than there are slots.
            let every = Duration::from_secs(1) / at_once.min(slots);
            for _ in 0..at_once {
                now += every;
                concurrency.answered(100.0, at_once, true, false, now);
            }
            highest = highest.max(concurrency.now());
        }
        assert!(highest <= most);
        concurrency.now()
    }

    #[test]
    fn it_grows_until_the_server_is_no_faster() {
        assert_eq!(settled(1_000, 64), 64);
        for (slots, most) in [(16, 256), (4, 64), (100, 512)] {
            let settled = settled(slots, most);
            assert!((slots / 2..=slots * 3).contains(&settled), "{settled} at once for {slots} slots");
        }
    }

    #[test]
    fn what_was_configured_opens_with_the_first_answer_and_comes_back_by_doubling() {
        let mut concurrency = Concurrency::new(64, false);
        let now = clock::now();
        assert_eq!(concurrency.now(), 1);
        concurrency.answered(1.0, 1, true, true, now);
        assert_eq!(concurrency.now(), 64);
        concurrency.collapse();
        let ramp: Vec<u32> = std::iter::repeat_with(|| {
            concurrency.answered(1.0, 1, true, true, now);
            concurrency.now()
        })
        .take(6)
        .collect();
        assert_eq!(ramp, [2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn without_a_limit_it_opens_eightfold_from_round_to_round_and_comes_back_twofold() {
        let now = clock::now();
        let rounds = |concurrency: &mut Concurrency| {
            let mut round = || {
                (0..concurrency.now()).for_each(|_| concurrency.answered(1.0, 1, true, false, now));
                concurrency.now()
            };
            [round(), round(), round(), round()]
        };
        let mut concurrency = Concurrency::new(256, false);
        assert_eq!(rounds(&mut concurrency), [8, 64, 256, 256]);
        concurrency.collapse();
        assert_eq!(rounds(&mut concurrency), [2, 4, 8, 16]);
    }

    #[test]
    fn what_was_healthy_opens_at_once_and_the_first_failure_collapses_it() {
        let mut concurrency = Concurrency::new(256, false);
        concurrency.open_with(100);
        assert_eq!(concurrency.now(), 100);
        concurrency.collapse();
        assert_eq!(concurrency.now(), 1);
        let mut learned = Concurrency::new(64, true);
        learned.open_with(1_000);
        assert_eq!(learned.now(), FIRST_COMPARED, "no more than is allowed");
    }
}

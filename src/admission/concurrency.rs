//! How many requests may be in flight at once.
//!
//! The first request goes alone: it shows whether key and model are right. Then eight go, and eight times as many from
//! round trip to round trip, up to the configured number. A provider that answered several at once within the last day
//! begins with that number. If no number is configured, it grows for as long as that makes the provider faster: a
//! server that queues what it cannot process yet (vLLM, Ollama) refuses nothing, it only answers later.

use crate::clock::Instant;

/// Number that each answer adds at the start, so that the number grows eightfold from round to round.
const OPENING_STEP: u32 = 7;
/// The number with which learning begins.
const FIRST_COMPARED: u32 = 8;
/// Factors by which a learned number grows: the first until its growth no longer pays, then the second.
const GROWTH: [u32; 2] = [4, 2];
/// Share of the growth in requests in flight that must come back as growth in throughput.
const WORTH: f64 = 0.25;
/// Number of rounds for which a learned number is held before a higher one is tried.
const HELD_ROUNDS: u32 = 12;
/// Minimum number after halving, for a provider that fails most requests.
const LEAST_HALVED: u32 = 4;

/// The number of requests that may be in flight.
#[derive(Debug)]
pub(super) struct Concurrency {
    most: u32,
    limit: u32,
    /// The current number if it is below the limit, as at the start and after a pause.
    ramp: Option<u32>,
    /// Whether it grows as at the start, because nothing went wrong so far.
    is_opening: bool,
    /// Whether the provider has answered at least once.
    has_answered: bool,
    /// The most requests in flight when an answer came, since the last trouble.
    healthy: u32,
    learning: Option<Learning>,
}

#[derive(Debug)]
struct Learning {
    /// The number before the last growth, and the work done at it per second.
    before: Option<(u32, f64)>,
    /// Rounds for which the number has been held; `None` while it grows.
    held: Option<u32>,
    /// Index of the current factor in [`GROWTH`].
    factor: usize,
    round: Round,
}

/// The answers of a round, which ends after twice as many answers as requests may be in flight.
#[derive(Debug, Default)]
struct Round {
    began: Option<Instant>,
    answers: u32,
    /// Tokens, or answers if tokens are not counted.
    work: f64,
    /// Answers that came while the limit held other requests back.
    bound: u32,
}

impl Concurrency {
    /// Creates the state for at most `most` requests. With `learns`, the right number up to `most` is to be learned.
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

    /// The number of requests that may be in flight now.
    pub(super) fn now(&self) -> u32 {
        self.ramp.map_or(self.limit, |ramp| ramp.min(self.limit))
    }

    /// The learned number, or `None` if it is not to be learned or still grows.
    pub(super) fn learned(&self) -> Option<u32> {
        self.learning.as_ref().and_then(|learning| learning.held.map(|_| self.limit))
    }

    /// Takes over the number that a former run learned.
    pub(super) fn remember(&mut self, limit: u32) {
        if let Some(learning) = &mut self.learning {
            self.limit = limit.clamp(1, self.most);
            learning.held = Some(0);
        }
    }

    /// Starts with the number that a former run had in flight without trouble.
    pub(super) fn open_with(&mut self, in_flight: u32) {
        self.ramp = Some(in_flight.max(1)).filter(|ramp| *ramp < self.limit);
    }

    /// The most requests in flight without trouble, or `None` if there were none.
    pub(super) fn healthy(&self) -> Option<u32> {
        (self.healthy > 0).then_some(self.healthy)
    }

    /// Whether the provider has answered at least once.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Allows one request until it is answered; from then on the number doubles.
    pub(super) fn collapse(&mut self) {
        self.ramp = Some(1);
        self.is_opening = false;
        self.healthy = 0;
    }

    /// Halves the number.
    pub(super) fn halve(&mut self) {
        self.ramp = Some((self.now() / 2).max(LEAST_HALVED)).filter(|ramp| *ramp < self.limit);
        self.is_opening = false;
        self.healthy = 0;
    }

    /// Allows the full number again: there was no reason to hold requests back.
    pub(super) fn reopen(&mut self) {
        self.ramp = None;
    }

    /// Counts an answer with `tokens` that came while `in_flight` requests were in flight. `is_bound` means that other
    /// requests waited for a free place, `is_paced` that a rate limit is known, which holds requests back as well.
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
            // If a rate limit holds requests back, the first answer of the run allows the full number at once.
            let ramp = match (is_paced, self.is_opening) {
                (true, true) => u32::MAX,
                (true, false) => ramp.saturating_mul(2),
                // Without a known limit, the right number of requests per second is unknown.
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

    /// Ends a round in which the work `done` was done per second, and decides about the next number.
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

    /// The number reached with a server of `slots` slots, each a second per answer, that is sent requests in rounds.
    fn settled(slots: u32, most: u32) -> u32 {
        let mut concurrency = Concurrency::new(most, true);
        let mut now = clock::now();
        let mut highest = 0;
        for _ in 0..60 {
            let at_once = concurrency.now();
            // Time between two answers: each slot gives one a second.
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

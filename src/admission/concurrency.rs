//! How many requests may be in flight at once.
//!
//! One goes alone until something is heard. Where nobody configured how many are right, the number doubles
//! from round to round for as long as that makes the provider faster: a server that queues what it cannot
//! work on (vLLM, Ollama) refuses nothing, it only answers later.

use crate::clock::Instant;

/// Below so many at once, rounds are too short to tell anything.
const LEAST_COMPARED: u32 = 8;
/// Of the growth in requests in flight, this share must come back as growth in throughput.
const WORTH: f64 = 0.25;
/// Rounds at a number that was found right before a higher one is tried again.
const HELD_ROUNDS: u32 = 12;

/// The number of requests in flight.
#[derive(Debug)]
pub(super) struct Concurrency {
    most: u32,
    limit: u32,
    /// Less than the limit, after a pause: it doubles with each answer.
    ramp: Option<u32>,
    /// Whether anything was heard.
    is_heard: bool,
    learning: Option<Learning>,
}

#[derive(Debug)]
struct Learning {
    /// The number before the last growth and what was done at it, in a second.
    before: Option<(u32, f64)>,
    /// Rounds for which the number is held; none while it grows.
    held: Option<u32>,
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
        let learning = learns.then(|| Learning { before: None, held: None, round: Round::default() });
        Concurrency {
            most,
            limit: if learns { 2.min(most) } else { most },
            ramp: Some(1),
            is_heard: false,
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

    /// Only one until it is answered, then twice as many with each answer.
    pub(super) fn collapse(&mut self) {
        self.ramp = Some(1);
    }

    /// A request was answered, with so many tokens; `is_bound` tells that others waited for its place, and
    /// `is_paced` that a limit holds back the requests that may be in flight.
    pub(super) fn answered(&mut self, tokens: f64, is_bound: bool, is_paced: bool, now: Instant) {
        if let Some(ramp) = self.ramp {
            // The first answer of all opens what was configured at once, where a limit holds it back.
            let ramp = match (is_paced, self.is_heard) {
                (true, false) => u32::MAX,
                (true, true) => ramp.saturating_mul(2),
                // Nobody knows how many a second are right: twice as many with each round.
                (false, _) => ramp + 1,
            };
            self.ramp = Some(ramp).filter(|ramp| *ramp < self.limit);
        }
        self.is_heard = true;
        let Some(learning) = &mut self.learning else { return };
        let round = &mut learning.round;
        let began = *round.began.get_or_insert(now);
        round.answers += 1;
        round.work += tokens.max(1.0);
        round.bound += u32::from(is_bound);
        let is_compared = self.limit >= LEAST_COMPARED;
        if round.answers < if is_compared { self.limit.saturating_mul(2) } else { self.limit } {
            return;
        }
        let round = std::mem::take(round);
        if round.bound * 2 < round.answers {
            return;
        }
        let seconds = now.saturating_duration_since(began).as_secs_f64().max(1e-6);
        self.compare(round.work / seconds, is_compared);
    }

    /// Ends a round in which so much was done in a second.
    fn compare(&mut self, done: f64, is_compared: bool) {
        let Some(learning) = &mut self.learning else { return };
        if let Some(rounds) = learning.held {
            learning.held = Some(rounds + 1);
            if rounds + 1 >= HELD_ROUNDS && self.limit < self.most {
                learning.held = None;
                learning.before = Some((self.limit, done));
                self.limit = (self.limit + self.limit / 4 + 1).min(self.most);
            }
            return;
        }
        if let Some((limit, before)) = learning.before.filter(|_| is_compared) {
            let grown = f64::from(self.limit) / f64::from(limit) - 1.0;
            if done < before * (1.0 + WORTH * grown) {
                self.limit = limit;
                learning.held = Some(0);
                return;
            }
        }
        learning.before = Some((self.limit, done));
        if self.limit == self.most {
            learning.held = Some(0);
        } else {
            self.limit = self.limit.saturating_mul(2).min(self.most);
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
                concurrency.answered(100.0, true, false, now);
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
        concurrency.answered(1.0, true, true, now);
        assert_eq!(concurrency.now(), 64);
        concurrency.collapse();
        let ramp: Vec<u32> = std::iter::repeat_with(|| {
            concurrency.answered(1.0, true, true, now);
            concurrency.now()
        })
        .take(6)
        .collect();
        assert_eq!(ramp, [2, 4, 8, 16, 32, 64]);
        let mut unlimited = Concurrency::new(64, false);
        (0..10).for_each(|_| unlimited.answered(1.0, true, false, now));
        assert_eq!(unlimited.now(), 11, "twice as many with each round, and no more");
    }
}

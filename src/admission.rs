//! Whether a provider may be sent another request now. Pure state: the caller brings the time.
//!
//! Immediately before a send it grants everything at once or nothing: no pause, no open breaker, a place
//! among the requests in flight, and a request of the quota. Nothing waits while holding one of them.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::{Instant, Jitter};
use crate::config::Provider;
use crate::event::Waiting;
use crate::fault::{Class, Failure};
use crate::ident::Cell;

/// So many rows, one failure after the other, open the breaker. Rows, not attempts: a few rows that the
/// provider chokes on are not an outage.
const BREAKER_ROWS: usize = 10;
const FIRST_PROBE: Duration = Duration::from_secs(2);
const LAST_PROBE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The answer to "may I send?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Yes; everything it takes is granted.
    Now,
    /// Not before this moment, and why.
    At(Instant, Waiting),
    /// Not before a request in flight has ended.
    WhenOneEnds,
}

/// What a failed attempt means for its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It was one of the row's attempts.
    Row,
    /// It was the provider's trouble; the row loses nothing.
    Provider,
    /// It is the end of the run.
    Run(Failure),
}

/// The state of one provider.
#[derive(Debug)]
pub struct Admission {
    max_concurrency: u32,
    /// Requests that may be in flight now; grows back to the most after a pause.
    concurrency: u32,
    in_flight: u32,
    requests: Option<Requests>,
    blocked_until: Option<Instant>,
    /// Rows whose attempts failed since the last answer.
    failing: BTreeSet<Cell>,
    /// Pauses and probes since the last answer.
    streak: u32,
    /// Whether it comes back from a pause: twice as many at once with each answer.
    recovering: bool,
    is_open: bool,
    /// Whether the provider has answered anything in this run.
    has_answered: bool,
    /// Rises with each pause; tells what was sent before it.
    generation: u64,
    failing_since: Option<Instant>,
    max_retry_after: Duration,
    outage_deadline: Duration,
    jitter: Jitter,
}

impl Admission {
    /// The state of a provider at the start of a run: one request alone until something is heard.
    #[must_use]
    pub fn new(provider: &Provider, now: Instant, jitter: Jitter) -> Self {
        Admission {
            max_concurrency: provider.max_concurrency,
            concurrency: 1,
            in_flight: 0,
            requests: provider.requests_per_minute.and_then(|limit| Requests::new(limit, now)),
            blocked_until: None,
            failing: BTreeSet::new(),
            streak: 0,
            recovering: false,
            is_open: false,
            has_answered: false,
            generation: 0,
            failing_since: None,
            max_retry_after: provider.retry.max_retry_after,
            outage_deadline: provider.retry.outage_deadline,
            jitter,
        }
    }

    /// Takes everything that a request needs, or nothing.
    pub fn admit(&mut self, now: Instant) -> Admit {
        if let Some(until) = self.blocked_until {
            if now < until {
                let waiting = if self.is_open { Waiting::Breaker } else { Waiting::Pause };
                return Admit::At(until, waiting);
            }
            self.blocked_until = None;
        }
        if self.in_flight >= self.concurrency {
            return Admit::WhenOneEnds;
        }
        if let Some(wait) = self.requests.as_ref().and_then(|requests| requests.take(now)) {
            return Admit::At(now + wait, Waiting::RequestsPerMinute);
        }
        self.in_flight += 1;
        Admit::Now
    }

    /// Stands for the time between two pauses; to be given back with the answer.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A request that was sent in this generation was answered, be it with a refusal that is the row's own.
    pub fn answered(&mut self, generation: u64) {
        self.ended();
        self.has_answered = true;
        if generation != self.generation {
            // It was sent before the pause and says nothing about now.
            return;
        }
        self.concurrency = if self.recovering {
            self.concurrency.saturating_mul(2).min(self.max_concurrency)
        } else {
            self.max_concurrency
        };
        self.recovering &= self.concurrency < self.max_concurrency;
        self.streak = 0;
        self.failing.clear();
        self.failing_since = None;
        self.is_open = false;
    }

    /// A request in flight ended without being answered or counted: it was abandoned.
    pub fn abandoned(&mut self) {
        self.ended();
    }

    /// An attempt of a row that was sent in this generation failed in a way that another one may not. Says
    /// whose fault that is; `is_last` tells that the row would have no attempt left.
    pub fn failed(
        &mut self,
        now: Instant,
        generation: u64,
        row: Cell,
        failure: &Failure,
        is_last: bool,
    ) -> Blame {
        self.ended();
        self.failing.insert(row);
        let since = *self.failing_since.get_or_insert(now);
        if is_last && !self.has_answered && !self.is_open {
            let detail = format!("it has answered nothing in this run: {}", failure.detail);
            return Blame::Run(Failure::new(Class::Unavailable, detail));
        }
        if now - since > self.outage_deadline {
            return Blame::Run(self.gave_up(now - since, failure));
        }
        if self.is_open {
            // What was in flight when it opened is part of the same trouble.
            if generation == self.generation {
                self.probe_later(now);
            }
            return Blame::Provider;
        }
        if self.failing.len() >= BREAKER_ROWS {
            self.is_open = true;
            self.probe_later(now);
        }
        Blame::Row
    }

    /// The provider asked to wait, for a request sent in this generation. The row loses nothing.
    pub fn throttled(&mut self, now: Instant, generation: u64, failure: &Failure) -> Blame {
        self.ended();
        let since = *self.failing_since.get_or_insert(now);
        if let Some(delay) = failure.delay.filter(|delay| *delay > self.max_retry_after) {
            let wait = humantime::format_duration(Duration::from_secs(delay.as_secs()));
            let detail = format!("it asks to come back in {wait}: {}", failure.detail);
            return Blame::Run(Failure::new(Class::RateLimited, detail));
        }
        if now - since > self.outage_deadline {
            return Blame::Run(self.gave_up(now - since, failure));
        }
        if generation != self.generation {
            // One pause for all that was in flight, except that the longest delay counts.
            if let Some(delay) = failure.delay {
                self.blocked_until = self.blocked_until.max(Some(now + delay));
            }
            return Blame::Provider;
        }
        let own = doubled(FIRST_PAUSE, self.streak, LAST_PAUSE);
        let pause = failure.delay.unwrap_or_else(|| own / 2 + self.jitter.full(own / 2));
        self.pause(now + pause);
        Blame::Provider
    }

    /// For how long nothing is sent, if that is so.
    #[must_use]
    pub fn pause_left(&self, now: Instant) -> Option<Duration> {
        self.blocked_until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn ended(&mut self) {
        self.in_flight = self.in_flight.checked_sub(1).expect("a request that ends was in flight");
    }

    fn probe_later(&mut self, now: Instant) {
        let wait = doubled(FIRST_PROBE, self.streak, LAST_PROBE);
        let pause = wait / 2 + self.jitter.full(wait / 2);
        self.pause(now + pause);
    }

    fn pause(&mut self, until: Instant) {
        self.streak = self.streak.saturating_add(1);
        self.recovering = true;
        self.concurrency = 1;
        self.generation += 1;
        self.blocked_until = self.blocked_until.max(Some(until));
    }

    fn gave_up(&self, waited: Duration, failure: &Failure) -> Failure {
        let waited = humantime::format_duration(Duration::from_secs(waited.as_secs()));
        Failure::new(
            Class::Unavailable,
            format!("no success within {waited}; the last failure was {failure}"),
        )
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

/// Requests per minute, by governor's GCRA on the caller's clock.
struct Requests {
    limiter: RateLimiter<NotKeyed, InMemoryState, SetClock, NoOpMiddleware<Elapsed>>,
    clock: SetClock,
    origin: Instant,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Requests")
    }
}

impl Requests {
    /// Bursts are worth one second: some providers check a minute's limit over windows that short.
    fn new(per_minute: u32, now: Instant) -> Option<Self> {
        let burst = NonZeroU32::new(per_minute.div_ceil(60))?;
        let quota = Quota::with_period(Duration::from_secs(60) / per_minute)?.allow_burst(burst);
        let clock = SetClock::default();
        Some(Requests { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock, origin: now })
    }

    /// Takes one; or says how long it takes until there is one.
    fn take(&self, now: Instant) -> Option<Duration> {
        let elapsed = self.clock.set(now - self.origin);
        self.limiter
            .check()
            .err()
            .map(|refused| refused.wait_time_from(elapsed).max(Duration::from_micros(1)))
    }
}

/// A clock that stands where it was last set.
#[derive(Clone, Debug, Default)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn set(&self, elapsed: Duration) -> Elapsed {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
        Duration::from_nanos(nanos)
    }
}

type Elapsed = Duration;

impl Clock for SetClock {
    type Instant = Elapsed;

    fn now(&self) -> Elapsed {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

const _: fn() = || {
    fn is_reference<T: Reference>() {}
    is_reference::<Elapsed>();
};

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::clock;
    use crate::config::Job;
    use crate::ident::{BatchId, StepId};

    fn admission(more: &str) -> (Admission, Instant) {
        let text = format!(
            "app_id = \"a\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\n\
             base_url = \"simulator\"\nmodel = \"m\"\nmax_concurrency = 4\n{more}\n\
             [[step]]\noutput = \"o\"\nprompt = \"p\"\n"
        );
        let job = Job::parse(Path::new("/job.toml"), &text, |_| None).unwrap();
        let now = clock::now();
        (Admission::new(&job.providers[0], now, Jitter::seeded(1)), now)
    }

    fn failure(class: Class) -> Failure {
        Failure::new(class, "no")
    }

    /// Requests that are admitted at once.
    fn burst(admission: &mut Admission, now: Instant) -> u32 {
        (0..).take_while(|_| admission.admit(now) == Admit::Now).count().try_into().unwrap()
    }

    fn row(row: u32) -> Cell {
        Cell { batch: BatchId::FIRST, row, step: StepId::FIRST }
    }

    /// A state that has heard of its provider.
    fn heard() -> (Admission, Instant) {
        let (mut admission, now) = admission("");
        admission.admit(now);
        admission.answered(0);
        (admission, now)
    }

    #[test]
    fn one_request_goes_alone_until_something_is_heard() {
        let (mut admission, now) = admission("");
        assert_eq!(burst(&mut admission, now), 1);
        assert_eq!(admission.admit(now), Admit::WhenOneEnds);
        admission.answered(0);
        assert_eq!(burst(&mut admission, now), 4);
    }

    #[test]
    fn requests_per_minute_are_kept_and_used() {
        let (mut admission, start) = admission("requests_per_minute = 600");
        let mut sent = 0;
        let mut now = start;
        while now - start < Duration::from_secs(60) {
            match admission.admit(now) {
                Admit::Now => {
                    sent += 1;
                    admission.answered(0);
                }
                Admit::At(at, why) => {
                    assert_eq!(why, Waiting::RequestsPerMinute);
                    now = at;
                }
                Admit::WhenOneEnds => unreachable!("every request ends at once"),
            }
        }
        // A minute's worth, and the burst of one second at its beginning.
        assert!((600..=611).contains(&sent), "{sent} requests in a minute");
    }

    #[test]
    fn a_throttled_provider_is_left_alone_as_long_as_it_asks_and_comes_back_slowly() {
        let (mut admission, now) = heard();
        assert_eq!(burst(&mut admission, now), 4);
        let before = admission.generation();
        let busy = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7)));
        for _ in 0..3 {
            assert_eq!(admission.throttled(now, before, &busy), Blame::Provider);
        }
        // An answer to what was sent before the pause does not cut it short.
        admission.answered(before);
        assert_eq!(admission.admit(now), Admit::At(now + Duration::from_secs(7), Waiting::Pause));
        let later = now + Duration::from_secs(7);
        assert_eq!(burst(&mut admission, later), 1);
        admission.answered(admission.generation());
        assert_eq!(burst(&mut admission, later), 2);
        let hours = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7_200)));
        assert!(matches!(admission.throttled(later, admission.generation(), &hours), Blame::Run(_)));
    }

    #[test]
    fn failures_of_many_rows_open_the_breaker_and_then_cost_rows_nothing() {
        let (mut admission, mut now) = heard();
        for at in 0..10 {
            assert_eq!(admission.admit(now), Admit::Now);
            assert_eq!(
                admission.failed(now, admission.generation(), row(at), &failure(Class::ServerError), false),
                Blame::Row
            );
        }
        let mut probes = 0;
        loop {
            match admission.admit(now) {
                Admit::Now => {
                    probes += 1;
                    match admission.failed(
                        now,
                        admission.generation(),
                        row(probes),
                        &failure(Class::Connection),
                        true,
                    ) {
                        Blame::Provider => {}
                        Blame::Run(failure) => {
                            assert_eq!(failure.class, Class::Unavailable);
                            break;
                        }
                        Blame::Row => panic!("an outage is not the row's"),
                    }
                }
                Admit::At(at, why) => {
                    assert_eq!(why, Waiting::Breaker);
                    now = at;
                }
                Admit::WhenOneEnds => panic!("one probe at a time, and it has ended"),
            }
        }
        assert!((15..60).contains(&probes), "{probes} probes in fifteen minutes");
    }

    #[test]
    fn a_few_rows_that_the_provider_chokes_on_are_no_outage() {
        let (mut admission, now) = heard();
        for attempt in 1..=5 {
            for at in 0..3 {
                assert_eq!(admission.admit(now), Admit::Now);
                let blame = admission.failed(
                    now,
                    admission.generation(),
                    row(at),
                    &failure(Class::ServerError),
                    attempt == 5,
                );
                assert_eq!(blame, Blame::Row);
            }
        }
    }

    #[test]
    fn an_answer_closes_the_breaker() {
        let (mut admission, now) = heard();
        for at in 0..10 {
            admission.admit(now);
            admission.failed(now, admission.generation(), row(at), &failure(Class::Timeout), false);
        }
        let later = now + LAST_PROBE;
        assert_eq!(burst(&mut admission, later), 1);
        admission.answered(admission.generation());
        admission.admit(later);
        assert_eq!(
            admission.failed(later, admission.generation(), row(0), &failure(Class::Timeout), false),
            Blame::Row
        );
    }

    #[test]
    fn a_provider_that_answers_nobody_ends_the_run_and_not_the_row() {
        for class in [Class::Connection, Class::ServerError] {
            let (mut admission, now) = admission("");
            for attempt in 1..=5 {
                assert_eq!(admission.admit(now), Admit::Now);
                let blame =
                    admission.failed(now, admission.generation(), row(0), &failure(class), attempt == 5);
                assert_eq!(blame == Blame::Row, attempt < 5, "attempt {attempt}");
            }
        }
    }
}

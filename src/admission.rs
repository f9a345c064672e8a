//! Whether a provider may be sent another request now. Pure state: the caller brings the time.
//!
//! Immediately before a send it grants everything at once or nothing: no pause, no open breaker, a place
//! among the requests in flight, and a request of the quota. Nothing waits while holding one of them.

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
use crate::fault::{Class, Failure};

/// Failed attempts in a row, over all rows, that open the breaker.
const BREAKER_FAILURES: u32 = 10;
const FIRST_PROBE: Duration = Duration::from_secs(2);
const LAST_PROBE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// The answer to "may I send?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Yes; everything it takes is granted.
    Now,
    /// Not before this moment.
    At(Instant),
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
    failures_in_a_row: u32,
    /// Pauses and probes since the last success.
    episode: u32,
    is_open: bool,
    /// Whether the provider has answered anything in this run.
    heard: bool,
    failing_since: Option<Instant>,
    max_retry_after: Duration,
    outage_deadline: Duration,
    max_attempts: u32,
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
            failures_in_a_row: 0,
            episode: 0,
            is_open: false,
            heard: false,
            failing_since: None,
            max_retry_after: provider.retry.max_retry_after,
            outage_deadline: provider.retry.outage_deadline,
            max_attempts: provider.retry.max_attempts,
            jitter,
        }
    }

    /// Takes everything that a request needs, or nothing.
    pub fn admit(&mut self, now: Instant) -> Admit {
        if let Some(until) = self.blocked_until {
            if now < until {
                return Admit::At(until);
            }
            self.blocked_until = None;
        }
        if self.in_flight >= self.concurrency {
            return Admit::WhenOneEnds;
        }
        if let Some(wait) = self.requests.as_ref().and_then(|requests| requests.take(now)) {
            return Admit::At(now + wait);
        }
        self.in_flight += 1;
        Admit::Now
    }

    /// A request in flight was answered, be it with a refusal that is the row's own.
    pub fn answered(&mut self) {
        self.ended();
        if self.heard && self.episode > 0 {
            // Back from a pause: twice as many at once with each answer.
            self.concurrency = (self.concurrency * 2).min(self.max_concurrency);
            if self.concurrency == self.max_concurrency {
                self.episode = 0;
            }
        } else {
            self.concurrency = self.max_concurrency;
        }
        self.heard = true;
        self.failures_in_a_row = 0;
        self.failing_since = None;
        self.is_open = false;
    }

    /// A request in flight ended without being answered or counted: it was abandoned.
    pub fn abandoned(&mut self) {
        self.ended();
    }

    /// An attempt failed in a way that another one may not. Says whose fault that is.
    pub fn failed(&mut self, now: Instant, failure: &Failure) -> Blame {
        self.ended();
        let reached = !matches!(failure.class, Class::Connection | Class::Timeout);
        self.heard |= reached;
        self.failures_in_a_row += 1;
        let since = *self.failing_since.get_or_insert(now);
        if !self.heard && self.failures_in_a_row >= self.max_attempts {
            let detail = format!("it was never reached in this run: {}", failure.detail);
            return Blame::Run(Failure::new(Class::Unavailable, detail));
        }
        if now - since > self.outage_deadline {
            return Blame::Run(self.gave_up(now - since, failure));
        }
        if self.is_open {
            self.probe_later(now);
            return Blame::Provider;
        }
        if self.heard && self.failures_in_a_row >= BREAKER_FAILURES {
            self.is_open = true;
            self.probe_later(now);
        }
        Blame::Row
    }

    /// The provider asked to wait. The row loses nothing.
    pub fn throttled(&mut self, now: Instant, failure: &Failure) -> Blame {
        self.ended();
        self.heard = true;
        let since = *self.failing_since.get_or_insert(now);
        if let Some(delay) = failure.delay.filter(|delay| *delay > self.max_retry_after) {
            let wait = humantime::format_duration(Duration::from_secs(delay.as_secs()));
            let detail = format!("it asks to come back in {wait}: {}", failure.detail);
            return Blame::Run(Failure::new(Class::RateLimited, detail));
        }
        if now - since > self.outage_deadline {
            return Blame::Run(self.gave_up(now - since, failure));
        }
        let own = doubled(FIRST_PAUSE, self.episode, LAST_PAUSE);
        let pause = failure.delay.unwrap_or_else(|| self.jitter.full(own));
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
        let wait = doubled(FIRST_PROBE, self.episode, LAST_PROBE);
        let pause = wait / 2 + self.jitter.full(wait / 2);
        self.pause(now + pause);
    }

    /// One episode, however many requests in flight report it.
    fn pause(&mut self, until: Instant) {
        if self.concurrency > 1 || self.in_flight == 0 {
            self.episode = self.episode.saturating_add(1);
        }
        self.concurrency = 1;
        self.blocked_until = Some(self.blocked_until.map_or(until, |old| old.max(until)));
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

    #[test]
    fn one_request_goes_alone_until_something_is_heard() {
        let (mut admission, now) = admission("");
        assert_eq!(burst(&mut admission, now), 1);
        assert_eq!(admission.admit(now), Admit::WhenOneEnds);
        admission.answered();
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
                    admission.answered();
                }
                Admit::At(at) => now = at,
                Admit::WhenOneEnds => unreachable!("every request ends at once"),
            }
        }
        // A minute's worth, and the burst of one second at its beginning.
        assert!((600..=611).contains(&sent), "{sent} requests in a minute");
    }

    #[test]
    fn a_throttled_provider_is_left_alone_as_long_as_it_asks_and_comes_back_slowly() {
        let (mut admission, now) = admission("");
        admission.admit(now);
        admission.answered();
        assert_eq!(burst(&mut admission, now), 4);
        let busy = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7)));
        for _ in 0..4 {
            assert_eq!(admission.throttled(now, &busy), Blame::Provider);
        }
        assert_eq!(admission.admit(now), Admit::At(now + Duration::from_secs(7)));
        let later = now + Duration::from_secs(7);
        assert_eq!(burst(&mut admission, later), 1);
        admission.answered();
        assert_eq!(burst(&mut admission, later), 2);
        let hours = failure(Class::RateLimited).with_delay(Some(Duration::from_secs(7_200)));
        assert!(matches!(admission.throttled(later, &hours), Blame::Run(_)));
    }

    #[test]
    fn failures_in_a_row_open_the_breaker_and_then_cost_rows_nothing() {
        let (mut admission, mut now) = admission("");
        admission.admit(now);
        admission.answered();
        for _ in 0..BREAKER_FAILURES {
            assert_eq!(admission.admit(now), Admit::Now);
            assert_eq!(admission.failed(now, &failure(Class::ServerError)), Blame::Row);
        }
        let mut probes = 0;
        loop {
            match admission.admit(now) {
                Admit::Now => {
                    probes += 1;
                    match admission.failed(now, &failure(Class::Connection)) {
                        Blame::Provider => {}
                        Blame::Run(failure) => {
                            assert_eq!(failure.class, Class::Unavailable);
                            break;
                        }
                        Blame::Row => panic!("an outage is not the row's"),
                    }
                }
                Admit::At(at) => now = at,
                Admit::WhenOneEnds => panic!("one probe at a time, and it has ended"),
            }
        }
        assert!((15..60).contains(&probes), "{probes} probes in fifteen minutes");
    }

    #[test]
    fn an_answer_closes_the_breaker() {
        let (mut admission, now) = admission("");
        admission.admit(now);
        admission.answered();
        for _ in 0..BREAKER_FAILURES {
            admission.admit(now);
            admission.failed(now, &failure(Class::Timeout));
        }
        let later = now + LAST_PROBE;
        assert_eq!(burst(&mut admission, later), 1);
        admission.answered();
        admission.admit(later);
        assert_eq!(admission.failed(later, &failure(Class::Timeout)), Blame::Row);
    }

    #[test]
    fn a_provider_that_was_never_reached_ends_the_run_after_one_rows_attempts() {
        let (mut admission, now) = admission("max_attempts = 3");
        for attempt in 1..=3 {
            assert_eq!(admission.admit(now), Admit::Now);
            let blame = admission.failed(now, &failure(Class::Connection));
            assert_eq!(blame == Blame::Row, attempt < 3, "attempt {attempt}");
        }
    }
}

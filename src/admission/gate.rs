//! The admission state of one provider: pauses, circuit breaker, requests in flight, and the quotas behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::concurrency::Concurrency;
use super::failures::Failures;
use super::learned::{Healthy, ProviderLimits};
use super::learned_rate::LimitKnowledge;
use super::quotas::{Cost, SharedQuotas};
use super::throttling::{Remedy, ResponseCounts, Throttling};
use super::ticket::{Blame, Health, NotAdmitted, Ticket};
use super::trial::TrialVerdict;
use crate::clock::{Instant, Jitter};
use crate::config::Provider;
use crate::event::{LimitGauge, Waiting};
use crate::fault::{Class, Failure, Scarce};
use crate::ident::{Cell, Tokens};
use crate::wire::Limits;

/// Weight of a new answer in the moving average of the latency.
const LATENCY_WEIGHT: f64 = 0.05;
/// A request in flight counts as likely to be answered for this multiple of the average latency plus this time.
const PATIENCE_LATENCIES: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST_PROBE: Duration = Duration::from_secs(2);
pub(super) const LAST_PROBE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LAST_PAUSE: Duration = Duration::from_secs(6);

/// The admission state of one provider.
#[derive(Debug)]
pub struct Admission {
    concurrency: Concurrency,
    /// When each request in flight was sent, by the number of its ticket.
    in_flight: BTreeMap<u64, Instant>,
    /// Moving average of the time from sending to answer.
    latency: Duration,
    /// Number of requests sent.
    requests: u64,
    /// Whether, at the last check, a request had to wait for one in flight to end.
    is_waiting_for_place: bool,
    quotas: SharedQuotas,
    blocked_until: Option<Instant>,
    failures: Failures,
    throttling: Throttling,
    /// Pauses since the last answer, those before health probes included.
    streak: u32,
    /// Whether the circuit breaker is open.
    is_open: bool,
    /// When the provider last answered.
    answered: Option<Instant>,
    /// Number of pauses so far. A ticket of an earlier generation was sent before the last pause.
    generation: u64,
    /// Requests of the current generation in flight. Only one is allowed while the provider is tested.
    in_flight_this_generation: u32,
    failing_since: Option<Instant>,
    /// Whether another provider can take the rows while this one is left alone.
    has_fallback: bool,
    /// Whether a former run found it healthy within the last day.
    is_known: bool,
    /// Hash of address and model, under which its health is stored for the next run.
    identity: String,
    max_retry_after: Duration,
    outage_deadline: Duration,
    jitter: Jitter,
}

impl Admission {
    /// Creates the state at the start of a run from what a former run learned. Until the first answer it admits one
    /// request at a time, or as many as a run within the last day had in flight without trouble.
    #[must_use]
    pub fn new(
        provider: &Provider,
        learned: &ProviderLimits,
        quotas: SharedQuotas,
        has_fallback: bool,
        now: Instant,
        jitter: Jitter,
    ) -> Self {
        let mut concurrency = Concurrency::new(provider.max_concurrency, provider.learns_concurrency);
        if let Some(limit) = learned.concurrency {
            concurrency.remember(limit);
        }
        let identity = Healthy::identity(provider);
        let healthy = learned.healthy.as_ref().filter(|healthy| healthy.holds(&identity));
        if let Some(healthy) = healthy {
            concurrency.open_with(healthy.in_flight);
        }
        Admission {
            concurrency,
            in_flight: BTreeMap::new(),
            latency: Duration::ZERO,
            requests: 0,
            is_waiting_for_place: false,
            quotas,
            blocked_until: None,
            failures: Failures::default(),
            throttling: Throttling::new(now),
            streak: 0,
            is_open: false,
            answered: None,
            generation: 0,
            in_flight_this_generation: 0,
            failing_since: None,
            has_fallback,
            is_known: healthy.is_some(),
            identity,
            max_retry_after: provider.retry.max_retry_after,
            outage_deadline: provider.retry.outage_deadline,
            jitter,
        }
    }

    /// Checks pauses and the number of requests in flight, but not the quotas, and takes nothing. It also ends a pause
    /// whose time is over.
    ///
    /// # Errors
    /// If a request may not be sent now.
    pub fn may_send(&mut self, now: Instant) -> Result<(), NotAdmitted> {
        self.is_waiting_for_place = false;
        if let Some(until) = self.blocked_until {
            if now < until {
                let waiting = if self.is_open { Waiting::Breaker } else { Waiting::Pause };
                return Err(NotAdmitted::Until(until, waiting));
            }
            self.blocked_until = None;
            self.quotas.lock().resumed(until);
        }
        // A provider that refused several times in a row is tested with one request.
        let is_probe = self.is_open || self.streak > 1;
        if self.requests_in_flight() >= self.concurrency.now()
            || (is_probe && self.in_flight_this_generation > 0)
        {
            self.is_waiting_for_place = true;
            return Err(NotAdmitted::WhenOneEnds);
        }
        Ok(())
    }

    /// Notes that no request waits for a free place any more.
    pub fn nobody_waits(&mut self) {
        self.is_waiting_for_place = false;
    }

    /// Admits a request: takes what it needs from every quota, or nothing.
    ///
    /// # Errors
    /// If the request cannot be sent now.
    pub fn admit(&mut self, cost: Cost, now: Instant) -> Result<Ticket, NotAdmitted> {
        self.may_send(now)?;
        let holds_rate = self.throttling.holds_rate(self.quotas.lock().rate(), now);
        let taken = self.quotas.lock().take(cost, self.in_flight.is_empty(), holds_rate, now);
        let taken = taken.map_err(|(wait, why)| NotAdmitted::Until(now + wait, why))?;
        self.requests += 1;
        self.in_flight_this_generation += 1;
        self.in_flight.insert(self.requests, now);
        let rate = self.throttling.sends(now);
        Ok(Ticket { number: self.requests, generation: self.generation, rate, taken })
    }

    /// Whether there is a limit on tokens, so that a request's cost matters.
    #[must_use]
    pub fn counts_tokens(&self) -> bool {
        self.quotas.lock().counts_tokens()
    }

    /// The number of pauses so far; it identifies the time between two pauses.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Counts an answered request. A refusal that the row itself caused is an answer, too. `tokens` is what it used,
    /// if known, and `limits` what the response's headers state.
    pub fn answered(&mut self, ticket: &Ticket, tokens: Option<Tokens>, limits: &Limits, now: Instant) {
        self.ended(ticket);
        self.quotas.lock().answered(&ticket.taken, tokens, limits, now);
        self.answered = Some(now);
        let took = now.saturating_duration_since(ticket.taken.at);
        self.latency = self.latency.mul_f64(1.0 - LATENCY_WEIGHT) + took.mul_f64(LATENCY_WEIGHT);
        let verdict = self.throttling.answered(&ticket.sent(), &self.in_flight, now);
        self.end_trial(verdict, now);
        let is_news = self.failures.answered(ticket.taken.at);
        if ticket.generation != self.generation || !is_news {
            // The request was sent before the last pause or failure, so that its answer shows nothing about the
            // provider now.
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let work = tokens.map_or(1.0, |tokens| tokens.completion as f64);
        self.quotas.lock().answered_after_pause(&ticket.taken, now);
        let is_paced = self.quotas.lock().limits_requests();
        self.concurrency.answered(
            work,
            self.requests_in_flight() + 1,
            self.is_waiting_for_place,
            is_paced,
            now,
        );
        self.mark_healthy(now);
    }

    /// Marks the provider as answering and closes its breaker. An answer to a harmless question is enough.
    pub fn mark_healthy(&mut self, now: Instant) {
        self.answered = Some(now);
        self.streak = 0;
        self.failures.clear_streak();
        self.failing_since = None;
        if self.is_open {
            self.is_open = false;
            self.failures.forget_newest();
            self.blocked_until = None;
        }
    }

    /// Answers and refusals so far.
    #[must_use]
    pub fn response_counts(&self) -> ResponseCounts {
        self.throttling.counts()
    }

    /// Counts a request that was abandoned while it was in flight, so that it is neither answered nor failed.
    pub fn abandoned(&mut self, ticket: &Ticket) {
        self.ended(ticket);
    }

    /// Counts an attempt of a row that ended with a transient failure, and returns who is to blame. `is_last` means
    /// that the row has no attempt left.
    pub fn failed(
        &mut self,
        ticket: &Ticket,
        row: Cell,
        failure: &Failure,
        is_last: bool,
        limits: &Limits,
        now: Instant,
    ) -> Blame {
        self.ended(ticket);
        self.quotas.lock().failed(&ticket.taken, limits, now);
        self.failures.failed(row, ticket.taken.at);
        if !self.concurrency.has_answered() {
            self.concurrency.collapse();
        }
        let since = *self.failing_since.get_or_insert(now);
        if now - since > self.outage_deadline {
            self.open(now);
            return Blame::Run(self.gave_up(now - since, failure));
        }
        if self.is_open {
            // A request that was in flight when the breaker opened is part of the same trouble.
            if ticket.generation == self.generation {
                self.probe_later(now);
            }
            return Blame::Provider;
        }
        if self.is_outage(now) {
            self.open(now);
            if failure.class == Class::InvalidResponse && self.ends_run_if_never_answered(failure) {
                return Blame::Run(never_answered(failure));
            }
            return Blame::Provider;
        }
        if self.failures.begins_brownout() {
            if self.has_fallback {
                self.open(now);
                return Blame::Provider;
            }
            // There is no other provider, and this one still answers some requests: fewer go at once.
            self.concurrency.halve();
        }
        if is_last && self.answered.is_none_or(|answered| answered < ticket.taken.at) {
            return Blame::Doubt;
        }
        if self.failures.is_brownout() { Blame::Brownout } else { Blame::Row }
    }

    /// Counts a health probe that failed, and returns who is to blame. It is sent when it is unknown whether the row
    /// or the provider is.
    pub fn health_probe_failed(
        &mut self,
        ticket: &Ticket,
        failure: &Failure,
        limits: &Limits,
        now: Instant,
    ) -> Blame {
        self.ended(ticket);
        self.quotas.lock().failed(&ticket.taken, limits, now);
        let since = *self.failing_since.get_or_insert(now);
        self.open(now);
        if self.ends_run_if_never_answered(failure) {
            return Blame::Run(never_answered(failure));
        }
        if now - since > self.outage_deadline {
            return Blame::Run(self.gave_up(now - since, failure));
        }
        Blame::Provider
    }

    /// Whether this failure ends the run, once it is known that the rows did not cause it. It does if the provider has
    /// answered nothing in this run, so that a wrong address is likelier than an outage.
    #[must_use]
    pub fn ends_run_if_never_answered(&self, failure: &Failure) -> bool {
        let is_wrong_address = match failure.class {
            Class::InvalidResponse => true,
            Class::Connection => !self.is_known,
            _ => false,
        };
        self.answered.is_none() && is_wrong_address
    }

    /// When the current failures began and how long they may last, or `None` if the provider is not failing.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, Duration)> {
        Some((self.failing_since?, self.outage_deadline))
    }

    /// Whether the provider has answered in this run.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether another refusal of a request that was last refused at the counts `before` concerns that request alone.
    #[must_use]
    pub fn is_own(&self, before: ResponseCounts) -> bool {
        self.throttling.is_own(before)
    }

    /// Counts a refusal for too much load, and returns who is to blame. `is_own` means that the caller has found that
    /// only this request is refused. Then, or if admission itself finds this, the other requests are not paused.
    pub fn throttled(
        &mut self,
        ticket: &Ticket,
        row: Option<Cell>,
        failure: &Failure,
        is_own: bool,
        limits: &Limits,
        now: Instant,
    ) -> Blame {
        self.ended(ticket);
        let verdict = self.throttling.refused(&ticket.sent(), &self.in_flight, now);
        self.end_trial(verdict, now);
        self.quotas.lock().refused(&ticket.taken, limits, now);
        if !self.concurrency.has_answered() {
            self.concurrency.collapse();
        }
        if is_own && self.streak == 0 {
            return Blame::Request;
        }
        let since = *self.failing_since.get_or_insert(now);
        if let Some(delay) = failure.delay.filter(|delay| *delay > self.max_retry_after) {
            let wait = humantime::format_duration(Duration::from_secs(delay.as_secs()));
            let until = (crate::clock::wall() + delay).format("%Y-%m-%d %H:%M UTC");
            let detail = format!("it asks to come back in {wait}, at {until}: {}", failure.detail);
            return Blame::Run(Failure::new(Class::RateLimited, detail));
        }
        if now - since > self.outage_deadline {
            return Blame::Run(self.gave_up(now - since, failure));
        }
        if ticket.generation != self.generation {
            // All requests that were in flight share one pause; the longest delay counts.
            if let Some(delay) = failure.delay.filter(|_| self.blocked_until.is_some()) {
                self.blocked_until = self.blocked_until.max(Some(now + delay));
            }
            return Blame::Provider;
        }
        let pending = self.count_in_progress(None, ticket.taken.at, now);
        if self.streak == 0 && self.throttling.is_usual(self.quotas.lock().limits_requests(), pending) {
            return Blame::Request;
        }
        if matches!(failure.scarce, Some(Scarce::Capacity | Scarce::TierRoom))
            && let Some(row) = row
        {
            // A busy server that refuses one request may answer others. Only one that answers none gets a pause.
            self.failures.failed(row, ticket.taken.at);
            if self.streak == 0 && self.answered.is_some() && !self.is_outage(now) {
                return Blame::Request;
            }
            // The server answers nothing: after the pause one request at a time tests whether it answers again.
            self.streak = self.streak.max(1);
        }
        let own = doubled(FIRST_PAUSE, self.streak, LAST_PAUSE);
        let pause = failure.delay.unwrap_or_else(|| own / 2 + self.jitter.full(own / 2));
        let rate = self.quotas.lock().rate();
        match self.throttling.judge(rate, now) {
            Remedy::TakeBack => {
                self.quotas.lock().distrust_learned();
                self.concurrency.reopen();
                self.streak = 0;
                return Blame::Request;
            }
            Remedy::Try(per_second) => {
                self.quotas.lock().begin_trial(per_second, now);
                self.concurrency.reopen();
                return Blame::Request;
            }
            Remedy::InTrial => return Blame::Request,
            Remedy::Hold => {}
            Remedy::SendLess => {
                if self.quotas.lock().lower_limit(&ticket.taken, failure.scarce, pause, now)
                    == LimitKnowledge::Nothing
                {
                    self.concurrency.collapse();
                }
            }
        }
        self.pause(now + pause);
        Blame::Provider
    }

    /// Acts on the verdict of a trial at a lower rate.
    fn end_trial(&mut self, verdict: Option<TrialVerdict>, now: Instant) {
        match verdict {
            Some(TrialVerdict::AnyRate(_)) => {
                self.quotas.lock().end_trial(None, now);
                self.concurrency.reopen();
                self.streak = 0;
            }
            Some(TrialVerdict::Limit(allowed)) => self.quotas.lock().end_trial(Some(allowed), now),
            None => {}
        }
    }

    /// How long the current pause still lasts, or `None` if there is none.
    #[must_use]
    pub fn pause_left(&self, now: Instant) -> Option<Duration> {
        self.blocked_until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether rows should be sent here, if there is another provider for them.
    #[must_use]
    pub fn health(&self, now: Instant) -> Health {
        match (self.is_open, self.blocked_until.filter(|until| *until > now)) {
            (false, _) => Health::Up,
            (true, Some(until)) => Health::Down(until),
            (true, None) => Health::Probing,
        }
    }

    /// Whether this row failed since the last answer. Such a row is a bad test of the provider, since it may be at
    /// fault itself.
    #[must_use]
    pub fn suspects(&self, row: Cell) -> bool {
        self.failures.contains(row)
    }

    /// What was learned so far, for the next run.
    #[must_use]
    pub fn learned(&self) -> ProviderLimits {
        let (requests, tokens, token_charge) = self.quotas.lock().learned();
        ProviderLimits {
            requests_per_minute: requests.map(|rate| rate * 60.0),
            tokens_per_minute: tokens.map(|rate| rate * 60.0),
            concurrency: self.concurrency.learned(),
            token_charge,
            healthy: self.concurrency.healthy().map(|in_flight| Healthy::now(in_flight, &self.identity)),
        }
    }

    /// Returns the current state of the limits, for the events of the run.
    #[must_use]
    pub fn gauge(&self) -> LimitGauge {
        LimitGauge {
            requests: self.requests,
            throttled: self.throttling.refusals(),
            concurrency: self.concurrency.now(),
            shares: self.quotas.lock().shares(),
            is_open: self.is_open,
        }
    }

    fn ended(&mut self, ticket: &Ticket) {
        self.in_flight.remove(&ticket.number).expect("a request that ends was in flight");
        if ticket.generation == self.generation {
            self.in_flight_this_generation = self.in_flight_this_generation.saturating_sub(1);
        }
    }

    fn requests_in_flight(&self) -> u32 {
        u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX)
    }

    /// Whether enough requests failed in a row to call the provider down, and no request that was sent between the
    /// first and the last of them is still likely to be answered.
    fn is_outage(&self, now: Instant) -> bool {
        self.failures
            .outage()
            .is_some_and(|(first, last)| self.count_in_progress(Some(first), last, now) == 0)
    }

    /// The number of requests in flight that were sent from `first` to `last` and are still likely to be answered.
    /// Without `first`, all requests sent until `last` count.
    fn count_in_progress(&self, first: Option<Instant>, last: Instant, now: Instant) -> usize {
        let patience = self.latency * PATIENCE_LATENCIES + PATIENCE;
        let is_meant = |sent: &&Instant| {
            first.is_none_or(|first| **sent >= first)
                && **sent <= last
                && now.saturating_duration_since(**sent) < patience
        };
        self.in_flight.values().filter(is_meant).count()
    }

    fn open(&mut self, now: Instant) {
        self.is_open = true;
        self.probe_later(now);
    }

    fn probe_later(&mut self, now: Instant) {
        let wait = doubled(FIRST_PROBE, self.streak, LAST_PROBE);
        let pause = wait / 2 + self.jitter.full(wait / 2);
        self.concurrency.collapse();
        self.pause(now + pause);
    }

    fn pause(&mut self, until: Instant) {
        self.streak = self.streak.saturating_add(1);
        self.generation += 1;
        self.in_flight_this_generation = 0;
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

/// Returns the failure that ends the run for a provider that never answered. A wrong address, or a proxy in front of
/// the provider, is likelier than an outage.
fn never_answered(failure: &Failure) -> Failure {
    Failure::new(Class::Unavailable, format!("it has answered nothing in this run: {}", failure.detail))
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

//! Second attempts for requests that take far longer than others: a straggler gets a second request beside it, and the
//! first of the two that is answered counts (J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013: hedged
//! requests).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admission::{Cost, Ticket};
use crate::budget::Reservation;
use crate::clock::Instant;
use crate::ident::{Spend, StepId};

/// The least age of a straggler.
const MIN_AGE: Duration = Duration::from_secs(10);
/// The least age of a straggler as a multiple of the 99th percentile of its step's latencies.
const LATENCY_MULTIPLE: u32 = 8;
/// Number of newest latencies that are kept for a step.
const MAX_LATENCIES: usize = 1_000;
/// Number of answers of a step before its stragglers are looked for.
const MIN_LATENCIES: usize = 10;
/// Number of newest answers whose median shows whether a provider slows down as a whole.
const SLOWDOWN_SAMPLE: usize = 50;
/// The most that this median may be, as a multiple of the median of all answers.
const MAX_SLOWDOWN: f64 = 1.5;
/// Time until a straggler that cannot have its second attempt is looked at again.
const AGAIN: Duration = Duration::from_millis(250);

/// The admission ticket and the budget reservation of a second attempt.
#[derive(Debug)]
pub(super) struct Second {
    pub(super) ticket: Ticket,
    pub(super) reservation: Reservation,
}

/// A request in flight that has no second attempt.
#[derive(Debug)]
struct Watched {
    sent_at: Instant,
    step: StepId,
    cost: Cost,
    worst: Spend,
    sender: oneshot::Sender<Second>,
}

/// The stragglers among the requests in flight of one provider.
#[derive(Debug)]
pub(super) struct Stragglers {
    /// Share of requests that may be second attempts; 0 for none.
    share: f64,
    /// By ticket number, the oldest first.
    in_flight: BTreeMap<u64, Watched>,
    latencies: BTreeMap<StepId, Latencies>,
    requests: u64,
    second_attempts: u64,
    /// Number of requests that have a second attempt in flight beside them.
    with_second: u32,
    /// The highest ticket number of a request that was answered.
    newest_answered: u64,
    /// When to look for stragglers again; `None` without requests in flight.
    look_at: Option<Instant>,
}

/// A straggler that may have its second attempt if admission allows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Straggler {
    pub(super) number: u64,
    pub(super) cost: Cost,
    pub(super) worst: Spend,
}

impl Stragglers {
    pub(super) fn new(share: f64) -> Self {
        Stragglers {
            share,
            in_flight: BTreeMap::new(),
            latencies: BTreeMap::new(),
            requests: 0,
            second_attempts: 0,
            with_second: 0,
            newest_answered: 0,
            look_at: None,
        }
    }

    /// Notes that a request is sent. The receiver gets its second attempt.
    pub(super) fn sent(
        &mut self,
        number: u64,
        step: StepId,
        (cost, worst): (Cost, Spend),
        now: Instant,
    ) -> oneshot::Receiver<Second> {
        let (sender, receiver) = oneshot::channel();
        if self.share > 0.0 {
            self.requests += 1;
            self.in_flight.insert(number, Watched { sent_at: now, step, cost, worst, sender });
            self.look_at = Some(self.look_at.map_or(now + MIN_AGE, |at| at.min(now + MIN_AGE)));
        }
        receiver
    }

    /// Notes that a request has ended, alone or with its second attempt.
    pub(super) fn ended(&mut self, number: u64, has_second: bool) {
        self.in_flight.remove(&number);
        if self.in_flight.is_empty() {
            self.look_at = None;
        }
        if has_second {
            self.with_second = self.with_second.saturating_sub(1);
        }
    }

    /// Notes that a request was answered, and its latency.
    pub(super) fn answered(&mut self, number: u64, step: StepId, latency: Duration) {
        if self.share > 0.0 {
            self.newest_answered = self.newest_answered.max(number);
            self.latencies.entry(step).or_default().note(latency);
        }
    }

    /// Returns a straggler that may have a second attempt now.
    pub(super) fn find(&mut self, now: Instant) -> Option<Straggler> {
        let is_due = self.look_at.is_some_and(|at| at <= now);
        if !is_due {
            return None;
        }
        let mut next = now + MIN_AGE;
        let mut found = None;
        for (number, watched) in &self.in_flight {
            if watched.sent_at + MIN_AGE > now {
                next = next.min(watched.sent_at + MIN_AGE);
                break;
            }
            let Some(latencies) = self.latencies.get_mut(&watched.step) else { continue };
            let Some(age) = latencies.straggler_age() else { continue };
            let due = watched.sent_at + age;
            if due > now {
                next = next.min(due);
                continue;
            }
            // If nothing that was sent later is answered, it may be the provider: one second attempt tests that.
            let is_alone = *number < self.newest_answered || self.with_second == 0;
            if is_alone && !latencies.is_slowing_down() {
                found = Some(Straggler { number: *number, cost: watched.cost, worst: watched.worst });
                break;
            }
            next = next.min(now + AGAIN);
        }
        let is_allowed = self.is_allowed();
        self.look_at = match (&found, self.in_flight.is_empty()) {
            (None, true) => None,
            (Some(_), _) if !is_allowed => Some(now + AGAIN),
            (Some(_), _) => Some(now),
            (None, false) => Some(next),
        };
        found.filter(|_| is_allowed)
    }

    /// Postpones the second attempt of the straggler that was found.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.look_at = Some(now + AGAIN);
    }

    /// Gives a straggler its second attempt. If the straggler has just ended, the second attempt's ticket comes back.
    pub(super) fn give(&mut self, number: u64, second: Second) -> Option<Ticket> {
        let ticket = second.ticket;
        let watched = self.in_flight.remove(&number);
        if watched.is_none_or(|watched| watched.sender.send(second).is_err()) {
            return Some(ticket);
        }
        self.second_attempts += 1;
        self.with_second += 1;
        None
    }

    /// When to look for stragglers again.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    fn is_allowed(&self) -> bool {
        let allowed = (self.requests as f64 * self.share).max(1.0);
        (self.second_attempts + 1) as f64 <= allowed
    }
}

/// The latencies of a step's newest answers.
#[derive(Debug, Default)]
struct Latencies {
    latency_seconds: VecDeque<f32>,
    /// Age from which a request is a straggler, and the number of answers since that was computed.
    age: Option<Duration>,
    noted: usize,
}

impl Latencies {
    fn note(&mut self, latency: Duration) {
        if self.latency_seconds.len() == MAX_LATENCIES {
            self.latency_seconds.pop_front();
        }
        self.latency_seconds.push_back(latency.as_secs_f32());
        self.noted += 1;
    }

    /// Age from which a request is a straggler, or `None` while too few answers are known.
    fn straggler_age(&mut self) -> Option<Duration> {
        let count = self.latency_seconds.len();
        if count < MIN_LATENCIES {
            return None;
        }
        if self.age.is_none() || self.noted > count / 10 {
            self.noted = 0;
            let slowest = quantile(self.latency_seconds.iter().copied(), 0.99);
            self.age = Some((Duration::from_secs_f32(slowest) * LATENCY_MULTIPLE).max(MIN_AGE));
        }
        self.age
    }

    /// Whether the newest answers take longer than all that are kept.
    fn is_slowing_down(&self) -> bool {
        let count = self.latency_seconds.len();
        if count < 2 * SLOWDOWN_SAMPLE {
            return false;
        }
        let newest = quantile(self.latency_seconds.iter().skip(count - SLOWDOWN_SAMPLE).copied(), 0.5);
        let all = quantile(self.latency_seconds.iter().copied(), 0.5);
        f64::from(newest) > f64::from(all) * MAX_SLOWDOWN + 0.01
    }
}

/// A quantile by nearest rank; 0 if there are no values.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most a thousand values"
)]
fn quantile(values: impl Iterator<Item = f32>, share: f64) -> f32 {
    let mut values: Vec<f32> = values.collect();
    if values.is_empty() {
        return 0.0;
    }
    let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(rank, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Admission;
    use crate::budget::Account;
    use crate::clock::{self, Jitter};

    const STEP: StepId = StepId::FIRST;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    struct Rehearsal {
        stragglers: Stragglers,
        receivers: Vec<oneshot::Receiver<Second>>,
        start: Instant,
        number: u64,
    }

    impl Rehearsal {
        fn new(share: f64) -> Self {
            let stragglers = Stragglers::new(share);
            Rehearsal { stragglers, receivers: Vec::new(), start: clock::now(), number: 0 }
        }

        fn send(&mut self, at: f64) -> u64 {
            self.number += 1;
            let costs = (Cost::default(), Spend::default());
            self.receivers.push(self.stragglers.sent(self.number, STEP, costs, self.start + secs(at)));
            self.number
        }

        fn answer(&mut self, number: u64, took: f64) {
            self.stragglers.ended(number, false);
            self.stragglers.answered(number, STEP, secs(took));
        }

        fn exchange(&mut self, at: f64, took: f64) {
            let number = self.send(at);
            self.answer(number, took);
        }

        fn found(&mut self, at: f64) -> Option<u64> {
            Some(self.stragglers.find(self.start + secs(at))?.number)
        }

        fn give(&mut self, number: u64) {
            let job = "app_id = \"a\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n\
                       [provider.p]\nbase_url = \"simulator\"\nmodel = \"m\"\n[[step]]\noutput = \"o\"\nprompt = \"{{ x }}\"\n";
            let job = crate::config::Job::parse(std::path::Path::new("job.toml"), job, |_| None).unwrap();
            let (provider, learned) = (&job.providers[0], crate::admission::ProviderLimits::default());
            let quotas = crate::admission::SharedQuotas::new(provider, &learned, self.start);
            let mut admission =
                Admission::new(provider, &learned, quotas, false, self.start, Jitter::seeded(1));
            let ticket = admission.admit(Cost::default(), self.start).unwrap();
            let reservation = Account::default().reserve(Spend::default()).unwrap();
            assert!(self.stragglers.give(number, Second { ticket, reservation }).is_none());
        }
    }

    #[test]
    fn a_straggler_is_eight_times_as_old_as_the_slowest_hundredth() {
        let mut sent = Rehearsal::new(0.01);
        let straggler = sent.send(0.0);
        for _ in 0..200 {
            sent.exchange(1.0, 2.0);
        }
        assert_eq!(sent.found(9.9), None);
        assert_eq!(sent.found(15.9), None, "8 x 2 s");
        assert_eq!(sent.found(16.0), Some(straggler));
        sent.give(straggler);
        assert_eq!(sent.found(20.0), None, "one is enough");
        let fast = sent.send(20.0);
        for _ in 0..MAX_LATENCIES {
            sent.exchange(20.0, 0.05);
        }
        assert_eq!(sent.found(29.9), None);
        assert_eq!(sent.found(30.0), Some(fast), "ten seconds, however fast others are");
    }

    #[test]
    fn no_straggler_is_found_in_a_step_with_few_answers() {
        let mut sent = Rehearsal::new(0.01);
        sent.send(0.0);
        for _ in 1..MIN_LATENCIES {
            sent.exchange(0.0, 0.1);
        }
        assert_eq!(sent.found(500.0), None);
        sent.exchange(500.0, 0.1);
        assert_eq!(sent.found(511.0), Some(1));
    }

    #[test]
    fn a_share_of_the_requests_are_second_attempts_at_most() {
        let mut sent = Rehearsal::new(0.01);
        for _ in 0..6 {
            sent.send(0.0);
        }
        for _ in 0..394 {
            sent.exchange(0.0, 0.1);
        }
        for number in 1..=4 {
            assert_eq!(sent.found(20.0), Some(number));
            sent.give(number);
        }
        assert_eq!(sent.found(20.0), None, "1 % of 400");
        let mut off = Rehearsal::new(0.0);
        off.send(0.0);
        for _ in 0..100 {
            off.exchange(0.0, 0.1);
        }
        assert_eq!((off.found(500.0), off.stragglers.look_at()), (None, None));
    }

    #[test]
    fn a_provider_that_answers_nobody_or_slows_down_gets_no_more() {
        let mut sent = Rehearsal::new(1.0);
        for _ in 0..200 {
            sent.exchange(0.0, 0.1);
        }
        let [first, second] = [sent.send(1.0), sent.send(1.0)];
        assert_eq!(sent.found(12.0), Some(first), "one finds out");
        sent.give(first);
        assert_eq!(sent.found(13.0), None, "nothing that was sent later is answered");
        sent.exchange(13.0, 0.1);
        assert_eq!(sent.found(14.0), Some(second));
        for _ in 0..SLOWDOWN_SAMPLE {
            sent.exchange(14.0, 0.2);
        }
        assert_eq!(sent.found(15.0), None, "twice as slow as before");
    }
}

//! The dispatcher of a provider: one task that sends requests as admission and the budget allow, and takes in the
//! attempts that end. What follows from an ended attempt is decided in `results`.

use std::cell::OnceCell;
use std::collections::{BinaryHeap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep_until;

use super::attempt::{AttemptResult, EndedAttempt, ProviderClient, joined, keep_answers};
use super::learned_limits::LearnedLimits;
use super::request_batcher::RequestBatcher;
use super::request_sender::RequestSender;
use super::retry::{DueRetry, PendingRequest};
use super::retry_budget::RetryBudget;
use super::state_reporter::StateReporter;
use super::stragglers::{Second, Stragglers};
use crate::admission::{Admission, Cost, Health, NotAdmitted, QuotaGroups, Ticket};
use crate::budget::{BudgetRefusal, Reservation};
use crate::clock::{self, Instant, Jitter};
use crate::config::{BudgetLimit, Provider, RetryPolicy};
use crate::event::{Event, Waiting};
use crate::executor::{Billing, ExecutorIo, HealthChange, Mode, Reply, Request, Verdict};
use crate::fault::Failure;
use crate::ident::{Spend, StepId};
use crate::tokens::Meter;
use crate::tokens::tokenizer::Encoding;

/// Number of refusals in a row, without an answer between them, after which a health probe tests whether everything is
/// refused.
pub(super) const SAME_REFUSALS: usize = 20;
/// Time that a row waits for others to be sent in the same request.
const LINGER: Duration = Duration::from_millis(20);
/// Time without any other row to send after which refused rows fail, since no answer to another row can show the cause.
const REFUSED_REST: Duration = Duration::from_millis(250);
/// Time until the budget is checked again: a request in flight may cost less than was reserved for it.
const BUDGET_LOOK: Duration = Duration::from_millis(20);

/// One provider's dispatcher.
pub struct Dispatcher<A: RequestSender> {
    pub(super) client: ProviderClient<A>,
    pub(super) policy: RetryPolicy,
    pub(super) admission: Admission,
    pub(super) meter: Meter,
    /// The tokenizer encoding of the model, looked up when tokens are first counted; `None` in it if it is not known.
    encoding: OnceCell<Option<Encoding>>,
    pub(super) retries: RetryBudget,
    pub(super) jitter: Jitter,
    pub(super) io: ExecutorIo,
    learned_limits: LearnedLimits,
    /// Replies that are not sent yet.
    replies: Vec<Reply>,
    pub(super) ready: VecDeque<PendingRequest>,
    most_ready: usize,
    request_batcher: RequestBatcher,
    pub(super) due: BinaryHeap<DueRetry>,
    pub(super) order: u64,
    state_reporter: StateReporter,
    /// When rows that wait for others to share their request are sent without them.
    linger: Option<Instant>,
    /// Generation of the pause that was reported last.
    pub(super) pause_reported: u64,
    /// Rows whose last attempt failed while nothing was answered: the provider may be at fault.
    pub(super) doubted: Vec<(PendingRequest, Failure)>,
    /// Rows that were refused since the last answer, with their requests' numbers: the refusals may concern the run.
    pub(super) refused: Vec<(PendingRequest, Failure, u64)>,
    /// Whether everything was found to be refused. A row that is refused after that counts as not sent.
    pub(super) refuses_all: bool,
    /// Number of refusals since the last answer.
    pub(super) refusals_in_a_row: usize,
    /// Number of refusals in a row after which a harmless question tests whether everything is refused.
    pub(super) refusals_looked_at: usize,
    /// When the rows in `refused` fail, if there is nothing else to send until then.
    refusals_final_at: Option<Instant>,
    /// Whether the provider answered a row in this run.
    pub(super) has_answered: bool,
    /// Whether a harmless question is to be sent or under way.
    pub(super) health_probe: HealthProbe,
    /// Since when nothing is answered, and when that was last reported.
    pub(super) outage_reported: Option<(Instant, Instant)>,
    /// Whether the provider or the budget has ended the run.
    is_stopped: bool,
    /// The limit by which the budget ended the run, until it is reported.
    budget_spent: Option<BudgetLimit>,
    pub(super) stragglers: Stragglers,
    attempts_in_flight: JoinSet<EndedAttempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthProbe {
    None,
    Due,
    Sent,
}

impl<A: RequestSender> Dispatcher<A> {
    /// Creates the dispatcher of a provider. `learned_limits` is read at the start and kept up to date during the run.
    #[must_use]
    pub fn new(
        provider: &Provider,
        endpoint: Arc<A>,
        learned_limits: LearnedLimits,
        groups: &QuotaGroups,
        mut io: ExecutorIo,
    ) -> Self {
        let now = clock::now();
        let (learned, meter, schema_form) = learned_limits.recall(&provider.name);
        if let Some(form) = schema_form {
            endpoint.begin_with(form);
        }
        let quotas = groups.of(provider, &learned, now);
        Dispatcher {
            client: ProviderClient {
                provider: provider.name.as_str().into(),
                endpoint,
                billing: Billing::new(provider, io.voice.clone()),
                only_embeds: io.only_embeds,
                tier_fallback_after: provider.tier_fallback_after,
            },
            policy: provider.retry,
            admission: Admission::new(provider, &learned, quotas, io.has_fallback, now, io.jitter.fork()),
            meter,
            encoding: OnceCell::new(),
            retries: RetryBudget::new(now),
            jitter: io.jitter.fork(),
            most_ready: io.capacity,
            io,
            learned_limits,
            replies: Vec::new(),
            ready: VecDeque::new(),
            request_batcher: RequestBatcher::of(provider),
            due: BinaryHeap::new(),
            order: 0,
            state_reporter: StateReporter::default(),
            linger: None,
            pause_reported: 0,
            doubted: Vec::new(),
            refused: Vec::new(),
            refusals_final_at: None,
            refuses_all: false,
            refusals_in_a_row: 0,
            refusals_looked_at: SAME_REFUSALS,
            has_answered: false,
            health_probe: HealthProbe::None,
            outage_reported: None,
            is_stopped: false,
            budget_spent: None,
            stragglers: Stragglers::new(provider.hedge_share),
            attempts_in_flight: JoinSet::new(),
        }
    }

    /// Runs until the inbox is closed and every request has come back, or until nobody receives the replies any more.
    pub async fn run(mut self) {
        loop {
            let mode = *self.io.mode.borrow();
            if mode == Mode::Aborting {
                self.abort().await;
                return;
            }
            let draining = mode == Mode::Draining;
            let wake = if draining {
                self.hand_back();
                self.report(clock::now(), None);
                None
            } else {
                self.yield_rows();
                self.fail_refused_if_idle();
                let wake = self.send_ready();
                self.report_budget_spent();
                wake
            };
            if self.send_replies().await.is_err() {
                return;
            }
            let idle = self.is_at_rest() && self.doubted.is_empty() && self.refused.is_empty();
            let has_space = draining || self.ready.len() < self.most_ready;
            let done = tokio::select! {
                biased;
                Some(result) = self.attempts_in_flight.join_next(), if !self.attempts_in_flight.is_empty() => {
                    self.take_results(result).await;
                    Ok(())
                }
                request = self.io.inbox.recv(), if has_space => match request {
                    Some(request) => {
                        self.take(request);
                        Ok(())
                    }
                    None if idle => return,
                    // The inbox is closed: wait for what is under way.
                    None => self.wait_closed(wake).await,
                },
                changed = self.io.mode.changed() => if changed.is_err() { Err(Gone) } else { Ok(()) },
                () = sleep_until(wake.unwrap_or_else(clock::now)), if wake.is_some() => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Waits, with a closed inbox, until an attempt ends, a wake is due or the mode changes.
    async fn wait_closed(&mut self, wake: Option<Instant>) -> Result<(), Gone> {
        tokio::select! {
            biased;
            Some(result) = self.attempts_in_flight.join_next(), if !self.attempts_in_flight.is_empty() => {
                self.take_results(result).await;
                Ok(())
            }
            changed = self.io.mode.changed() => changed.map_err(|_| Gone),
            () = sleep_until(wake.unwrap_or_else(clock::now)), if wake.is_some() => Ok(()),
        }
    }

    /// Handles an attempt that has ended, and all others that have ended by now. Other tasks run first, so that
    /// attempts whose responses have arrived end together; then the next requests are sent together, and one write
    /// records them.
    async fn take_results(&mut self, first: Result<EndedAttempt, JoinError>) {
        yield_to_ready_tasks().await;
        let mut ended: Vec<EndedAttempt> = joined(first).into_iter().collect();
        while let Some(result) = self.attempts_in_flight.try_join_next() {
            ended.extend(joined(result));
        }
        keep_answers(&mut ended);
        ended.into_iter().for_each(|ended| self.take_result(ended));
    }

    fn is_at_rest(&self) -> bool {
        self.ready.is_empty() && self.due.is_empty() && self.attempts_in_flight.is_empty()
    }

    /// Whether nothing is in flight and no row is in the inbox.
    pub(super) fn is_otherwise_idle(&self) -> bool {
        self.attempts_in_flight.is_empty() && self.io.inbox.is_empty()
    }

    fn take(&mut self, request: Request) {
        self.ready.push_back(PendingRequest::new(request, &self.policy));
        while self.ready.len() < self.most_ready {
            let Ok(request) = self.io.inbox.try_recv() else { break };
            self.ready.push_back(PendingRequest::new(request, &self.policy));
        }
        // The enricher is woken once for many rows, not for each.
        if self.io.inbox.len() <= self.io.inbox.max_capacity() / 2 {
            self.io.capacity_freed.notify_one();
        }
    }

    /// Reports whether this provider takes rows. While it does not, hands back those that another provider can take.
    fn yield_rows(&mut self) {
        if !self.io.has_fallback {
            return;
        }
        let health = self.admission.health(clock::now());
        if matches!(health, Health::Down(_)) || self.io.health.is_out() {
            while let Ok(request) = self.io.inbox.try_recv() {
                self.ready.push_back(PendingRequest::new(request, &self.policy));
            }
            for pending in self.take_unsent() {
                self.reply(pending, Verdict::Elsewhere);
            }
        }
        let has_probe = !self.is_at_rest();
        let news = self.io.health.report(health, has_probe);
        if let Some(text) = news.in_words(&self.client.provider) {
            self.io.voice.say(&Event::Notice(&text));
        }
        if matches!(news, HealthChange::WantsProbe | HealthChange::Answers) {
            self.io.capacity_freed.notify_one();
        }
    }

    /// Sends what is ready as far as admission allows. Returns when to look again.
    fn send_ready(&mut self) -> Option<Instant> {
        let now = clock::now();
        let mut next_due = None;
        // Rows that were sent in one request are due at the same time, and count as one retry.
        let mut spent_for = None;
        while let Some(due) = self.due.peek() {
            if due.at > now {
                next_due = Some(due.at);
                break;
            }
            let at = due.at;
            if spent_for != Some(at) {
                let has_fresh = self.ready.iter().any(|pending| pending.attempts == 0);
                if let Err(later) = self.retries.spend(has_fresh, now) {
                    next_due = Some(later);
                    break;
                }
            }
            spent_for = Some(at);
            if let Some(due) = self.due.pop() {
                self.ready.push_front(due.pending);
            }
        }
        if self.is_at_rest() && !self.doubted.is_empty() && self.health_probe == HealthProbe::None {
            // No other request is left whose answer could show whether the provider or the row is at fault.
            self.health_probe = HealthProbe::Due;
        }
        let rests = !self.refused.is_empty() && self.is_at_rest();
        // More rows may arrive, and an answer to one of them would decide about the refusals.
        self.refusals_final_at = rests.then(|| self.refusals_final_at.unwrap_or(now + REFUSED_REST));
        self.linger = None;
        let held = self.send_second_attempts(now);
        let waiting = if held.is_some() { held } else { self.send_while_admitted(now) };
        let is_idle = self.ready.is_empty() && self.attempts_in_flight.is_empty();
        let backoff = next_due.filter(|_| is_idle).map(|due| (Waiting::Backoff, due));
        self.report(now, waiting.or(backoff));
        let probe = match self.admission.health(now) {
            Health::Down(until) if self.io.has_fallback => Some(until),
            _ => None,
        };
        let rest = self.refusals_final_at;
        let looks = self.health_probe == HealthProbe::None && !self.is_stopped;
        // A straggler that is already due waits for a request in flight to end: it needs no wake.
        let straggler = self.stragglers.look_at().filter(|at| looks && *at > now);
        [straggler, next_due, waiting.map(|(_, at)| at), probe, self.linger, rest].into_iter().flatten().min()
    }

    /// Sends ready rows until admission, the budget or a health probe holds them back. Returns what holds them back and
    /// until when, if that is known.
    fn send_while_admitted(&mut self, now: Instant) -> Option<(Waiting, Instant)> {
        let counts_tokens = self.admission.counts_tokens();
        while !self.is_stopped {
            let is_open = self.admission.health(now) != Health::Up;
            let front = self.ready.front();
            // Rows that failed since the last answer may be the cause, so they are no good test of the provider.
            let is_suspect = front.is_some_and(|pending| self.admission.suspects(pending.request.cell));
            if is_open && is_suspect && self.health_probe == HealthProbe::None && !self.io.has_fallback {
                self.health_probe = HealthProbe::Due;
            }
            if self.health_probe == HealthProbe::Sent && (is_open || is_suspect) {
                return None;
            }
            if self.health_probe != HealthProbe::Due && self.ready.is_empty() {
                return None;
            }
            let (group, more) = self.group(now);
            if let Some(until) = more.filter(|_| self.health_probe != HealthProbe::Due) {
                self.linger = Some(until);
                return None;
            }
            // The cost takes reading the rows, so it is determined only when a request could be sent.
            if self.admission.may_send(now) == Err(NotAdmitted::WhenOneEnds) {
                return None;
            }
            let cost = if counts_tokens && self.health_probe != HealthProbe::Due {
                self.cost(group)
            } else {
                Cost::default()
            };
            let reservation = match self.reserve(group) {
                Ok(reservation) => reservation,
                Err(BudgetRefusal::Later) => return Some((Waiting::Budget, now + BUDGET_LOOK)),
                Err(BudgetRefusal::Spent(limit)) => {
                    self.is_stopped = true;
                    self.budget_spent = Some(limit);
                    return None;
                }
            };
            match self.admission.admit(cost, now) {
                Ok(ticket) if self.health_probe == HealthProbe::Due => {
                    self.send_harmless(ticket, reservation);
                }
                Ok(ticket) => {
                    let rows = self.ready.drain(..group).collect();
                    self.send(rows, cost, ticket, reservation);
                }
                Err(held) => return held.until(),
            }
        }
        None
    }

    /// Sends second attempts for stragglers before anything new, as far as admission and the budget allow. Returns what
    /// the next one waits for and until when, if a limit holds it back.
    fn send_second_attempts(&mut self, now: Instant) -> Option<(Waiting, Instant)> {
        while !self.is_stopped
            && self.health_probe == HealthProbe::None
            && let Some(straggler) = self.stragglers.find(now)
        {
            let is_calm = self.admission.health(now) == Health::Up && self.admission.outage().is_none();
            let reservation = match self.admission.may_send(now) {
                // The next request that ends leaves its place to this one.
                Err(NotAdmitted::WhenOneEnds) => return None,
                Err(NotAdmitted::Until(..)) => None,
                Ok(()) => is_calm.then(|| self.io.account.reserve(straggler.worst).ok()).flatten(),
            };
            let Some(mut reservation) = reservation else {
                self.stragglers.postpone(now);
                return None;
            };
            let ticket = match self.admission.admit(straggler.cost, now) {
                Ok(ticket) => ticket,
                Err(held) => return held.until(),
            };
            reservation.begin();
            match self.stragglers.give(straggler.number, Second { ticket, reservation }) {
                None => self.io.voice.say(&Event::Hedged { provider: &self.client.provider }),
                Some(ticket) => self.admission.abandoned(&ticket),
            }
        }
        None
    }

    /// Returns the number of rows at the front that go into one request, and until when to wait for more rows in it, or
    /// `None` if it need not wait.
    fn group(&mut self, now: Instant) -> (usize, Option<Instant>) {
        let group = self.request_batcher.group(&self.ready);
        let is_growing = group == self.ready.len() && !self.request_batcher.is_full(group);
        let Some(first) = self.ready.front().filter(|_| is_growing) else { return (group, None) };
        let is_alone =
            first.request.params.vectors.is_none() || first.together <= group || first.attempts > 0;
        let until = first.since + LINGER;
        (group, (!is_alone && until > now).then_some(until))
    }

    /// Returns the tokens that the first `group` ready rows are expected to take.
    fn cost(&mut self, group: usize) -> Cost {
        let encoding = *self.encoding.get_or_init(|| Encoding::of(self.client.endpoint.model()));
        let mut cost = Cost::default();
        for pending in self.ready.iter_mut().take(group) {
            let counted = pending.input(encoding);
            let Request { receipt, params, .. } = &pending.request;
            let (input, output) =
                self.meter.expect(&receipt.step, pending.request.question.bytes(), params.max_tokens);
            cost.input += counted.unwrap_or(input);
            if params.vectors.is_none() {
                cost.output += output;
                cost.most_output = params.max_tokens.map(f64::from);
            } else {
                cost.most_output = Some(0.0);
            }
        }
        cost
    }

    /// Reserves the worst case of the next request in the budget.
    fn reserve(&self, group: usize) -> Result<Reservation, BudgetRefusal> {
        let worst = match self.ready.front() {
            _ if !self.io.account.is_limited() => Spend::default(),
            Some(PendingRequest { request, .. }) if self.health_probe != HealthProbe::Due => {
                let questions = self.ready.iter().take(group).map(|pending| &pending.request.question);
                self.client.billing.worst_case(questions, &request.params)
            }
            _ => self.client.worst_of_harmless(),
        };
        self.io.account.reserve(worst)
    }

    /// Fails the refused rows when their time is over and no answer to another row can decide: the refusals were their
    /// own.
    fn fail_refused_if_idle(&mut self) {
        match self.refusals_final_at {
            Some(at) if at <= clock::now() && self.health_probe == HealthProbe::None => {
                self.refusals_final_at = None;
                self.fail_refused();
            }
            _ => {}
        }
    }

    /// Hands back a row for which the budget leaves too little, which ends the run.
    fn report_budget_spent(&mut self) {
        let Some(limit) = self.budget_spent else { return };
        let doubted = || self.doubted.pop().map(|(pending, _)| pending);
        let Some(pending) = self.ready.pop_front().or_else(doubted) else { return };
        self.budget_spent = None;
        self.reply(pending, Verdict::BudgetSpent(limit));
    }

    fn report(&mut self, now: Instant, waiting: Option<(Waiting, Instant)>) {
        let in_flight = u32::try_from(self.attempts_in_flight.len()).unwrap_or(u32::MAX);
        let Self { io, client, admission, meter, state_reporter, learned_limits, .. } = self;
        let name = &client.provider;
        if state_reporter.report(&io.voice, name, now, in_flight, waiting, || admission.gauge()) {
            learned_limits.keep(name, admission.learned(), meter, client.endpoint.schema_form());
        }
    }

    fn send(
        &mut self,
        mut rows: Vec<PendingRequest>,
        cost: Cost,
        ticket: Ticket,
        mut reservation: Reservation,
    ) {
        if rows.iter().any(|pending| pending.attempts == 0) {
            self.retries.first_attempt();
        }
        rows.iter_mut().for_each(|pending| pending.attempts += 1);
        reservation.begin();
        let step = rows.first().map_or(StepId::FIRST, |pending| pending.request.cell.step);
        let costs = (cost, reservation.worst());
        let second = self.stragglers.sent(ticket.number(), step, costs, clock::now());
        self.attempts_in_flight.spawn(self.client.clone().ask(rows, ticket, reservation, second));
    }

    /// Sends a harmless question, which every working provider can answer.
    fn send_harmless(&mut self, ticket: Ticket, mut reservation: Reservation) {
        self.health_probe = HealthProbe::Sent;
        let is_limited = self.io.account.is_limited();
        reservation.begin();
        self.attempts_in_flight.spawn(self.client.clone().ask_harmless(is_limited, ticket, reservation));
    }

    /// Cuts off what is in flight; answers that have arrived whole are still handed over.
    async fn abort(&mut self) {
        self.attempts_in_flight.abort_all();
        let mut ended: Vec<EndedAttempt> = Vec::new();
        while let Some(result) = self.attempts_in_flight.join_next().await {
            ended.extend(joined(result));
        }
        keep_answers(&mut ended);
        for EndedAttempt { rows, result, reservation, .. } in ended {
            drop(reservation);
            let AttemptResult::Paid { shares, .. } = result else { continue };
            for (pending, paid) in rows.into_iter().zip(shares) {
                if let Some(paid) = paid {
                    self.reply(pending, Verdict::Paid(paid));
                }
            }
        }
        // Nobody waits for them if this fails; they are in the journal.
        let _ = self.send_replies().await;
    }

    /// Hands back everything that is not in flight. Refused rows fail.
    fn hand_back(&mut self) {
        while let Ok(request) = self.io.inbox.try_recv() {
            self.ready.push_back(PendingRequest::new(request, &self.policy));
        }
        self.fail_refused();
        for pending in self.take_unsent() {
            self.reply(pending, Verdict::Unsent);
        }
    }

    fn take_unsent(&mut self) -> Vec<PendingRequest> {
        self.admission.nobody_waits();
        let due = std::mem::take(&mut self.due).into_iter().map(|due| due.pending);
        let doubted = std::mem::take(&mut self.doubted).into_iter().map(|(pending, _)| pending);
        let refused = std::mem::take(&mut self.refused).into_iter().map(|(pending, ..)| pending);
        std::mem::take(&mut self.ready).into_iter().chain(due).chain(doubted).chain(refused).collect()
    }

    /// Replies to a request. The replies of one pass of the loop are sent together.
    pub(super) fn reply(&mut self, pending: PendingRequest, verdict: Verdict) {
        // The receiver of this reply ends the run; until then nothing more is sent into the same refusal.
        self.is_stopped |=
            matches!(verdict, Verdict::Stop(_) | Verdict::BudgetSpent(_)) && !self.io.has_fallback;
        let attempts = pending.sent();
        let reply = Reply { request: pending.request, provider: self.io.provider, attempts, verdict };
        self.replies.push(reply);
    }

    /// Sends the replies of this pass of the loop. Waits where their receiver is behind.
    async fn send_replies(&mut self) -> Result<(), Gone> {
        if self.replies.is_empty() {
            return Ok(());
        }
        self.io.outbox.send(std::mem::take(&mut self.replies)).await.map_err(|_| Gone)
    }
}

impl<A: RequestSender> Drop for Dispatcher<A> {
    fn drop(&mut self) {
        self.io.voice.say(&Event::Gauged { provider: &self.client.provider, gauge: &self.admission.gauge() });
        let Self { client, admission, meter, learned_limits, .. } = self;
        learned_limits.keep(&client.provider, admission.learned(), meter, client.endpoint.schema_form());
    }
}

/// The other end of a channel is gone.
pub(super) struct Gone;

/// Lets other tasks that are ready run first. Unlike `yield_now` it does not check the network first.
async fn yield_to_ready_tasks() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

//! Handles attempts that have ended: hands their rows back with a result, sends them again, or waits for what shows
//! whether the row, the provider or the run is to blame for a failure.

use std::time::Duration;

use super::attempt::{AnswerShare, Attempt, AttemptResult, EndedAttempt};
use super::dispatcher::{Dispatcher, HealthProbe, SAME_REFUSALS};
use super::request_sender::RequestSender;
use super::retry::{DueRetry, PendingRequest, RetryDecision};
use crate::admission::{Blame, Ticket};
use crate::clock::{self, Instant};
use crate::event::Event;
use crate::executor::Verdict;
use crate::fault::{Class, Failure, Policy, Scarce};
use crate::ident::Tokens;
use crate::wire::Limits;

/// Number of times that a row is throttled after which the row itself may be what is refused, if every row that is left
/// has been throttled as often.
const STUCK_AFTER: u32 = 2;

/// Time between two reports that nothing is answered.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Whether two refusals are the same apart from numbers, such as what was spent or what is left.
fn is_same_refusal(one: &Failure, other: &Failure) -> bool {
    let bare =
        |failure: &Failure| -> String { failure.detail.chars().filter(|c| !c.is_ascii_digit()).collect() };
    one.class == other.class && bare(one) == bare(other)
}

/// Whether a refusal of this class may concern the run and not the row: a provider may also answer 400 for an account
/// that is blocked or out of money.
fn may_be_the_runs(class: Class) -> bool {
    matches!(class, Class::BadRequest | Class::NotFound)
}

/// The circumstances of an attempt, apart from its result.
#[derive(Clone, Copy)]
struct AttemptContext<'a> {
    ticket: &'a Ticket,
    limits: &'a Limits,
    took: Duration,
    now: Instant,
}

impl<A: RequestSender> Dispatcher<A> {
    pub(super) fn take_result(&mut self, ended: EndedAttempt) {
        let EndedAttempt { ticket, limits, took, result, rows, reservation, other, .. } = ended;
        // The drop books what the attempt took, before its result is reported.
        drop(reservation);
        self.stragglers.ended(ticket.number(), other.is_some());
        if let Some(Attempt { ticket, reservation }) = other {
            drop(reservation);
            self.stragglers.ended(ticket.number(), false);
            self.admission.abandoned(&ticket);
        }
        let now = clock::now();
        if rows.is_empty() {
            return self.handle_probe_result(result, &ticket, &limits, now);
        }
        self.handle_row_result(rows, result, AttemptContext { ticket: &ticket, limits: &limits, took, now });
    }

    fn handle_row_result(
        &mut self,
        rows: Vec<PendingRequest>,
        result: AttemptResult,
        context: AttemptContext<'_>,
    ) {
        let AttemptContext { ticket, limits, now, .. } = context;
        match result {
            AttemptResult::Paid { shares, tokens } => self.distribute_answer(rows, shares, tokens, context),
            AttemptResult::Unsent(error) => {
                self.admission.abandoned(ticket);
                self.abandon(rows, Verdict::Lost(error));
            }
            AttemptResult::Lost(error) => {
                self.admission.answered(ticket, None, limits, now);
                self.abandon(rows, Verdict::Lost(error));
            }
            AttemptResult::LostToo => {
                self.admission.answered(ticket, None, limits, now);
                self.abandon(rows, Verdict::Unsent);
            }
            AttemptResult::Failed(failure) => match failure.class.policy() {
                Policy::Reject => {
                    self.admission.answered(ticket, None, limits, now);
                    self.resolve_doubted();
                    if rows.len() > 1 {
                        self.split(rows);
                        return;
                    }
                    if self.refuses_all && may_be_the_runs(failure.class) {
                        self.ready.extend(rows);
                        return;
                    }
                    if self.has_answered && may_be_the_runs(failure.class) {
                        let number = ticket.number();
                        self.refused
                            .extend(rows.into_iter().map(|pending| (pending, failure.clone(), number)));
                        self.refusals_in_a_row += 1;
                        if self.refusals_in_a_row >= self.refusals_looked_at
                            && self.health_probe == HealthProbe::None
                        {
                            self.health_probe = HealthProbe::Due;
                        }
                        return;
                    }
                    self.reply_all(rows, || Verdict::Failed(failure.clone()));
                }
                Policy::Stop => {
                    self.admission.answered(ticket, None, limits, now);
                    self.reply_all(rows, || Verdict::Stop(failure.clone()));
                }
                Policy::Wait => self.handle_throttled(rows, &failure, context),
                Policy::Retry => self.handle_failed(rows, &failure, context),
            },
        }
    }

    /// Gives each row its share of an answer. Rows for which it has none are retried.
    fn distribute_answer(
        &mut self,
        rows: Vec<PendingRequest>,
        shares: Vec<AnswerShare>,
        tokens: Option<Tokens>,
        context: AttemptContext<'_>,
    ) {
        self.admission.answered(context.ticket, tokens, context.limits, context.now);
        self.retries.answered();
        if let Some(first) = rows.first() {
            let latency = context.now.saturating_duration_since(context.ticket.sent_at());
            self.stragglers.answered(context.ticket.number(), first.request.cell.step, latency);
        }
        self.has_answered = true;
        self.refusals_looked_at = SAME_REFUSALS;
        self.refusals_in_a_row = 0;
        self.report_recovery(context.now);
        self.fail_refused_before(context.ticket.number());
        if let (Some(tokens), Some(first)) = (tokens, rows.first()) {
            let bytes = rows.iter().map(|pending| pending.request.question.bytes()).sum();
            self.meter.learn(&first.request.receipt.step, bytes, tokens);
        }
        self.resolve_doubted();
        let mut without = Vec::new();
        for (mut pending, share) in rows.into_iter().zip(shares) {
            match share {
                Some(paid) => self.reply(pending, Verdict::Paid(paid)),
                None => {
                    pending.spent += context.took;
                    without.push(pending);
                }
            }
        }
        let failure = Failure::new(Class::InvalidResponse, "the answer has no vector for this text");
        self.retry(without, &failure, false);
    }

    /// Handles an attempt that was refused for too much load.
    fn handle_throttled(
        &mut self,
        mut rows: Vec<PendingRequest>,
        failure: &Failure,
        context: AttemptContext<'_>,
    ) {
        let AttemptContext { ticket, limits, took, now } = context;
        let Some(first) = rows.first() else { return };
        let row = first.request.cell;
        let is_own = first.is_suspect || first.refused_at.is_some_and(|before| self.admission.is_own(before));
        self.io.voice.say(&Event::Throttled { provider: &self.client.provider, failure });
        let generation = self.admission.generation();
        let blame = self.admission.throttled(ticket, Some(row), failure, is_own, limits, now);
        self.report_outage(failure, now);
        let counts = self.admission.response_counts();
        for pending in &mut rows {
            pending.is_suspect = false;
            pending.take_back_attempt();
            pending.refused_at = Some(counts);
            pending.throttled += 1;
        }
        let is_for_room = failure.scarce == Some(Scarce::TierRoom);
        if is_for_room {
            rows.iter_mut().for_each(|pending| pending.note_no_room(now));
        }
        if blame == Blame::Request && is_for_room {
            let waits = rows.iter_mut().map(|row| row.wait_for_room(failure, &self.policy, &mut self.jitter));
            let longest = waits.max().unwrap_or_default();
            return self.send_after(longest, rows);
        }
        if blame == Blame::Request {
            for pending in &mut rows {
                pending.spent += took;
                if is_own {
                    pending.refusals += 1;
                } else {
                    // The refusal is taken back if it turns out to be the provider's trouble.
                    pending.note_refusal(generation);
                }
            }
            return self.retry(rows, failure, false);
        }
        if self.admission.generation() != generation {
            self.refund(generation);
            rows.iter_mut().for_each(|pending| pending.refund(generation));
        }
        self.requeue(rows, failure, blame);
        let is_stuck = |pending: &PendingRequest| pending.throttled >= STUCK_AFTER;
        let are_stuck =
            || self.ready.iter().all(is_stuck) && self.due.iter().all(|due| is_stuck(&due.pending));
        if self.health_probe == HealthProbe::None && self.is_otherwise_idle() && are_stuck() {
            // There is no other request whose answer could show whether these rows are refused or everything is.
            self.health_probe = HealthProbe::Due;
        }
    }

    /// Handles an attempt that failed in a way that may pass.
    fn handle_failed(
        &mut self,
        mut rows: Vec<PendingRequest>,
        failure: &Failure,
        context: AttemptContext<'_>,
    ) {
        let AttemptContext { ticket, limits, took, now } = context;
        let Some(first) = rows.first() else { return };
        let is_last = first.is_last(failure, &self.policy);
        let is_last_but_one = first.attempts + 1 >= self.policy.max_attempts;
        let row = first.request.cell;
        let generation = self.admission.generation();
        let blame = self.admission.failed(ticket, row, failure, is_last, limits, now);
        self.report_outage(failure, now);
        if matches!(blame, Blame::Row | Blame::Brownout | Blame::Doubt) {
            for pending in &mut rows {
                pending.spent += took;
                pending.note_failure(generation);
            }
        }
        match blame {
            Blame::Row | Blame::Request => {
                // The provider may be unable to process one of the rows: they are sent again in halves, and in the end
                // alone.
                let half = if is_last_but_one { 1 } else { rows.len().div_ceil(2) };
                rows.iter_mut().for_each(|pending| pending.together = half);
                self.retry(rows, failure, false);
            }
            Blame::Brownout => {
                let (mut excused, mut counted) = (Vec::new(), Vec::new());
                for mut pending in rows {
                    if pending.excuse() { excused.push(pending) } else { counted.push(pending) }
                }
                self.retry(excused, failure, true);
                self.retry(counted, failure, false);
            }
            Blame::Doubt => {
                self.doubted.extend(rows.into_iter().map(|pending| (pending, failure.clone())));
            }
            Blame::Provider | Blame::Run(_) => {
                if self.admission.generation() != generation {
                    self.refund(generation);
                    rows.iter_mut().for_each(|pending| pending.refund(generation));
                }
                for pending in &mut rows {
                    pending.attempts = pending.attempts.saturating_sub(1);
                }
                self.requeue(rows, failure, blame);
            }
        }
    }

    /// Splits a request for several rows that was refused, perhaps for one of them: its halves are sent apart, at once.
    fn split(&mut self, rows: Vec<PendingRequest>) {
        let half = rows.len().div_ceil(2);
        for mut pending in rows.into_iter().rev() {
            pending.together = half;
            pending.take_back_attempt();
            self.ready.push_front(pending);
        }
    }

    fn handle_probe_result(&mut self, result: AttemptResult, ticket: &Ticket, limits: &Limits, now: Instant) {
        self.health_probe = HealthProbe::None;
        let failure = match result {
            AttemptResult::Unsent(error) => {
                self.admission.abandoned(ticket);
                let doubted = || self.doubted.pop().map(|(pending, _)| pending);
                let row = self.ready.pop_front().or_else(doubted);
                return self.abandon(row.into_iter().collect(), Verdict::Lost(error));
            }
            AttemptResult::Failed(failure) if failure.class.policy() != Policy::Reject => failure,
            AttemptResult::Failed(failure) if self.is_refusal_of_all(&failure) => {
                self.admission.answered(ticket, None, limits, now);
                return self.stop_refused(&failure);
            }
            // The provider answers, whatever it says to the question.
            _ => {
                if self.refusals_in_a_row >= self.refusals_looked_at {
                    // The more rows are refused for reasons of their own, the more rarely that is tested.
                    self.refusals_looked_at = self.refusals_looked_at.saturating_mul(2);
                }
                self.fail_refused();
                self.admission.answered(ticket, None, limits, now);
                self.admission.mark_healthy(now);
                // The provider answers, so rows that it has refused several times are themselves suspect.
                let mut due = std::mem::take(&mut self.due).into_vec();
                let pending = self.ready.iter_mut().chain(due.iter_mut().map(|due| &mut due.pending));
                let stuck = pending.filter(|pending| pending.throttled >= STUCK_AFTER);
                stuck.for_each(|pending| pending.is_suspect = true);
                self.due = due.into();
                return self.resolve_doubted();
            }
        };
        let generation = self.admission.generation();
        let blame = match failure.class.policy() {
            Policy::Stop => Blame::Run(failure.clone()),
            Policy::Wait => self.admission.throttled(ticket, None, &failure, false, limits, now),
            _ => self.admission.health_probe_failed(ticket, &failure, limits, now),
        };
        self.refund(generation);
        self.report_pause(&failure, now);
        self.report_outage(&failure, now);
        match (blame, self.ready.pop_front()) {
            (Blame::Run(failure), Some(pending)) => self.reply(pending, Verdict::Stop(failure)),
            (_, Some(pending)) => {
                self.ready.push_front(pending);
            }
            (_, None) => {}
        }
    }

    /// Reports that nothing is answered: at once if nothing ever was in this run, else after a minute, and every
    /// minute.
    fn report_outage(&mut self, failure: &Failure, now: Instant) {
        let Some((since, deadline)) = self.admission.outage().filter(|_| !self.io.has_fallback) else {
            return;
        };
        if self.admission.ends_run_if_never_answered(failure) {
            // The run does not wait for such a provider.
            return;
        }
        let is_due = match self.outage_reported {
            Some((_, reported)) => now.saturating_duration_since(reported) >= REPORT_EVERY,
            None => !self.admission.has_answered() || now.saturating_duration_since(since) >= REPORT_EVERY,
        };
        if !is_due {
            return;
        }
        self.outage_reported = Some((since, now));
        let provider = &self.client.provider;
        let [passed, deadline] =
            [now.saturating_duration_since(since), deadline].map(|time| Duration::from_secs(time.as_secs()));
        let deadline = humantime::format_duration(deadline);
        let text = if passed.is_zero() {
            format!("{provider} does not answer yet: {failure}; the run waits up to {deadline} for it")
        } else {
            let passed = humantime::format_duration(passed);
            format!(
                "{provider} has answered nothing for {passed}: {failure}; the run waits up to {deadline} for it"
            )
        };
        self.io.voice.say(&Event::Notice(&text));
    }

    /// Reports the end of an outage that was reported.
    fn report_recovery(&mut self, now: Instant) {
        if self.admission.outage().is_some() {
            return;
        }
        if let Some((since, _)) = self.outage_reported.take() {
            let lasted = Duration::from_secs(now.saturating_duration_since(since).as_secs());
            let lasted = humantime::format_duration(lasted);
            let text = format!("{} answers again after {lasted}", self.client.provider);
            self.io.voice.say(&Event::Notice(&text));
        }
    }

    /// Whether a harmless question met the same refusal as the last rows.
    fn is_refusal_of_all(&self, failure: &Failure) -> bool {
        !self.refused.is_empty()
            && self.refused.iter().all(|(_, refused, _)| is_same_refusal(refused, failure))
    }

    /// Ends the run because everything is refused; the rows count as not sent.
    fn stop_refused(&mut self, failure: &Failure) {
        let mut refused = std::mem::take(&mut self.refused).into_iter().map(|(pending, ..)| pending);
        let first = refused.next();
        let count = self.refusals_in_a_row;
        self.ready.extend(refused);
        self.refuses_all = true;
        let Some(first) = first else { return };
        let detail = format!("it refuses everything since {count} rows, also a harmless question: {failure}");
        self.reply(first, Verdict::Stop(Failure::new(Class::SameRefusal, detail)));
    }

    /// Fails the rows that were refused: the provider answers, so that the refusals were their own.
    pub(super) fn fail_refused(&mut self) {
        self.fail_refused_before(u64::MAX);
    }

    /// Fails rows whose request was refused and sent before request `number`, which was answered: the refusals were
    /// their own. A request that was sent later may meet another state of the account.
    fn fail_refused_before(&mut self, number: u64) {
        if self.refused.is_empty() {
            return;
        }
        for (pending, failure, sent) in std::mem::take(&mut self.refused) {
            if sent < number {
                self.reply(pending, Verdict::Failed(failure));
            } else {
                self.refused.push((pending, failure, sent));
            }
        }
    }

    /// Retries the doubted rows. The provider answers, so their last attempt counts as failed.
    fn resolve_doubted(&mut self) {
        for (pending, failure) in std::mem::take(&mut self.doubted) {
            self.retry(vec![pending], &failure, false);
        }
    }

    /// Gives rows back the attempts that failed in this generation of admission, since the provider's trouble made them
    /// fail. Doubted rows become ready again.
    fn refund(&mut self, generation: u64) {
        for (mut pending, _) in std::mem::take(&mut self.doubted) {
            pending.attempts = pending.attempts.saturating_sub(1);
            self.ready.push_back(pending);
        }
        self.ready.iter_mut().for_each(|pending| pending.refund(generation));
        let mut due = std::mem::take(&mut self.due).into_vec();
        due.iter_mut().for_each(|due| due.pending.refund(generation));
        self.due = due.into();
    }

    /// Puts rows behind those that are ready, after a failure that does not count as their attempt. In front, a row
    /// that the provider cannot process could be the only one that tests it. If `blame` is the run, the run ends.
    fn requeue(&mut self, rows: Vec<PendingRequest>, failure: &Failure, blame: Blame) {
        if let Blame::Run(failure) = blame {
            return self.reply_all(rows, || Verdict::Stop(failure.clone()));
        }
        self.report_pause(failure, clock::now());
        self.ready.extend(rows);
    }

    fn report_pause(&mut self, failure: &Failure, now: Instant) {
        if let Some(pause) =
            self.admission.pause_left(now).filter(|_| self.pause_reported != self.admission.generation())
        {
            self.pause_reported = self.admission.generation();
            self.io.voice.say(&Event::Paused { provider: &self.client.provider, failure, pause });
        }
    }

    /// Sends rows again after a delay, those that went together at one time. A row that has no attempt left fails.
    fn retry(&mut self, rows: Vec<PendingRequest>, failure: &Failure, is_excused: bool) {
        let mut longest = Duration::ZERO;
        let mut again = Vec::with_capacity(rows.len());
        for pending in rows {
            match pending.after(failure, is_excused, &self.policy, &mut self.jitter) {
                RetryDecision::GiveUp(pending, failure) => {
                    self.reply(pending, Verdict::Failed(failure));
                }
                RetryDecision::Again(pending, after) => {
                    longest = longest.max(after);
                    again.push(pending);
                }
            }
        }
        if again.is_empty() {
            return;
        }
        // A throttled request was already counted as such.
        if failure.class.policy() != Policy::Wait {
            let provider = &self.client.provider;
            self.io.voice.say(&Event::Retried { provider, failure, after: longest });
        }
        self.send_after(longest, again);
    }

    /// Sends rows again after a delay.
    fn send_after(&mut self, delay: Duration, rows: Vec<PendingRequest>) {
        let at = clock::now() + delay;
        for pending in rows {
            self.order += 1;
            self.due.push(DueRetry { at, order: self.order, pending });
        }
    }

    /// Hands back rows of one request that has no result: the first gets the verdict, the others count as not sent.
    fn abandon(&mut self, rows: Vec<PendingRequest>, verdict: Verdict) {
        let mut verdict = Some(verdict);
        for pending in rows {
            self.reply(pending, verdict.take().unwrap_or(Verdict::Unsent));
        }
    }

    fn reply_all(&mut self, rows: Vec<PendingRequest>, verdict: impl Fn() -> Verdict) {
        for pending in rows {
            self.reply(pending, verdict());
        }
    }
}

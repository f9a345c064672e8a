//! Handling of replies: settles rows, sends them again or elsewhere, withholds refusals, or stops the run. What must be
//! kept is in the journal before its row is settled.

use std::sync::Arc;

use super::interface::{Enricher, PendingOutcomes};
use super::judgement::{Again, Judged, ResultOrigin, is_terminal};
use super::open_batch::SPILLED_FROM;
use super::probation::{Probation, ProbationResult, WithheldRefusal};
use super::sharing::SharedAnswer;
use super::step_provider::{StepProvider, bit};
use super::stop::Stop;
use crate::decode;
use crate::event::{self, Ending, Event, Extent};
use crate::executor::{Earlier, Reply, Request, Verdict};
use crate::fault::{Class, Failure};
use crate::ident::{Cell, Fingerprint, StepId};
use crate::journal::{self, Record};
use crate::prompt::Question;
use crate::rows::{Outcome, RowResult};

impl Enricher {
    /// Handles the replies that have arrived. Paid answers are in the journal already; refusals are journalled first.
    pub fn take_in(&mut self) {
        self.take_news();
        let replies = std::mem::take(&mut self.buffer);
        let mut kept = PendingOutcomes::new();
        for reply in replies {
            let Reply { request, provider: index, attempts, verdict } = reply;
            let cell = request.cell;
            let question = &request.question;
            let provider = &self.providers[index];
            match verdict {
                Verdict::Paid(paid) => {
                    let facts = decode::facts(&paid.response);
                    let tokens = facts.tokens.unwrap_or_default();
                    let cost = facts.cost_at(provider.prices.as_deref());
                    self.voice.say(&Event::Paid { tokens, cost });
                    let origin = ResultOrigin {
                        provider: &provider.name,
                        model: &provider.model,
                        attempts,
                        latency: Some(paid.latency),
                        fingerprint: question.fingerprint(),
                        prices: provider.prices.as_deref(),
                        earlier: request.earlier,
                        shared: false,
                        submitted: false,
                    };
                    let first = request.earlier.first.unwrap_or(question.fingerprint());
                    let route = request.route;
                    let (provider, model) = (Arc::clone(&provider.name), Arc::clone(&provider.model));
                    let shared = SharedAnswer { provider, model, body: paid.body };
                    match origin.judged(paid.response, &self.steps[cell.step.index()]) {
                        Judged::Again(again) => self.send_again(request, &again),
                        // Does not happen: a response that counts as paid can be read.
                        Judged::Unread => self.put_back(cell),
                        Judged::Settled(settled) => {
                            if let Outcome::Failed(failure) = &settled.outcome {
                                let failure = failure.clone();
                                self.share_failure(cell, &shared, &failure);
                                self.weigh_refusal(&mut kept, WithheldRefusal::Known(cell, settled, failure));
                            } else {
                                let released = self.probations[cell.step.index()].end();
                                self.settle_released(&mut kept, released);
                                self.share(cell, route, first, &shared);
                                self.settle(cell, *settled, event::Origin::Request);
                            }
                        }
                    }
                }
                Verdict::Lost(error) => {
                    self.put_back(cell);
                    self.halt(Stop::Journal(error));
                }
                Verdict::Failed(failure) if is_terminal(failure.class) => {
                    self.unshare(cell);
                    let reply = Reply { request, provider: index, attempts, verdict: Verdict::Unsent };
                    self.weigh_refusal(&mut kept, WithheldRefusal::Refused(Box::new(reply), failure));
                }
                Verdict::Failed(failure) => self.failed_at(request, index, attempts, failure),
                Verdict::Stop(failure) => self.provider_stopped(request, index, failure),
                Verdict::BudgetSpent(limit) => {
                    // Every provider shares the budget.
                    self.put_back(cell);
                    self.halt(Stop::Budget(limit));
                }
                Verdict::Submitted => {
                    self.unshare(cell);
                    self.ledger.submitted(cell);
                    if let Some(submissions) = &mut self.submissions {
                        submissions.row_was_submitted();
                    }
                }
                Verdict::Elsewhere => self.hand_back(request),
                Verdict::Unsent => self.put_back(cell),
            }
        }
        self.write_down(kept);
    }

    /// Sends a row again whose answer, which is in the journal, is not what the step asks for.
    fn send_again(&mut self, request: Request, again: &Again) {
        if self.stop.is_some() {
            self.give_back(request.cell);
            return;
        }
        let (question, params) = again.question(&request.question, &request.params);
        self.rerouted.push_back(request.again(question, params, again.earlier));
        self.capacity_freed.notify_one();
    }

    /// Sends a row that a provider could not answer to another one, or settles it as failed.
    pub(super) fn failed_at(
        &mut self,
        mut request: Request,
        provider: usize,
        attempts: u32,
        failure: Failure,
    ) {
        request.tried |= bit(provider);
        let step = &self.steps[request.cell.step.index()];
        if failure.class != Class::Deadline
            && self.stop.is_none()
            && step.has_other(&self.providers, request.route, request.tried | request.excluded_providers)
        {
            self.rerouted.push_back(request);
            return;
        }
        // The failure may pass: it is not journalled, so that a resumed run sends the row again.
        let settled = self.row_failed(provider, &request, attempts, failure);
        self.settle(request.cell, settled, event::Origin::Request);
    }

    /// Stops the run for a provider's failure, unless another provider takes the row.
    pub(super) fn provider_stopped(&mut self, request: Request, provider: usize, failure: Failure) {
        let cell = request.cell;
        let step = &self.steps[cell.step.index()];
        let has_other =
            step.has_other(&self.providers, request.route, bit(provider) | request.excluded_providers);
        let StepProvider { name, health, out, .. } = &mut self.providers[provider];
        if self.stop.is_none() && has_other {
            // A provider that does not answer may come back; what it refuses outright it refuses for good.
            if failure.class != Class::Unavailable && !health.is_out() {
                health.rule_out();
                *out = Some(failure.clone());
                let text = format!("no more rows are sent to {name} in this run: {failure}");
                self.voice.say(&Event::Notice(&text));
            }
            self.hand_back(request);
            return;
        }
        let provider = name.to_string();
        self.put_back(cell);
        self.halt(Stop::Provider { provider, failure });
    }

    /// Takes a row back as if it had not been sent. After earlier paid answers its request is kept instead: only the
    /// next run finds them in the journal, so the first question must not be sent again.
    fn hand_back(&mut self, request: Request) {
        if request.earlier.answers > 0 && self.stop.is_none() {
            self.rerouted.push_back(request);
        } else {
            self.give_back(request.cell);
        }
    }

    /// Takes a row back as if it had not been handed out, with the rows that wait for it.
    pub(super) fn put_back(&mut self, cell: Cell) {
        self.ledger.give_back(cell);
        for waiting in self.sharing.left(cell) {
            self.ledger.give_back(waiting.cell);
        }
    }

    /// Has the rows that wait for a row send their own requests, since it got no answer to share.
    fn unshare(&mut self, cell: Cell) {
        let waiting = self.sharing.left(cell);
        if self.stop.is_some() || self.epochs.is_some() {
            waiting.iter().for_each(|waiting| self.ledger.give_back(waiting.cell));
        } else if !waiting.is_empty() {
            self.rerouted.extend(waiting);
            self.capacity_freed.notify_one();
        }
    }

    /// Gives a row's answer to the rows that wait for it, and remembers it for later ones.
    fn share(&mut self, cell: Cell, route: usize, question: Fingerprint, shared: &SharedAnswer) {
        let Self { steps, providers, sharing, .. } = self;
        let step = &steps[cell.step.index()];
        if step.spec.shares {
            sharing.remember(step, route, providers, question, shared);
        }
        let waiting = self.sharing.left(cell);
        if waiting.is_empty() {
            return;
        }
        let own = self.open.get(&cell.batch).map(|batch| batch.key(cell.row));
        for request in waiting {
            if own.as_ref() == Some(&request.receipt.key) {
                // The same row was posted twice: it finds the answer in their journal.
                self.give_back(request.cell);
                continue;
            }
            let record = shared_record(&request, shared);
            self.take_record(request, &record);
        }
    }

    /// Gives the failure of a paid answer to the rows that wait for the answer, if another request would fail in the
    /// same way and the provider is not to blame. Else they send their own requests.
    fn share_failure(&mut self, cell: Cell, shared: &SharedAnswer, failure: &Failure) {
        if !is_terminal(failure.class) || !self.probations[cell.step.index()].is_over() {
            self.unshare(cell);
            return;
        }
        for request in self.sharing.left(cell) {
            let outcome = journal::RecordedOutcome::Failure(failure.clone());
            let record = Record { outcome, ..shared_record(&request, shared) };
            self.take_record(request, &record);
        }
    }

    /// Gives a row the outcome of another one, once that is in the row's journal.
    fn take_record(&mut self, request: Request, record: &Record) {
        let cell = request.cell;
        if let Err(error) = request.receipt.journal.append([record]) {
            self.put_back(cell);
            self.halt(Stop::Journal(error));
            return;
        }
        let origin = ResultOrigin::of_record(record, None, Earlier::default());
        match origin.judged_record(&record.outcome, &self.steps[cell.step.index()]) {
            Judged::Settled(settled) => self.settle(cell, *settled, event::Origin::NoRequest),
            // Does not happen: the answer was accepted for the row that was sent.
            Judged::Again(_) | Judged::Unread => self.rerouted.push_back(request),
        }
    }

    /// Takes a row back as if it had not been sent. It no longer counts toward the row limit, and may be sent again in
    /// this run.
    pub(super) fn give_back(&mut self, cell: Cell) {
        self.put_back(cell);
        if let Some(left) = self.sends_left.as_mut().filter(|_| cell.step == StepId::FIRST) {
            *left += 1;
        }
    }

    /// Releases the withheld refusals if nothing else is in flight or left to send. They are the rows' own, unless the
    /// run was stopped for another reason than its row limit: then the rows are put back. Returns whether there were
    /// any.
    pub fn release_held(&mut self) -> bool {
        let held: u64 = self.probations.iter().map(Probation::held).sum();
        if held == 0 || self.ledger.handed_out() > held {
            return false;
        }
        let held: Vec<WithheldRefusal> = self.probations.iter_mut().flat_map(Probation::release).collect();
        if matches!(self.stop, None | Some(Stop::MaxRows)) {
            let mut kept = PendingOutcomes::new();
            self.settle_released(&mut kept, held);
            self.write_down(kept);
        } else {
            for held in &held {
                self.put_back(held.cell());
            }
        }
        true
    }

    /// Decides whether a refusal is the row's own or the run's, and acts on it.
    pub(super) fn weigh_refusal(&mut self, kept: &mut PendingOutcomes, held: WithheldRefusal) {
        match self.probations[held.cell().step.index()].refused(held) {
            ProbationResult::Hold => {}
            ProbationResult::Release(released) => self.settle_released(kept, released),
            ProbationResult::Stop(held) => self.refuse_all(&held),
        }
    }

    /// Settles rows whose refusals are no longer withheld. Outcomes that are not in a journal yet are added to `kept`
    /// instead, and are settled when they are written.
    pub(super) fn settle_released(&mut self, kept: &mut PendingOutcomes, released: Vec<WithheldRefusal>) {
        for held in released {
            match held {
                WithheldRefusal::Known(cell, settled, _) => {
                    let was_sent = settled.fingerprint.is_some();
                    let origin = if was_sent { event::Origin::Request } else { event::Origin::NoRequest };
                    self.settle(cell, *settled, origin);
                }
                WithheldRefusal::Refused(reply, failure) => {
                    let Reply { request, provider, attempts, .. } = *reply;
                    let cell = request.cell;
                    let record = self.record(cell, provider, &request.question, attempts, failure.clone());
                    let settled = self.row_failed(provider, &request, attempts, failure);
                    kept.entry(cell.batch).or_default().push((cell, record, settled));
                }
            }
        }
    }

    /// Appends outcomes to the journals, one write for each batch, then settles them.
    pub(super) fn write_down(&mut self, kept: PendingOutcomes) {
        for (id, entries) in kept {
            let batch = self.open.get_mut(&id).expect("a batch is open while its rows are in flight");
            match batch.journal.append(entries.iter().map(|(_, record, _)| record)) {
                Ok(()) => {
                    for (cell, _, settled) in entries {
                        self.settle(cell, settled, event::Origin::Request);
                    }
                }
                Err(error) => {
                    for (cell, ..) in &entries {
                        self.put_back(*cell);
                    }
                    self.halt(Stop::Journal(error));
                }
            }
        }
    }

    /// Stops the run because the first rows of a step were all refused. The rows count as not sent.
    pub(super) fn refuse_all(&mut self, held: &[WithheldRefusal]) {
        for held in held {
            self.put_back(held.cell());
        }
        let Some(first) = held.first() else { return };
        let provider = match first {
            WithheldRefusal::Refused(reply, _) => reply.provider,
            WithheldRefusal::Known(cell, ..) => self.steps[cell.step.index()].spec.providers[0],
        };
        let provider = self.providers[provider].name.to_string();
        let failure = match first.failure() {
            failure if failure.class == Class::Template => failure.clone(),
            failure => {
                let how = match first {
                    WithheldRefusal::Refused(..) => "were all refused",
                    WithheldRefusal::Known(..) => "all came to nothing",
                };
                let step = &self.steps[first.cell().step.index()].output;
                let detail = format!("the first rows of step {step:?} {how}: {failure}");
                // A 404 is about the address, not about what the rows have in common.
                let is_missing = failure.class == Class::NotFound;
                Failure::new(if is_missing { Class::NotFound } else { Class::SameRefusal }, detail)
            }
        };
        self.halt(Stop::Provider { provider, failure });
    }

    /// Puts the outcome of a row into its batch and reports it. Stops the run if it completes an anomaly or too many
    /// errors.
    pub(super) fn settle(&mut self, cell: Cell, mut settled: RowResult, origin: event::Origin) {
        if settled.fingerprint.is_some() {
            settled.template = Some(Arc::clone(&self.steps[cell.step.index()].template));
        }
        let (ending, failure) = match &settled.outcome {
            Outcome::Answer(_) => (Some(Ending::Answer), None),
            Outcome::Skipped => (Some(Ending::Skipped), None),
            Outcome::Failed(failure) => (Some(Ending::Failed(failure.class)), Some(failure)),
            Outcome::Unchanged => (None, None),
        };
        let batch = self.open.get_mut(&cell.batch).expect("a batch is open until all its rows are settled");
        let is_first = batch.counted.insert(cell);
        // Outcomes from the journal were judged in the run that sent them, or when this run read the batch before.
        let is_news = is_first
            && origin != event::Origin::Journal
            && !matches!(ending, None | Some(Ending::Skipped | Ending::Failed(Class::Upstream)));
        let errors = if is_news { self.error_rates[cell.step.index()].note(failure) } else { None };
        let anomaly =
            self.watches.get_mut(cell.step.index()).filter(|_| is_news && !settled.shared).and_then(
                |watch| {
                    let batch =
                        self.open.get(&cell.batch).expect("a batch is open until all its rows are settled");
                    watch.note(&settled, &self.steps[cell.step.index()].spec.form, &batch.key(cell.row))
                },
            );
        let is_last = cell.step.index() + 1 == self.steps.len();
        let extent = if is_last { Extent::Row } else { Extent::Step };
        let batch = self.open.get_mut(&cell.batch).expect("a batch is open until all its rows are settled");
        let bytes = settled.bytes();
        if bytes >= SPILLED_FROM {
            if self.ledger.room_for_answers() < bytes as u64 {
                batch.spill(&mut settled);
            }
            if settled.is_loaded() {
                self.ledger.keep_answer(cell.batch, bytes as u64);
            }
        }
        batch.settle(cell, settled);
        self.ledger.settle(cell);
        self.mark_if_urgent(Cell { step: cell.step.next(), ..cell });
        self.unshare(cell);
        if let Some(ending) = ending.filter(|_| is_first) {
            self.voice.say(&Event::Settled { ending, extent, origin });
        }
        if let Some(errors) = errors {
            self.halt(Stop::Errors(errors));
        }
        if let Some(anomaly) = anomaly {
            self.halt(Stop::Anomaly(anomaly));
        }
    }

    pub(super) fn record(
        &self,
        cell: Cell,
        provider: usize,
        question: &Question,
        attempts: u32,
        failure: Failure,
    ) -> Record {
        let step = &self.steps[cell.step.index()];
        let provider = &self.providers[provider];
        let batch = self.open.get(&cell.batch).expect("a batch is open while its rows are in flight");
        Record {
            key: batch.key(cell.row),
            step: Arc::clone(&step.output),
            fingerprint: question.fingerprint(),
            provider: Arc::clone(&provider.name),
            model: Arc::clone(&provider.model),
            attempts,
            latency_ms: 0,
            shared: false,
            submission: None,
            outcome: journal::RecordedOutcome::Failure(failure),
        }
    }

    pub(super) fn row_failed(
        &self,
        provider: usize,
        request: &Request,
        attempts: u32,
        failure: Failure,
    ) -> RowResult {
        let provider = &self.providers[provider];
        let origin = ResultOrigin {
            provider: &provider.name,
            model: &provider.model,
            attempts,
            latency: None,
            fingerprint: request.question.fingerprint(),
            prices: None,
            earlier: request.earlier,
            shared: false,
            submitted: false,
        };
        origin.settled(decode::ResponseMetadata::default(), Err(failure))
    }
}

/// Returns the journal record of a row that takes over the answer of another one.
pub(super) fn shared_record(request: &Request, shared: &SharedAnswer) -> Record {
    let Request { question, receipt, .. } = request;
    Record {
        key: receipt.key.clone(),
        step: Arc::clone(&receipt.step),
        fingerprint: question.fingerprint(),
        provider: Arc::clone(&shared.provider),
        model: Arc::clone(&shared.model),
        attempts: 0,
        latency_ms: 0,
        shared: true,
        submission: None,
        outcome: journal::RecordedOutcome::Response(shared.body.clone()),
    }
}

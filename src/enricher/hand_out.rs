//! Handing out rows: which row is next, whether it needs a request, and which provider it goes to.
//!
//! No request is sent for a row whose answer is already paid for.

use std::path::PathBuf;
use std::sync::Arc;

use super::compiled_step::{CompiledStep, Purpose};
use super::error::EnricherError;
use super::inputs;
use super::interface::{Enricher, PendingOutcomes};
use super::judgement::{Judged, PriorState, ResultOrigin};
use super::probation::WithheldRefusal;
use super::replies::shared_record;
use super::sharing::{self, SharedAnswer, Sharing, SharingState};
use super::step_provider::{StepProvider, bit, have_begun};
use super::stop::Stop;
use crate::config::PriceTable;
use crate::event::{self, Event};
use crate::executor::{Earlier, Receipt, Request};
use crate::fault::{Class, Failure};
use crate::ident::{Cell, StepId};
use crate::journal::{self, JournalReader, Record};
use crate::ledger::Urgency;
use crate::rows::Outcome;
use crate::wording::counted;

/// Number of outcomes that are settled in one go before the enricher takes in replies again.
const SETTLED_AT_ONCE: usize = 1_024;
/// Number of requests waiting for room at a provider, above which no more rows are handed out.
const MOST_WAITING: usize = 1_024;

/// Result of handing out a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// It was sent to an executor.
    Sent,
    /// It needed no request, or was put back because the journal failed.
    Settled,
    /// It waits for the answer to another row.
    Waits,
    /// No row is ready.
    NoRow,
    /// The provider takes no more rows now, or the row limit of the run is reached.
    NoRoom,
}

impl Enricher {
    /// Hands out rows until the executors take no more, and settles those that need no request.
    pub fn hand_out_rows(&mut self) {
        if !have_begun(&self.providers) {
            return;
        }
        let mut settled = 0;
        let mut is_short_of_rows = false;
        if let Some(error) = self.sharing.trouble() {
            self.voice.say(&Event::Notice(&format!("the run goes on without the cache: {error}")));
        }
        self.send_rerouted();
        self.stop_where_nobody_is_left();
        // Later steps first: the fewer rows are under way, the sooner batches are full.
        for step in (0..self.steps.len()).rev().map(StepId::new) {
            for urgency in self.steps[step.index()].urgencies() {
                let is_first = step == StepId::FIRST && *urgency == Urgency::Usual;
                if self.steps[step.index()].is_routed() {
                    let (settled_here, is_short) = self.feed_routed(step, *urgency);
                    settled += settled_here;
                    is_short_of_rows |= is_short && is_first;
                    continue;
                }
                while self.rerouted.len() < MOST_WAITING
                    && let Some((provider, purpose)) = self.route(step, *urgency)
                {
                    let handed = self.hand_out(step, provider, *urgency);
                    if purpose == Purpose::Probe && handed != Handed::Sent {
                        self.providers[provider].health.release_probe();
                    }
                    match handed {
                        Handed::Sent => {}
                        Handed::Settled | Handed::Waits => settled += 1,
                        Handed::NoRow => is_short_of_rows |= is_first,
                        Handed::NoRoom => {}
                    }
                    if matches!(handed, Handed::NoRow | Handed::NoRoom) {
                        break;
                    }
                    if settled >= SETTLED_AT_ONCE {
                        self.capacity_freed.notify_one();
                        return;
                    }
                }
            }
        }
        if settled > 0 {
            // This pass has already looked at the next steps of the settled rows.
            self.capacity_freed.notify_one();
        }
        if let Some(submissions) = &self.submissions {
            // A batch that cannot be read now, for want of room or of a row that is held, may wait for what is made.
            let is_stuck = settled == 0
                && !self.ledger.has_task()
                && !submissions.has_news()
                && self.providers.iter().any(StepProvider::puts_off);
            submissions.judge(|batch| is_stuck || self.ledger.is_looked_at(batch));
        }
        if self.sends_left == Some(0) && self.ledger.handed_out() == 0 && settled == 0 {
            self.halt(Stop::MaxRows);
        }
        // While as many requests as allowed are in flight, a full window is not what holds the run back.
        let is_idle = is_short_of_rows && self.ledger.handed_out() < self.places;
        let hold = if is_idle { self.ledger.hold() } else { None };
        if hold != self.hold {
            self.hold = hold;
            self.voice.say(&Event::Held(hold));
        }
    }

    /// Chooses the provider of the next row of a step without routes.
    fn route(&self, step: StepId, urgency: Urgency) -> Option<(usize, Purpose)> {
        let step = &self.steps[step.index()];
        step.route(&self.providers, 0, step.closed_to(urgency, &self.providers))
    }

    /// Hands the next row of a step to a provider.
    fn hand_out(&mut self, step: StepId, provider: usize, urgency: Urgency) -> Handed {
        let inbox = self.providers[provider].inbox.clone();
        let Ok(permit) = inbox.try_reserve() else { return Handed::NoRoom };
        if self.sends_left == Some(0) && step == StepId::FIRST {
            return Handed::NoRoom;
        }
        let Some(cell) = self.ledger.hand_out_next(step, urgency) else { return Handed::NoRow };
        let request = match self.prepare(cell) {
            Ok(request) => request,
            Err(handed) => return handed,
        };
        if let Some(left) = self.sends_left.as_mut().filter(|_| step == StepId::FIRST) {
            *left -= 1;
        }
        if request.tried & bit(provider) != 0 {
            self.unanswered_at(request, provider);
            return Handed::Waits;
        }
        if request.excluded_providers & bit(provider) != 0 {
            self.send_or_keep(request);
            return Handed::Waits;
        }
        permit.send(request);
        Handed::Sent
    }

    /// Sends a row to another provider that has been in too many batches of this one without an answer, or settles it as
    /// failed.
    fn unanswered_at(&mut self, request: Request, provider: usize) {
        let batches = self.providers[provider].max_submissions;
        let text = format!("no answer in {}", counted(batches.into(), "batch"));
        self.failed_at(request, provider, 0, Failure::new(Class::Timeout, text));
    }

    /// Stops the run if a row is left whose providers are all ruled out.
    fn stop_where_nobody_is_left(&mut self) {
        if self.stop.is_some() || !self.providers.iter().any(|provider| provider.out.is_some()) {
            return;
        }
        let mut list = self.rerouted.iter().find_map(|request| {
            let own = self.steps[request.cell.step.index()].providers_of(request.route);
            let without = request.tried | request.excluded_providers;
            let mut open = own.iter().filter(|provider| without & bit(**provider) == 0);
            open.all(|provider| self.providers[*provider].health.is_out()).then(|| own.to_vec())
        });
        for step in (0..self.steps.len()).map(StepId::new) {
            let step_here = &self.steps[step.index()];
            for urgency in step_here.urgencies() {
                let without = step_here.closed_to(*urgency, &self.providers);
                let own = &step_here.spec.providers;
                let mut open = own.iter().filter(|provider| without & bit(**provider) == 0);
                if list.is_none()
                    && open.all(|provider| self.providers[*provider].health.is_out())
                    && let Some(cell) = self.ledger.hand_out_next(step, *urgency)
                {
                    list = Some(own.clone());
                    self.ledger.give_back(cell);
                }
            }
        }
        let failed = list.into_iter().flatten().find_map(|provider| {
            let StepProvider { name, out, .. } = &self.providers[provider];
            Some((name.to_string(), out.clone()?))
        });
        if let Some((provider, failure)) = failed {
            self.halt(Stop::Provider { provider, failure });
        }
    }

    /// Hands out rows of a step whose provider depends on the row. Returns how many needed no request, and whether
    /// there were too few rows.
    fn feed_routed(&mut self, step: StepId, urgency: Urgency) -> (usize, bool) {
        let mut settled = 0;
        // Usual rows that wait for room leave some to urgent ones.
        let most = match urgency {
            Urgency::Urgent => 2 * MOST_WAITING,
            Urgency::Usual => MOST_WAITING,
        };
        while self.rerouted.len() < most && settled < SETTLED_AT_ONCE {
            if self.sends_left == Some(0) && step == StepId::FIRST {
                break;
            }
            let Some(cell) = self.ledger.hand_out_next(step, urgency) else { return (settled, true) };
            match self.prepare(cell) {
                Ok(request) => match self.steps[step.index()].provider_tried(&request) {
                    Some(provider) => self.unanswered_at(request, provider),
                    None => self.send_or_keep(request),
                },
                Err(_) => {
                    settled += 1;
                    continue;
                }
            }
            if let Some(left) = self.sends_left.as_mut().filter(|_| step == StepId::FIRST) {
                *left -= 1;
            }
        }
        (settled, false)
    }

    /// Sends requests that have no provider yet, or that a provider could not answer.
    fn send_rerouted(&mut self) {
        for request in std::mem::take(&mut self.rerouted) {
            self.send_or_keep(request);
        }
    }

    /// Hands a request to a provider that may take it, or keeps it until there is room.
    fn send_or_keep(&mut self, request: Request) {
        let step = &self.steps[request.cell.step.index()];
        let provider = step.route(&self.providers, request.route, request.tried | request.excluded_providers);
        match provider.map(|(provider, _)| self.providers[provider].inbox.try_reserve()) {
            Some(Ok(permit)) => permit.send(request),
            _ => {
                if let Some((provider, Purpose::Probe)) = provider {
                    self.providers[provider].health.release_probe();
                }
                self.rerouted.push_back(request);
            }
        }
    }

    /// Returns the request of a row, or what became of the row without one.
    fn prepare(&mut self, cell: Cell) -> Result<Request, Handed> {
        match self.look_up(cell) {
            PriorState::Nothing(request) => return Ok(request),
            PriorState::Settled(settled, origin) => match &settled.outcome {
                Outcome::Failed(failure) if failure.class == Class::Template => {
                    let failure = failure.clone();
                    let mut kept = PendingOutcomes::new();
                    self.weigh_refusal(&mut kept, WithheldRefusal::Known(cell, settled, failure));
                    self.write_down(kept);
                }
                _ => self.settle(cell, *settled, origin),
            },
            PriorState::Waits => return Err(Handed::Waits),
            PriorState::Submitted => {
                self.ledger.submitted(cell);
                return Err(Handed::Waits);
            }
            PriorState::Lost(error) => {
                self.put_back(cell);
                self.halt(Stop::Journal(error));
            }
        }
        Err(Handed::Settled)
    }

    /// Renders a row and looks for an answer that is already paid for.
    fn look_up(&mut self, cell: Cell) -> PriorState {
        let Self { steps, providers, open, stray_answers, epochs, sharing, .. } = self;
        let step = &steps[cell.step.index()];
        let batch = open.get_mut(&cell.batch).expect("rows are handed out while their batch is open");
        if batch.keeps(cell) {
            return PriorState::without_request(Outcome::Unchanged);
        }
        let inputs::StepRequest { mut question, route, mut excluded_providers } =
            match inputs::prepare(steps, providers, batch, cell) {
                Ok(prepared) => prepared,
                Err(outcome) => return PriorState::without_request(outcome),
            };
        let mut earlier = Earlier::default();
        let mut params = Arc::clone(&step.params);
        while batch.has_recovered() || !stray_answers.is_empty() || epochs.is_some() {
            let key = batch.key(cell.row);
            let fits = |record: &Record| {
                record.step == step.output
                    && record.fingerprint == question.fingerprint()
                    && step.takes(providers, &record.provider, &record.model)
            };
            let claimed = match batch.claim(&key, fits) {
                Ok(claimed) => claimed,
                Err(error) => return PriorState::Lost(error),
            };
            let of_epoch = epochs.as_ref().filter(|_| claimed.is_none());
            let of_epoch = of_epoch.map(|own| own.find(&key, &step.output, question.fingerprint()));
            let of_epoch = match of_epoch.transpose() {
                Ok(found) => found.flatten().filter(fits),
                Err(error) => return PriorState::Lost(error),
            };
            let stays = of_epoch.is_some();
            let record = match claimed.or(of_epoch) {
                Some(record) => record,
                None => match stray_answers.claim(&key, &step.output, question.fingerprint()).filter(fits) {
                    Some(stray) => match batch.journal.append([&stray]) {
                        Ok(()) => stray,
                        Err(error) => return PriorState::Lost(error),
                    },
                    None => break,
                },
            };
            let origin = ResultOrigin::of_record(&record, prices_of(providers, &record), earlier);
            match origin.judged_record(&record.outcome, step) {
                Judged::Settled(settled) => {
                    let is_new = record.submission.is_some_and(|id| batch.is_new(id));
                    let origin = if is_new { event::Origin::Collected } else { event::Origin::Journal };
                    if let (true, Outcome::Answer(_), journal::RecordedOutcome::Response(body)) =
                        (is_new && step.spec.shares, &settled.outcome, &record.outcome)
                    {
                        let (provider, model) = (Arc::clone(&record.provider), Arc::clone(&record.model));
                        let shared = SharedAnswer { provider, model, body: body.clone() };
                        let first = earlier.first.unwrap_or(question.fingerprint());
                        sharing.remember(step, route, providers, first, &shared);
                    }
                    return PriorState::Settled(settled, origin);
                }
                Judged::Again(again) => {
                    let is_repair = again.earlier.repairs > earlier.repairs && record.submission.is_some();
                    if is_repair && repairs_online(providers, &record) {
                        excluded_providers |= step.submitters(providers, route, excluded_providers);
                    }
                    (question, params) = again.question(&question, &params);
                    earlier = again.earlier;
                }
                // A record that stays where it is would be found again.
                Judged::Unread if stays => break,
                Judged::Unread => {}
            }
        }
        let row_key = batch.key(cell.row);
        if batch.is_submitted(&row_key, &step.output, question.fingerprint()) {
            return PriorState::Submitted;
        }
        // Submissions that brought no answer count like attempts: the step's next provider gets the row.
        let own = step.providers_of(route).iter().copied();
        let is_spent = |provider: &usize| {
            let StepProvider { name, max_submissions, .. } = &providers[*provider];
            *max_submissions > 0
                && batch.collected(&row_key, &step.output, question.fingerprint(), name) >= *max_submissions
        };
        let tried = own.filter(is_spent).fold(0, |tried, provider| tried | bit(provider));
        let first = earlier.first.unwrap_or(question.fingerprint());
        let mut key = sharing::in_step(step, route, first);
        if !step.spec.shares {
            key = sharing::of_row(key, &row_key);
        }
        let receipt =
            Receipt { journal: batch.journal.clone(), key: row_key, step: Arc::clone(&step.output) };
        let request = Request {
            cell,
            question: Arc::new(question),
            params,
            deadline: step.spec.row_deadline,
            receipt,
            route,
            excluded_providers,
            tried,
            shares: step.spec.shares,
            earlier,
        };
        // A row that is posted twice is sent once, and repaired once.
        if epochs.is_none() && (!step.spec.shares || earlier.answers > 0) {
            return PriorState::Nothing(request);
        }
        match sharing.look(key, step, providers, &request) {
            SharingState::InFlight => {
                sharing.wait(key, request);
                return PriorState::Waits;
            }
            SharingState::Answer(shared) => {
                let record = shared_record(&request, &shared);
                let origin = ResultOrigin::of_record(&record, None, Earlier::default());
                // An answer that another job accepted may be invalid for this one.
                if let Judged::Settled(settled) = origin.judged_record(&record.outcome, step)
                    && matches!(settled.outcome, Outcome::Answer(_))
                {
                    return match batch.journal.append([&record]) {
                        Ok(()) => PriorState::Settled(settled, event::Origin::NoRequest),
                        Err(error) => PriorState::Lost(error),
                    };
                }
            }
            SharingState::Nothing => {}
        }
        sharing.lead(key, &request);
        PriorState::Nothing(request)
    }

    /// Makes the answers in journals that are read later shareable now, so that no row of an earlier batch pays for
    /// them again.
    pub(crate) fn seed(&mut self, journals: &[PathBuf]) -> Result<(), EnricherError> {
        let Self { steps, providers, sharing, stray_answers, .. } = self;
        if !steps.iter().any(|step| step.spec.shares) {
            return Ok(());
        }
        stray_answers.records().for_each(|record| Self::seed_with(steps, providers, sharing, record));
        for journal in journals {
            let mut reader = JournalReader::open(journal)?;
            while let Some(record) = reader.next_record()? {
                Self::seed_with(steps, providers, sharing, &record);
            }
        }
        sharing.flush();
        Ok(())
    }

    fn seed_with(steps: &[CompiledStep], providers: &[StepProvider], sharing: &mut Sharing, record: &Record) {
        let Record { step, provider, model, outcome, fingerprint, .. } = record;
        let journal::RecordedOutcome::Response(body) = outcome else { return };
        let Some(step) = steps.iter().find(|known| known.output == *step && known.spec.shares) else {
            return;
        };
        let origin = ResultOrigin::of_record(record, None, Earlier::default());
        let Judged::Settled(settled) = origin.judged_record(outcome, step) else { return };
        if !matches!(settled.outcome, Outcome::Answer(_)) {
            return;
        }
        let shared =
            SharedAnswer { provider: Arc::clone(provider), model: Arc::clone(model), body: body.clone() };
        // The record does not name the provider list that its row followed: every list with its provider counts.
        for route in 0..=step.routes.len() {
            if step.takes_by(route, providers, provider, model) {
                sharing.remember(step, route, providers, *fingerprint, &shared);
            }
        }
    }
}

/// Whether the provider that gave an answer leaves its repair to one that is sent single requests.
fn repairs_online(providers: &[StepProvider], record: &Record) -> bool {
    providers.iter().any(|provider| provider.name == record.provider && provider.repairs_online)
}

/// Returns the prices of the provider that gave an answer.
fn prices_of<'a>(providers: &'a [StepProvider], record: &Record) -> Option<&'a PriceTable> {
    providers.iter().find(|provider| provider.name == record.provider)?.prices.as_deref()
}

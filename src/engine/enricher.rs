//! Rows in, rows with outcomes out: the part of the engine that knows neither source nor sink.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::copying::Copier;
use super::error::EngineError;
use super::error_rate::ErrorRate;
use super::feed::Loaded;
use super::funds::Funds;
use super::inputs;
use super::lane::{Errand, Hub, Lane, Role, Step};
use super::learned::LearnedFile;
use super::open_batch::OpenBatch;
use super::outcome::{Found, Judged, Origin};
use super::prepare::{Prepared, PreparedStep};
use super::probation::{Held, Probation, Strictness};
use super::replies::shared_record;
use super::sharing::{Known, Shared, Sharing};
use super::start::Journals;
use super::stop::Stop;
use crate::checkpoint::PlannedBatch;
use crate::config::{Form, Prices, Vectors};
use crate::dispatch::{Earlier, Mode, Receipt, Reply, Request};
use crate::event::{self, Event, Hold, Voice};
use crate::fault::Class;
use crate::ident::{BatchId, Cell, Lineage, StepId};
use crate::journal::{self, Header, JournalFolder, Record, StrayAnswers};
use crate::ledger::{Duty, Ledger};
use crate::sink::{FilledBatch, Outcome, Output, Settled, Turned};
use crate::source::Chunk;

/// Outcomes that are settled in one go before the engine looks at answers again.
const SETTLED_AT_ONCE: usize = 1_024;
const REPLIES_AT_ONCE: usize = 256;

/// Outcomes to be written down, by batch.
pub(super) type Kept = BTreeMap<BatchId, Vec<(Cell, Record, Settled)>>;

/// What became of an attempt to hand out a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// It is asked.
    Asked,
    /// It needed no asking.
    Settled,
    /// It waits for the answer to another row.
    Waits,
    /// There is none now.
    NoRow,
    /// The lane, or this run, takes no more now.
    NoRoom,
}

/// Takes batches of rows, asks about them, and gives them back with an outcome for every row.
///
/// Paid answers are in the journal before they are used. The caller carries out the duties that
/// [`Enricher::next_duty`] names: plan and load batches, commit them in order.
#[derive(Debug)]
pub struct Enricher {
    pub(super) steps: Vec<Step>,
    pub(super) lanes: Vec<Lane>,
    pub(super) ledger: Ledger,
    pub(super) open: BTreeMap<BatchId, OpenBatch>,
    pub(super) lineage: Lineage,
    pub(super) journal: JournalFolder,
    pub(super) learned: LearnedFile,
    pub(super) funds: Funds,
    pub(super) strays: StrayAnswers,
    pub(super) sharing: Sharing,
    pub(super) copier: Option<Copier>,
    pub(super) replies: mpsc::Receiver<Reply>,
    pub(super) buffer: Vec<Reply>,
    pub(super) hungry: Arc<Notify>,
    pub(super) mode: watch::Sender<Mode>,
    pub(super) dispatchers: JoinSet<()>,
    /// One for each step.
    pub(super) probations: Vec<Probation>,
    /// One for each step.
    pub(super) error_rates: Vec<ErrorRate>,
    /// Requests that one provider could not answer and another one may.
    pub(super) detours: VecDeque<Request>,
    pub(super) asks_left: Option<u64>,
    /// Requests that may be in flight at all providers together.
    pub(super) places: u64,
    /// What was told to keep rows waiting.
    pub(super) hold: Option<Hold>,
    pub(super) stop: Option<Stop>,
    pub(super) voice: Voice,
}

impl Enricher {
    /// Starts the dispatchers of the providers.
    #[must_use]
    pub fn start(
        prepared: Prepared,
        ledger: Ledger,
        journals: Journals,
        max_rows: Option<u64>,
        strictness: Strictness,
        voice: Voice,
    ) -> Self {
        let Journals { lineage, folder: journal, strays, learned, funds, cache, open: _, copier } = journals;
        let (outbox, replies) = mpsc::channel(1_024);
        let (mode, watching) = watch::channel(Mode::Running);
        let hungry = Arc::new(Notify::new());
        let mut dispatchers = JoinSet::new();
        let steps: Vec<Step> = prepared
            .steps
            .into_iter()
            .map(|PreparedStep { spec, prompt, when, needs }| Step {
                template: spec.template_fingerprint().to_string().into(),
                columns: Output::of(&spec),
                when,
                needs,
                output: spec.output.into(),
                prompt,
                params: Arc::new(spec.params),
                dimensions: dimensions_of(&spec.form),
                shares: spec.shares,
                form: spec.form,
                max_repairs: spec.max_repairs,
                deadline: spec.row_deadline,
                lanes: spec.providers,
                balance: spec.balance,
            })
            .collect();
        let places = prepared.endpoints.iter().map(|(provider, _)| u64::from(provider.max_concurrency)).sum();
        let lessons = learned.lessons();
        let hub = Hub {
            outbox,
            mode: watching,
            hungry: &hungry,
            lessons: &lessons,
            account: &funds.account,
            voice: &voice,
        };
        let lanes = prepared.endpoints.into_iter().enumerate().map(|(lane, (provider, endpoint))| {
            let own: Vec<&Step> = steps.iter().filter(|step| step.lanes.contains(&lane)).collect();
            let embeds = own.iter().filter(|step| step.params.vectors.is_some()).count();
            let role = Role {
                has_fallback: own.iter().any(|step| step.lanes.len() > 1),
                embeds: embeds > 0,
                only_embeds: embeds > 0 && embeds == own.len(),
            };
            hub.start(lane, &provider, endpoint, role, &mut dispatchers)
        });
        let lanes = lanes.collect();
        // Rows that failed before may all fail again.
        let rate = if strictness == Strictness::RowByRow { 1.0 } else { prepared.max_error_rate };
        let error_rates = steps.iter().map(|step| ErrorRate::new(&*step.output, rate)).collect();
        let probations = steps.iter().map(|_| Probation::new(strictness)).collect();
        Enricher {
            steps,
            lanes,
            ledger,
            open: BTreeMap::new(),
            lineage,
            journal,
            learned,
            funds,
            strays,
            sharing: Sharing::new(cache),
            copier,
            replies,
            buffer: Vec::with_capacity(REPLIES_AT_ONCE),
            hungry,
            mode,
            dispatchers,
            probations,
            error_rates,
            detours: VecDeque::new(),
            asks_left: max_rows,
            places,
            hold: None,
            stop: None,
            voice,
        }
    }

    /// The next thing for the caller to do; none if there is nothing until something happens.
    pub fn next_duty(&mut self) -> Option<Duty> {
        self.ledger.next_duty()
    }

    /// A batch was planned, durably, and is about to be opened.
    pub fn planned(&mut self, plan: &PlannedBatch) {
        let id = self.ledger.planned(plan.rows(), plan.bytes);
        debug_assert_eq!(id, plan.id, "batches are planned in order");
        self.voice.say(&Event::Planned { batch: plan.id, rows: plan.rows() });
    }

    /// There is nothing more to plan.
    pub fn source_ended(&mut self) {
        self.ledger.source_ended();
    }

    /// Opens a batch with its rows; what its journal holds need not be asked again.
    ///
    /// # Errors
    /// When the journal cannot be made or read.
    pub fn open(&mut self, loaded: Loaded) -> Result<(), EngineError> {
        let Loaded { plan, chunks, decoded, deleted, .. } = &loaded;
        let (id, decoded, deleted) = (plan.id, *decoded, *deleted);
        let header = Header { lineage: self.lineage, batch: id, digest: plan.digest() };
        let mut records = Vec::new();
        let writer = self.journal.writer(&header, |record| records.push(record))?;
        let recovered = records.len() as u64;
        let bytes = chunks.iter().map(Chunk::bytes).sum();
        let batch = OpenBatch::new(loaded, self.steps.len(), writer, records);
        let rows = batch.rows();
        self.ledger.loaded(id, rows, bytes);
        self.open.insert(id, batch);
        self.voice.say(&Event::Opened { batch: id, rows: u64::from(rows), recovered, decoded, deleted });
        Ok(())
    }

    /// Takes a batch whose rows all have outcomes out of memory, to be committed.
    ///
    /// # Errors
    /// Never for a batch that [`Enricher::next_duty`] named.
    pub fn take(&mut self, id: BatchId) -> Result<FilledBatch, EngineError> {
        let batch = self.open.remove(&id);
        batch.map(OpenBatch::fill).ok_or_else(|| EngineError::Task(format!("batch {id} is not open")))
    }

    /// Outcomes of a batch, by step, that the target does not take: they count as errors.
    pub fn refused(&mut self, turned: &[Turned]) {
        for (step, turned) in turned.iter().enumerate() {
            let Some(failure) = &turned.example else { continue };
            self.voice.say(&Event::Refused { answers: turned.answers, skipped: turned.skipped });
            if let Some(errors) = self.error_rates[step].turn(turned.answers, failure) {
                self.halt(Stop::Errors(errors));
            }
        }
    }

    /// A batch is in the table: its journal is removed.
    ///
    /// # Errors
    /// When the journal cannot be removed.
    pub fn committed(&mut self, id: BatchId) -> Result<(), EngineError> {
        self.learned.save();
        // The journal is about to go, and others may share what is in it.
        self.sharing.flush()?;
        // What these rows cost is not in the journal any more.
        self.funds.account.sync()?;
        let duty = self.ledger.committed(id);
        let removed = self.journal.forget(id);
        match removed {
            Ok(()) => self.ledger.forgotten(id),
            Err(_) => self.ledger.failed(duty),
        }
        Ok(removed?)
    }

    /// A duty failed; nothing new is asked.
    pub fn failed(&mut self, duty: Duty) {
        self.ledger.failed(duty);
        self.halt(Stop::Asked);
    }

    /// Hands out rows as far as the dispatchers take them, and settles what needs no asking.
    pub fn feed(&mut self) {
        let mut settled = 0;
        let mut is_short_of_rows = false;
        self.feed_detours();
        // Rows that are on their way first: the fewer are open, the sooner batches are full.
        for step in (0..self.steps.len()).rev().map(StepId::new) {
            while let Some((lane, errand)) = self.steps[step.index()].route(&self.lanes, 0) {
                let handed = self.hand_out(step, lane);
                if errand == Errand::Probe && handed != Handed::Asked {
                    self.lanes[lane].standing.unclaim_probe();
                }
                match handed {
                    Handed::Asked => {}
                    Handed::Settled | Handed::Waits => settled += 1,
                    Handed::NoRow => is_short_of_rows |= step == StepId::FIRST,
                    Handed::NoRoom => {}
                }
                if matches!(handed, Handed::NoRow | Handed::NoRoom) {
                    break;
                }
                if settled == SETTLED_AT_ONCE {
                    self.hungry.notify_one();
                    return;
                }
            }
        }
        if settled > 0 {
            // Their next steps, which were looked at before, have something to do.
            self.hungry.notify_one();
        }
        if self.asks_left == Some(0) && self.ledger.asked() == 0 && settled == 0 {
            self.halt(Stop::MaxRows);
        }
        // While there is enough to ask, a full window keeps nobody waiting.
        let is_idle = is_short_of_rows && self.ledger.asked() < self.places;
        let hold = if is_idle { self.ledger.hold() } else { None };
        if hold != self.hold {
            self.hold = hold;
            self.voice.say(&Event::Held(hold));
        }
    }

    /// Hands the next row of a step to a lane.
    fn hand_out(&mut self, step: StepId, lane: usize) -> Handed {
        let inbox = self.lanes[lane].inbox.clone();
        let Ok(permit) = inbox.try_reserve() else { return Handed::NoRoom };
        if self.asks_left == Some(0) && step == StepId::FIRST {
            return Handed::NoRoom;
        }
        let Some(cell) = self.ledger.next_ask(step) else { return Handed::NoRow };
        let request = match self.prepare(cell) {
            Ok(request) => request,
            Err(handed) => return handed,
        };
        if let Some(left) = self.asks_left.as_mut().filter(|_| step == StepId::FIRST) {
            *left -= 1;
        }
        permit.send(request);
        Handed::Asked
    }

    /// Sends on what one provider could not answer.
    fn feed_detours(&mut self) {
        for _ in 0..self.detours.len() {
            let Some(request) = self.detours.pop_front() else { return };
            let step = &self.steps[request.cell.step.index()];
            let lane = step.route(&self.lanes, request.tried);
            match lane.map(|(lane, _)| self.lanes[lane].inbox.try_reserve()) {
                Some(Ok(permit)) => permit.send(request),
                _ => {
                    if let Some((lane, Errand::Probe)) = lane {
                        self.lanes[lane].standing.unclaim_probe();
                    }
                    self.detours.push_back(request);
                }
            }
        }
    }

    /// The request of a row; or what became of it without one.
    fn prepare(&mut self, cell: Cell) -> Result<Request, Handed> {
        match self.look_up(cell) {
            Found::Nothing(request) => return Ok(request),
            Found::Settled(settled, origin) => match &settled.outcome {
                Outcome::Failed(failure) if failure.class == Class::Template => {
                    let failure = failure.clone();
                    let mut kept = Kept::new();
                    self.judge(&mut kept, Held::Known(cell, settled, failure));
                    self.write_down(kept);
                }
                _ => self.settle(cell, *settled, origin),
            },
            Found::Waits => return Err(Handed::Waits),
            Found::NoCache(error) => {
                self.put_back(cell);
                self.halt(Stop::Cache(error));
            }
            Found::Lost(error) => {
                self.put_back(cell);
                self.halt(Stop::Journal(error));
            }
        }
        Err(Handed::Settled)
    }

    /// Renders a row and looks for an answer that is paid for already.
    fn look_up(&mut self, cell: Cell) -> Found {
        let Self { steps, lanes, open, strays, sharing, .. } = self;
        let step = &steps[cell.step.index()];
        let batch = open.get_mut(&cell.batch).expect("rows are handed out while their batch is open");
        if batch.keeps(cell) {
            return Found::unasked(Outcome::Kept);
        }
        let mut question = match inputs::question(steps, batch, cell) {
            Ok(question) => question,
            Err(outcome) => return Found::unasked(outcome),
        };
        let mut earlier = Earlier::default();
        while batch.has_recovered() || !strays.is_empty() {
            let key = batch.key(cell.row);
            let fits = |record: &Record| {
                record.step == step.output
                    && record.fingerprint == question.fingerprint
                    && step.takes(lanes, &record.provider, &record.model)
            };
            let record = match batch.claim(&key, fits) {
                Some(record) => record,
                None => match strays.claim(&key, &step.output, question.fingerprint).filter(fits) {
                    Some(stray) => match batch.journal.append([&stray]) {
                        Ok(()) => stray,
                        Err(error) => return Found::Lost(error),
                    },
                    None => break,
                },
            };
            let origin = Origin::of_record(&record, prices_of(lanes, &record), earlier);
            match origin.judged_record(&record.outcome, step) {
                Judged::Settled(settled) => return Found::Settled(settled, event::Origin::Journal),
                Judged::Invalid(invalid) => {
                    question = question.repaired(&invalid.said, &invalid.complaint);
                    earlier = invalid.earlier;
                }
            }
        }
        let fingerprint = question.fingerprint;
        let receipt = Receipt {
            journal: batch.journal.clone(),
            key: batch.key(cell.row),
            step: Arc::clone(&step.output),
        };
        let request = Request {
            cell,
            question: Arc::new(question),
            params: Arc::clone(&step.params),
            deadline: step.deadline,
            receipt,
            tried: 0,
            earlier,
        };
        if !step.shares || earlier.answers > 0 {
            return Found::Nothing(request);
        }
        match sharing.look(step, lanes, fingerprint) {
            Ok(Known::Asked) => {
                sharing.wait(step, request);
                return Found::Waits;
            }
            Ok(Known::Answer(shared)) => {
                let record = shared_record(&request.receipt, fingerprint, &shared);
                let origin = Origin::of_record(&record, None, Earlier::default());
                // What another job was content with need not be what this one asks for.
                if let Judged::Settled(settled) = origin.judged_record(&record.outcome, step)
                    && matches!(settled.outcome, Outcome::Answer(_))
                {
                    return match batch.journal.append([&record]) {
                        Ok(()) => Found::Settled(settled, event::Origin::Unasked),
                        Err(error) => Found::Lost(error),
                    };
                }
            }
            Ok(Known::Nothing) => {}
            Err(error) => return Found::NoCache(error),
        }
        sharing.lead(cell, step, fingerprint);
        Found::Nothing(request)
    }

    /// Answers of journals that are read later may be shared from now on, so that no row of an earlier batch pays for them
    /// again.
    pub(super) fn seed(&mut self, journals: &[PathBuf]) -> Result<(), EngineError> {
        let Self { steps, lanes, sharing, .. } = self;
        if !steps.iter().any(|step| step.shares) {
            return Ok(());
        }
        let records = journals.iter().map(|path| journal::read_all(path));
        for record in records.collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            let journal::Outcome::Response(body) = &record.outcome else { continue };
            let Some(step) = steps.iter().find(|step| step.output == record.step && step.shares) else {
                continue;
            };
            let origin = Origin::of_record(&record, None, Earlier::default());
            let Judged::Settled(settled) = origin.judged_record(&record.outcome, step) else { continue };
            if matches!(settled.outcome, Outcome::Answer(_)) {
                let (provider, model) = (Arc::clone(&record.provider), Arc::clone(&record.model));
                let shared = Shared { provider, model, body: body.clone() };
                sharing.remember(step, lanes, record.fingerprint, shared);
            }
        }
        Ok(sharing.flush()?)
    }

    /// Waits until there is something to take in or to hand out.
    ///
    /// # Errors
    /// When a dispatcher has died.
    pub async fn wait(&mut self) -> Result<(), EngineError> {
        tokio::select! {
            biased;
            received = self.replies.recv_many(&mut self.buffer, REPLIES_AT_ONCE) => {
                if received == 0 { Err(EngineError::Task("every dispatcher has ended".into())) } else { Ok(()) }
            }
            () = self.hungry.notified() => Ok(()),
            ended = self.dispatchers.join_next() => {
                Err(EngineError::Task(format!("a dispatcher has ended: {ended:?}")))
            }
        }
    }

    /// From now on nothing new is asked; what is in flight is waited for.
    pub fn halt(&mut self, stop: Stop) {
        if stop.outranks(self.stop.as_ref()) {
            if let Some(reason) = stop.reason() {
                self.voice.say(&Event::Stopping(&reason));
            }
            self.stop = Some(stop);
        }
        self.ledger.stop();
        for request in std::mem::take(&mut self.detours) {
            self.put_back(request.cell);
        }
        // Rows within the limit that are handed out already are asked.
        if !matches!(self.stop, Some(Stop::MaxRows)) {
            self.mode.send_replace(Mode::Draining);
        }
    }

    /// Cuts off what is in flight and takes in what has arrived whole.
    pub async fn abort(&mut self) {
        self.learned.save();
        self.ledger.stop();
        self.mode.send_replace(Mode::Aborting);
        loop {
            tokio::select! {
                biased;
                received = self.replies.recv_many(&mut self.buffer, REPLIES_AT_ONCE) => {
                    self.take_in();
                    if received == 0 {
                        return;
                    }
                }
                ended = self.dispatchers.join_next() => if ended.is_none() {
                    while let Ok(reply) = self.replies.try_recv() {
                        self.buffer.push(reply);
                    }
                    self.take_in();
                    return;
                },
            }
        }
    }

    /// Whether something is handed out that has not come back.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.ledger.asked() > 0
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.ledger.is_finished()
    }

    /// Whether all that was planned is committed and nothing more is to plan.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ledger.is_complete()
    }

    /// Ends the dispatchers, flushes the journals, and copies what is left of them in so much time; says why it stopped early, if it did. `reached_end`
    /// tells that the source was planned to its end, not to a limit of this run.
    ///
    /// # Errors
    /// When a journal cannot be flushed or removed.
    pub async fn finish(
        mut self,
        reached_end: bool,
        patience: Duration,
    ) -> Result<Option<Stop>, EngineError> {
        // They tell their last figures and lessons as they go.
        self.dispatchers.shutdown().await;
        self.learned.save();
        let is_done = reached_end && self.ledger.is_complete();
        if let Some(copier) = self.copier.take() {
            if is_done {
                copier.copies.discard_strays();
            }
            // Also where the disk fails: then it is all there is.
            copier.finish(patience).await;
        }
        self.funds.account.sync()?;
        self.open.values().try_for_each(|batch| batch.journal.sync())?;
        if is_done {
            // Every row that could use a stray answer is in the table.
            self.strays.discard()?;
        }
        Ok(self.stop)
    }
}

/// The length of vectors that the job asks for.
fn dimensions_of(form: &Form) -> OnceLock<usize> {
    match form {
        Form::Embedding(Vectors { dimensions: Some(dimensions), .. }) => OnceLock::from(*dimensions as usize),
        _ => OnceLock::new(),
    }
}

/// What tokens cost at the provider that gave an answer.
fn prices_of(lanes: &[Lane], record: &Record) -> Option<Prices> {
    lanes.iter().find(|lane| lane.name == record.provider)?.prices
}

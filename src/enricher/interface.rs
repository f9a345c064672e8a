//! [`Enricher`] and the methods that the loop of a run calls. It knows neither source nor sink.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::anomalies::{Anomaly, Watch};
use super::compiled_step::{CompiledStep, asked_by};
use super::counted_cells::CountedCells;
use super::error::EnricherError;
use super::error_rate::ErrorRate;
use super::input::Journals;
use super::input::LoadedBatch;
use super::learned_file::LearnedFile;
use super::open_batch::{OpenBatch, RecoveredAnswers, SubmittedCells};
use super::prepare::Prepared;
use super::probation::{Probation, Strictness};
use super::sharing::Sharing;
use super::step_provider::{ExecutorStarter, ProviderRole, StepProvider, have_begun};
use super::stop::Stop;
use super::submitter_link::SubmitterLink;
use crate::admission::QuotaGroups;
use crate::budget::Account;
use crate::checkpoint::PlannedBatch;
use crate::event::{Event, Hold, Voice};
use crate::executor::{Mode, Reply, Request};
use crate::ident::{BatchId, Cell, Fingerprint, Lineage, SubmissionId};
use crate::journal::{EpochJournals, JournalEntry, JournalFolder, JournalHeader, Record, StrayAnswers};
use crate::ledger::{Ledger, LedgerTask};
use crate::rows::Chunk;
use crate::rows::{ConstraintErrors, FilledBatch, RowResult};

/// Maximum number of bursts of replies that wait to be taken in.
const MAX_BURSTS: usize = 16;

/// Outcomes that are still to be journalled, by batch.
pub(super) type PendingOutcomes = BTreeMap<BatchId, Vec<(Cell, Record, RowResult)>>;

/// Takes batches of rows, sends requests for them, and returns them with an outcome for every row.
///
/// Paid answers are in the journal before they are used. The caller carries out the tasks that [`Enricher::next_task`]
/// names: plan and load batches, commit them in order.
#[derive(Debug)]
pub struct Enricher {
    pub(super) steps: Vec<CompiledStep>,
    pub(super) providers: Vec<StepProvider>,
    pub(super) ledger: Ledger,
    pub(super) open: BTreeMap<BatchId, OpenBatch>,
    /// Digests of the content of batches that were unloaded.
    digests: BTreeMap<BatchId, Fingerprint>,
    /// Outcomes of unloaded batches that are counted in the figures of the run.
    counted: BTreeMap<BatchId, CountedCells>,
    pub(super) lineage: Lineage,
    pub(super) journal: JournalFolder,
    pub(super) learned: LearnedFile,
    pub(super) account: Account,
    pub(super) stray_answers: StrayAnswers,
    pub(super) epochs: Option<EpochJournals>,
    pub(super) sharing: Sharing,
    pub(super) replies: mpsc::Receiver<Vec<Reply>>,
    pub(super) buffer: Vec<Reply>,
    pub(super) capacity_freed: Arc<Notify>,
    pub(super) mode: watch::Sender<Mode>,
    pub(super) executors: JoinSet<()>,
    /// One for each step.
    pub(super) probations: Vec<Probation>,
    /// One for each step.
    pub(super) error_rates: Vec<ErrorRate>,
    /// One for each step; empty in a retry, whose rows failed before.
    pub(super) watches: Vec<Watch>,
    /// Requests that one provider could not answer and another one may.
    pub(super) rerouted: VecDeque<Request>,
    /// Number of rows that may still be sent for the first step, or `None` if the run has no row limit.
    pub(super) sends_left: Option<u64>,
    /// Number of requests that may be in flight, over all providers.
    pub(super) places: u64,
    /// The hold that was reported last.
    pub(super) hold: Option<Hold>,
    pub(super) stop: Option<Stop>,
    /// The submissions to providers' Batch APIs; `None` if every request is sent by itself.
    pub(super) submissions: Option<SubmitterLink>,
    pub(super) voice: Voice,
}

impl Enricher {
    /// Creates an enricher and starts the executors of its providers, each on a thread of its own.
    ///
    /// # Errors
    /// When an executor cannot be started.
    pub fn start(
        prepared: Prepared,
        ledger: Ledger,
        journals: Journals,
        max_rows: Option<u64>,
        strictness: Strictness,
        voice: Voice,
    ) -> Result<Self, EnricherError> {
        let (outbox, replies) = mpsc::channel(MAX_BURSTS);
        let (mode, watching) = watch::channel(Mode::Running);
        let capacity_freed = Arc::new(Notify::new());
        let mut executors = JoinSet::new();
        let steps = prepared.steps;
        let places = prepared.endpoints.iter().map(|(provider, _)| u64::from(provider.max_concurrency)).sum();
        let (submissions, context) =
            journals.submissions.clone().map(|own| SubmitterLink::new(own, &journals)).unzip();
        let starter = ExecutorStarter {
            context,
            outbox,
            mode: watching,
            capacity_freed: &capacity_freed,
            journals: &journals,
            groups: &QuotaGroups::default(),
            asks_online: prepared.asks_online,
            voice: &voice,
        };
        let endpoints = prepared.endpoints.into_iter().zip(prepared.batch_apis).enumerate();
        let providers = endpoints.map(|(index, ((provider, endpoint), batch_api))| {
            let own: Vec<&CompiledStep> =
                steps.iter().filter(|step| step.spec.all_providers().any(|own| own == index)).collect();
            let embeds = own.iter().filter(|step| step.params.vectors.is_some()).count();
            let role = ProviderRole {
                has_fallback: own.iter().any(|step| step.has_fallback(index)),
                embeds: embeds > 0,
                only_embeds: embeds > 0 && embeds == own.len(),
                limits_tokens: own
                    .iter()
                    .all(|step| step.params.vectors.is_some() || step.params.max_tokens.is_some()),
            };
            starter.start(index, &provider, endpoint, batch_api, role, &mut executors)
        });
        let providers = providers.collect::<Result<_, _>>()?;
        let Journals {
            lineage,
            folder: journal,
            stray_answers,
            epochs,
            learned,
            account,
            cache,
            open: _,
            submissions: _,
        } = journals;
        // All rows of a retry may fail again.
        let rate = if strictness == Strictness::RowByRow { 1.0 } else { prepared.max_error_rate };
        let error_rates = steps.iter().map(|step| ErrorRate::new(&*step.output, rate)).collect();
        let watched = if strictness == Strictness::RowByRow { &[] } else { &*steps };
        let watches = watched.iter().map(|step| Watch::new(&*step.output, prepared.anomalies)).collect();
        let probations = steps.iter().map(|_| Probation::new(strictness)).collect();
        Ok(Enricher {
            steps,
            providers,
            ledger,
            open: BTreeMap::new(),
            digests: BTreeMap::new(),
            counted: BTreeMap::new(),
            lineage,
            journal,
            learned,
            account,
            stray_answers,
            epochs,
            sharing: Sharing::new(cache),
            replies,
            buffer: Vec::new(),
            capacity_freed,
            mode,
            executors,
            probations,
            error_rates,
            watches,
            rerouted: VecDeque::new(),
            sends_left: max_rows,
            places,
            hold: None,
            stop: None,
            submissions,
            voice,
        })
    }

    /// Returns the next task of the caller, or `None` if there is none until something happens.
    pub fn next_task(&mut self) -> Option<LedgerTask> {
        if !have_begun(&self.providers) {
            // What comes back first need not be read twice.
            return None;
        }
        loop {
            match self.ledger.next_task() {
                Some(LedgerTask::Unload(id)) => {
                    let batch = self.open.remove(&id);
                    let stays = self.ledger.unloaded(id);
                    if let Some(batch) = batch.filter(|_| stays) {
                        self.digests.insert(id, batch.digest());
                        self.counted.insert(id, batch.counted);
                    }
                }
                other => return other,
            }
        }
    }

    /// Reports that a batch is durably planned. It is to be opened next.
    pub fn planned(&mut self, plan: &PlannedBatch) {
        let id = self.ledger.planned(plan.rows(), plan.bytes);
        debug_assert_eq!(id, plan.id, "batches are planned in order");
        self.voice.say(&Event::Planned { batch: plan.id, rows: plan.rows() });
    }

    /// Reports that there is nothing more to plan.
    pub fn source_ended(&mut self) {
        self.ledger.source_ended();
    }

    /// Opens a batch with its rows. Rows whose answers are in its journal need not be sent again.
    ///
    /// # Errors
    /// When the journal cannot be created or read.
    pub fn open(&mut self, loaded: LoadedBatch) -> Result<(), EnricherError> {
        let LoadedBatch { plan, chunks, decoded, deleted, .. } = &loaded;
        let (id, decoded, deleted) = (plan.id, *decoded, *deleted);
        let header = JournalHeader { lineage: self.lineage, batch: id, digest: plan.digest() };
        let mut recovered = RecoveredAnswers::new(self.journal.path(), self.ledger.room_for_answers());
        let mut submitted = SubmittedCells::default();
        // In the order in which a row passes on: from a file to a submission, and with its answer into the journal. A
        // submission that comes back from here on is not seen by this batch, and has it read again.
        if let Some(submissions) = &self.submissions {
            submitted.push_open(submissions.spooled(id));
        }
        let open = self.submissions.as_ref().map(SubmitterLink::open_ids).unwrap_or_default();
        let collected = self.submissions.as_ref().map(SubmitterLink::collected_ids).unwrap_or_default();
        let new = self.submissions.as_ref().map(|link| link.new_in(id)).unwrap_or_default();
        let counting: BTreeSet<SubmissionId> = new.intersection(&collected).copied().collect();
        submitted.count_as_new(new);
        let take = |entry| match entry {
            // It is being collected: the rest of it may be missing still.
            JournalEntry::Record(record) if record.submission.is_some_and(|id| open.contains(&id)) => {}
            JournalEntry::Record(record) => recovered.push(record),
            JournalEntry::Submitted(rows) if open.contains(&rows.submission) => {
                submitted.push_open(rows.groups);
            }
            JournalEntry::Submitted(rows) if collected.contains(&rows.submission) && !rows.follows => {
                submitted.push_collected(rows);
            }
            // It never came to be, or failed in its validation, or another row's request was in it.
            JournalEntry::Submitted(_) => {}
        };
        let writer = match (&self.epochs, loaded.epoch) {
            (Some(epochs), Some(epoch)) => epochs.journal(epoch)?,
            _ => self.journal.writer(&header, take)?,
        };
        let (records, kept) = (recovered.len(), recovered.bytes_kept());
        let bytes = chunks.iter().map(Chunk::bytes).sum();
        let counted = self.counted.remove(&id);
        let deleted = if counted.is_some() { 0 } else { deleted };
        let mut batch = OpenBatch::new(loaded, self.steps.len(), writer, recovered, submitted, counted);
        batch.counted.submissions = counting;
        let rows = batch.rows();
        self.ledger.loaded(id, rows, bytes);
        self.ledger.keep_answer(id, kept);
        self.open.insert(id, batch);
        self.mark_urgent_rows(id, rows);
        self.voice.say(&Event::Opened {
            batch: id,
            rows: u64::from(rows),
            recovered: records,
            decoded,
            deleted,
        });
        Ok(())
    }

    /// Takes a batch out of memory whose rows all have outcomes, to be committed.
    ///
    /// # Errors
    /// If the batch is not open. It always is if [`Enricher::next_task`] named it.
    pub fn take(&mut self, id: BatchId) -> Result<FilledBatch, EnricherError> {
        let batch = self.open.remove(&id);
        batch.map(OpenBatch::fill).ok_or_else(|| EnricherError::Task(format!("batch {id} is not open")))
    }

    /// Counts outcomes of a batch that the target does not take, by step, as errors.
    pub fn count_constraint_errors(&mut self, turned: &[ConstraintErrors]) {
        for (step, turned) in turned.iter().enumerate() {
            let Some(failure) = &turned.example else { continue };
            self.voice.say(&Event::ConstraintsBroken { answers: turned.answers, skipped: turned.skipped });
            if let Some(errors) = self.error_rates[step].turn(turned.answers, failure) {
                self.halt(Stop::Errors(errors));
            }
        }
    }

    /// Returns the account of what the job may spend and has spent. It is to be flushed before [`Enricher::committed`],
    /// which removes the journal that holds what the rows of a batch cost.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account.clone()
    }

    /// Reports that a batch is in the table, and removes its journal.
    ///
    /// # Errors
    /// When the journal cannot be removed.
    pub fn committed(&mut self, id: BatchId) -> Result<(), EnricherError> {
        self.learned.save();
        // Other rows may share answers that are in no other file than this journal, which is removed next.
        self.sharing.flush();
        if let Some(submissions) = &self.submissions {
            submissions.committed(id);
        }
        let task = self.ledger.committed(id);
        // The journal of an epoch stays until the epoch is committed.
        let removed = if self.epochs.is_none() { self.journal.forget(id) } else { Ok(()) };
        match removed {
            Ok(()) => self.ledger.forgotten(id),
            Err(_) => self.ledger.failed(task),
        }
        Ok(removed?)
    }

    /// Reports that a task failed. No new requests are sent.
    pub fn failed(&mut self, task: LedgerTask) {
        self.ledger.failed(task);
        self.halt(Stop::Requested);
    }

    /// Sends no more rows of a batch that nobody waits for. It is dropped once none of its rows is in flight; what is
    /// answered until then is in its journal.
    pub fn withdraw(&mut self, id: BatchId) {
        self.ledger.withdraw(id);
        for request in std::mem::take(&mut self.rerouted) {
            match request.cell.batch == id {
                true => self.put_back(request.cell),
                false => self.rerouted.push_back(request),
            }
        }
    }

    /// Returns a receiver of the mode in which requests are sent.
    pub(crate) fn mode(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    /// Waits until there are replies to take in or room to hand out rows.
    ///
    /// # Errors
    /// When an executor has ended.
    pub async fn wait(&mut self) -> Result<(), EnricherError> {
        tokio::select! {
            biased;
            burst = self.replies.recv() => match burst {
                Some(burst) => {
                    self.buffer.extend(burst);
                    Ok(())
                }
                None => Err(EnricherError::Task("every executor has ended".into())),
            },
            () = SubmitterLink::news(&mut self.submissions) => Ok(()),
            () = self.capacity_freed.notified() => Ok(()),
            ended = self.executors.join_next() => {
                Err(EnricherError::Task(format!("an executor has ended: {ended:?}")))
            }
        }
    }

    /// Stops sending new requests. Those in flight are waited for.
    pub fn halt(&mut self, stop: Stop) {
        if stop.outranks(self.stop.as_ref()) {
            if let Some(reason) = stop.reason() {
                self.voice.say(&Event::Stopping(&reason));
            }
            self.stop = Some(stop);
        }
        self.ledger.stop();
        for request in std::mem::take(&mut self.rerouted) {
            self.put_back(request.cell);
        }
        // Rows that were handed out within the row limit are still sent.
        if !matches!(self.stop, Some(Stop::MaxRows)) {
            self.mode.send_replace(Mode::Draining);
        }
    }

    /// Cuts off the requests in flight, and takes in the answers that have arrived whole.
    pub async fn abort(&mut self) {
        self.learned.save();
        self.ledger.stop();
        self.mode.send_replace(Mode::Aborting);
        loop {
            tokio::select! {
                biased;
                burst = self.replies.recv() => {
                    let is_over = burst.is_none();
                    self.buffer.extend(burst.into_iter().flatten());
                    self.take_in();
                    if is_over {
                        return;
                    }
                }
                ended = self.executors.join_next() => if ended.is_none() {
                    while let Ok(burst) = self.replies.try_recv() {
                        self.buffer.extend(burst);
                    }
                    self.take_in();
                    return;
                },
            }
        }
    }

    /// Returns why no new requests are sent any more, or `None` while they are.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// Whether rows are handed out that have no outcome yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.ledger.handed_out() > 0
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.ledger.is_finished()
    }

    /// Whether everything that was planned is committed and nothing is left to plan.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ledger.is_complete()
    }

    /// Returns the anomaly of a run that ended with fewer outcomes than a window of anomalies holds, or `None`.
    pub(crate) fn anomaly_at_the_end(&self) -> Option<Anomaly> {
        self.watches.iter().find_map(Watch::at_the_end)
    }

    /// Ends the executors and flushes the journals. Returns why the run stopped early, or `None` if it did not.
    /// `reached_end` states that the source was planned to its end, not to a limit of this run.
    ///
    /// # Errors
    /// When the account or a journal cannot be flushed, or a journal cannot be removed.
    pub async fn finish(mut self, reached_end: bool) -> Result<Option<Stop>, EnricherError> {
        // Executors hand over their last figures and learned limits when they are dropped.
        drop(self.mode);
        drop(self.replies);
        while self.executors.join_next().await.is_some() {}
        if let Some(link) = &self.submissions {
            let open = self.open.iter().map(|(id, batch)| (*id, &batch.counted));
            let counted = open.chain(self.counted.iter().map(|(id, counted)| (*id, counted)));
            let counted: Vec<_> = counted.map(|(id, counted)| (id, counted.submissions.clone())).collect();
            link.mark_counted(&counted).await;
            let digest = |id| (id, self.digests.get(&id).copied());
            let left = self.ledger.unloaded_batches().map(digest).collect();
            link.leave_unloaded(left, asked_by(&self.steps)).await;
        }
        self.learned.save();
        let is_done = reached_end && self.ledger.is_complete();
        self.account.sync()?;
        self.open.values().try_for_each(|batch| batch.journal.sync())?;
        self.epochs.as_ref().map_or(Ok(()), EpochJournals::sync)?;
        if is_done {
            // Every row that could use a stray answer is in the table.
            self.stray_answers.discard()?;
            if let Some(link) = &self.submissions {
                link.close_unclaimed().await;
            }
        }
        Ok(self.stop)
    }
}

//! The state machine: which batch to plan, load or commit next, and which row to hand out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::batch::{LedgerBatch, Phase, RowState, Urgency};
use crate::config::Job;
use crate::event::Hold;
use crate::ident::{BatchId, Cell, StepId};

/// Limits on the open batches. One batch may always be open, however large.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Maximum number of rows in open batches together.
    pub max_rows: u64,
    /// Maximum number of bytes in open batches together.
    pub max_bytes: u64,
    /// Maximum number of rows of a batch that is yet to be planned.
    pub batch_rows: u64,
    /// Maximum number of bytes of a batch that is yet to be planned.
    pub batch_bytes: u64,
}

impl Window {
    /// The window of a job.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Window {
            max_rows: job.window.max_rows,
            max_bytes: job.window.max_bytes,
            batch_rows: u64::from(job.batch.max_rows),
            batch_bytes: job.batch.max_bytes,
        }
    }
}

/// A task for the caller, given out once. The caller reports its result through the methods named at each variant, or
/// [`Ledger::failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerTask {
    /// Fix the content of the next batch, durably, and read its rows: [`Ledger::planned`] and
    /// [`Ledger::loaded`], or [`Ledger::source_ended`].
    Plan,
    /// Read the rows of a planned batch: [`Ledger::loaded`].
    Load(BatchId),
    /// Drop the rows of a batch from memory: [`Ledger::unloaded`].
    Unload(BatchId),
    /// Commit a batch whose rows all have outcomes: [`Ledger::committed`].
    Commit(BatchId),
    /// Remove the journal of a committed batch: [`Ledger::forgotten`].
    Forget(BatchId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceState {
    Open,
    Planning,
    Ended,
}

/// The states of all uncommitted batches and their rows.
#[derive(Debug)]
pub struct Ledger {
    window: Window,
    steps: usize,
    batches: BTreeMap<BatchId, LedgerBatch>,
    next_batch: BatchId,
    source: SourceState,
    /// For each step, the rows that are handed out before fresh ones: they are past their first step, or were given
    /// back.
    ready: Vec<VecDeque<(BatchId, u32)>>,
    /// For each step, the urgent rows that are ready.
    urgent: Vec<VecDeque<(BatchId, u32)>>,
    handed_out: u64,
    order: CommitOrder,
    stopped: bool,
}

/// The order in which batches are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOrder {
    /// As they were planned.
    AsPlanned,
    /// As their rows all have outcomes.
    AsFilled,
}

impl Ledger {
    /// Creates a ledger with the batches that are in the checkpoint and not in the log, as (id, rows, bytes). Those in
    /// `unloaded` are loaded when a submission of their rows comes back.
    ///
    /// # Panics
    /// If their numbers have gaps.
    #[must_use]
    pub fn new(
        window: Window,
        steps: usize,
        next_batch: BatchId,
        planned: impl IntoIterator<Item = (BatchId, u64, u64)>,
        unloaded: &BTreeSet<BatchId>,
    ) -> Self {
        let batches: BTreeMap<BatchId, LedgerBatch> = planned
            .into_iter()
            .map(|(id, rows, bytes)| {
                let phase = if unloaded.contains(&id) { Phase::Unloaded } else { Phase::Planned };
                (id, LedgerBatch::new(phase, rows, bytes))
            })
            .collect();
        let first = batches.keys().next().copied().unwrap_or(next_batch);
        let expected = (first.get()..next_batch.get()).map(BatchId::new);
        assert!(expected.eq(batches.keys().copied()), "planned batches have no gaps");
        Ledger {
            window,
            steps,
            batches,
            next_batch,
            source: SourceState::Open,
            ready: vec![VecDeque::new(); steps],
            urgent: vec![VecDeque::new(); steps],
            handed_out: 0,
            order: CommitOrder::AsPlanned,
            stopped: false,
        }
    }

    /// Sets the order in which batches are committed, which is [`CommitOrder::AsPlanned`] at first.
    #[must_use]
    pub fn with_order(mut self, order: CommitOrder) -> Self {
        self.order = order;
        self
    }

    /// The batch that is to be committed next.
    fn next_full(&self) -> Option<BatchId> {
        let candidates = match self.order {
            CommitOrder::AsPlanned => 1,
            CommitOrder::AsFilled => self.batches.len(),
        };
        // One commit goes on at a time.
        if self.batches.values().any(|batch| batch.phase == Phase::Committing) {
            return None;
        }
        self.batches.iter().take(candidates).find(|(_, batch)| batch.is_full()).map(|(&id, _)| id)
    }

    /// Hands out no more rows of a batch, and has it dropped as soon as none is under way. One whose rows all have
    /// outcomes is committed all the same; one that is not uncommitted is passed over.
    pub fn withdraw(&mut self, id: BatchId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.is_withdrawn = true;
        }
    }

    /// Returns the next task, or `None` if there is none until something is reported. Handing out rows is not a task.
    pub fn next_task(&mut self) -> Option<LedgerTask> {
        if let Some(id) = self.next_full() {
            self.batch_mut(id).phase = Phase::Committing;
            return Some(LedgerTask::Commit(id));
        }
        if let Some((&id, _)) = self.batches.iter().find(|(_, batch)| batch.is_to_be_dropped()) {
            return Some(self.unload(id));
        }
        if self.stopped {
            return None;
        }
        if let Some((&id, _)) = self.batches.iter().find(|(_, batch)| batch.waits_for_submissions()) {
            return Some(self.unload(id));
        }
        let is_loading = self.batches.values().any(|batch| batch.phase == Phase::Loading);
        // One task at a time has the source.
        if is_loading || self.source == SourceState::Planning {
            return None;
        }
        let (planned, rows, bytes) = self.next_wanted()?;
        if !self.has_room(rows, bytes) {
            return self.full_behind_submissions().map(|id| self.unload(id));
        }
        Some(match planned {
            Some(id) => {
                self.batch_mut(id).phase = Phase::Loading;
                LedgerTask::Load(id)
            }
            None => {
                self.source = SourceState::Planning;
                LedgerTask::Plan
            }
        })
    }

    /// The batch that is to be loaded next, or `None` for one that is to be planned, with its rows and bytes. `None` if
    /// neither is left.
    fn next_wanted(&self) -> Option<(Option<BatchId>, u64, u64)> {
        let oldest = self.batches.keys().next();
        // A batch that made room with an outcome for every row is needed only for its commit.
        let is_wanted = |(id, batch): &(&BatchId, &LedgerBatch)| {
            batch.phase == Phase::Planned && (!batch.is_answered || Some(*id) == oldest)
        };
        match self.batches.iter().find(is_wanted) {
            Some((&id, batch)) => Some((Some(id), batch.size, batch.bytes)),
            None => (self.source == SourceState::Open).then_some((
                None,
                self.window.batch_rows,
                self.window.batch_bytes,
            )),
        }
    }

    /// The newest batch whose rows all have outcomes, if the oldest batch, which must be committed first, is not in
    /// memory.
    fn full_behind_submissions(&self) -> Option<BatchId> {
        let oldest = self.batches.values().next()?;
        let is_full = |batch: &LedgerBatch| batch.phase == Phase::Open && batch.unfinished == 0;
        let mut newest_first = self.batches.iter().rev().filter(|_| !oldest.is_in_memory());
        newest_first.find(|(_, batch)| is_full(batch)).map(|(&id, _)| id)
    }

    fn unload(&mut self, id: BatchId) -> LedgerTask {
        self.batch_mut(id).phase = Phase::Unloading;
        LedgerTask::Unload(id)
    }

    fn has_room(&self, rows: u64, bytes: u64) -> bool {
        let (open_rows, open_bytes) = self.open();
        open_rows == 0
            || (open_rows + rows <= self.window.max_rows && open_bytes + bytes <= self.window.max_bytes)
    }

    /// Counts bytes of answers that are kept in memory for a batch.
    pub fn keep_answer(&mut self, id: BatchId, bytes: u64) {
        self.batch_mut(id).answers += bytes;
    }

    /// Bytes of answers that may still be kept in memory: at most a quarter of the window, so that rows have room.
    #[must_use]
    pub fn room_for_answers(&self) -> u64 {
        let answers: u64 = self.batches.values().map(|batch| batch.answers).sum();
        let free = self.window.max_bytes.saturating_sub(self.open().1);
        free.min((self.window.max_bytes / 4).saturating_sub(answers))
    }

    /// Rows of the open batches, and the bytes that they and their answers take.
    #[must_use]
    pub fn open(&self) -> (u64, u64) {
        let open = self.batches.values().filter(|batch| batch.is_in_memory());
        open.fold((0, 0), |(rows, bytes), batch| (rows + batch.size, bytes + batch.bytes + batch.answers))
    }

    /// Returns what keeps the next batch out of a full window. `None` if the window has room, no batch is left, or one
    /// is being planned or read.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        let is_coming = self.source == SourceState::Planning
            || self.batches.values().any(|batch| batch.phase == Phase::Loading);
        if self.stopped || is_coming {
            return None;
        }
        let (_, rows, bytes) = self.next_wanted()?;
        if self.has_room(rows, bytes) {
            return None;
        }
        let (&id, oldest) = self.batches.iter().next()?;
        Some(match oldest.phase {
            Phase::Committing | Phase::Forgetting => Hold::Commit(id),
            _ => Hold::SlowRows(id),
        })
    }

    /// Reports that a batch is durably planned and that its rows are being read. Returns its id.
    ///
    /// # Panics
    /// If no batch was to be planned.
    pub fn planned(&mut self, rows: u64, bytes: u64) -> BatchId {
        assert_eq!(self.source, SourceState::Planning, "a plan follows its task");
        self.source = SourceState::Open;
        let id = self.next_batch;
        self.next_batch = id.next();
        self.batches.insert(id, LedgerBatch::new(Phase::Loading, rows, bytes));
        id
    }

    /// Reports that there is nothing more to plan in this run.
    pub fn source_ended(&mut self) {
        self.source = SourceState::Ended;
    }

    /// Reports that a batch's rows are in memory: their number, and the bytes that they take.
    ///
    /// # Panics
    /// If the batch was not being read.
    pub fn loaded(&mut self, id: BatchId, rows: u32, bytes: u64) {
        let batch = self.batch_mut(id);
        assert_eq!(batch.phase, Phase::Loading, "batch {id} was being read");
        batch.fill(rows);
        batch.bytes = bytes;
        batch.phase = Phase::Open;
    }

    /// Reports that a batch's rows are dropped from memory. It is loaded again once a submission of its rows came back,
    /// or when there is room for it if all of its rows are done. Returns false for a batch that was withdrawn, which is
    /// never loaded again.
    ///
    /// # Panics
    /// If the rows were not to be dropped.
    pub fn unloaded(&mut self, id: BatchId) -> bool {
        let batch = self.batch_mut(id);
        assert_eq!(batch.phase, Phase::Unloading, "batch {id} was to be dropped");
        if batch.is_withdrawn {
            self.batches.remove(&id);
            return false;
        }
        batch.is_answered = batch.unfinished == 0;
        let is_awaited = !batch.is_answered && !batch.has_returned;
        batch.phase = if is_awaited { Phase::Unloaded } else { Phase::Planned };
        (batch.rows, batch.answers, batch.has_returned) = (Vec::new(), 0, false);
        true
    }

    /// The batches that are not in memory because their rows wait for submissions.
    pub fn unloaded_batches(&self) -> impl Iterator<Item = BatchId> + '_ {
        self.batches.iter().filter(|(_, batch)| batch.phase == Phase::Unloaded).map(|(id, _)| *id)
    }

    /// Whether a task is under way or to be taken.
    #[must_use]
    pub fn has_task(&self) -> bool {
        let is_busy = |batch: &LedgerBatch| {
            let is_under_way = !matches!(batch.phase, Phase::Planned | Phase::Open | Phase::Unloaded);
            is_under_way || batch.waits_for_submissions()
        };
        self.source == SourceState::Planning
            || self.next_full().is_some()
            || self.batches.values().any(is_busy)
            || self.next_wanted().is_some_and(|(_, rows, bytes)| self.has_room(rows, bytes))
    }

    /// Whether each row of a batch has been looked at since a submission of its rows came back: none of them is still to
    /// be read or handed out. A batch that is not uncommitted has been.
    #[must_use]
    pub fn is_looked_at(&self, id: BatchId) -> bool {
        self.batches.get(&id).is_none_or(|batch| match batch.phase {
            Phase::Planned => batch.is_answered,
            Phase::Loading | Phase::Unloaded => false,
            Phase::Open | Phase::Unloading => {
                !batch.has_returned && batch.unfinished == batch.submitted + batch.handed_out
            }
            Phase::Committing | Phase::Forgetting => true,
        })
    }

    /// Reports that a submission with rows of a batch came back: what it brought is in the batch's journal. A batch that
    /// is not uncommitted is passed over.
    pub fn returned(&mut self, id: BatchId) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        match batch.phase {
            Phase::Unloaded => batch.phase = Phase::Planned,
            Phase::Loading | Phase::Open | Phase::Unloading => batch.has_returned = true,
            Phase::Planned | Phase::Committing | Phase::Forgetting => {}
        }
    }

    /// Makes a row urgent in its current step. It is no longer handed out as a usual one.
    ///
    /// # Panics
    /// If the row is not ready for that step.
    pub fn make_urgent(&mut self, cell: Cell) {
        let row = self.row_mut(cell);
        assert!(row.step == cell.step && row.state == RowState::Ready, "{cell} is ready");
        row.urgency = Urgency::Urgent;
        self.urgent[cell.step.index()].push_back((cell.batch, cell.row));
    }

    /// Hands out the next row for a step: first rows that are past their first step or were given back, then, for the
    /// first step, fresh rows of the open batches in order.
    pub fn hand_out_next(&mut self, step: StepId, urgency: Urgency) -> Option<Cell> {
        if self.stopped {
            return None;
        }
        while let Some((id, row)) = self.queue_mut(step, urgency).pop_front() {
            if let Some(cell) = self.hand_out(id, row, step, urgency) {
                return Some(cell);
            }
        }
        if step != StepId::FIRST || urgency == Urgency::Urgent {
            return None;
        }
        let is_served = |batch: &LedgerBatch| batch.phase == Phase::Open && !batch.is_withdrawn;
        let open = self.batches.iter_mut().filter(|(_, batch)| is_served(batch));
        let mut found = None;
        'search: for (&id, batch) in open {
            while let Some(row) = batch.rows.get(batch.fresh as usize) {
                let at = batch.fresh;
                batch.fresh += 1;
                if row.state == RowState::Ready && row.step == step && row.urgency == urgency {
                    found = Some((id, at));
                    break 'search;
                }
            }
        }
        found.and_then(|(id, row)| self.hand_out(id, row, step, urgency))
    }

    fn queue_mut(&mut self, step: StepId, urgency: Urgency) -> &mut VecDeque<(BatchId, u32)> {
        match urgency {
            Urgency::Urgent => &mut self.urgent[step.index()],
            Urgency::Usual => &mut self.ready[step.index()],
        }
    }

    fn hand_out(&mut self, id: BatchId, row: u32, step: StepId, urgency: Urgency) -> Option<Cell> {
        let batch = self.batches.get_mut(&id).filter(|batch| !batch.is_withdrawn)?;
        let entry = batch.rows.get_mut(row as usize)?;
        if entry.state != RowState::Ready || entry.step != step || entry.urgency != urgency {
            return None;
        }
        entry.state = RowState::HandedOut;
        batch.handed_out += 1;
        self.handed_out += 1;
        Some(Cell { batch: id, row, step })
    }

    /// Takes back a row that was not sent or whose request has no outcome, as if it had never been handed out.
    ///
    /// # Panics
    /// If it was not handed out.
    pub fn give_back(&mut self, cell: Cell) {
        let row = self.row_mut(cell);
        assert_eq!(row.state, RowState::HandedOut, "{cell} was handed out");
        row.state = RowState::Ready;
        let urgency = row.urgency;
        self.batch_mut(cell.batch).handed_out -= 1;
        self.handed_out -= 1;
        self.queue_mut(cell.step, urgency).push_front((cell.batch, cell.row));
    }

    /// Records that the request of a row is in a submission. Its outcome is found in the journal when the batch is loaded
    /// again.
    ///
    /// # Panics
    /// If the row was not handed out.
    pub fn submitted(&mut self, cell: Cell) {
        let row = self.row_mut(cell);
        assert_eq!(row.state, RowState::HandedOut, "{cell} was handed out");
        row.state = RowState::Submitted;
        self.handed_out -= 1;
        let batch = self.batch_mut(cell.batch);
        batch.handed_out -= 1;
        batch.submitted += 1;
    }

    /// Records that a row has its outcome in a step, whether from a request or from the journal. The row goes on to
    /// its next step, if there is one.
    ///
    /// # Panics
    /// If the row is at another step or done.
    pub fn settle(&mut self, cell: Cell) {
        let steps = self.steps;
        let row = self.row_mut(cell);
        let is_pending = matches!(row.state, RowState::Ready | RowState::HandedOut);
        assert!(row.step == cell.step && is_pending, "{cell} has no outcome yet");
        let was_handed_out = row.state == RowState::HandedOut;
        let next = cell.step.next();
        let done = next.index() == steps;
        row.state = if done { RowState::Done } else { RowState::Ready };
        if !done {
            (row.step, row.urgency) = (next, Urgency::Usual);
        }
        self.handed_out -= u64::from(was_handed_out);
        self.batch_mut(cell.batch).handed_out -= u64::from(was_handed_out);
        if done {
            self.batch_mut(cell.batch).unfinished -= 1;
        } else {
            self.ready[next.index()].push_back((cell.batch, cell.row));
        }
    }

    /// Reports that a batch is in the table. Returns the task to remove its journal.
    ///
    /// # Panics
    /// If the batch was not being committed.
    pub fn committed(&mut self, id: BatchId) -> LedgerTask {
        let batch = self.batch_mut(id);
        assert_eq!(batch.phase, Phase::Committing, "batch {id} was being committed");
        batch.phase = Phase::Forgetting;
        LedgerTask::Forget(id)
    }

    /// Reports that the journal of a committed batch is removed.
    ///
    /// # Panics
    /// If the batch was not committed.
    pub fn forgotten(&mut self, id: BatchId) {
        let batch = self.batches.remove(&id);
        assert!(batch.is_some_and(|batch| batch.phase == Phase::Forgetting), "batch {id} was committed");
    }

    /// Reports that a task failed and was not done, and stops the ledger. A batch that could not be read or committed
    /// counts as planned again and is left to another run. One whose journal could not be removed is done.
    ///
    /// # Panics
    /// If the task was not under way.
    pub fn failed(&mut self, task: LedgerTask) {
        self.stop();
        match task {
            LedgerTask::Plan => {
                assert_eq!(self.source, SourceState::Planning, "a plan was under way");
                self.source = SourceState::Open;
            }
            LedgerTask::Load(id) | LedgerTask::Commit(id) => {
                let batch = self.batch_mut(id);
                assert!(
                    matches!(batch.phase, Phase::Loading | Phase::Committing),
                    "batch {id} was under way"
                );
                batch.phase = Phase::Planned;
            }
            LedgerTask::Unload(id) => _ = self.unloaded(id),
            LedgerTask::Forget(id) => self.forgotten(id),
        }
    }

    /// Stops planning, reading and handing out rows. Batches whose rows all have outcomes are still committed.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether [`Ledger::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Number of rows that are handed out and have no outcome yet.
    #[must_use]
    pub fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// Whether a submission has to come back before all batches can be committed.
    #[must_use]
    pub fn has_submitted(&self) -> bool {
        self.batches.values().any(|batch| batch.phase == Phase::Unloaded || batch.submitted > 0)
    }

    /// Whether every planned row of the source is in the table and nothing is left to plan.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.source == SourceState::Ended && self.batches.is_empty()
    }

    /// Whether nothing is left to do: the ledger is complete, or it is stopped and no task or request is under way.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let busy = self.batches.values().any(|batch| {
            matches!(batch.phase, Phase::Loading | Phase::Unloading | Phase::Committing | Phase::Forgetting)
        });
        self.is_complete()
            || (self.stopped
                && self.handed_out == 0
                && self.source != SourceState::Planning
                && !busy
                && self.next_full().is_none())
    }

    fn batch_mut(&mut self, id: BatchId) -> &mut LedgerBatch {
        self.batches.get_mut(&id).unwrap_or_else(|| panic!("batch {id} is uncommitted"))
    }

    fn row_mut(&mut self, cell: Cell) -> &mut super::batch::LedgerRow {
        let rows = &mut self.batch_mut(cell.batch).rows;
        rows.get_mut(cell.row as usize).unwrap_or_else(|| panic!("{cell} is in memory"))
    }
}

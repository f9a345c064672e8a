//! One uncommitted batch and its rows.

use crate::ident::StepId;

/// How far a batch has come, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its plan is durable. Its rows are not in memory.
    Planned,
    /// Its rows are being read.
    Loading,
    /// Its rows are being handed out.
    Open,
    /// Its rows are being dropped from memory.
    Unloading,
    /// Its rows are not in memory; each of them is done or submitted.
    Unloaded,
    /// Its commit is under way.
    Committing,
    /// It is in the table; its journal is being removed.
    Forgetting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    /// Its current step may be handed out.
    Ready,
    /// Its current step is handed out and has no outcome yet.
    HandedOut,
    /// Its current step is in a submission to a provider's Batch API.
    Submitted,
    /// Every step has an outcome.
    Done,
}

/// Whether a row is handed out before others that are at the same step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Before the usual ones.
    Urgent,
    /// In the order of the source.
    Usual,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LedgerRow {
    pub(super) step: StepId,
    pub(super) state: RowState,
    /// Its urgency in its current step.
    pub(super) urgency: Urgency,
}

#[derive(Debug)]
pub(super) struct LedgerBatch {
    pub(super) phase: Phase,
    pub(super) size: u64,
    pub(super) bytes: u64,
    /// Bytes of answers kept in memory.
    pub(super) answers: u64,
    pub(super) rows: Vec<LedgerRow>,
    /// Number of rows that are not done.
    pub(super) unfinished: u64,
    /// Number of rows that are submitted.
    pub(super) submitted: u64,
    /// Number of rows that are handed out.
    pub(super) handed_out: u64,
    /// Whether nobody waits for it any more.
    pub(super) is_withdrawn: bool,
    /// Whether it was dropped from memory with an outcome for every row.
    pub(super) is_answered: bool,
    /// Whether a submission of its rows came back while they were in memory.
    pub(super) has_returned: bool,
    /// Index of the next row to look at for its first handing out. Earlier rows were handed out, or had an outcome
    /// before.
    pub(super) fresh: u32,
}

impl LedgerBatch {
    pub(super) fn new(phase: Phase, size: u64, bytes: u64) -> Self {
        LedgerBatch {
            phase,
            size,
            bytes,
            answers: 0,
            rows: Vec::new(),
            unfinished: size,
            submitted: 0,
            handed_out: 0,
            is_withdrawn: false,
            is_answered: false,
            has_returned: false,
            fresh: 0,
        }
    }

    /// Whether its rows take room in the window.
    pub(super) fn is_in_memory(&self) -> bool {
        !matches!(self.phase, Phase::Planned | Phase::Unloaded)
    }

    /// Whether nothing is left for it to do in memory: each row is done or submitted, and one is submitted.
    pub(super) fn waits_for_submissions(&self) -> bool {
        self.phase == Phase::Open && self.submitted > 0 && self.submitted == self.unfinished
    }

    /// Whether its rows all have outcomes, and it is to be committed.
    pub(super) fn is_full(&self) -> bool {
        self.phase == Phase::Open && self.unfinished == 0
    }

    /// Whether nobody waits for it, and none of its rows is under way.
    pub(super) fn is_to_be_dropped(&self) -> bool {
        self.is_withdrawn && self.phase == Phase::Open && self.unfinished > 0 && self.handed_out == 0
    }

    pub(super) fn fill(&mut self, rows: u32) {
        self.size = u64::from(rows);
        self.unfinished = self.size;
        (self.submitted, self.fresh, self.has_returned) = (0, 0, false);
        let row = LedgerRow { step: StepId::FIRST, state: RowState::Ready, urgency: Urgency::Usual };
        self.rows = vec![row; rows as usize];
    }
}

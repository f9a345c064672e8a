//! The first rows of a step: refusals are held back until something tells that they are the rows' own.

use crate::dispatch::Reply;
use crate::fault::{Class, Failure};
use crate::ident::Cell;
use crate::rows::RowResult;

/// So many first rows with the same refusal stop the run.
const SAME_REFUSALS: usize = 20;

/// What the first refusals mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// When the first rows are all refused in the same way, the run is wrong and stops.
    Probation,
    /// Each refusal is its row's own.
    RowByRow,
}

/// A refusal that is held back.
#[derive(Debug)]
pub(super) enum WithheldRefusal {
    /// Nothing was paid, and nothing is written down yet.
    Refused(Box<Reply>, Failure),
    /// Nothing is to be written down: a template that fails, or an answer without text, which was paid for
    /// and is in the journal.
    Known(Cell, Box<RowResult>, Failure),
}

impl WithheldRefusal {
    pub(super) fn cell(&self) -> Cell {
        match self {
            WithheldRefusal::Refused(reply, _) => reply.request.cell,
            WithheldRefusal::Known(cell, ..) => *cell,
        }
    }

    pub(super) fn failure(&self) -> &Failure {
        match self {
            WithheldRefusal::Refused(_, failure) | WithheldRefusal::Known(_, _, failure) => failure,
        }
    }
}

/// Holds back the refusals of the first rows of a step.
#[derive(Debug, Default)]
pub(super) struct Probation {
    is_over: bool,
    /// Refusals so far, all of one class.
    refused: usize,
    class: Option<Class>,
    held: Vec<WithheldRefusal>,
}

/// What becomes of a refusal.
pub(super) enum Judgement {
    /// It is the row's own, as are those that were held back before it.
    Release(Vec<WithheldRefusal>),
    /// It is held back.
    Hold,
    /// It is the run's: these rows are as if they had not been asked.
    Stop(Vec<WithheldRefusal>),
}

impl Probation {
    pub(super) fn new(strictness: Strictness) -> Self {
        Probation { is_over: strictness == Strictness::RowByRow, ..Probation::default() }
    }

    /// A row was refused.
    pub(super) fn refused(&mut self, held: WithheldRefusal) -> Judgement {
        if self.is_over {
            return Judgement::Release(vec![held]);
        }
        let class = held.failure().class;
        let is_same = *self.class.get_or_insert(class) == class;
        self.refused += 1;
        self.held.push(held);
        if !is_same {
            return Judgement::Release(self.end());
        }
        // What was in flight when the run was stopped meets the same refusal.
        if self.refused >= SAME_REFUSALS { Judgement::Stop(self.release()) } else { Judgement::Hold }
    }

    /// A row was answered: what is held back is the rows' own, and so is all that follows.
    pub(super) fn end(&mut self) -> Vec<WithheldRefusal> {
        self.is_over = true;
        self.release()
    }

    /// Nothing else can come for now: what is held back must go on. The next refusals still count.
    pub(super) fn release(&mut self) -> Vec<WithheldRefusal> {
        std::mem::take(&mut self.held)
    }

    /// Whether a refusal is a row's own from now on.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Rows whose refusal is held back.
    pub(super) fn held(&self) -> u64 {
        self.held.len() as u64
    }
}

//! Probation of a step: refusals of its first rows are withheld until it is known whether they are the rows' own.

use crate::executor::Reply;
use crate::fault::{Class, Failure};
use crate::ident::Cell;
use crate::rows::RowResult;

/// Number of first rows with the same refusal that stops the run.
const SAME_REFUSALS: usize = 20;

/// How the first refusals of a step are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// If the first rows are all refused in the same way, the run is wrong and stops.
    Probation,
    /// Each refusal is its row's own.
    RowByRow,
}

/// A refusal that is withheld, because it may be the run's and not the row's own.
#[derive(Debug)]
pub(super) enum WithheldRefusal {
    /// Nothing was paid, and nothing is in the journal yet.
    Refused(Box<Reply>, Failure),
    /// Nothing is to be journalled: a template failed, or a paid answer came to nothing and is in the journal.
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

/// Withholds the refusals of the first rows of a step.
#[derive(Debug, Default)]
pub(super) struct Probation {
    is_over: bool,
    /// Number of refusals so far, all of one class.
    refused: usize,
    class: Option<Class>,
    held: Vec<WithheldRefusal>,
}

/// What happens to a refusal.
pub(super) enum ProbationResult {
    /// It is the row's own, as are those that were withheld before it.
    Release(Vec<WithheldRefusal>),
    /// It is withheld.
    Hold,
    /// It is the run's: these rows count as not sent.
    Stop(Vec<WithheldRefusal>),
}

impl Probation {
    pub(super) fn new(strictness: Strictness) -> Self {
        Probation { is_over: strictness == Strictness::RowByRow, ..Probation::default() }
    }

    /// Judges the refusal of a row.
    pub(super) fn refused(&mut self, held: WithheldRefusal) -> ProbationResult {
        if self.is_over {
            return ProbationResult::Release(vec![held]);
        }
        let class = held.failure().class;
        let is_same = *self.class.get_or_insert(class) == class;
        self.refused += 1;
        self.held.push(held);
        if !is_same {
            return ProbationResult::Release(self.end());
        }
        // The probation goes on: rows that are still in flight meet the same refusal.
        if self.refused >= SAME_REFUSALS {
            ProbationResult::Stop(self.release())
        } else {
            ProbationResult::Hold
        }
    }

    /// Ends the probation: the withheld refusals, which it returns, are the rows' own, and so are all that follow.
    pub(super) fn end(&mut self) -> Vec<WithheldRefusal> {
        self.is_over = true;
        self.release()
    }

    /// Returns the withheld refusals, because nothing else can arrive for now. The probation goes on.
    pub(super) fn release(&mut self) -> Vec<WithheldRefusal> {
        std::mem::take(&mut self.held)
    }

    /// Whether every refusal is a row's own from now on.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Number of rows whose refusal is withheld.
    pub(super) fn held(&self) -> u64 {
        self.held.len() as u64
    }
}

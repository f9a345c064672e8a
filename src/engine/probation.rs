//! The first rows of a run: refusals are held back until something tells that they are the rows' own.

use crate::dispatch::Reply;
use crate::fault::{Class, Failure};

/// So many first rows with the same refusal stop the run.
const SAME_REFUSALS: usize = 20;

/// Holds back the refusals of the first rows.
#[derive(Debug, Default)]
pub(super) struct Probation {
    is_over: bool,
    /// The run is stopped because of them: what was in flight meets the same refusal.
    is_condemned: bool,
    class: Option<Class>,
    held: Vec<(Reply, Failure)>,
}

/// What becomes of a refusal.
pub(super) enum Judgement {
    /// It is the row's own, as are those that were held back before it.
    Release(Vec<(Reply, Failure)>),
    /// It is held back.
    Hold,
    /// It is the run's: these rows are as if they had not been asked.
    Stop(Vec<(Reply, Failure)>),
}

impl Probation {
    /// A row was refused.
    pub(super) fn refused(&mut self, reply: Reply, failure: Failure) -> Judgement {
        if self.is_over {
            return Judgement::Release(vec![(reply, failure)]);
        }
        if self.is_condemned {
            return Judgement::Stop(vec![(reply, failure)]);
        }
        let is_same = *self.class.get_or_insert(failure.class) == failure.class;
        self.held.push((reply, failure));
        if !is_same {
            return Judgement::Release(self.end());
        }
        if self.held.len() < SAME_REFUSALS {
            return Judgement::Hold;
        }
        self.is_condemned = true;
        Judgement::Stop(std::mem::take(&mut self.held))
    }

    /// A row was answered, or nothing else can come: what is held back is the rows' own.
    pub(super) fn end(&mut self) -> Vec<(Reply, Failure)> {
        self.is_over = true;
        std::mem::take(&mut self.held)
    }

    /// Rows whose refusal is held back.
    pub(super) fn held(&self) -> u64 {
        self.held.len() as u64
    }
}

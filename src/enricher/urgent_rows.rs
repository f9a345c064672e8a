//! Urgent rows: which rows are asked before the others of their step. That they go through no Batch API is decided with
//! their requests (`inputs`).

use super::inputs;
use super::interface::Enricher;
use crate::ident::{BatchId, Cell, StepId};

impl Enricher {
    /// Makes rows of a batch that was opened urgent which meet the condition of the first step.
    pub(super) fn mark_urgent_rows(&mut self, batch: BatchId, rows: u32) {
        if self.steps.first().is_some_and(|step| step.urgent.is_some()) {
            for row in 0..rows {
                self.mark_if_urgent(Cell { batch, row, step: StepId::FIRST });
            }
        }
    }

    /// Makes a row urgent that is ready for a step and meets its condition.
    pub(super) fn mark_if_urgent(&mut self, cell: Cell) {
        let Self { steps, open, ledger, .. } = self;
        if let Some(batch) = open.get(&cell.batch)
            && cell.step.index() < steps.len()
            && inputs::is_urgent(steps, batch, cell)
        {
            ledger.make_urgent(cell);
        }
    }
}

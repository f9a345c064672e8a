//! Which rows of a batch are counted in the figures of a run. A batch that waits for a submission is read several times,
//! and finds the outcomes of before in its journal each time.

use std::collections::BTreeSet;

use crate::ident::{Cell, SubmissionId};

/// Steps of rows of a batch whose outcomes were reported and judged in this run.
#[derive(Debug)]
pub(super) struct CountedCells {
    rows: u32,
    bits: Vec<u64>,
    /// The submissions whose answers were there when the batch was read last, and that no earlier run had counted.
    pub(super) submissions: BTreeSet<SubmissionId>,
}

impl CountedCells {
    /// Creates it for a batch of so many rows.
    pub(super) fn new(rows: u32, steps: usize) -> Self {
        CountedCells {
            rows,
            bits: vec![0; (rows as usize * steps).div_ceil(64)],
            submissions: BTreeSet::new(),
        }
    }

    /// Number of rows of the batch.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// Adds a step of a row. Returns whether it was not counted before.
    pub(super) fn insert(&mut self, cell: Cell) -> bool {
        let at = cell.step.index() * self.rows as usize + cell.row as usize;
        let (word, bit) = (&mut self.bits[at / 64], 1 << (at % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{BatchId, StepId};

    #[test]
    fn each_step_of_a_row_is_new_once() {
        let mut counted = CountedCells::new(43, 3);
        let cells = || {
            let row =
                |row| (0..3).map(StepId::new).map(move |step| Cell { batch: BatchId::FIRST, row, step });
            (0..43).flat_map(row)
        };
        assert!(cells().all(|cell| counted.insert(cell)));
        assert!(!cells().any(|cell| counted.insert(cell)));
    }
}

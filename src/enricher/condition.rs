//! The condition of a step, of a route or of urgent rows, over the columns of the source and the outputs of earlier steps.

use std::sync::Arc;

use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::prompt::Rows;
use crate::table::Condition;

/// A condition of a step, over the columns of the source and the outputs of earlier steps, in this order.
#[derive(Clone, Debug)]
pub(crate) struct When {
    pub(super) condition: Condition,
    /// Number of columns of the source.
    pub(super) source_columns: usize,
}

impl When {
    pub(super) fn new(condition: Condition, source_columns: usize) -> Self {
        When { condition, source_columns }
    }

    /// Returns the indices of the earlier steps whose outputs it reads.
    pub(super) fn needs(&self) -> impl Iterator<Item = usize> {
        self.condition.columns().iter().filter_map(|column| column.checked_sub(self.source_columns))
    }

    /// Returns the indices of the columns of the source that it reads.
    pub(super) fn source_columns(&self) -> impl Iterator<Item = usize> {
        self.condition.columns().iter().copied().filter(|column| *column < self.source_columns)
    }

    /// Whether a row of the source meets a condition that reads no step's output; `false` if it cannot be evaluated.
    pub(crate) fn holds_in(&self, rows: &Rows, at: usize) -> bool {
        let columns = self.condition.columns().iter().map(|column| rows.batch().column(*column).slice(at, 1));
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let schema = Arc::clone(self.condition.row_schema());
        let row = RecordBatch::try_new_with_options(schema, columns.collect(), &one);
        row.is_ok_and(|row| matches!(self.condition.of_rows(&row).first(), Some(Ok(true))))
    }
}

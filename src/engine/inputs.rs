//! What a step is asked with: the row, what earlier steps gave, whether its condition is met.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::lane::Step;
use super::open_batch::OpenBatch;
use crate::decode::Content;
use crate::fault::{Class, Failure};
use crate::ident::{Cell, StepId};
use crate::prompt::{Given, Question, Rendered};
use crate::sink::Outcome;
use crate::table::Condition;

/// A condition of a step, over the columns of the source and the outputs of earlier steps, in this order.
#[derive(Clone, Debug)]
pub(super) struct When {
    condition: Condition,
    /// Columns of the source.
    source_columns: usize,
}

impl When {
    pub(super) fn new(condition: Condition, source_columns: usize) -> Self {
        When { condition, source_columns }
    }

    /// The earlier steps that it is about.
    pub(super) fn needs(&self) -> impl Iterator<Item = usize> {
        self.condition.columns().iter().filter_map(|column| column.checked_sub(self.source_columns))
    }

    /// Whether a row meets it.
    pub(super) fn holds(&self, steps: &[Step], batch: &OpenBatch, row: u32) -> Result<bool, Failure> {
        let wrong = |message: String| {
            let text =
                format!("the condition {:?} cannot be asked of the row: {message}", self.condition.written());
            Failure::new(Class::Template, text)
        };
        let (rows, at) = batch.locate(row);
        let column = |column: &usize| match column.checked_sub(self.source_columns) {
            None => Ok(rows.batch().column(*column).slice(at, 1)),
            Some(step) => value(steps, batch, step, row).map_err(|error| wrong(error.to_string())),
        };
        let columns = self.condition.columns().iter().map(column).collect::<Result<Vec<ArrayRef>, _>>()?;
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let schema = Arc::clone(self.condition.row_schema());
        let row = RecordBatch::try_new_with_options(schema, columns, &one);
        let row = row.map_err(|error| wrong(error.to_string()))?;
        self.condition.of_rows(&row).swap_remove(0).map_err(wrong)
    }
}

/// What a step gave for a row, as a column of one.
fn value(
    steps: &[Step],
    batch: &OpenBatch,
    step: usize,
    row: u32,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    match batch.held(step) {
        Some(held) if batch.keeps(cell_of(batch, step, row)) => Ok(held.slice(row as usize, 1)),
        _ => steps[step].columns.values(batch.outcome(step, row).into_iter()),
    }
}

fn cell_of(batch: &OpenBatch, step: usize, row: u32) -> Cell {
    Cell { batch: batch.id(), row, step: StepId::new(step) }
}

/// The question about a row, or the outcome of one that is not asked about.
pub(super) fn question(steps: &[Step], batch: &OpenBatch, cell: Cell) -> Result<Question, Outcome> {
    let step = &steps[cell.step.index()];
    if let Some(failed) = step.needs.iter().find(|needed| batch.has_failed(**needed, cell.row)) {
        let detail = format!("the step {:?} failed, whose output this one needs", &*steps[*failed].output);
        return Err(Outcome::Failed(Failure::new(Class::Upstream, detail)));
    }
    if let Some(when) = &step.when
        && !when.holds(steps, batch, cell.row).map_err(Outcome::Failed)?
    {
        return Err(Outcome::Skipped);
    }
    let given = step.prompt.needs().map(|needed| given(steps, batch, needed, cell.row));
    let given = given.collect::<Result<Vec<_>, _>>().map_err(Outcome::Failed)?;
    let (rows, row) = batch.locate(cell.row);
    match step.prompt.render(rows, row, given) {
        Ok(Rendered::Ask(question)) => Ok(question),
        Ok(Rendered::Skip) => Err(Outcome::Skipped),
        Err(failure) => Err(Outcome::Failed(failure)),
    }
}

/// What a step gave for a row, for a template.
fn given(steps: &[Step], batch: &OpenBatch, step: usize, row: u32) -> Result<Given, Failure> {
    let settled = batch.outcome(step, row);
    match settled.map(|settled| &settled.outcome) {
        Some(Outcome::Answer(Content::Text(text))) if steps[step].columns.is_text() => Ok(Given::text(text)),
        Some(Outcome::Answer(Content::Text(json))) => {
            Given::json(json).map_err(|error| Failure::new(Class::Template, error.to_string()))
        }
        Some(Outcome::Answer(Content::Vector(numbers))) => Ok(Given::numbers(numbers)),
        Some(Outcome::Kept) => {
            let held = batch.held(step).filter(|held| held.is_valid(row as usize));
            Ok(held.map_or_else(Given::nothing, |held| Given::cell(held, row as usize)))
        }
        Some(Outcome::Skipped | Outcome::Failed(_)) | None => Ok(Given::nothing()),
    }
}

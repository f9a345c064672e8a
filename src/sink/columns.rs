//! From outcomes to the columns of the target.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, StructArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::output::Output;
use super::settled::{FilledBatch, Outcome, Settled};
use super::target::{APP_ID, BATCH_ID, ERROR_COUNT, RUN_ID, SOURCE_FILE, SOURCE_ROW, step_fields};
use crate::ident::{Money, RunId, Tokens};
use crate::source::Chunk;

/// What the columns of a batch are made for.
pub(super) struct Layout<'a> {
    /// The table's columns.
    pub(super) schema: &'a SchemaRef,
    /// Name of the metadata column, if there is one.
    pub(super) metadata: Option<&'a str>,
    pub(super) outputs: &'a [Output],
    pub(super) app_id: &'a str,
    pub(super) run: RunId,
}

impl Layout<'_> {
    /// The rows of a chunk whose first row is row `offset` of the batch, in the table's columns.
    pub(super) fn rows(
        &self,
        batch: &FilledBatch,
        chunk: &Chunk,
        offset: usize,
        error_counts: &[i32],
    ) -> Result<RecordBatch, ArrowError> {
        let rows = chunk.rows.num_rows();
        let range = offset..offset + rows;
        let steps: Vec<&[Settled]> = batch.outcomes.iter().map(|step| &step[range.clone()]).collect();
        let made = self.outputs.iter().zip(&steps).map(|(output, step)| output.arrays(&step.iter()));
        let made: Vec<Vec<ArrayRef>> = made.collect::<Result<_, _>>()?;
        let columns: Result<Vec<ArrayRef>, ArrowError> = self
            .schema
            .fields()
            .iter()
            .map(|field| {
                let name = field.name().as_str();
                let column = if let Some((step, at)) = place(self.outputs, name) {
                    Arc::clone(&made[step][at])
                } else if self.metadata == Some(name) {
                    self.metadata(batch, chunk, &steps, &error_counts[range.clone()])?
                } else if let Some(column) = chunk.rows.column_by_name(name) {
                    Arc::clone(column)
                } else {
                    new_null_array(field.data_type(), rows)
                };
                if column.data_type() == field.data_type() {
                    return Ok(column);
                }
                cast_with_options(
                    &column,
                    field.data_type(),
                    &CastOptions { safe: false, ..CastOptions::default() },
                )
            })
            .collect();
        RecordBatch::try_new(Arc::clone(self.schema), columns?)
    }

    fn metadata(
        &self,
        batch: &FilledBatch,
        chunk: &Chunk,
        steps: &[&[Settled]],
        error_counts: &[i32],
    ) -> Result<ArrayRef, ArrowError> {
        let rows = chunk.rows.num_rows();
        let run = self.run.to_string();
        let mut fields: Vec<Field> = Vec::with_capacity(6 + steps.len());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(6 + steps.len());
        let mut push = |name: &str, column: ArrayRef| {
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(column);
        };
        let repeated = |text: &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)))
        };
        push(APP_ID, repeated(self.app_id));
        push(BATCH_ID, Arc::new(Int64Array::from_value(batch.plan.id.txn_version(), rows)));
        push(RUN_ID, repeated(&run));
        push(SOURCE_FILE, repeated(&chunk.file));
        let physical = chunk.physical.iter().map(|row| row.cast_signed());
        push(SOURCE_ROW, Arc::new(Int64Array::from_iter_values(physical)));
        push(ERROR_COUNT, Arc::new(Int32Array::from(error_counts.to_vec())));
        for (output, step) in self.outputs.iter().zip(steps) {
            push(output.name(), Arc::new(history(&step.iter())?));
        }
        Ok(Arc::new(StructArray::try_new(Fields::from(fields), columns, None)?))
    }
}

/// The step that a column is of, and its place among that step's columns.
pub(super) fn place(outputs: &[Output], column: &str) -> Option<(usize, usize)> {
    outputs.iter().enumerate().find_map(|(step, output)| {
        let at = output.columns().iter().position(|field| field.name() == column)?;
        Some((step, at))
    })
}

/// The struct of one step: how each outcome came about.
pub(super) fn history<'a>(
    step: &(impl Iterator<Item = &'a Settled> + Clone),
) -> Result<StructArray, ArrowError> {
    let text = |get: fn(&'a Settled) -> Option<&'a str>| -> ArrayRef {
        Arc::new(step.clone().map(get).collect::<StringArray>())
    };
    let number = |get: &dyn Fn(&Settled) -> Option<u64>| -> ArrayRef {
        let value = |settled| get(settled).map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        Arc::new(step.clone().map(value).collect::<Int64Array>())
    };
    let tokens = |get: fn(Tokens) -> u64| number(&move |settled| settled.tokens.map(get));
    let attempts = step.clone().map(|settled| i32::try_from(settled.attempts).unwrap_or(i32::MAX));
    let costs = step.clone().map(|settled| settled.cost.map(Money::microdollars));
    let shared = step.clone().map(|settled| settled.fingerprint.map(|_| settled.shared));
    let fingerprints = step.clone().map(|settled| settled.fingerprint.map(|print| print.to_string()));
    let columns: Vec<ArrayRef> = vec![
        text(|settled| match &settled.outcome {
            Outcome::Failed(failure) => Some(failure.class.name()),
            _ => None,
        }),
        text(|settled| settled.provider.as_deref()),
        text(|settled| settled.model.as_deref()),
        Arc::new(Int32Array::from_iter_values(attempts)),
        text(|settled| settled.finish_reason.as_deref()),
        tokens(|tokens| tokens.prompt),
        tokens(|tokens| tokens.cached),
        tokens(|tokens| tokens.completion),
        Arc::new(costs.collect::<Int64Array>()),
        number(&|settled| settled.latency_ms),
        Arc::new(shared.collect::<BooleanArray>()),
        Arc::new(fingerprints.collect::<StringArray>()),
        text(|settled| settled.template.as_deref()),
    ];
    debug_assert!(columns.iter().all(|column| *column.data_type() != DataType::Null));
    StructArray::try_new(step_fields(), columns, None)
}

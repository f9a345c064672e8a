//! Builds the columns of the target from outcomes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, StringArray, StructArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::error::TargetError;
use super::history;
use super::target::{self, APP_ID, BATCH_ID, ERROR_COUNT, RUN_ID, SOURCE_FILE, SOURCE_ROW};
use crate::config::Job;
use crate::ident::{AppId, RunId};
use crate::rows::Chunk;
use crate::rows::OutputColumns;
use crate::rows::{FilledBatch, RowResult};

/// The columns that a job adds to rows which go to another program and not to a table: those of each step, then the
/// metadata column.
#[derive(Debug)]
pub(crate) struct ServedColumns {
    schema: SchemaRef,
    metadata: Option<String>,
    outputs: Vec<OutputColumns>,
    app_id: AppId,
    run: RunId,
}

impl ServedColumns {
    /// Returns the columns of a job whose rows have these columns, for outcomes of the run `run`.
    ///
    /// # Errors
    /// When the rows have a column of the same name, or a table could not hold what is added.
    pub(crate) fn new(job: &Job, rows: &Schema, run: RunId) -> Result<Self, TargetError> {
        let outputs = OutputColumns::of_all(&job.steps);
        let metadata = job.target.metadata_column.clone();
        // Their types are the business of whoever keeps the rows.
        let names = rows.fields().iter().map(|field| Field::new(field.name(), DataType::Int32, true));
        let own = target::check_columns(job, &Schema::new(names.collect::<Vec<_>>()))?;
        let is_added = |field: &FieldRef| {
            let name = field.name();
            metadata.as_ref() == Some(name) || outputs.iter().any(|output| output.has(name))
        };
        let added: Vec<FieldRef> = own.fields().iter().filter(|field| is_added(field)).cloned().collect();
        let schema = Arc::new(Schema::new(added));
        Ok(ServedColumns { schema, metadata, outputs, app_id: job.app_id.clone(), run })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Builds the columns from the outcomes of a batch.
    ///
    /// # Errors
    /// When an answer does not fit its column or cannot be read back.
    pub(crate) fn of(&self, batch: &FilledBatch) -> Result<RecordBatch, ArrowError> {
        let error_counts = batch.error_counts();
        let columns = BatchColumns {
            schema: &self.schema,
            metadata: self.metadata.as_deref(),
            outputs: &self.outputs,
            app_id: self.app_id.as_str(),
            run: self.run,
        };
        let mut first = 0;
        let rows = batch.chunks.iter().map(|chunk| {
            let rows = columns.rows(batch, chunk, first, &error_counts);
            first += chunk.rows.num_rows();
            rows
        });
        concat_batches(&self.schema, &rows.collect::<Result<Vec<_>, _>>()?)
    }
}

/// The table and job for which the columns of a batch are built.
pub(super) struct BatchColumns<'a> {
    /// Schema of the table.
    pub(super) schema: &'a SchemaRef,
    /// Name of the metadata column, or `None` if the target has none.
    pub(super) metadata: Option<&'a str>,
    pub(super) outputs: &'a [OutputColumns],
    pub(super) app_id: &'a str,
    pub(super) run: RunId,
}

impl BatchColumns<'_> {
    /// Builds the rows of a chunk in the table's columns. `offset` is the position of the chunk's first row in the
    /// batch.
    pub(super) fn rows(
        &self,
        batch: &FilledBatch,
        chunk: &Chunk,
        offset: usize,
        error_counts: &[i32],
    ) -> Result<RecordBatch, ArrowError> {
        let rows = chunk.rows.num_rows();
        let range = offset..offset + rows;
        let steps = batch.load(range.clone())?;
        let steps: Vec<&[RowResult]> = steps.iter().map(AsRef::as_ref).collect();
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
                } else if let (true, DataType::Struct(fields)) =
                    (self.metadata == Some(name), field.data_type())
                {
                    self.metadata(fields, batch, chunk, &steps, &error_counts[range.clone()])?
                } else if let Some(column) = chunk.rows.column_by_name(name) {
                    Arc::clone(column)
                } else {
                    new_null_array(field.data_type(), rows)
                };
                fitted(&column, field.data_type())
            })
            .collect();
        RecordBatch::try_new(Arc::clone(self.schema), columns?)
    }

    /// Builds the metadata column with these fields.
    fn metadata(
        &self,
        fields: &Fields,
        batch: &FilledBatch,
        chunk: &Chunk,
        steps: &[&[RowResult]],
        error_counts: &[i32],
    ) -> Result<ArrayRef, ArrowError> {
        let rows = chunk.rows.num_rows();
        let run = self.run.to_string();
        let mut made: Vec<(String, ArrayRef)> = Vec::with_capacity(6 + steps.len());
        let mut push = |name: &str, column: ArrayRef| made.push((name.to_owned(), column));
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
            if let Some(name) = history::find(fields, output.name()) {
                push(name, Arc::new(history::array(&step.iter())?));
            }
        }
        let column = |field: &FieldRef| match made.iter().find(|(name, _)| name == field.name()) {
            Some((_, column)) => fitted(column, field.data_type()),
            // The step is no longer in the job.
            None => Ok(new_null_array(field.data_type(), rows)),
        };
        let columns = fields.iter().map(column).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(StructArray::try_new(fields.clone(), columns, None)?))
    }
}

/// Returns the index of the step that a column belongs to, and the column's index among that step's columns.
pub(super) fn place(outputs: &[OutputColumns], column: &str) -> Option<(usize, usize)> {
    outputs.iter().enumerate().find_map(|(step, output)| {
        let at = output.columns().iter().position(|field| field.name() == column)?;
        Some((step, at))
    })
}

/// Casts a column to the type that the table has for it. Struct fields are matched by name: those that the table does
/// not have are dropped, those that the column does not have become null.
pub(super) fn fitted(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if let (DataType::Struct(_), DataType::Struct(fields)) = (column.data_type(), to) {
        let own = column.as_struct();
        let of = |field: &FieldRef| match own.column_by_name(field.name()) {
            Some(found) => fitted(found, field.data_type()),
            None => Ok(new_null_array(field.data_type(), own.len())),
        };
        let columns = fields.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let nulls = own.nulls().cloned();
        return Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, own.len())?));
    }
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() })
}

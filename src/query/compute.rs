//! Computes a query into a Parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use futures::StreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::session::{failed, wrong};
use crate::config::QuerySpec;
use crate::source::{ColumnConversion, ParquetFileWriter, SourceError};

/// Beginning of the names of tables and columns that a query does not have.
pub(super) const RESERVED: &str = "__enrich";
/// Name of the column with the number of a row in the result.
pub(super) const ROW_NUMBER: &str = "__enrich_row";
/// Number of batches that are computed ahead of those that are written.
const AHEAD: usize = 2;
/// Number of rows that are copied together.
const PIECE_ROWS: usize = 8_192;

/// Returns the columns of a query's result, as the query gives them.
///
/// # Errors
/// When two columns have the same name, or the key is not among them.
pub(super) fn columns_of(query: &QuerySpec, frame: &DataFrame) -> Result<SchemaRef, SourceError> {
    let refused = |message: String| Err(SourceError::Query { message });
    let fields = frame.schema().fields();
    for (at, field) in fields.iter().enumerate() {
        if fields.iter().take(at).any(|other| other.name() == field.name()) {
            let name = field.name();
            return refused(format!("has two columns named {name:?}; name one of them otherwise with AS"));
        }
    }
    if let Some(missing) = query.key.iter().find(|name| fields.iter().all(|field| field.name() != *name)) {
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        return refused(format!(
            "has no column {missing:?}, which source.key names; it has {}",
            names.join(", ")
        ));
    }
    if let Some(own) = fields.iter().find(|field| field.name().starts_with(RESERVED)) {
        return refused(format!("has a column {:?}; names that begin with {RESERVED} are taken", own.name()));
    }
    Ok(Arc::new(frame.schema().as_arrow().clone()))
}

/// Returns the names of the functions of a query whose values differ from one computation to the next.
pub(super) fn changing_functions(plan: &LogicalPlan) -> Result<Vec<String>, SourceError> {
    let mut found = Vec::new();
    let look = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.func.signature().volatility != Volatility::Immutable
                    && !found.iter().any(|name| name == call.func.name())
                {
                    found.push(call.func.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    look.map_err(wrong)?;
    Ok(found)
}

/// Writes the rows of a query into a new Parquet file, with their numbers if they are asked for. Returns how many there
/// are.
pub(super) async fn write(
    frame: DataFrame,
    columns: &SchemaRef,
    path: &Path,
    is_numbered: bool,
) -> Result<u64, DataFusionError> {
    let mut stream = frame.execute_stream().await?;
    let (computed, mut rows) = mpsc::channel(AHEAD);
    // Functions may take long for a row, and the task that waits here listens to a stop. It ends with this one.
    let mut computing = JoinSet::new();
    computing.spawn(async move {
        while let Some(batch) = stream.next().await {
            if computed.send(batch).await.is_err() {
                return;
            }
        }
    });
    let columns = ColumnConversion::of(Arc::clone(columns));
    let number = || Arc::new(Field::new(ROW_NUMBER, DataType::Int64, false));
    let fields = columns.schema().fields().iter().cloned().chain(is_numbered.then(number));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut file = create(path, &schema)?;
    let (mut count, mut next) = (0_u64, 0_i64);
    while let Some(batch) = rows.recv().await {
        let batch = columns.carry(&batch?).map_err(DataFusionError::Execution)?;
        count += batch.num_rows() as u64;
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((next..).take(batch.num_rows())));
        next += numbers.len() as i64;
        let arrays = batch.columns().iter().cloned().chain(is_numbered.then_some(numbers));
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays.collect())?;
        file = blocking(move || file.write(&batch).map(|()| file)).await?;
    }
    if let Some(Err(error)) = computing.join_next().await {
        return Err(DataFusionError::External(Box::new(error)));
    }
    blocking(move || file.finish()).await?;
    Ok(count)
}

/// Copies the rows with the given numbers, in ascending order, from a file of numbered rows into a new one without the
/// numbers. Returns how many there are.
pub(super) async fn copy_rows(
    mut numbers: SendableRecordBatchStream,
    whole: &Path,
    path: &Path,
) -> Result<u64, DataFusionError> {
    let rows = ParquetRecordBatchReaderBuilder::try_new(File::open(whole)?)?.with_batch_size(PIECE_ROWS);
    let of_file = Arc::clone(rows.schema());
    let rows = rows.build()?;
    let of_columns: Vec<usize> =
        (0..of_file.fields().len()).filter(|at| of_file.field(*at).name() != ROW_NUMBER).collect();
    let schema = Arc::new(of_file.project(&of_columns)?);
    let mut file = create(path, &schema)?;
    let (sender, mut wanted) = mpsc::channel::<Int64Array>(AHEAD);
    let copying = blocking(move || {
        let (mut count, mut numbers, mut at, mut start) = (0, Int64Array::from(Vec::<i64>::new()), 0, 0_i64);
        for batch in rows {
            let batch = batch?;
            let end = start + batch.num_rows() as i64;
            let mut taken = Vec::new();
            loop {
                if at == numbers.len() {
                    let Some(next) = wanted.blocking_recv() else { break };
                    (numbers, at) = (next, 0);
                    continue;
                }
                if numbers.value(at) >= end {
                    break;
                }
                taken.push((numbers.value(at) - start).cast_unsigned());
                at += 1;
            }
            count += taken.len() as u64;
            if !taken.is_empty() {
                file.write(&take_record_batch(&batch.project(&of_columns)?, &UInt64Array::from(taken))?)?;
            }
            start = end;
        }
        file.finish()?;
        Ok(count)
    });
    let sending = async move {
        while let Some(batch) = numbers.next().await {
            let numbers = batch?.column(0).as_primitive::<Int64Type>().clone();
            if sender.send(numbers).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (count, ()) = tokio::try_join!(copying, sending)?;
    Ok(count)
}

fn create(path: &Path, schema: &SchemaRef) -> Result<ParquetFileWriter, DataFusionError> {
    Ok(ParquetFileWriter::new(File::create(path)?, Arc::clone(schema))?)
}

/// Does work that blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ParquetError> + Send + 'static,
) -> Result<T, DataFusionError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| DataFusionError::External(Box::new(error)))??)
}

/// Writes a Parquet file without a row, which has the columns.
pub(super) fn write_columns(columns: &SchemaRef, path: &Path) -> Result<(), SourceError> {
    let columns = ColumnConversion::of(Arc::clone(columns));
    let written = create(path, columns.schema()).and_then(|file| Ok(file.finish()?));
    written.map_err(failed)
}

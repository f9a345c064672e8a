//! Computes a query into a Parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use futures::TryStreamExt;

use super::session::{failed, wrong};
use crate::config::QuerySpec;
use crate::source::{ParquetFile, SourceError};

/// Name of the column with the number of a row in the result.
pub(super) const ROW_NUMBER: &str = "__enrich_row";

/// Returns the columns of a query's result, in types that files have.
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
    let plain = |field: &FieldRef| field.as_ref().clone().with_data_type(plain_type(field.data_type()));
    Ok(Arc::new(Schema::new(fields.iter().map(plain).collect::<Vec<_>>())))
}

/// Returns the type in which files hold values of a type that only memory knows.
fn plain_type(of: &DataType) -> DataType {
    let plain =
        |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    match of {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, value) => plain_type(value.data_type()),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            DataType::List(plain(item))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        other => other.clone(),
    }
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
    let mut rows = frame.execute_stream().await?;
    let number = || Arc::new(Field::new(ROW_NUMBER, DataType::Int64, false));
    let fields = columns.fields().iter().cloned().chain(is_numbered.then(number));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let io = |error: std::io::Error| DataFusionError::IoError(error);
    let mut file = ParquetFile::new(File::create(path).map_err(io)?, Arc::clone(&schema))
        .map_err(|error| DataFusionError::ParquetError(Box::new(error)))?;
    let (mut count, mut next) = (0_u64, 0_i64);
    while let Some(batch) = rows.try_next().await? {
        count += batch.num_rows() as u64;
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((next..).take(batch.num_rows())));
        next += numbers.len() as i64;
        let numbers = is_numbered.then_some(numbers);
        let batch = plain(&batch, &schema, numbers)?;
        file = tokio::task::spawn_blocking(move || file.write(&batch).map(|()| file))
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?
            .map_err(|error| DataFusionError::ParquetError(Box::new(error)))?;
    }
    file.finish().map_err(|error| DataFusionError::ParquetError(Box::new(error)))?;
    Ok(count)
}

/// Converts rows to the types of a schema, with one more column for those of which it has one more.
fn plain(rows: &RecordBatch, schema: &SchemaRef, more: Option<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let columns = rows.columns().iter().cloned().chain(more);
    let columns = columns.zip(schema.fields()).map(|(column, field)| cast(&column, field.data_type()));
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

/// Writes a Parquet file without a row, which has the columns.
pub(super) fn write_columns(columns: &SchemaRef, path: &Path) -> Result<(), SourceError> {
    let written = File::create(path)
        .map_err(parquet::errors::ParquetError::from)
        .and_then(|file| ParquetFile::new(file, Arc::clone(columns))?.finish());
    written.map_err(|error| failed(DataFusionError::ParquetError(Box::new(error))))
}

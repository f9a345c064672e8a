//! The failed rows of a target.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use super::target::{APP_ID, ERROR_COUNT, SOURCE_FILE, SOURCE_ROW};
use crate::config::Job;
use crate::ident::RowKey;
use crate::table::{Table, TableError, is_delta_table};

/// A row of a step that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    /// The row.
    pub key: RowKey,
    /// Output of the step.
    pub step: String,
    /// What the output column holds.
    pub error: String,
}

/// Hands the failed rows of a job to `take`, in the order in which the table gives them. There are none if
/// there is no target yet.
///
/// # Errors
/// When the target cannot be read.
pub async fn failed_rows(job: &Job, mut take: impl FnMut(FailedRow)) -> Result<(), TableError> {
    let path = job.target.location.path();
    if !is_delta_table(path) {
        return Ok(());
    }
    let table = Table::open(path).await?;
    let name = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let metadata = name(&job.target.metadata_column);
    let app_id = job.app_id.replace('\'', "''");
    for step in &job.steps {
        let (output, field) = (name(&step.output), step.output.replace('\'', "''"));
        let sql = format!(
            "SELECT {metadata}['{SOURCE_FILE}'] AS file, {metadata}['{SOURCE_ROW}'] AS row, {output} AS error \
             FROM target WHERE {metadata}['{ERROR_COUNT}'] > 0 AND {metadata}['{APP_ID}'] = '{app_id}' \
             AND {metadata}['{field}']['error'] IS NOT NULL \
             ORDER BY {metadata}['batch_id'], file, row"
        );
        table
            .query(&sql, |batch| {
                let text = |column: &ArrayRef| {
                    cast(column, &DataType::Utf8).map_err(|source| TableError {
                        action: "read",
                        path: path.to_owned(),
                        source: Box::new(source),
                    })
                };
                let (files, errors) = (text(batch.column(0))?, text(batch.column(2))?);
                let (files, errors) = (files.as_string::<i32>(), errors.as_string::<i32>());
                let rows = batch.column(1).as_primitive::<Int64Type>();
                for at in 0..batch.num_rows() {
                    let error = if errors.is_null(at) { "" } else { errors.value(at) };
                    let key = RowKey { file: files.value(at).into(), row: rows.value(at).cast_unsigned() };
                    take(FailedRow { key, step: step.output.clone(), error: error.to_owned() });
                }
                Ok::<(), TableError>(())
            })
            .await?;
    }
    Ok(())
}

//! Reads the rows of a target, failed ones or not, from one version of it.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::failed::{FailedError, PLAIN_ERROR, check_columns, name, text};
use super::retry_commit::conform;
use super::target::{BATCH_ID, ERROR_COUNT, SOURCE_FILE, SOURCE_ROW};
use crate::config::Job;
use crate::rows::OutputColumns;
use crate::table::{OrderedFiles, Scan, Table, TableError, is_delta_table};

/// Whether rows are read in which a step failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorRows {
    /// They are read like others.
    #[default]
    Read,
    /// They are left out.
    LeftOut,
}

/// Which rows of a target are read, and which of their columns.
#[derive(Clone, Debug, Default)]
pub struct RowChoice {
    /// The columns in their order; all but the metadata column if `None`.
    pub columns: Option<Vec<String>>,
    /// SQL condition over the target's columns.
    pub condition: Option<String>,
    /// Whether rows are read in which a step failed.
    pub error_rows: ErrorRows,
}

/// The rows of a version of a target.
#[derive(Clone, Debug)]
pub struct TargetRows {
    table: Table,
    schema: SchemaRef,
    sql: String,
    files: OrderedFiles,
}

impl TargetRows {
    /// Opens the newest version of a job's target. Returns `None` if there is no table yet.
    ///
    /// # Errors
    /// When the target has no such columns, the condition is wrong, or the table cannot be read.
    pub async fn open(job: &Job, choice: &RowChoice) -> Result<Option<Self>, FailedError> {
        let at = &job.target.location;
        if !is_delta_table(at).await? {
            return Ok(None);
        }
        let mut table = Table::open(at).await?;
        let all = table.schema()?;
        let named = job.target.metadata_column.as_deref();
        let metadata = named.filter(|metadata| all.field_with_name(metadata).is_ok());
        let columns = choice.columns.clone().unwrap_or_else(|| {
            let names = all.fields().iter().map(|field| field.name());
            names.filter(|name| Some(name.as_str()) != metadata).cloned().collect()
        });
        check_columns(&all, &columns)?;
        let fields: Vec<_> = columns.iter().filter_map(|column| all.field_with_name(column).ok()).collect();
        let fields = fields.into_iter().map(|field| field.clone().with_nullable(true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut conditions = Vec::new();
        if let Some(condition) = &choice.condition {
            // The normalized condition has no comments, which would also comment out the SQL that is appended to it.
            let checked = table.condition(condition).await;
            let wrong = |message| FailedError::Condition { condition: condition.clone(), message };
            conditions.push(format!("({})", checked.map_err(wrong)?));
        }
        if choice.error_rows == ErrorRows::LeftOut {
            conditions.extend(has_no_error(job, &all, metadata));
        }
        let columns: Vec<String> = columns.iter().map(|column| name(column)).collect();
        let mut sql = format!("SELECT {} FROM target", columns.join(", "));
        if !conditions.is_empty() {
            sql = format!("{sql} WHERE {}", conditions.join(" AND "));
        }
        let order =
            metadata.map(|metadata| [BATCH_ID, SOURCE_FILE, SOURCE_ROW].map(|field| [metadata, field]));
        let files = table.ordered_files(order.as_ref().map_or(&[], |order| order.as_slice())).await?;
        Ok(Some(TargetRows { table, schema, sql, files }))
    }

    /// Returns the columns of the rows.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the version of the table that is read.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.table.version()
    }

    /// Returns the number of all rows of that version; `None` if its log does not state it.
    #[must_use]
    pub fn all_rows(&self) -> Option<u64> {
        self.files.rows
    }

    /// Returns a reader of the rows: data files in the order of the first batch and source row in each, and the rows of
    /// a file in their order in it. Without metadata, data files in the order in which they were written.
    #[must_use]
    pub fn reader(&self) -> TargetReader<'_> {
        TargetReader { rows: self, files: self.files.paths.iter(), open: None }
    }
}

/// Reads the rows of a target, one data file after the other.
pub struct TargetReader<'a> {
    rows: &'a TargetRows,
    files: std::slice::Iter<'a, String>,
    open: Option<BoxStream<'static, Result<RecordBatch, TableError>>>,
}

impl TargetReader<'_> {
    /// Returns the next rows, or `None` at the end.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, TableError> {
        let table = &self.rows.table;
        loop {
            if let Some(open) = &mut self.open
                && let Some(batch) = open.try_next().await?
            {
                let error =
                    |source| TableError { action: "read", at: table.at().clone(), source: Box::new(source) };
                return conform(&batch, &self.rows.schema).map(Some).map_err(error);
            }
            let Some(file) = self.files.next() else { return Ok(None) };
            let scan = Scan { files: Some(std::slice::from_ref(file)), file_column: None };
            self.open = Some(table.stream(scan, &self.rows.sql).await?);
        }
    }
}

/// Returns the SQL conditions of rows in which no step failed.
fn has_no_error(job: &Job, schema: &Schema, metadata: Option<&str>) -> Vec<String> {
    if let Some(metadata) = metadata {
        return vec![format!("COALESCE({}[{}], 0) = 0", name(metadata), text(ERROR_COUNT))];
    }
    let outputs = OutputColumns::of_all(&job.steps);
    let recorded = outputs.iter().map(OutputColumns::error_column);
    let recorded = recorded.filter(|column| schema.field_with_name(column).is_ok());
    recorded.map(|column| format!("COALESCE({}, '') NOT LIKE '{PLAIN_ERROR}%'", name(column))).collect()
}

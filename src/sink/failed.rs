//! Finds, counts and lists the failed rows of a target.
//!
//! Files whose statistics show that no row failed are not opened (test `errors::clean_files_are_not_opened`).

use std::fmt::Write as _;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::Serialize;

use super::history;
use super::target::{APP_ID, BATCH_ID, ERROR_COUNT, RUN_ID, SOURCE_FILE, SOURCE_ROW};
use crate::checkpoint::Selection;
use crate::config::Job;
use crate::ident::{AppId, RunId};
use crate::rows::OutputColumns;
use crate::table::{Scan, Table, TableError, is_delta_table};

/// Maximum number of files in one query; bounds what the query sorts.
pub(super) const FILES_AT_ONCE: usize = 64;
/// Prefix of an error string in a table without the metadata column.
pub(super) const PLAIN_ERROR: &str = "ERROR: ";

/// The columns of a listing after those of the source.
pub const LISTED: [&str; 10] =
    ["_step", "_class", "_error", "_provider", "_model", "_attempts", "_batch", "_run", "_file", "_row"];

/// Reason why failed rows cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum FailedError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The selection needs the metadata column and the target has none.
    #[error("{}, so {what}", pending_columns(metadata.as_deref()))]
    NoMetadata {
        /// Name of the metadata column, or `None` if the job turns it off.
        metadata: Option<String>,
        /// What is unknown without it.
        what: &'static str,
    },
    /// The target has no such column.
    #[error("the target has no column {column:?}{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
    UnknownColumn {
        /// Name as the user gave it.
        column: String,
        /// A column with a similar name.
        near: Option<String>,
    },
    /// The job has no such step.
    #[error("the job has no step with the output {step:?}; its outputs are {}", known.join(", "))]
    UnknownStep {
        /// Output name as the user gave it.
        step: String,
        /// The outputs of the job's steps.
        known: Vec<String>,
    },
    /// The SQL condition is wrong.
    #[error("the condition {condition:?} is wrong: {message}")]
    Condition {
        /// The condition as the user gave it.
        condition: String,
        /// What is wrong with it.
        message: String,
    },
}

impl FailedError {
    /// Returns whether the user has to change the job or the command, as opposed to a failure of I/O.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            FailedError::NoMetadata { .. }
            | FailedError::UnknownColumn { .. }
            | FailedError::UnknownStep { .. }
            | FailedError::Condition { .. } => true,
            FailedError::Table(_) => false,
        }
    }
}

/// Returns why the metadata column is missing, for a message.
fn pending_columns(metadata: Option<&str>) -> String {
    match metadata {
        Some(metadata) => format!("the target has no column {metadata:?}"),
        None => "target.metadata is off".to_owned(),
    }
}

/// Number of rows of a step that failed with one class of error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedGroup {
    /// Output of the step.
    pub step: String,
    /// Class of the error.
    pub class: String,
    /// Number of rows.
    pub rows: u64,
    /// Error string of one of the rows.
    pub example: String,
}

/// The failed rows of a job in its target.
#[derive(Clone, Debug)]
pub struct FailedRows {
    pub(super) table: Table,
    pub(super) schema: SchemaRef,
    /// Name of the metadata column, whether or not the table has it; `None` if the job turns it off.
    metadata: Option<String>,
    app_id: AppId,
    pub(super) outputs: Vec<OutputColumns>,
    has_metadata: bool,
    files: Vec<String>,
}

impl FailedRows {
    /// Opens the target of a job. Returns `None` if there is no table yet.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn open(job: &Job) -> Result<Option<Self>, TableError> {
        let at = &job.target.location;
        if !is_delta_table(at).await? {
            return Ok(None);
        }
        let table = Table::open(at).await?;
        let schema = table.schema()?;
        let metadata = job.target.metadata_column.clone();
        let mut found = FailedRows {
            has_metadata: metadata.as_ref().is_some_and(|metadata| schema.field_with_name(metadata).is_ok()),
            outputs: OutputColumns::of_all(&job.steps),
            app_id: job.app_id.clone(),
            files: Vec::new(),
            table,
            schema,
            metadata,
        };
        found.list_files().await?;
        Ok(Some(found))
    }

    /// Loads the newest version of the table.
    pub(super) async fn refresh(&mut self) -> Result<(), TableError> {
        self.table.refresh().await?;
        self.list_files().await
    }

    async fn list_files(&mut self) -> Result<(), TableError> {
        self.files = Self::files_of(&mut self.table, self.metadata.as_deref()).await?;
        Ok(())
    }

    /// Returns the files of a table that may hold failed rows.
    pub(super) async fn files_of(
        table: &mut Table,
        metadata: Option<&str>,
    ) -> Result<Vec<String>, TableError> {
        let counted = metadata
            .filter(|metadata| table.schema().is_ok_and(|schema| schema.field_with_name(metadata).is_ok()));
        match counted {
            Some(metadata) => table.files_above_zero(metadata, ERROR_COUNT).await,
            None => table.paths().await,
        }
    }

    /// Returns the files that may hold failed rows.
    #[must_use]
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Whether the target has the metadata column, which records how each row was answered.
    #[must_use]
    pub fn has_metadata(&self) -> bool {
        self.has_metadata
    }

    /// Returns the columns that are neither outputs of the job nor its metadata.
    #[must_use]
    pub fn source_columns(&self) -> SchemaRef {
        let own = |name: &String| {
            self.outputs.iter().any(|output| output.has(name)) || Some(name) == self.metadata.as_ref()
        };
        let fields: Vec<_> =
            self.schema.fields().iter().filter(|field| !own(field.name())).cloned().collect();
        Schema::new(fields).into()
    }

    /// Passes failed rows to `take`, once for each step that failed, in the order in which they were written (if the
    /// metadata records it). The columns are those in `columns`, then [`LISTED`].
    ///
    /// # Errors
    /// When the selection is wrong or the table cannot be read, and errors that `take` returns.
    pub async fn list<E: From<FailedError>>(
        &self,
        selection: &Selection,
        columns: &[String],
        limit: Option<u64>,
        mut take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let selection = &self.checked(selection).await?;
        check_columns(&self.schema, columns)?;
        let shown: String = columns.iter().fold(String::new(), |mut text, column| {
            let _ = match LISTED.contains(&column.as_str()) {
                true => write!(text, "{} AS {}, ", name(column), name(&format!("source.{column}"))),
                false => write!(text, "{}, ", name(column)),
            };
            text
        });
        let rows = self.steps(selection).map(|(step, condition)| {
            let of_step = self.of_step(step);
            let of_row = self.of_row();
            format!("SELECT {shown}{of_step}, {of_row} FROM target WHERE {condition}")
        });
        let rows = rows.collect::<Vec<_>>().join(" UNION ALL ");
        let mut left = limit;
        for files in self.files.chunks(FILES_AT_ONCE) {
            if rows.is_empty() || left == Some(0) {
                break;
            }
            let most = left.map_or_else(String::new, |left| format!(" LIMIT {left}"));
            let sql = format!("{rows} ORDER BY \"_batch\", \"_file\", \"_row\"{most}");
            let scan = Scan { files: Some(files), file_column: None };
            let mut taken = 0;
            let result: Result<(), Either<E>> = self
                .table
                .scan(scan, &sql, |batch| {
                    taken += batch.num_rows() as u64;
                    take(batch).map_err(Either::Caller)
                })
                .await;
            result.map_err(|error| match error {
                Either::Caller(error) => error,
                Either::Table(error) => FailedError::from(error).into(),
            })?;
            left = left.map(|left| left.saturating_sub(taken));
        }
        Ok(())
    }

    /// Counts failed rows by step and class, the largest count first.
    ///
    /// # Errors
    /// When the selection is wrong or the table cannot be read.
    pub async fn summary(&self, selection: &Selection) -> Result<Vec<FailedGroup>, FailedError> {
        let selection = &self.checked(selection).await?;
        let mut groups: Vec<FailedGroup> = Vec::new();
        for (step, condition) in self.steps(selection) {
            let of_step = self.of_step(step);
            let sql = format!(
                "SELECT CAST(\"_class\" AS VARCHAR), CAST(COUNT(*) AS BIGINT), CAST(MIN(\"_error\") AS VARCHAR) \
                 FROM (SELECT {of_step} FROM target WHERE {condition}) GROUP BY \"_class\""
            );
            let scan = Scan { files: Some(&self.files), file_column: None };
            if self.files.is_empty() {
                break;
            }
            let counted = self.table.scan(scan, &sql, |batch| {
                let (classes, examples) = (self.strings(&batch, 0)?, self.strings(&batch, 2)?);
                let counts = batch.column(1).as_primitive::<Int64Type>();
                for (at, (class, example)) in classes.into_iter().zip(examples).enumerate() {
                    let rows = counts.value(at).cast_unsigned();
                    groups.push(FailedGroup { step: step.name().to_owned(), class, rows, example });
                }
                Ok::<(), TableError>(())
            });
            counted.await?;
        }
        groups.sort_by(|a, b| (b.rows, &a.step, &a.class).cmp(&(a.rows, &b.step, &b.class)));
        Ok(groups)
    }

    pub(super) fn strings(&self, batch: &RecordBatch, column: usize) -> Result<Vec<String>, TableError> {
        let strings = cast(batch.column(column), &DataType::Utf8).map_err(|source| TableError {
            action: "read",
            at: self.table.at().clone(),
            source: Box::new(source),
        })?;
        let strings = strings.as_string::<i32>();
        let text = |at| if strings.is_null(at) { String::new() } else { strings.value(at).to_owned() };
        Ok((0..strings.len()).map(text).collect())
    }

    /// Checks that the target can evaluate a selection, and returns it with its condition normalized.
    pub(super) async fn checked(&self, selection: &Selection) -> Result<Selection, FailedError> {
        let mut understood = selection.clone();
        if let Some(condition) = &selection.condition {
            // The normalized condition has no comments, which would also comment out the SQL that is appended to it.
            let checked = self.table.condition(condition).await;
            let wrong = |message| FailedError::Condition { condition: condition.clone(), message };
            understood.condition = Some(checked.map_err(wrong)?);
        }
        let known = || self.outputs.iter().map(OutputColumns::name);
        if let Some(step) = selection.steps.iter().find(|step| known().all(|name| name != **step)) {
            let known = known().map(str::to_owned).collect();
            return Err(FailedError::UnknownStep { step: step.clone(), known });
        }
        if self.has_metadata {
            return Ok(understood);
        }
        let what = if !selection.providers.is_empty() {
            "nothing says which provider a row was sent to"
        } else if selection.batch.is_some() {
            "nothing says which batch a row is in"
        } else if selection.since.is_some() {
            "nothing says when a row was sent"
        } else {
            return Ok(understood);
        };
        Err(FailedError::NoMetadata { metadata: self.metadata.clone(), what })
    }

    /// Returns the steps that the target records, each with the SQL condition for its failed rows.
    fn steps<'a>(
        &'a self,
        selection: &'a Selection,
    ) -> impl Iterator<Item = (&'a OutputColumns, String)> + 'a {
        self.outputs.iter().filter(|output| self.is_recorded(output)).map(|output| {
            let rows = self.rows_of(selection);
            (output, format!("{} AND {rows}", self.failed_as(output, selection)))
        })
    }

    /// Whether the target records failures of a step.
    pub(super) fn is_recorded(&self, output: &OutputColumns) -> bool {
        let metadata = self.metadata.as_ref().and_then(|name| self.schema.field_with_name(name).ok());
        match metadata.map(Field::data_type) {
            Some(DataType::Struct(fields)) => history::find(fields, output.name()).is_some(),
            Some(_) => false,
            None => self.schema.field_with_name(output.error_column()).is_ok(),
        }
    }

    /// Returns the SQL condition that a step of a row failed in one of the selected ways.
    pub(super) fn failed_as(&self, output: &OutputColumns, selection: &Selection) -> String {
        if !selection.steps.is_empty() && !selection.steps.iter().any(|step| step == output.name()) {
            return "FALSE".to_owned();
        }
        let any_of = |list: &[String], what: &str| match list {
            [] => String::new(),
            list => {
                let list: Vec<String> = list.iter().map(|item| text(item)).collect();
                format!(" AND {what} IN ({})", list.join(", "))
            }
        };
        if !self.has_metadata {
            let class = plain_class(output);
            let error = name(output.error_column());
            return format!("{error} LIKE '{PLAIN_ERROR}%'{}", any_of(&selection.classes, &class));
        }
        let history = self.history(output);
        format!(
            "{history}['error'] IS NOT NULL{}{}",
            any_of(&selection.classes, &format!("{history}['error']")),
            any_of(&selection.providers, &format!("{history}['provider']")),
        )
    }

    /// Returns the SQL condition for the rows of a selection, whatever the step.
    pub(super) fn rows_of(&self, selection: &Selection) -> String {
        let mut conditions = vec![self.own_failed()];
        if let Some(batch) = selection.batch {
            conditions.push(format!("{} = {batch}", self.field(BATCH_ID)));
        }
        if let Some(since) = selection.since {
            // Run ids begin with their time.
            conditions.push(format!("{} >= {}", self.field(RUN_ID), text(&RunId::prefix_at(since))));
        }
        if let Some(condition) = &selection.condition {
            conditions.push(format!("({condition})"));
        }
        conditions.join(" AND ")
    }

    /// Returns the SQL condition for the rows of this job that have an error.
    pub(super) fn own_failed(&self) -> String {
        if !self.has_metadata {
            return "TRUE".to_owned();
        }
        format!("{} > 0 AND {} = {}", self.field(ERROR_COUNT), self.field(APP_ID), text(&self.app_id))
    }

    pub(super) fn field(&self, field: &str) -> String {
        format!("{}[{}]", name(self.metadata.as_deref().unwrap_or_default()), text(field))
    }

    /// Returns the SQL expression for the struct of a step.
    pub(super) fn history(&self, output: &OutputColumns) -> String {
        let metadata = self.metadata.as_ref().and_then(|name| self.schema.field_with_name(name).ok());
        match metadata.map(Field::data_type) {
            Some(DataType::Struct(fields)) => {
                self.field(history::find(fields, output.name()).unwrap_or_else(|| output.name()))
            }
            _ => self.field(output.name()),
        }
    }

    fn of_step(&self, output: &OutputColumns) -> String {
        let step = text(output.name());
        let error = name(output.error_column());
        if !self.has_metadata {
            let class = plain_class(output);
            return format!(
                "{step} AS \"_step\", {class} AS \"_class\", {error} AS \"_error\", CAST(NULL AS VARCHAR) AS \"_provider\", \
                 CAST(NULL AS VARCHAR) AS \"_model\", CAST(NULL AS INT) AS \"_attempts\""
            );
        }
        let history = self.history(output);
        format!(
            "{step} AS \"_step\", {history}['error'] AS \"_class\", {error} AS \"_error\", \
             {history}['provider'] AS \"_provider\", {history}['model'] AS \"_model\", \
             {history}['attempts'] AS \"_attempts\""
        )
    }

    fn of_row(&self) -> String {
        if !self.has_metadata {
            return "CAST(NULL AS BIGINT) AS \"_batch\", CAST(NULL AS VARCHAR) AS \"_run\", \
                    CAST(NULL AS VARCHAR) AS \"_file\", CAST(NULL AS BIGINT) AS \"_row\""
                .to_owned();
        }
        format!(
            "{} AS \"_batch\", {} AS \"_run\", {} AS \"_file\", {} AS \"_row\"",
            self.field(BATCH_ID),
            self.field(RUN_ID),
            self.field(SOURCE_FILE),
            self.field(SOURCE_ROW)
        )
    }
}

enum Either<E> {
    Caller(E),
    Table(TableError),
}

impl<E> From<TableError> for Either<E> {
    fn from(error: TableError) -> Self {
        Either::Table(error)
    }
}

/// Checks that the target has these columns.
pub(super) fn check_columns(schema: &Schema, columns: &[String]) -> Result<(), FailedError> {
    let unknown = columns.iter().find(|column| schema.field_with_name(column).is_err());
    let Some(column) = unknown else { return Ok(()) };
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let near = crate::config::nearest(column, names).map(ToOwned::to_owned);
    Err(FailedError::UnknownColumn { column: column.clone(), near })
}

/// Returns the SQL expression for the class in an error string without metadata.
fn plain_class(output: &OutputColumns) -> String {
    format!("split_part(substr({}, {}), ':', 1)", name(output.error_column()), PLAIN_ERROR.len() + 1)
}

/// Quotes a name for SQL.
pub(super) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

//! The failed rows of a target.
//!
//! Files whose statistics say that no row failed are not opened (test `errors::clean_files_are_not_opened`).

use std::fmt::Write as _;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::Serialize;

use super::history;
use super::output::Output;
use super::target::{APP_ID, BATCH_ID, ERROR_COUNT, RUN_ID, SOURCE_FILE, SOURCE_ROW};
use crate::checkpoint::Selection;
use crate::config::Job;
use crate::ident::RunId;
use crate::table::{Scan, Table, TableError, is_delta_table};

/// Files that one query reads at most: bounds what it sorts.
pub(super) const FILES_AT_ONCE: usize = 64;
/// How an error begins in a table without the metadata column.
const PLAIN_ERROR: &str = "ERROR: ";

/// The columns of a listing after those of the source.
pub const LISTED: [&str; 10] =
    ["_step", "_class", "_error", "_provider", "_model", "_attempts", "_batch", "_run", "_file", "_row"];

/// A question that the target cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum FailedError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// It needs what only the metadata column tells.
    #[error("{}, so {what}", lacking(metadata.as_deref()))]
    NoMetadata {
        /// Name of the metadata column; none where the job has it off.
        metadata: Option<String>,
        /// What cannot be told.
        what: &'static str,
    },
    /// A column that is not there.
    #[error("the target has no column {column:?}{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
    UnknownColumn {
        /// The column.
        column: String,
        /// The one that was meant, perhaps.
        near: Option<String>,
    },
    /// A step that the job does not have.
    #[error("the job has no step with the output {step:?}; its outputs are {}", known.join(", "))]
    UnknownStep {
        /// What was given.
        step: String,
        /// The outputs of the job's steps.
        known: Vec<String>,
    },
    /// The SQL condition is wrong.
    #[error("the condition {condition:?} is wrong: {message}")]
    Condition {
        /// As it was given.
        condition: String,
        /// What is wrong.
        message: String,
    },
}

impl FailedError {
    /// Returns whether the job or the command is to be mended, as opposed to trouble on the way.
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

fn lacking(metadata: Option<&str>) -> String {
    match metadata {
        Some(metadata) => format!("the target has no column {metadata:?}"),
        None => "target.metadata is off".to_owned(),
    }
}

/// How many rows of a step failed in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedGroup {
    /// Output of the step.
    pub step: String,
    /// Class of the error.
    pub class: String,
    /// Rows.
    pub rows: u64,
    /// What one of them holds.
    pub example: String,
}

/// The failed rows of a job in its target.
#[derive(Clone, Debug)]
pub struct FailedRows {
    pub(super) table: Table,
    pub(super) schema: SchemaRef,
    /// Name of the metadata column, whether the table has it or not; none where the job has it off.
    metadata: Option<String>,
    app_id: String,
    pub(super) outputs: Vec<Output>,
    has_metadata: bool,
    files: Vec<String>,
}

impl FailedRows {
    /// Opens the target of a job; none if there is no table yet.
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
            outputs: Output::of_all(&job.steps),
            app_id: job.app_id.clone(),
            files: Vec::new(),
            table,
            schema,
            metadata,
        };
        found.list_files().await?;
        Ok(Some(found))
    }

    /// Brings the table to its newest version.
    pub(super) async fn refresh(&mut self) -> Result<(), TableError> {
        self.table.refresh().await?;
        self.list_files().await
    }

    async fn list_files(&mut self) -> Result<(), TableError> {
        self.files = Self::files_of(&mut self.table, self.metadata.as_deref()).await?;
        Ok(())
    }

    /// Files of a table that may hold failed rows.
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

    /// Files that may hold failed rows.
    #[must_use]
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Whether the target says how each row came about.
    #[must_use]
    pub fn has_metadata(&self) -> bool {
        self.has_metadata
    }

    /// The columns that are neither outputs of the job nor its metadata.
    #[must_use]
    pub fn source_columns(&self) -> SchemaRef {
        let own = |name: &String| {
            self.outputs.iter().any(|output| output.has(name)) || Some(name) == self.metadata.as_ref()
        };
        let fields: Vec<_> =
            self.schema.fields().iter().filter(|field| !own(field.name())).cloned().collect();
        Schema::new(fields).into()
    }

    /// Hands failed rows to `take`, one for each step that failed, in the order in which they were
    /// written (if the metadata tells it): the given columns of the table, then [`LISTED`].
    ///
    /// # Errors
    /// When the question cannot be answered, and what `take` returns.
    pub async fn list<E: From<FailedError>>(
        &self,
        selection: &Selection,
        columns: &[String],
        limit: Option<u64>,
        mut take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let selection = &self.checked(selection).await?;
        self.check_columns(columns)?;
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

    /// Counts failed rows by step and class, most first.
    ///
    /// # Errors
    /// When the question cannot be answered.
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

    /// A selection as it is understood, if the target can answer it at all.
    pub(super) async fn checked(&self, selection: &Selection) -> Result<Selection, FailedError> {
        let mut understood = selection.clone();
        if let Some(condition) = &selection.condition {
            // Without its comments, which would take what is put behind it with them.
            let checked = self.table.condition(condition).await;
            let wrong = |message| FailedError::Condition { condition: condition.clone(), message };
            understood.condition = Some(checked.map_err(wrong)?);
        }
        let known = || self.outputs.iter().map(Output::name);
        if let Some(step) = selection.steps.iter().find(|step| known().all(|name| name != **step)) {
            let known = known().map(str::to_owned).collect();
            return Err(FailedError::UnknownStep { step: step.clone(), known });
        }
        if self.has_metadata {
            return Ok(understood);
        }
        let what = if !selection.providers.is_empty() {
            "nothing says which provider was asked"
        } else if selection.batch.is_some() {
            "nothing says which batch a row is in"
        } else if selection.since.is_some() {
            "nothing says when a row was asked"
        } else {
            return Ok(understood);
        };
        Err(FailedError::NoMetadata { metadata: self.metadata.clone(), what })
    }

    fn check_columns(&self, columns: &[String]) -> Result<(), FailedError> {
        let unknown = columns.iter().find(|column| self.schema.field_with_name(column).is_err());
        let Some(column) = unknown else { return Ok(()) };
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let near = crate::config::nearest(column, names).map(ToOwned::to_owned);
        Err(FailedError::UnknownColumn { column: column.clone(), near })
    }

    /// The steps that can have failed, each with the condition that a failed row of it meets.
    fn steps<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = (&'a Output, String)> + 'a {
        self.outputs.iter().filter(|output| self.is_recorded(output)).map(|output| {
            let rows = self.rows_of(selection);
            (output, format!("{} AND {rows}", self.failed_as(output, selection)))
        })
    }

    /// Whether the target can say of a step that it failed.
    pub(super) fn is_recorded(&self, output: &Output) -> bool {
        let metadata = self.metadata.as_ref().and_then(|name| self.schema.field_with_name(name).ok());
        match metadata.map(Field::data_type) {
            Some(DataType::Struct(fields)) => history::find(fields, output.name()).is_some(),
            Some(_) => false,
            None => self.schema.field_with_name(output.error_column()).is_ok(),
        }
    }

    /// Whether a step of a row failed, in one of the ways selected.
    pub(super) fn failed_as(&self, output: &Output, selection: &Selection) -> String {
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

    /// The condition on whole rows.
    pub(super) fn rows_of(&self, selection: &Selection) -> String {
        let mut conditions = vec![self.own_failed()];
        if let Some(batch) = selection.batch {
            conditions.push(format!("{} = {batch}", self.field(BATCH_ID)));
        }
        if let Some(since) = selection.since {
            // Ids of runs begin with their time.
            conditions.push(format!("{} >= {}", self.field(RUN_ID), text(&RunId::prefix_at(since))));
        }
        if let Some(condition) = &selection.condition {
            conditions.push(format!("({condition})"));
        }
        conditions.join(" AND ")
    }

    /// The rows of this job that have an error.
    pub(super) fn own_failed(&self) -> String {
        if !self.has_metadata {
            return "TRUE".to_owned();
        }
        format!("{} > 0 AND {} = {}", self.field(ERROR_COUNT), self.field(APP_ID), text(&self.app_id))
    }

    pub(super) fn field(&self, field: &str) -> String {
        format!("{}[{}]", name(self.metadata.as_deref().unwrap_or_default()), text(field))
    }

    /// The struct of a step, as an expression.
    pub(super) fn history(&self, output: &Output) -> String {
        let metadata = self.metadata.as_ref().and_then(|name| self.schema.field_with_name(name).ok());
        match metadata.map(Field::data_type) {
            Some(DataType::Struct(fields)) => {
                self.field(history::find(fields, output.name()).unwrap_or_else(|| output.name()))
            }
            _ => self.field(output.name()),
        }
    }

    fn of_step(&self, output: &Output) -> String {
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

/// The class in an error string without metadata.
fn plain_class(output: &Output) -> String {
    format!("split_part(substr({}, {}), ':', 1)", name(output.error_column()), PLAIN_ERROR.len() + 1)
}

/// A name as it stands in SQL.
pub(super) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as it stands in SQL.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

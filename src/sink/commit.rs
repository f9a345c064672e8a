//! Commits batches to the target, exactly once each.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::columns::BatchColumns;
use super::constraints::Constraints;
use super::error::TargetError;
use super::failed::{name, text};
use super::logged::{self, RESTART};
use super::older::{OlderAnswers, older};
use super::rebuild::{Progress, holds_only_own_rows};
use super::target::{self, APP_ID, ERROR_COUNT, NeededColumns, OpenedTarget, SOURCE_FILE, SchemaChange};
use crate::checkpoint::{NewestCommitted, Position, SourceId};
use crate::config::Job;
use crate::faultpoint::{self, Side};
use crate::ident::{AppId, BatchId, Lineage, RunId};
use crate::rows::ConstraintErrors;
use crate::rows::FilledBatch;
use crate::rows::OutputColumns;
use crate::store::Location;
use crate::table::{FilesInStorage, Table, TableError, Txn};

/// Returns the length of the first vector in a column, or `None` if the column holds no vector.
pub(super) async fn vector_length(table: &Table, column: &str) -> Result<Option<usize>, TableError> {
    let mut length = None;
    let column = name(column);
    let sql = format!(
        "SELECT CAST(array_length({column}) AS BIGINT) FROM target WHERE {column} IS NOT NULL LIMIT 1"
    );
    let found = table.query(&sql, |batch| {
        let lengths = batch.column(0).as_primitive::<Int64Type>();
        length = lengths.iter().flatten().next().and_then(|length| usize::try_from(length).ok());
        Ok::<(), TableError>(())
    });
    found.await?;
    Ok(length)
}

/// Number of commits after which the table is opened anew: its handle grows by some 400 kB with every update.
const REOPEN_AFTER: u32 = 10;
/// Number of attempts to commit when other writers commit first.
const COMMIT_TRIES: u32 = 5;

/// Result of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// This call committed the batch. Holds the version of the table.
    Now(u64),
    /// The log already had the batch.
    Before,
}

/// Rows of the target that belong to another job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRows {
    /// The other job's `app_id`.
    pub app_id: AppId,
    /// Number of its rows.
    pub rows: u64,
    /// Source files that the rows come from: at most the first 1,000.
    pub files: Vec<String>,
}

/// Number of another job's source files that are listed.
const MOST_FILES_OF_OTHERS: usize = 1_000;

/// The target table of a job, open for writing.
#[derive(Debug)]
pub struct Sink {
    at: Location,
    table: Table,
    schema: SchemaRef,
    metadata: Option<String>,
    outputs: Vec<OutputColumns>,
    app_id: AppId,
    run: RunId,
    source: SourceId,
    commits: u32,
    /// Approximate size of a data file, in bytes.
    file_bytes: u64,
    /// Id of the table in its Delta metadata.
    id: String,
    /// The version up to which the log was searched for restores.
    seen: u64,
    /// The version that this run committed last.
    newest: Option<u64>,
    /// The schema change that is still to be made.
    change: SchemaChange,
    /// Constraints of the table, or `None` until they are first requested.
    constraints: Option<watch::Sender<Arc<Constraints>>>,
}

impl Sink {
    /// Opens the target, or creates it if it is missing, and checks that it fits the job. `left_out` are the columns
    /// of the source that the job does not carry to the target.
    ///
    /// # Errors
    /// When the target does not fit or cannot be used.
    pub async fn open(
        job: &Job,
        schema: &Schema,
        source: &SourceId,
        left_out: &[String],
        run: RunId,
    ) -> Result<Sink, TargetError> {
        let at = &job.target.location;
        let metadata = &job.target.metadata_column;
        let outputs = OutputColumns::of_all(&job.steps);
        let columns = outputs.iter().flat_map(OutputColumns::columns);
        let mut own: Vec<&str> = columns.map(|field| field.name().as_str()).collect();
        own.extend(metadata.as_deref());
        let needed = NeededColumns { columns: schema, own: &own, left_out };
        let OpenedTarget { table, change } = match target::open(job, &needed).await? {
            Some(found) => found,
            None => match target::create(job, schema).await {
                Ok(table) => OpenedTarget { table, change: SchemaChange::None },
                // Another run may have created the table in the meantime.
                Err(error) => target::open(job, &needed).await?.ok_or(error)?,
            },
        };
        Ok(Sink {
            at: at.to_owned(),
            schema: table.schema()?,
            id: table.id()?,
            seen: table.version(),
            newest: None,
            table,
            metadata: metadata.clone(),
            outputs,
            app_id: job.app_id.clone(),
            run,
            source: source.clone(),
            commits: 0,
            file_bytes: job.target.file_size.get(),
            change,
            constraints: None,
        })
    }

    /// Makes the pending schema change and returns the names of the new columns, or `None` if there are none. This is
    /// the last step before a run begins.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn apply_schema_change(&mut self) -> Result<Option<String>, TableError> {
        let before = self.table.schema()?;
        self.table = match std::mem::replace(&mut self.change, SchemaChange::None) {
            SchemaChange::None => return Ok(None),
            SchemaChange::Add(columns) => self.table.clone().add_columns(&Schema::new(columns)).await?,
            SchemaChange::Replace(columns) => self.table.clone().replace_columns(&columns).await?,
        };
        self.schema = self.table.schema()?;
        Ok(self.added(&before))
    }

    /// Returns the names of the columns that are still to be added to the table, or `None` if it has all.
    #[must_use]
    pub fn pending_columns(&self) -> Option<String> {
        let columns: Vec<&str> = match &self.change {
            SchemaChange::None => return None,
            SchemaChange::Add(columns) => columns.iter().map(|field| field.name().as_str()).collect(),
            SchemaChange::Replace(columns) => {
                columns.fields().iter().map(|field| field.name().as_str()).collect()
            }
        };
        let new = columns.into_iter().filter(|name| self.schema.field_with_name(name).is_err());
        let new: Vec<&str> = new.collect();
        (!new.is_empty()).then(|| new.join(", "))
    }

    /// Returns the names of the table's columns that are not in the schema `before`, or `None` if there are none.
    fn added(&self, before: &Schema) -> Option<String> {
        let new = self.schema.fields().iter().filter(|field| before.field_with_name(field.name()).is_err());
        let names: Vec<&str> = new.map(|field| field.name().as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Returns the constraints of the target as of the version that was read last. The receiver gets new ones when a
    /// commit finds that the table's constraints have changed.
    ///
    /// # Errors
    /// When a constraint cannot be checked.
    pub fn constraints(&mut self) -> Result<watch::Receiver<Arc<Constraints>>, TargetError> {
        let constraints = match &self.constraints {
            Some(constraints) if constraints.borrow().are_of(&self.table)? => constraints,
            Some(constraints) => {
                self.schema = self.still_fits()?;
                let now = Constraints::of(&self.outputs, self.metadata.as_deref(), &self.table)?;
                constraints.send_replace(Arc::new(now));
                constraints
            }
            None => {
                let now = Constraints::of(&self.outputs, self.metadata.as_deref(), &self.table)?;
                self.constraints.insert(watch::Sender::new(Arc::new(now)))
            }
        };
        Ok(constraints.subscribe())
    }

    /// Returns the table's columns after a change during the run, if the table still has all columns that it had
    /// before, with the same types.
    fn still_fits(&self) -> Result<SchemaRef, TargetError> {
        let misfit = |what: String| TargetError::Schema { at: self.at.clone(), what };
        if self.table.id()? != self.id {
            return Err(misfit("it was made anew during the run".to_owned()));
        }
        let now = self.table.schema()?;
        let is_there = |field: &&Arc<Field>| {
            now.field_with_name(field.name()).is_ok_and(|found| found.data_type() == field.data_type())
        };
        match self.schema.fields().iter().find(|field| !is_there(field)) {
            None => Ok(now),
            Some(field) => {
                Err(misfit(format!("its column {:?} was removed or changed during the run", field.name())))
            }
        }
    }

    /// Reads the newest version of the table and turns outcomes that break its constraints into errors. Returns
    /// counts of these outcomes for each step.
    ///
    /// # Errors
    /// When the table cannot be read or was restored, or when a row cannot be written even as an error.
    pub async fn apply_constraints(
        &mut self,
        batch: &mut FilledBatch,
    ) -> Result<Vec<ConstraintErrors>, TargetError> {
        self.reload().await?;
        self.look_for_restore().await?;
        let constraints = Arc::clone(&self.constraints()?.borrow());
        constraints.apply_constraints(batch)
    }

    /// Checks that the table was not restored to an earlier version since the last check.
    async fn look_for_restore(&mut self) -> Result<(), TargetError> {
        let seen = std::mem::replace(&mut self.seen, self.table.version());
        for version in (seen + 1..=self.seen).filter(|version| Some(*version) != self.newest) {
            let entry = self.table.log_entry(version, None).await?;
            if entry.is_some_and(|entry| entry.is_restore()) {
                return Err(TargetError::Restored { at: self.at.clone(), version });
            }
        }
        Ok(())
    }

    /// Whether the table has the columns and constraints against which the last batch was judged.
    fn is_unchanged_since_check(&self) -> Result<bool, TableError> {
        self.constraints.as_ref().map_or(Ok(true), |constraints| constraints.borrow().are_of(&self.table))
    }

    /// Checks that a target can be created where there is no table yet.
    ///
    /// # Errors
    /// When something else is there.
    pub async fn can_create(at: &Location) -> Result<(), TargetError> {
        target::is_free(at).await
    }

    /// Returns the number of rows in the target, of all jobs, as its file statistics state it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn rows(&self) -> Result<u64, TableError> {
        Ok(self.table.files().await?.iter().filter_map(|file| file.rows).sum())
    }

    /// Returns the steps whose rows in the target have outdated answers; see [`older`](super::older()).
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn older(
        &self,
        job: &Job,
        by_model: impl Fn(&str) -> bool,
    ) -> Result<Vec<OlderAnswers>, TableError> {
        older(&self.table, job, by_model).await
    }

    /// Returns the rows of other jobs. Empty for a target without metadata, whose rows do not name their job.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn rows_of_others(&self) -> Result<Vec<ForeignRows>, TableError> {
        let Some(metadata) = &self.metadata else { return Ok(Vec::new()) };
        let field = |field: &str| format!("CAST({}['{field}'] AS VARCHAR)", name(metadata));
        let sql = format!(
            "SELECT {app_id}, {file}, COUNT(*) FROM target WHERE {app_id} <> {} GROUP BY 1, 2",
            text(&self.app_id),
            app_id = field(APP_ID),
            file = field(SOURCE_FILE),
        );
        let mut found: BTreeMap<String, ForeignRows> = BTreeMap::new();
        let read = self.table.query(&sql, |batch| {
            let texts = |column: usize| {
                cast(batch.column(column), &DataType::Utf8).map_err(|error| self.failed_reading(error))
            };
            let (apps, files) = (texts(0)?, texts(1)?);
            let (apps, files) = (apps.as_string::<i32>(), files.as_string::<i32>());
            let counts = batch.column(2).as_primitive::<Int64Type>();
            for at in 0..batch.num_rows() {
                let app_id = apps.value(at);
                let others = found.entry(app_id.to_owned()).or_insert_with(|| ForeignRows {
                    app_id: app_id.into(),
                    rows: 0,
                    files: Vec::new(),
                });
                others.rows += counts.value(at).cast_unsigned();
                if others.files.len() < MOST_FILES_OF_OTHERS {
                    others.files.push(files.value(at).to_owned());
                }
            }
            Ok::<(), TableError>(())
        });
        read.await?;
        Ok(found.into_values().collect())
    }

    /// Returns the progress of another job, read from the target; see [`Progress`].
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn progress_of(&self, app_id: &AppId) -> Result<Progress, TableError> {
        Progress::read(&self.table, app_id).await
    }

    /// Returns the version of the table that was read last.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.table.version()
    }

    /// Counts the rows of this job in the newest version of the target. Without metadata all rows are counted.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn own_rows(&self) -> Result<u64, TableError> {
        let table = Table::open(&self.at).await?;
        let condition = match &self.metadata {
            Some(metadata) => format!("{}['{APP_ID}'] = {}", name(metadata), text(&self.app_id)),
            None => "TRUE".to_owned(),
        };
        self.count(&table, &condition).await
    }

    async fn count(&self, table: &Table, condition: &str) -> Result<u64, TableError> {
        let mut rows = 0;
        let sql = format!("SELECT COUNT(*) FROM target WHERE {condition}");
        let counted = table.query(&sql, |batch| {
            rows += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>().cast_unsigned();
            Ok::<(), TableError>(())
        });
        counted.await?;
        Ok(rows)
    }

    /// Checks that every row of the target may be removed.
    ///
    /// # Errors
    /// When the table is append-only, holds rows of other jobs or rows of unknown origin, or cannot be read.
    pub async fn check_clearable(&self) -> Result<(), TargetError> {
        let table = Table::open(&self.at).await?;
        if table.is_append_only()? {
            return Err(TargetError::AppendOnly { at: self.at.clone() });
        }
        let Some(metadata) = &self.metadata else {
            return match holds_only_own_rows(&table, &self.app_id).await? {
                true => Ok(()),
                false => Err(TargetError::Unowned { at: self.at.clone() }),
            };
        };
        let foreign = format!("{0} IS NULL OR {0}['{APP_ID}'] <> {1}", name(metadata), text(&self.app_id));
        match self.count(&table, &foreign).await? {
            0 => Ok(()),
            rows => Err(TargetError::Shared { at: self.at.clone(), rows }),
        }
    }

    /// Removes every row of the target. The table and its `txn` actions stay.
    ///
    /// # Errors
    /// As [`Sink::check_clearable`], and when the table cannot be written.
    pub async fn clear(&self) -> Result<(), TargetError> {
        let info = json!({ "app_id": self.app_id, "run_id": self.run });
        let info = Map::from_iter([(RESTART.to_owned(), info)]);
        let mut tries = 0;
        loop {
            self.check_clearable().await?;
            let mut table = Table::open(&self.at).await?;
            self.pass("delta-commit", Side::Before)?;
            let cleared = table.clear(info.clone()).await;
            self.pass("delta-commit", Side::After)?;
            tries += 1;
            match cleared {
                Ok(()) => return Ok(()),
                Err(error) if tries == COMMIT_TRIES => return Err(error.into()),
                // Another commit came first, for example a compaction.
                Err(_) => {}
            }
        }
    }

    /// Checks that the data files of the target exist, and returns their number.
    ///
    /// # Errors
    /// When files are missing, or when the log or a folder cannot be read.
    pub async fn check_data_files(&self) -> Result<usize, TargetError> {
        let FilesInStorage { files, missing, example } = self.table.on_disk().await?;
        match example {
            None => Ok(files),
            Some(example) => Err(TargetError::FilesGone { at: self.at.clone(), files, missing, example }),
        }
    }

    /// Returns the id of the target table.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn table_id(&self) -> Result<String, TableError> {
        self.table.id()
    }

    /// Returns the length of the vectors in a column of the target, or `None` if it holds none.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn vector_length(&self, column: &str) -> Result<Option<usize>, TableError> {
        vector_length(&self.table, column).await
    }

    /// Returns the newest batches that the log has of the job and of a lineage, as of the version that was read last.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn committed(&self, lineage: Lineage) -> Result<NewestCommitted, TableError> {
        logged::committed(&self.table, &self.app_id, lineage).await
    }

    /// Returns the progress of this job, read from the target when the checkpoint is lost; see [`Progress`].
    ///
    /// # Errors
    /// When the log or the rows cannot be read.
    pub async fn progress(&self) -> Result<Progress, TableError> {
        Progress::read(&self.table, &self.app_id).await
    }

    /// Writes and commits a [judged](Sink::apply_constraints) batch, unless the log already has it. Returns `None`, without a
    /// commit, if the table's columns or constraints have changed since it was judged.
    ///
    /// # Errors
    /// When the files cannot be written or the commit certainly failed.
    pub async fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> Result<Option<Committed>, TableError> {
        let id = batch.plan.id;
        if self.has(id, lineage).await? {
            return Ok(Some(Committed::Before));
        }
        let error_counts = batch.error_counts();
        let layout = BatchColumns {
            schema: &self.schema,
            metadata: self.metadata.as_deref(),
            outputs: &self.outputs,
            app_id: &self.app_id,
            run: self.run,
        };
        self.pass("parquet-file", Side::Before)?;
        let mut staging = self.table.stage(self.file_bytes).await?;
        if let Some(metadata) = &self.metadata {
            staging = staging.counting(metadata, ERROR_COUNT);
        }
        for (first, piece) in batch.pieces() {
            let rows = layout.rows(batch, &piece, first, &error_counts);
            staging.write(rows.map_err(|error| self.error("make the rows of", error))?).await?;
        }
        let staged = staging.finish().await?;
        self.pass("parquet-file", Side::After)?;
        let txns = [
            Txn { app_id: self.app_id.to_string(), version: id.txn_version() },
            Txn { app_id: self.app_id.lineage(lineage).to_string(), version: id.txn_version() },
        ];
        let info = self.info(batch, lineage);
        let mut tries = 0;
        loop {
            self.pass("delta-commit", Side::Before)?;
            let result = self.table.append(&staged, &txns, info.clone()).await;
            self.pass("delta-commit", Side::After)?;
            let error = match result {
                Ok(version) => {
                    self.newest = Some(version);
                    return Ok(Some(Committed::Now(version)));
                }
                Err(error) => error,
            };
            // Only the log shows whether the commit landed: its response may have been lost.
            tries += 1;
            self.table = Table::open(&self.at).await?;
            if self.has(id, lineage).await? {
                return Ok(Some(Committed::Now(self.table.version())));
            }
            if !self.is_unchanged_since_check()? {
                return Ok(None);
            }
            if tries == COMMIT_TRIES {
                return Err(error);
            }
        }
    }

    /// Whether each row of the target names its source row.
    #[must_use]
    pub fn has_row_keys(&self) -> bool {
        self.metadata.is_some()
    }

    pub(super) fn metadata(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    pub(super) fn app_id(&self) -> &AppId {
        &self.app_id
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn failed_reading(&self, error: arrow::error::ArrowError) -> TableError {
        self.error("read", error)
    }

    async fn reload(&mut self) -> Result<(), TableError> {
        self.commits += 1;
        if self.commits.is_multiple_of(REOPEN_AFTER) {
            return self.table.reopen().await;
        }
        self.table.refresh().await
    }

    /// Whether the log has a batch of this lineage.
    async fn has(&self, id: BatchId, lineage: Lineage) -> Result<bool, TableError> {
        logged::has(&self.table, &self.app_id, id, lineage).await
    }

    fn info(&self, batch: &FilledBatch, lineage: Lineage) -> Map<String, Value> {
        // A Parquet position names every file. It is left out where it can be found again from the keys of the rows.
        let position = match &batch.plan.next {
            Position::Folder { .. } if self.has_row_keys() => Value::Null,
            position => json!(position),
        };
        let own = json!({
            "app_id": self.app_id,
            "lineage": lineage,
            "batch_id": batch.plan.id,
            "run_id": self.run,
            "rows": batch.rows(),
            "digest": batch.plan.digest().to_string(),
            "source": self.source,
            "position": position,
        });
        Map::from_iter([("enrich".to_owned(), own)])
    }

    fn pass(&self, action: &'static str, side: Side) -> Result<(), TableError> {
        faultpoint::pass(action, side).map_err(|error| self.error("write to", error))
    }

    fn error(
        &self,
        action: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> TableError {
        TableError { action, at: self.at.clone(), source: Box::new(source) }
    }
}

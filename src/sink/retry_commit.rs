//! Replaces the outcomes of failed rows in the target with new ones, once for each batch of a retry.
//!
//! Each file that holds rows of the batch is rewritten with its rows in the same order; other files are untouched. A
//! batch is one commit, with two `txn` actions like those of a run.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray, StructArray, UInt64Array};
use arrow::compute::{cast, interleave, take_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::columns::fitted;
use super::commit::{Committed, vector_length};
use super::constraints::Constraints;
use super::error::{RETENTION, TargetError};
use super::failed::{FILES_AT_ONCE, FailedRows, name, text};
use super::reload::{OpenBatchFiles, PLACE};
use super::target::{APP_ID, ERROR_COUNT, RUN_ID, SOURCE_FILE, SOURCE_ROW};
use super::{history, logged};
use crate::checkpoint::NewestCommitted;
use crate::config::Job;
use crate::faultpoint::{self, Side};
use crate::ident::{AppId, BatchId, Lineage, RowKey, RunId};
use crate::rows::ConstraintErrors;
use crate::rows::OutputColumns;
use crate::rows::{FilledBatch, Outcome, PIECE_BYTES, RowResult};
use crate::store::Location;
use crate::table::{Scan, Staged, StagedChanges, Table, TableError, Txn};

/// Number of attempts at a batch whose files other writers rewrite in the meantime.
const COMMIT_TRIES: u32 = 10;
/// Number of attempts at a commit while the files to replace are still in the table.
const REPLACE_TRIES: u64 = 50;

/// The target table of a retry, open for writing.
#[derive(Debug)]
pub struct RetryCommit {
    at: Location,
    table: Table,
    schema: SchemaRef,
    metadata: String,
    outputs: Vec<OutputColumns>,
    app_id: AppId,
    run: RunId,
    places: OpenBatchFiles,
    /// Constraints of the table.
    constraints: watch::Sender<Arc<Constraints>>,
}

/// The rewritten files of a batch.
struct RewrittenFiles {
    staged: Staged,
    replaced: BTreeSet<String>,
    changes: Option<StagedChanges>,
}

/// Result of an attempt to replace files.
enum Replaced {
    /// The files are replaced. Holds the version of the table.
    Now(u64),
    /// Files to replace are gone, for example by a compaction, or the table's columns or constraints have changed.
    Moved(TableError),
}

/// Two indices of one row: among the rows read from its file, and in the batch.
type RowMatch = (usize, usize);

/// A rewritten file. `rows` is the number of its rows that got new outcomes.
struct RewrittenFile {
    staged: Staged,
    rows: usize,
}

impl RetryCommit {
    /// Opens the target of a job for a retry, after checking that its rows can be replaced.
    ///
    /// # Errors
    /// When the rows cannot be replaced, or a constraint of the table cannot be checked.
    pub fn open(
        job: &Job,
        rows: &FailedRows,
        places: OpenBatchFiles,
        run: RunId,
    ) -> Result<RetryCommit, TargetError> {
        let at = job.target.location.clone();
        let table = rows.table.clone();
        let metadata = job.target.metadata_column.clone();
        let Some(metadata) = metadata.clone().filter(|_| rows.has_metadata()) else {
            return Err(TargetError::NoKeys { at, metadata });
        };
        if table.is_append_only()? {
            return Err(TargetError::AppendOnly { at });
        }
        if table.properties()?.contains_key(RETENTION) {
            return Err(TargetError::Retention { at });
        }
        if let Some(feature) = table.unwritable_feature()? {
            return Err(TargetError::Feature { at, feature });
        }
        let outputs = OutputColumns::of_all(&job.steps);
        if let Some(output) = outputs.iter().find(|output| !rows.is_recorded(output)) {
            let what = format!("it has no column for the step {:?}", output.name());
            return Err(TargetError::Schema { at, what });
        }
        let constraints = Constraints::of_retry(&outputs, &metadata, &table)?;
        Ok(RetryCommit {
            at,
            schema: rows.schema.clone(),
            constraints: watch::Sender::new(Arc::new(constraints)),
            table,
            metadata,
            outputs,
            app_id: job.app_id.clone(),
            run,
            places,
        })
    }

    /// Returns the constraints of the target, as of the version that was read last.
    #[must_use]
    pub fn constraints(&self) -> watch::Receiver<Arc<Constraints>> {
        self.constraints.subscribe()
    }

    /// Reads the newest version of the table and turns outcomes that break its constraints into errors. Returns
    /// counts of these outcomes for each step.
    ///
    /// # Errors
    /// When the table cannot be read, or a row cannot be written even as an error.
    pub async fn apply_constraints(
        &mut self,
        batch: &mut FilledBatch,
    ) -> Result<Vec<ConstraintErrors>, TargetError> {
        self.table = Table::open(&self.at).await?;
        if !self.is_unchanged_since_check()? {
            let now = Constraints::of_retry(&self.outputs, &self.metadata, &self.table)?;
            self.constraints.send_replace(Arc::new(now));
            self.schema = self.table.schema()?;
        }
        let constraints = Arc::clone(&self.constraints.borrow());
        constraints.apply_constraints(batch)
    }

    /// Whether the table has the columns and constraints against which the last batch was judged.
    fn is_unchanged_since_check(&self) -> Result<bool, TableError> {
        self.constraints.borrow().are_of(&self.table)
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

    /// Returns the newest batches that the log has of the job's retries and of a lineage of them.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn committed(&self, lineage: Lineage) -> Result<NewestCommitted, TableError> {
        logged::committed(&self.table, &self.app_id.retry(), lineage).await
    }

    /// Replaces the outcomes of a [judged](RetryCommit::apply_constraints) batch's rows and commits them, unless the log already
    /// has the batch. Returns `None`, without a commit, if the table's columns or constraints have changed since it
    /// was judged. Rows that are gone, or that another writer has repaired, stay as they are.
    ///
    /// # Errors
    /// When files cannot be read or written, or the commit certainly failed.
    pub async fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> Result<Option<Committed>, TableError> {
        let id = batch.plan.id;
        let rows = keys(batch);
        let seen = self.places.take(id);
        let mut tries = 0;
        loop {
            self.table = Table::open(&self.at).await?;
            if self.has(id, lineage).await? {
                let version = self.table.version();
                return Ok(Some(if tries == 0 { Committed::Before } else { Committed::Now(version) }));
            }
            if !self.is_unchanged_since_check()? {
                return Ok(None);
            }
            let places = match &seen {
                Some(places) if self.table.has_files(places).await? => places.clone(),
                _ => self.find(&rows).await?,
            };
            let rewritten = self.rewrite_files(batch, &rows, &places).await?;
            let error = match self.replace(batch, lineage, &rewritten).await? {
                Replaced::Now(version) => return Ok(Some(Committed::Now(version))),
                Replaced::Moved(error) => error,
            };
            tries += 1;
            if tries == COMMIT_TRIES {
                return Err(error);
            }
        }
    }

    /// Rewrites the files `places` with the new outcomes of the batch. A file that no longer holds a failed row of the
    /// batch is left out.
    async fn rewrite_files(
        &self,
        batch: &FilledBatch,
        rows: &HashMap<RowKey, usize>,
        places: &BTreeSet<String>,
    ) -> Result<RewrittenFiles, TableError> {
        self.pass("parquet-file", Side::Before)?;
        let mut staged = Staged::default();
        let mut replaced = BTreeSet::new();
        let mut changes = self.table.stage_changes()?;
        for place in places {
            let rewritten = self.rewrite_file(place, batch, rows, changes.as_mut()).await?;
            if rewritten.rows > 0 {
                staged.absorb(rewritten.staged);
                replaced.insert(place.clone());
            }
        }
        let changes = match changes {
            Some(changes) => Some(changes.finish().await?),
            None => None,
        };
        self.pass("parquet-file", Side::After)?;
        Ok(RewrittenFiles { staged, replaced, changes })
    }

    /// Commits rewritten files in place of the old ones, as long as the table still has the old ones.
    async fn replace(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
        rewritten: &RewrittenFiles,
    ) -> Result<Replaced, TableError> {
        let retry = self.app_id.retry();
        let version = batch.plan.id.txn_version();
        let txns = [retry.lineage(lineage), retry].map(|app_id| Txn { app_id: app_id.to_string(), version });
        let info = self.info(batch, lineage);
        let RewrittenFiles { staged, replaced, changes } = rewritten;
        let mut tries = 0;
        loop {
            self.pass("delta-commit", Side::Before)?;
            let committed = self.table.rewrite(replaced, staged, changes.as_ref(), &txns, info.clone()).await;
            self.pass("delta-commit", Side::After)?;
            let error = match committed {
                Ok(version) => return Ok(Replaced::Now(version)),
                Err(error) => error,
            };
            // Only the log shows whether the commit landed, or another one came first.
            self.table = Table::open(&self.at).await?;
            if self.has(batch.plan.id, lineage).await? {
                return Ok(Replaced::Now(self.table.version()));
            }
            if !self.is_unchanged_since_check()? || !self.table.has_files(replaced).await? {
                return Ok(Replaced::Moved(error));
            }
            tries += 1;
            if tries == REPLACE_TRIES {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=20 * tries))).await;
        }
    }

    /// Rewrites one file with the new outcomes of the batch's rows.
    async fn rewrite_file(
        &self,
        place: &str,
        batch: &FilledBatch,
        rows: &HashMap<RowKey, usize>,
        mut changes: Option<&mut crate::table::ChangeStaging>,
    ) -> Result<RewrittenFile, TableError> {
        let files = [place.to_owned()];
        let scan = Scan { files: Some(&files), file_column: None };
        let columns: Vec<String> = self.schema.fields().iter().map(|field| name(field.name())).collect();
        let sql = format!("SELECT {} FROM target", columns.join(", "));
        let mut stream = self.table.stream(scan, &sql).await?;
        let mut staging = self.table.stage(u64::MAX).await?.counting(&self.metadata, ERROR_COUNT);
        let mut found = 0;
        while let Some(read) = stream.try_next().await? {
            let of_arrow = |error| self.error("read", error);
            let before = conform(&read, &self.schema).map_err(of_arrow)?;
            let hits = self.hits(&before, rows).map_err(of_arrow)?;
            found += hits.len();
            for (range, hits) in pieces(batch, before.num_rows(), &hits) {
                let before = before.slice(range.start, range.len());
                let after = self.patched(&before, batch, &hits).map_err(of_arrow)?;
                if let Some(changes) = changes.as_mut().filter(|_| !hits.is_empty()) {
                    let at = UInt64Array::from_iter_values(hits.iter().map(|(at, _)| *at as u64));
                    let old = take_record_batch(&before, &at).map_err(of_arrow)?;
                    changes.write(&old, &take_record_batch(&after, &at).map_err(of_arrow)?).await?;
                }
                staging.write(after).await?;
            }
        }
        if found == 0 {
            return Ok(RewrittenFile { staged: Staged::default(), rows: 0 });
        }
        Ok(RewrittenFile { staged: staging.finish().await?, rows: found })
    }

    /// Returns the rows of a file that belong to the batch and still have an error.
    fn hits(&self, file: &RecordBatch, rows: &HashMap<RowKey, usize>) -> Result<Vec<RowMatch>, ArrowError> {
        let app_ids = self.member(file, APP_ID)?;
        let files = self.member(file, SOURCE_FILE)?;
        let (app_ids, files) = (app_ids.as_string::<i32>(), files.as_string::<i32>());
        let numbers = self.member(file, SOURCE_ROW)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        let counts = self.member(file, ERROR_COUNT)?;
        let counts = counts.as_primitive::<Int32Type>();
        let mut hits = Vec::new();
        for at in 0..file.num_rows() {
            if counts.is_null(at) || counts.value(at) == 0 || app_ids.value(at) != &*self.app_id {
                continue;
            }
            let key = RowKey { file: files.value(at).into(), row: numbers.value(at).cast_unsigned() };
            if let Some(row) = rows.get(&key) {
                hits.push((at, *row));
            }
        }
        Ok(hits)
    }

    fn member(&self, rows: &RecordBatch, field: &str) -> Result<ArrayRef, ArrowError> {
        let metadata = rows.column_by_name(&self.metadata).and_then(|column| column.as_struct_opt());
        let member = metadata.and_then(|metadata| metadata.column_by_name(field).cloned());
        member.ok_or_else(|| {
            ArrowError::SchemaError(format!("the target has no {}.{field} any more", self.metadata))
        })
    }

    /// Returns the rows of a file with the new outcomes in place.
    fn patched(
        &self,
        before: &RecordBatch,
        batch: &FilledBatch,
        hits: &[RowMatch],
    ) -> Result<RecordBatch, ArrowError> {
        if hits.is_empty() {
            return Ok(before.clone());
        }
        let metadata = before.column_by_name(&self.metadata).and_then(|column| column.as_struct_opt());
        let metadata = metadata.ok_or_else(|| {
            ArrowError::SchemaError(format!("the target has no {} any more", self.metadata))
        })?;
        let mut members: Vec<ArrayRef> = metadata.columns().to_vec();
        let mut columns: Vec<ArrayRef> = before.columns().to_vec();
        let counts = self.member(before, ERROR_COUNT)?;
        let mut counts: Vec<Option<i32>> = counts.as_primitive::<Int32Type>().iter().collect();
        let mut newly = self.errors_of_others(metadata, hits);
        for (step, output) in self.outputs.iter().enumerate() {
            let settled = |row: usize| &batch.outcomes[step][row];
            let renewed = hits
                .iter()
                .map(|(at, row)| (*at, settled(*row)))
                .filter(|(_, settled)| settled.outcome != Outcome::Unchanged)
                .map(|(at, settled)| Ok((at, settled.load()?)));
            let renewed: Vec<(usize, Cow<'_, RowResult>)> = renewed.collect::<Result<_, ArrowError>>()?;
            let errors = self.error_of(metadata, self.history(metadata, output)?)?;
            for (hit, (at, row)) in newly.iter_mut().zip(hits) {
                *hit += i32::from(match &settled(*row).outcome {
                    Outcome::Failed(_) => true,
                    Outcome::Unchanged => errors.is_valid(*at),
                    Outcome::Answer(_) | Outcome::Skipped => false,
                });
            }
            let made = output.arrays(&renewed.iter().map(|(_, settled)| &**settled))?;
            for (field, values) in output.columns().iter().zip(&made) {
                let at = before.schema_ref().index_of(field.name())?;
                columns[at] = replaced(&columns[at], values, &renewed)?;
            }
            let (member, _) = find_member(metadata, self.history(metadata, output)?)?;
            let values: ArrayRef = Arc::new(history::array(&renewed.iter().map(|(_, settled)| &**settled))?);
            members[member] = replaced(&members[member], &values, &renewed)?;
        }
        for ((at, _), count) in hits.iter().zip(&newly) {
            counts[*at] = Some(*count);
        }
        let (member, _) = find_member(metadata, ERROR_COUNT)?;
        members[member] = Arc::new(Int32Array::from(counts));
        let (member, _) = find_member(metadata, RUN_ID)?;
        let run = self.run.to_string();
        let runs: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&run, hits.len())));
        members[member] = replaced(&members[member], &runs, hits)?;
        let at = before.schema_ref().index_of(&self.metadata)?;
        let metadata = StructArray::try_new(metadata.fields().clone(), members, metadata.nulls().cloned())?;
        columns[at] = Arc::new(metadata);
        RecordBatch::try_new(before.schema(), columns)
    }

    /// Counts for each hit the errors of steps that the target records and the job does not have.
    fn errors_of_others(&self, metadata: &StructArray, hits: &[RowMatch]) -> Vec<i32> {
        let own = |output: &OutputColumns| history::find(metadata.fields(), output.name());
        let is_other = |name: &str| !self.outputs.iter().any(|output| own(output) == Some(name));
        let others: Vec<&ArrayRef> = metadata
            .column_names()
            .into_iter()
            .zip(metadata.columns())
            .filter(|(name, _)| is_other(name))
            .filter_map(|(_, column)| column.as_struct_opt()?.column_by_name("error"))
            .collect();
        let count = |(at, _): &(usize, usize)| others.iter().filter(|error| error.is_valid(*at)).count();
        hits.iter().map(|hit| i32::try_from(count(hit)).unwrap_or(i32::MAX)).collect()
    }

    /// Returns the name of the struct that the metadata column has for a step.
    fn history<'a>(&self, metadata: &'a StructArray, output: &OutputColumns) -> Result<&'a str, ArrowError> {
        history::find(metadata.fields(), output.name()).ok_or_else(|| {
            let (column, step) = (&self.metadata, output.name());
            ArrowError::SchemaError(format!("{column} has nothing of the step {step:?} any more"))
        })
    }

    /// Returns the class of error of each row of a step.
    fn error_of(&self, metadata: &StructArray, history: &str) -> Result<ArrayRef, ArrowError> {
        let (_, outcomes) = find_member(metadata, history)?;
        let error = outcomes.as_struct_opt().and_then(|outcomes| outcomes.column_by_name("error").cloned());
        error
            .ok_or_else(|| ArrowError::SchemaError(format!("{}.{history} has no field error", self.metadata)))
    }

    /// Returns the files that hold the rows of a batch in the newest version.
    async fn find(&mut self, rows: &HashMap<RowKey, usize>) -> Result<BTreeSet<String>, TableError> {
        let field = |field: &str| format!("{}[{}]", name(&self.metadata), text(field));
        let sql = format!(
            "SELECT CAST({} AS VARCHAR), CAST({} AS VARCHAR), {} FROM target WHERE {} > 0 AND {} = {}",
            name(PLACE),
            field(SOURCE_FILE),
            field(SOURCE_ROW),
            field(ERROR_COUNT),
            field(APP_ID),
            text(&self.app_id)
        );
        let files = FailedRows::files_of(&mut self.table, Some(&self.metadata)).await?;
        let mut places = BTreeSet::new();
        for files in files.chunks(FILES_AT_ONCE) {
            let names = self.table.file_names(files);
            let scan = Scan { files: Some(files), file_column: Some(PLACE) };
            let listed = self.table.scan(scan, &sql, |batch| {
                let strings = |column: usize| {
                    cast(batch.column(column), &DataType::Utf8).map_err(|error| self.error("read", error))
                };
                let (in_files, of_files) = (strings(0)?, strings(1)?);
                let (in_files, of_files) = (in_files.as_string::<i32>(), of_files.as_string::<i32>());
                let numbers = batch.column(2).as_primitive::<Int64Type>();
                for at in 0..batch.num_rows() {
                    let row = numbers.value(at).cast_unsigned();
                    let key = RowKey { file: of_files.value(at).into(), row };
                    if let Some(place) = names.get(in_files.value(at)).filter(|_| rows.contains_key(&key)) {
                        places.insert(files[*place].clone());
                    }
                }
                Ok::<(), TableError>(())
            });
            listed.await?;
        }
        Ok(places)
    }

    async fn has(&self, id: BatchId, lineage: Lineage) -> Result<bool, TableError> {
        logged::has(&self.table, &self.app_id.retry(), id, lineage).await
    }

    fn info(&self, batch: &FilledBatch, lineage: Lineage) -> Map<String, Value> {
        let own = json!({
            "app_id": self.app_id,
            "lineage": lineage,
            "batch_id": batch.plan.id,
            "run_id": self.run,
            "rows": batch.rows(),
            "digest": batch.plan.digest().to_string(),
        });
        Map::from_iter([("enrich_retry".to_owned(), own)])
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

/// Splits the rows of a file into ranges whose new answers take at most [`PIECE_BYTES`], unless one row takes more.
/// The file indices in a range's hits count from the first row of the range.
fn pieces(batch: &FilledBatch, rows: usize, hits: &[RowMatch]) -> Vec<(Range<usize>, Vec<RowMatch>)> {
    let mut pieces = Vec::new();
    let (mut begin, mut bytes, mut own) = (0, 0, Vec::new());
    for (at, row) in hits {
        let of_row: usize = batch.outcomes.iter().map(|step| step[*row].bytes()).sum();
        if bytes + of_row > PIECE_BYTES && !own.is_empty() {
            pieces.push((begin..*at, std::mem::take(&mut own)));
            (begin, bytes) = (*at, 0);
        }
        own.push((at - begin, *row));
        bytes += of_row;
    }
    pieces.push((begin..rows, own));
    pieces
}

/// Returns the index of each row of a batch by its key.
fn keys(batch: &FilledBatch) -> HashMap<RowKey, usize> {
    let keys = batch.chunks.iter().flat_map(|chunk| {
        chunk.physical.iter().map(|row| RowKey { file: Arc::clone(&chunk.file), row: *row })
    });
    keys.zip(0..).collect()
}

fn find_member<'a>(metadata: &'a StructArray, name: &str) -> Result<(usize, &'a ArrayRef), ArrowError> {
    let at = metadata.column_names().iter().position(|field| *field == name);
    at.map(|at| (at, metadata.column(at)))
        .ok_or_else(|| ArrowError::SchemaError(format!("the metadata column has no field {name:?}")))
}

/// Returns a column with new values in some of its rows. `at` holds these rows in the order of `values`.
fn replaced<T>(column: &ArrayRef, values: &ArrayRef, at: &[(usize, T)]) -> Result<ArrayRef, ArrowError> {
    let values = fitted(values, column.data_type())?;
    let mut indices: Vec<(usize, usize)> = (0..column.len()).map(|row| (0, row)).collect();
    for (place, (row, _)) in at.iter().enumerate() {
        indices[*row] = (1, place);
    }
    interleave(&[column.as_ref(), values.as_ref()], &indices)
}

/// Casts rows to the types of the table.
pub(super) fn conform(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast(column, field.data_type())
        }
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

//! Reads failed rows from the target, to be sent again.
//!
//! Rows are identified by their keys and searched for in the newest version each time, so that a compaction in
//! between does no harm (test `retry::random_errors_kills_and_a_compaction`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{AsArray, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::failed::{FILES_AT_ONCE, FailedError, FailedRows, name};
use super::target::{BATCH_ID, RUN_ID, SOURCE_FILE, SOURCE_ROW};
use crate::checkpoint::{FileRange, Selection};
use crate::fault::Class;
use crate::ident::{BatchId, RowKey, RunId};
use crate::rows::OutputColumns;
use crate::rows::{Chunk, UnchangedStep};
use crate::table::{DataFile, Scan, TableError};

/// Minimum estimate of the memory that a row takes, in bytes.
const ROW_BYTES: u64 = 1_000;
pub(super) const PLACE: &str = "__enrich_place";
/// Number of query columns before those of the steps: the target file, the source file, the row.
const OWN: usize = 3;

/// For each open batch, the files of the target in which its rows were last seen.
#[derive(Clone, Debug, Default)]
pub struct OpenBatchFiles(Arc<Mutex<BTreeMap<BatchId, BTreeSet<String>>>>);

impl OpenBatchFiles {
    pub(super) fn put(&self, batch: BatchId, files: BTreeSet<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(batch, files);
    }

    pub(super) fn take(&self, batch: BatchId) -> Option<BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&batch)
    }
}

/// A failed row and the file of the target that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    /// Key of the source row.
    pub key: RowKey,
    /// Path of the target's file, relative to the table.
    pub place: Arc<str>,
    /// Memory that the row takes, in bytes, estimated from the size of that file.
    pub bytes: u64,
    /// Id of the run that last sent the row; ids of later runs are greater.
    pub run: Arc<str>,
}

/// Failed rows with their columns, ready to be sent again.
#[derive(Debug)]
pub struct Reloaded {
    /// The rows, grouped by source file.
    pub chunks: Vec<Chunk>,
    /// For each step, the outcomes of the target that are kept.
    pub kept: Vec<UnchangedStep>,
}

/// Reads failed rows from the target.
#[derive(Debug)]
pub struct FailedRowReader {
    rows: FailedRows,
    columns: SchemaRef,
    /// For each step, the indices of the earlier steps whose outputs it needs.
    needs: Vec<Vec<usize>>,
    places: OpenBatchFiles,
}

/// A failed row that was read. `part` is the index of its part in the batch, `row` its row in the source file.
struct ReadRow {
    part: usize,
    row: u64,
    /// For each step, whether its outcome is kept.
    unchanged: Vec<bool>,
    /// For each step, whether its outcome is an error.
    failed: Vec<bool>,
}

impl FailedRowReader {
    /// Creates a reader of a job's failed rows. `needs` lists for each step the earlier steps whose outputs it needs.
    /// The files in which rows are found are put into `places`, for the commit.
    #[must_use]
    pub fn new(rows: FailedRows, needs: Vec<Vec<usize>>, places: OpenBatchFiles) -> Self {
        FailedRowReader { columns: rows.source_columns(), rows, needs, places }
    }

    /// Returns the failed rows of a selection, in the order in which they were written, except those that the run
    /// `except` wrote.
    ///
    /// # Errors
    /// When the target cannot be read or the selection is wrong.
    pub async fn find(&self, selection: &Selection, except: RunId) -> Result<Vec<FailedRow>, FailedError> {
        let selection = &self.rows.checked(selection).await?;
        let any: Vec<String> = self
            .rows
            .outputs
            .iter()
            .map(|output| format!("({})", self.rows.failed_as(output, selection)))
            .collect();
        let field = |field: &str| self.rows.field(field);
        let sql = format!(
            "SELECT CAST({place} AS VARCHAR), CAST({file} AS VARCHAR) AS \"_file\", {row} AS \"_row\", {batch} AS \"_batch\", \
             CAST({run} AS VARCHAR) \
             FROM target WHERE {rows} AND ({any}) AND {run} <> '{except}' ORDER BY \"_batch\", \"_file\", \"_row\"",
            place = name(PLACE),
            file = field(SOURCE_FILE),
            row = field(SOURCE_ROW),
            batch = field(BATCH_ID),
            rows = self.rows.rows_of(selection),
            any = any.join(" OR "),
            run = field(RUN_ID),
        );
        let sizes: HashMap<String, u64> = self
            .rows
            .table
            .files()
            .await?
            .into_iter()
            .map(|file| (file.path.clone(), row_bytes(&file)))
            .collect();
        let mut found = Vec::new();
        let mut runs: HashMap<String, Arc<str>> = HashMap::new();
        for files in self.rows.files().chunks(FILES_AT_ONCE) {
            let names = self.rows.table.file_names(files);
            let places: Vec<Arc<str>> = files.iter().map(|file| file.as_str().into()).collect();
            let mut source_files: HashMap<String, Arc<str>> = HashMap::new();
            let scan = Scan { files: Some(files), file_column: Some(PLACE) };
            let listed = self.rows.table.scan(scan, &sql, |batch| {
                let (in_files, of_files) = (self.rows.strings(&batch, 0)?, self.rows.strings(&batch, 1)?);
                let numbers = batch.column(2).as_primitive::<Int64Type>();
                let of_runs = self.rows.strings(&batch, 4)?;
                for (at, ((place, file), run)) in in_files.into_iter().zip(of_files).zip(of_runs).enumerate()
                {
                    let place = names.get(&place).map(|at| Arc::clone(&places[*at]));
                    let place = place.ok_or_else(|| self.lost_place())?;
                    let file = source_files.entry(file).or_insert_with_key(|file| file.as_str().into());
                    let key = RowKey { file: Arc::clone(file), row: numbers.value(at).cast_unsigned() };
                    let bytes = sizes.get(&*place).copied().unwrap_or(ROW_BYTES);
                    let run = runs.entry(run).or_insert_with_key(|run| run.as_str().into());
                    found.push(FailedRow { key, place, bytes, run: Arc::clone(run) });
                }
                Ok::<(), TableError>(())
            });
            listed.await?;
        }
        Ok(found)
    }

    /// Reads the rows of a batch again, in the order of its parts. Rows that no longer have an error of the selected
    /// kind are left out. `places` are the files in which the rows were last seen.
    ///
    /// # Errors
    /// When the target cannot be read.
    pub async fn reload(
        &mut self,
        batch: BatchId,
        parts: &[FileRange],
        selection: &Selection,
        places: Option<BTreeSet<String>>,
    ) -> Result<Reloaded, TableError> {
        self.rows.refresh().await?;
        let seen = match places {
            Some(places) if self.rows.table.has_files(&places).await? => places.into_iter().collect(),
            _ => self.rows.files().to_vec(),
        };
        let columns = self.columns.fields().iter().map(|field| name(field.name()));
        let given = self.given().flat_map(|(_, output)| output.value_columns());
        let given = given.map(|field| name(field.name()));
        let again = self.rows.outputs.iter().enumerate().flat_map(|(at, output)| {
            let failed = self.rows.failed_as(output, selection);
            let class = format!("{}['error']", self.rows.history(output));
            [
                format!("COALESCE({failed}, FALSE) AS \"__enrich_again_{at}\""),
                format!("CAST({class} AS VARCHAR) AS \"__enrich_class_{at}\""),
            ]
        });
        let own = [
            format!("CAST({} AS VARCHAR)", name(PLACE)),
            format!("CAST({} AS VARCHAR)", self.rows.field(SOURCE_FILE)),
            self.rows.field(SOURCE_ROW),
        ];
        let shown: Vec<String> = own.into_iter().chain(again).chain(columns).chain(given).collect();
        let sql = format!("SELECT {} FROM target WHERE {}", shown.join(", "), self.rows.own_failed());
        let part_index = PartIndex::of(parts);
        let mut kept_rows: Vec<ReadRow> = Vec::new();
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut held = BTreeSet::new();
        for files in seen.chunks(FILES_AT_ONCE) {
            let names = self.rows.table.file_names(files);
            let scan = Scan { files: Some(files), file_column: Some(PLACE) };
            self.rows
                .table
                .scan(scan, &sql, |batch| {
                    let (in_files, of_files) = (self.rows.strings(&batch, 0)?, self.rows.strings(&batch, 1)?);
                    let numbers = batch.column(2).as_primitive::<Int64Type>();
                    let mut steps = Vec::with_capacity(self.rows.outputs.len());
                    for step in 0..self.rows.outputs.len() {
                        let at = OWN + 2 * step;
                        steps.push((
                            batch.column(at).as_boolean().clone(),
                            self.rows.strings(&batch, at + 1)?,
                        ));
                    }
                    let mut picked = Vec::new();
                    for (at, file) in of_files.iter().enumerate() {
                        let row = numbers.value(at).cast_unsigned();
                        let selected = steps.iter().map(|(again, _)| again.value(at)).collect();
                        let classes: Vec<&str> =
                            steps.iter().map(|(_, classes)| classes[at].as_str()).collect();
                        let again = with_dependents(selected, &classes, &self.needs);
                        let Some(part) = part_index.place(file, row).filter(|_| again.contains(&true)) else {
                            continue;
                        };
                        let unchanged = again.iter().map(|again| !again).collect();
                        let failed = classes.iter().map(|class| !class.is_empty()).collect();
                        picked.push(u32::try_from(at).unwrap_or(u32::MAX));
                        kept_rows.push(ReadRow { part, row, unchanged, failed });
                        let place = names.get(&in_files[at]).ok_or_else(|| self.lost_place())?;
                        held.insert(files[*place].clone());
                    }
                    if !picked.is_empty() {
                        let picked = self.picked(&batch, picked).map_err(|error| self.unreadable(error))?;
                        batches.push(picked);
                    }
                    Ok::<(), TableError>(())
                })
                .await?;
        }
        let reloaded = self.in_order(parts, &batches, &kept_rows).map_err(|error| self.unreadable(error))?;
        self.places.put(batch, held);
        Ok(reloaded)
    }

    /// Returns the steps whose outputs other steps need.
    fn given(&self) -> impl Iterator<Item = (usize, &OutputColumns)> {
        let is_needed = |step: &usize| self.needs.iter().any(|needs| needs.contains(step));
        self.rows.outputs.iter().enumerate().filter(move |(step, _)| is_needed(step))
    }

    /// Returns the schema of [`FailedRowReader::picked`]: the source's columns, then those of steps that others need.
    fn picked_columns(&self) -> SchemaRef {
        let given = self.given().flat_map(|(_, output)| output.value_columns()).cloned().map(Arc::new);
        Arc::new(Schema::new(self.columns.fields().iter().cloned().chain(given).collect::<Vec<_>>()))
    }

    /// Takes some rows of a query's batch, without the query's own columns.
    fn picked(&self, batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch, ArrowError> {
        let schema = self.picked_columns();
        let first = OWN + 2 * self.rows.outputs.len();
        let columns = (first..batch.num_columns())
            .zip(schema.fields())
            .map(|(at, field)| cast(batch.column(at), field.data_type()))
            .collect::<Result<_, _>>()?;
        take_record_batch(&RecordBatch::try_new(schema, columns)?, &UInt32Array::from(rows))
    }

    /// Puts the rows that were read into the order of the parts, and splits them into chunks by source file.
    fn in_order(
        &self,
        parts: &[FileRange],
        batches: &[RecordBatch],
        rows: &[ReadRow],
    ) -> Result<Reloaded, ArrowError> {
        let all = concat_batches(&self.picked_columns(), batches)?;
        let mut order: Vec<u32> = (0..u32::try_from(rows.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|at| {
            let ReadRow { part, row, .. } = &rows[*at as usize];
            (*part, *row)
        });
        let all = take_record_batch(&all, &UInt32Array::from(order.clone()))?;
        let of_source: Vec<usize> = (0..self.columns.fields().len()).collect();
        let source = all.project(&of_source)?;
        let mut chunks = Vec::new();
        let mut first = 0;
        let file = |at: &u32| parts[rows[*at as usize].part].file.as_str();
        for of_file in order.chunk_by(|a, b| file(a) == file(b)) {
            let Some(one) = of_file.first() else { continue };
            chunks.push(Chunk {
                file: file(one).into(),
                physical: of_file.iter().map(|at| rows[*at as usize].row).collect(),
                rows: source.slice(first, of_file.len()),
            });
            first += of_file.len();
        }
        let mut values = vec![None; self.rows.outputs.len()];
        let mut next = self.columns.fields().len();
        for (step, output) in self.given() {
            let end = next + output.value_columns().len();
            values[step] = Some(output.value_of(&all.columns()[next..end])?);
            next = end;
        }
        let by_row = |of: fn(&ReadRow) -> &Vec<bool>, step: usize| {
            order.iter().map(|at| of(&rows[*at as usize])[step]).collect()
        };
        let kept = values.into_iter().enumerate().map(|(step, values)| UnchangedStep {
            unchanged: by_row(|row| &row.unchanged, step),
            failed: by_row(|row| &row.failed, step),
            values,
        });
        Ok(Reloaded { chunks, kept: kept.collect() })
    }

    fn unreadable(&self, source: ArrowError) -> TableError {
        TableError { action: "read", at: self.rows.table.at().clone(), source: Box::new(source) }
    }

    fn lost_place(&self) -> TableError {
        self.unreadable(ArrowError::InvalidArgumentError("a row is in a file that was not requested".into()))
    }
}

/// Returns for each step of a row whether it is sent again: the selected steps, the steps that failed because one of
/// these failed, and the steps that caused a selected one to fail. `classes` holds each step's class of error, empty
/// if the step did not fail.
fn with_dependents(mut again: Vec<bool>, classes: &[&str], needs: &[Vec<usize>]) -> Vec<bool> {
    loop {
        let mut more = false;
        for (step, needs) in
            needs.iter().enumerate().filter(|(step, _)| classes[*step] == Class::Upstream.name())
        {
            if !again[step] && needs.iter().any(|needed| again[*needed]) {
                again[step] = true;
                more = true;
            }
            for needed in needs.iter().filter(|needed| !classes[**needed].is_empty()) {
                if again[step] && !again[*needed] {
                    again[*needed] = true;
                    more = true;
                }
            }
        }
        if !more {
            return again;
        }
    }
}

/// Estimates the memory that a row of a file takes, in bytes: text is several times as large in memory as in the
/// file.
fn row_bytes(file: &DataFile) -> u64 {
    file.rows.filter(|rows| *rows > 0).map_or(ROW_BYTES, |rows| (file.size * 5 / rows).max(ROW_BYTES))
}

/// The parts of a batch: for each source file by their start, each with its end and its index in the batch.
struct PartIndex<'a>(HashMap<&'a str, BTreeMap<u64, (u64, usize)>>);

impl<'a> PartIndex<'a> {
    fn of(parts: &'a [FileRange]) -> Self {
        let mut by_file: HashMap<&str, BTreeMap<u64, (u64, usize)>> = HashMap::new();
        for (at, part) in parts.iter().enumerate() {
            by_file.entry(&part.file).or_default().insert(part.start, (part.end, at));
        }
        PartIndex(by_file)
    }

    /// Returns the index of the part that holds a row.
    fn place(&self, file: &str, row: u64) -> Option<usize> {
        let (_, (end, at)) = self.0.get(file)?.range(..=row).next_back()?;
        (row < *end).then_some(*at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_sent_again_with_those_that_depend_on_it() {
        // Step 1 needs 0, 2 needs 1, 3 needs nothing.
        let needs = [vec![], vec![0], vec![1], vec![]];
        let again =
            |selected: [bool; 4], classes: [&str; 4]| with_dependents(selected.into(), &classes, &needs);
        let failed = ["refusal", "upstream", "upstream", "timeout"];
        assert_eq!(again([true, false, false, false], failed), [true, true, true, false]);
        assert_eq!(
            again([false, false, true, false], failed),
            [true, true, true, false],
            "and what it failed of"
        );
        assert_eq!(again([false, false, false, true], failed), [false, false, false, true]);
        let middle = ["", "refusal", "upstream", ""];
        assert_eq!(again([false, true, false, false], middle), [false, true, true, false]);
    }
}

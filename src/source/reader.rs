//! Rows of Parquet files, read forward.

use std::ops::Range;
use std::sync::Arc;

use ::arrow::array::{ArrayRef, StringArray, new_null_array};
use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelector};

use parquet::file::reader::Length;

use super::SourceError;
use super::conform::{ambiguous, cast, conform, find, place};
use super::file::Root;
use super::footer::metadata;
use super::row_mask::RowMask;
use crate::checkpoint::FileRange;
use crate::rows::Chunk;
use crate::table::physical_name;

/// Rows are decoded in pieces of about this many bytes.
const PIECE_BYTES: u64 = 1_000_000;
const PIECE_ROWS: u64 = 8_192;

/// Rows between two parts of a file that are read over; where there are more, the file is opened anew.
const MOST_READ_OVER: u64 = 50_000;

/// Reads parts of files; a part that begins where the last one ended goes on with the same reader.
#[derive(Debug)]
pub struct RowReader {
    root: Root,
    schema: SchemaRef,
    /// The same columns with what the table notes about them.
    noted: SchemaRef,
    open: Option<OpenFile>,
    decoded: u64,
}

struct OpenFile {
    file: String,
    reader: ParquetRecordBatchReader,
    /// The rows that the reader gives.
    kept: RowMask,
    /// Everything before this physical row is read.
    at: u64,
    rest: Option<RecordBatch>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({} at row {})", self.file, self.at)
    }
}

impl RowReader {
    /// A reader of files below `root` that gives rows in these columns; `noted` are the same with what the table
    /// notes about them.
    #[must_use]
    pub fn new(root: impl Into<Root>, schema: SchemaRef, noted: SchemaRef) -> Self {
        RowReader { root: root.into(), schema, noted, open: None, decoded: 0 }
    }

    /// Rows decoded so far, those passed over inside a row group included.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Reads those rows of a part that are kept. Blocks.
    ///
    /// # Errors
    /// When the file is gone, has changed since it was planned, or cannot be decoded.
    pub fn read(&mut self, part: &FileRange, kept: &RowMask) -> Result<Vec<Chunk>, SourceError> {
        let wanted: Vec<u64> = kept.rows(part.rows()).collect();
        let continues = self.open.as_ref().is_some_and(|open| {
            let gap = part.start.checked_sub(open.at);
            open.file == part.file
                && gap.is_some_and(|rows| rows <= MOST_READ_OVER)
                && open.kept.is_same(kept)
        });
        if !continues && !wanted.is_empty() {
            self.open = None;
            self.open = Some(self.open_at(part, kept)?);
        }
        let path = self.root.place(&part.file);
        let file: Arc<str> = part.file.as_str().into();
        let mut chunks = Vec::new();
        let mut left = wanted.as_slice();
        // Rows between the last part and this one.
        let mut passed = match &self.open {
            Some(open) if continues => open.kept.rows(open.at..part.start).count(),
            _ => 0,
        };
        while let ([first, ..], Some(open)) = (left, &mut self.open) {
            let rows = match open.rest.take() {
                Some(rows) => rows,
                None => match open.reader.next() {
                    Some(rows) => {
                        let rows = rows.map_err(|error| {
                            SourceError::file(
                                &path,
                                format!("{error}; it is damaged, or some of its columns are encrypted"),
                            )
                        })?;
                        self.decoded += rows.num_rows() as u64;
                        rows
                    }
                    None => return Err(SourceError::file(&path, format!("it ends before row {first}"))),
                },
            };
            let skipped = passed.min(rows.num_rows());
            passed -= skipped;
            let rows = rows.slice(skipped, rows.num_rows() - skipped);
            if rows.num_rows() == 0 {
                continue;
            }
            let taken = left.len().min(rows.num_rows());
            if taken < rows.num_rows() {
                open.rest = Some(rows.slice(taken, rows.num_rows() - taken));
            }
            let rows = self.conform(&rows.slice(0, taken), part)?;
            chunks.push(Chunk { file: Arc::clone(&file), physical: left[..taken].to_vec(), rows });
            left = &left[taken..];
        }
        // What was not wanted has been passed over as well.
        if let Some(open) = self.open.as_mut().filter(|_| continues || !wanted.is_empty()) {
            open.at = part.end;
        }
        Ok(chunks)
    }

    /// Opens a file at the first row of a part, for the rows from there on that are kept. Row groups without one
    /// are not read.
    fn open_at(&mut self, part: &FileRange, kept: &RowMask) -> Result<OpenFile, SourceError> {
        let path = self.root.place(&part.file);
        let error = |error: &dyn ToString| SourceError::file(&path, error.to_string());
        let file = self.root.open(&part.file).map_err(|error| SourceError::gone(&path, part, error))?;
        let size = file.len();
        if size != part.size {
            return Err(error(&format!("it had {} bytes when it was planned and has {size} now", part.size)));
        }
        let metadata = metadata(&file, &path, self.root.byte_strings())?;
        let of_file = metadata.schema().fields();
        if let Some((one, other)) = self.noted.fields().iter().find_map(|noted| ambiguous(of_file, noted)) {
            return Err(error(&format!(
                "its columns {one:?} and {other:?} are one to the table, which does not tell capital from small letters"
            )));
        }
        let mut picked = Vec::new();
        let mut selectors: Vec<RowSelector> = Vec::new();
        let (mut end, mut row_bytes) = (0, 1);
        for (at, group) in metadata.metadata().row_groups().iter().enumerate() {
            let first = end;
            end += u64::try_from(group.num_rows()).unwrap_or_default();
            let of_group = selection(first.max(part.start)..end, kept);
            if !of_group.iter().any(|selector| !selector.skip) {
                continue;
            }
            picked.push(at);
            row_bytes = row_bytes.max(group.total_byte_size() / group.num_rows().max(1));
            let skipped = part.start.saturating_sub(first);
            if skipped > 0 {
                selectors.push(RowSelector::skip(usize::try_from(skipped).unwrap_or(usize::MAX)));
                self.decoded += skipped;
            }
            selectors.extend(of_group);
        }
        let piece = PIECE_BYTES / u64::try_from(row_bytes).unwrap_or_default().max(1);
        let wanted = self.noted.fields().iter().filter_map(|noted| place(metadata.schema().fields(), noted));
        let columns = ProjectionMask::roots(metadata.parquet_schema(), wanted);
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_row_groups(picked)
            .with_projection(columns)
            .with_batch_size(usize::try_from(piece.clamp(1, PIECE_ROWS)).unwrap_or(usize::MAX));
        if selectors.iter().any(|selector| selector.skip) {
            builder = builder.with_row_selection(selectors.into());
        }
        let reader = builder.build().map_err(|source| error(&source))?;
        Ok(OpenFile { file: part.file.clone(), reader, kept: kept.clone(), at: part.start, rest: None })
    }

    /// Brings rows of a file to the source's columns: by name, with partition values as constants and null
    /// where the file has no such column.
    fn conform(&self, rows: &RecordBatch, part: &FileRange) -> Result<RecordBatch, SourceError> {
        let path = self.root.place(&part.file);
        let file = rows.schema_ref().fields();
        let columns = self.schema.fields().iter().zip(self.noted.fields()).map(|(field, noted)| {
            let name = field.name();
            let wrong = |error: &dyn ToString| {
                SourceError::file(&path, format!("column {name:?}: {}", error.to_string()))
            };
            let constant = part.partition.get(physical_name(noted));
            if let Some(value) = constant {
                let value = value.as_deref().filter(|value| !value.is_empty());
                let text: ArrayRef =
                    Arc::new(StringArray::from_iter(std::iter::repeat_n(value, rows.num_rows())));
                return cast(&text, field.data_type()).map_err(|error| wrong(&error));
            }
            match find(file, rows.columns(), noted) {
                Some(column) => conform(column, noted, field.data_type()).map_err(|error| wrong(&error)),
                None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            }
        });
        let columns: Result<Vec<ArrayRef>, SourceError> = columns.collect();
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns?, &count)
            .map_err(|error| SourceError::file(&path, error))
    }
}

/// The rows of a range that are kept, as runs.
fn selection(range: Range<u64>, kept: &RowMask) -> Vec<RowSelector> {
    let mut runs: Vec<RowSelector> = Vec::new();
    if kept.is_all() {
        let rows = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        runs.extend((rows > 0).then(|| RowSelector::select(rows)));
        return runs;
    }
    for row in range {
        let skip = !kept.holds(row);
        match runs.last_mut() {
            Some(run) if run.skip == skip => run.row_count += 1,
            _ => runs.push(RowSelector { row_count: 1, skip }),
        }
    }
    runs
}

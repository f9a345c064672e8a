//! Rows of Parquet files, read forward.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use ::arrow::array::{Array, ArrayRef, BooleanArray, StringArray, new_null_array};
use ::arrow::compute::filter_record_batch;
use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelector};

use super::SourceError;
use super::conform::{cast, conform, find, physical_name};
use super::shape::metadata;
use crate::checkpoint::Part;

/// Rows are decoded in pieces of about this many bytes.
const PIECE_BYTES: u64 = 1_000_000;
const PIECE_ROWS: u64 = 8_192;

/// Consecutive rows of one file.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Path of the file, relative to the source's root.
    pub file: Arc<str>,
    /// Physical rows, in the order of `rows`.
    pub physical: Vec<u64>,
    /// The rows, in the source's columns.
    pub rows: RecordBatch,
}

impl Chunk {
    /// What the rows take in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default() as u64;
        self.rows.columns().iter().map(column).sum()
    }
}

/// Reads parts of files; a part that begins where the last one ended goes on with the same reader.
#[derive(Debug)]
pub struct RowReader {
    root: PathBuf,
    schema: SchemaRef,
    /// The same columns with what the table notes about them.
    noted: SchemaRef,
    open: Option<OpenFile>,
    decoded: u64,
}

struct OpenFile {
    file: String,
    reader: ParquetRecordBatchReader,
    /// Physical row that `rest`, or else the reader, begins at.
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
    pub fn new(root: PathBuf, schema: SchemaRef, noted: SchemaRef) -> Self {
        RowReader { root, schema, noted, open: None, decoded: 0 }
    }

    /// Rows decoded so far, those passed over inside a row group included.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Reads the rows of a part, without those that are not kept: one entry for each row of the file, as far as there
    /// are deleted ones. Blocks.
    ///
    /// # Errors
    /// When the file is gone, has changed since it was planned, or cannot be decoded.
    pub fn read(&mut self, part: &Part, kept: Option<&[bool]>) -> Result<Vec<Chunk>, SourceError> {
        let continues =
            self.open.as_ref().is_some_and(|open| open.file == part.file && open.at == part.start);
        if !continues {
            self.open = None;
            self.open = Some(self.open_at(part)?);
        }
        let path = self.root.join(&part.file);
        let file: Arc<str> = part.file.as_str().into();
        let mut chunks = Vec::new();
        let mut at = part.start;
        while at < part.end {
            let Some(open) = &mut self.open else { break };
            let rows = match open.rest.take() {
                Some(rows) => rows,
                None => match open.reader.next() {
                    Some(rows) => {
                        let rows = rows.map_err(|error| SourceError::file(&path, error))?;
                        self.decoded += rows.num_rows() as u64;
                        rows
                    }
                    None => {
                        return Err(SourceError::file(
                            &path,
                            format!("it ends at row {at}, before row {}", part.end),
                        ));
                    }
                },
            };
            let wanted = usize::try_from(part.end - at).unwrap_or(usize::MAX).min(rows.num_rows());
            if wanted < rows.num_rows() {
                open.rest = Some(rows.slice(wanted, rows.num_rows() - wanted));
            }
            let next = at + wanted as u64;
            open.at = next;
            let mut rows = rows.slice(0, wanted);
            let mut physical: Vec<u64> = (at..next).collect();
            let is_kept =
                |row: &u64| kept.and_then(|kept| kept.get(usize::try_from(*row).ok()?)) != Some(&false);
            if !physical.iter().all(is_kept) {
                let mask = BooleanArray::from_iter(physical.iter().map(|row| Some(is_kept(row))));
                rows = filter_record_batch(&rows, &mask).map_err(|error| SourceError::file(&path, error))?;
                physical.retain(is_kept);
            }
            if !physical.is_empty() {
                let rows = self.conform(&rows, part)?;
                chunks.push(Chunk { file: Arc::clone(&file), physical, rows });
            }
            at = next;
        }
        Ok(chunks)
    }

    /// Opens a file at the row group that holds a row.
    fn open_at(&mut self, part: &Part) -> Result<OpenFile, SourceError> {
        let path = self.root.join(&part.file);
        let error = |error: &dyn ToString| SourceError::file(&path, error.to_string());
        let file = File::open(&path).map_err(|source| error(&source))?;
        let size = file.metadata().map_err(|source| error(&source))?.len();
        if size != part.size {
            return Err(error(&format!("it had {} bytes when it was planned and has {size} now", part.size)));
        }
        let metadata = metadata(&path)?;
        let groups = metadata.metadata().row_groups();
        let (mut first_group, mut first_row) = (0, 0);
        for group in groups {
            let rows = u64::try_from(group.num_rows()).unwrap_or_default();
            if first_row + rows > part.start {
                break;
            }
            first_group += 1;
            first_row += rows;
        }
        let skip = part.start - first_row;
        let left: u64 = groups
            .iter()
            .skip(first_group)
            .map(|group| u64::try_from(group.num_rows()).unwrap_or_default())
            .sum();
        let row_bytes = groups.iter().map(|group| group.total_byte_size() / group.num_rows().max(1)).max();
        let row_bytes = u64::try_from(row_bytes.unwrap_or_default()).unwrap_or_default().max(1);
        let piece = (PIECE_BYTES / row_bytes).clamp(1, PIECE_ROWS);
        let rows = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
            .with_row_groups((first_group..groups.len()).collect())
            .with_batch_size(rows(piece));
        if skip > 0 {
            let selection = vec![RowSelector::skip(rows(skip)), RowSelector::select(rows(left - skip))];
            builder = builder.with_row_selection(selection.into());
            self.decoded += skip;
        }
        let reader = builder.build().map_err(|source| error(&source))?;
        Ok(OpenFile { file: part.file.clone(), reader, at: part.start, rest: None })
    }

    /// Brings rows of a file to the source's columns: by name, with partition values as constants and null
    /// where the file has no such column.
    fn conform(&self, rows: &RecordBatch, part: &Part) -> Result<RecordBatch, SourceError> {
        let path = self.root.join(&part.file);
        let file = rows.schema_ref().fields();
        let columns = self.schema.fields().iter().zip(self.noted.fields()).map(|(field, noted)| {
            let name = field.name();
            let wrong = |error: &dyn ToString| {
                SourceError::file(&path, format!("column {name:?}: {}", error.to_string()))
            };
            let constant = part.partition.get(physical_name(noted)).or_else(|| part.partition.get(name));
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
        RecordBatch::try_new(Arc::clone(&self.schema), columns?)
            .map_err(|error| SourceError::file(&path, error))
    }
}

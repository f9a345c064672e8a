//! The reader of a source's rows. It goes forward through a file and reads only the rows of a mask.

use std::sync::Arc;

use ::arrow::array::{ArrayRef, StringArray, new_null_array};
use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::SourceError;
use super::conform::{cast, conform, find};
use super::file_format::{Pieces, SourceFiles};
use super::row_mask::RowMask;
use crate::checkpoint::FileRange;
use crate::rows::Chunk;
use crate::table::physical_name;

/// Most rows between two parts of a file that are read and dropped. For a larger gap the file is opened again.
const MAX_GAP_ROWS: u64 = 50_000;

/// Reads parts of files. A part that begins where the last one ended, or not far after it, goes on in the open file.
#[derive(Debug)]
pub struct RowReader {
    files: SourceFiles,
    schema: SchemaRef,
    /// The same columns with their table's metadata.
    noted: SchemaRef,
    open: Option<OpenFile>,
    decoded: u64,
}

struct OpenFile {
    file: String,
    pieces: Pieces,
    /// The mask of the rows that `pieces` yields.
    kept: RowMask,
    /// The physical row up to which the file is read.
    at: u64,
    rest: Option<RecordBatch>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({} at row {})", self.file, self.at)
    }
}

impl RowReader {
    /// Returns a reader of `files` that yields rows with the columns of `schema`. `noted` are the same columns with
    /// their table's metadata.
    #[must_use]
    pub fn new(files: impl Into<SourceFiles>, schema: SchemaRef, noted: SchemaRef) -> Self {
        RowReader { files: files.into(), schema, noted, open: None, decoded: 0 }
    }

    /// Returns the number of rows decoded so far, including those passed over to reach a part.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Reads the kept rows of a part. Blocks.
    ///
    /// # Errors
    /// When the file is gone, has changed since it was planned, or cannot be decoded.
    pub fn read(&mut self, part: &FileRange, kept: &RowMask) -> Result<Vec<Chunk>, SourceError> {
        let selected_rows: Vec<u64> = kept.rows(part.rows()).collect();
        let continues = self.open.as_ref().is_some_and(|open| {
            let gap = part.start.checked_sub(open.at);
            open.file == part.file && gap.is_some_and(|rows| rows <= MAX_GAP_ROWS) && open.kept.is_same(kept)
        });
        if !continues && !selected_rows.is_empty() {
            self.open = None;
            self.open = Some(self.open_at(part, kept)?);
        }
        let path = self.files.root().place(&part.file);
        let file: Arc<str> = part.file.as_str().into();
        let mut chunks = Vec::new();
        let mut left = selected_rows.as_slice();
        // Kept rows between the last part and this one, which are dropped.
        let mut passed = match &self.open {
            Some(open) if continues => open.kept.rows(open.at..part.start).count(),
            _ => 0,
        };
        while let ([first, ..], Some(open)) = (left, &mut self.open) {
            let rows = match open.rest.take() {
                Some(rows) => rows,
                None => match open.pieces.next() {
                    Some(rows) => {
                        let rows = rows.map_err(|error| SourceError::file(&path, error))?;
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
        // The rows of the part that are not kept count as read, too.
        if let Some(open) = self.open.as_mut().filter(|_| continues || !selected_rows.is_empty()) {
            open.at = part.end;
        }
        Ok(chunks)
    }

    /// Opens a file to read its kept rows from the first row of a part on.
    fn open_at(&mut self, part: &FileRange, kept: &RowMask) -> Result<OpenFile, SourceError> {
        let (pieces, decoded_before) = self.files.open(part, kept, &self.noted)?;
        self.decoded += decoded_before;
        Ok(OpenFile { file: part.file.clone(), pieces, kept: kept.clone(), at: part.start, rest: None })
    }

    /// Converts rows of a file to the source's columns: by name, with partition values as constants and null where the
    /// file lacks the column.
    fn conform(&self, rows: &RecordBatch, part: &FileRange) -> Result<RecordBatch, SourceError> {
        let path = self.files.root().place(&part.file);
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

//! Rows of Parquet files, read forward.

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

/// Rows between two parts of a file that are read over; where there are more, the file is opened anew.
const MOST_READ_OVER: u64 = 50_000;

/// Reads parts of files; a part that begins where the last one ended goes on with the same reader.
#[derive(Debug)]
pub struct RowReader {
    files: SourceFiles,
    schema: SchemaRef,
    /// The same columns with what the table notes about them.
    noted: SchemaRef,
    open: Option<OpenFile>,
    decoded: u64,
}

struct OpenFile {
    file: String,
    pieces: Pieces,
    /// The rows that the pieces hold.
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
    pub fn new(files: impl Into<SourceFiles>, schema: SchemaRef, noted: SchemaRef) -> Self {
        RowReader { files: files.into(), schema, noted, open: None, decoded: 0 }
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
        let path = self.files.root().place(&part.file);
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
        // What was not wanted has been passed over as well.
        if let Some(open) = self.open.as_mut().filter(|_| continues || !wanted.is_empty()) {
            open.at = part.end;
        }
        Ok(chunks)
    }

    /// Opens a file at the first row of a part, for the rows from there on that are kept.
    fn open_at(&mut self, part: &FileRange, kept: &RowMask) -> Result<OpenFile, SourceError> {
        let (pieces, decoded_before) = self.files.open(part, kept, &self.noted)?;
        self.decoded += decoded_before;
        Ok(OpenFile { file: part.file.clone(), pieces, kept: kept.clone(), at: part.start, rest: None })
    }

    /// Brings rows of a file to the source's columns: by name, with partition values as constants and null
    /// where the file has no such column.
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

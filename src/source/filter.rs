//! The condition that rows of a source must meet.

use std::sync::Arc;

use ::arrow::datatypes::{Schema, SchemaRef};

use super::file_format::SourceFiles;
use super::reader::RowReader;
use super::row_mask::RowMask;
use super::{SourceError, conform};
use crate::checkpoint::FileRange;
use crate::table::Condition;

/// Number of rows that are evaluated together.
const PIECE_ROWS: usize = 65_536;

/// A condition, with what is needed to read its columns.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    condition: Condition,
    files: SourceFiles,
    schema: SchemaRef,
    noted: SchemaRef,
}

impl Filter {
    /// Compiles the condition `written` in the job file. `noted` are all columns of the source, with their table's
    /// metadata.
    pub(super) fn new(written: &str, files: &SourceFiles, noted: &SchemaRef) -> Result<Self, SourceError> {
        let wrong = |message| SourceError::Condition { condition: written.to_owned(), message };
        let condition = Condition::new(written, noted).map_err(wrong)?;
        let noted = noted.project(condition.columns()).map_err(|error| wrong(error.to_string()))?;
        let schema: Schema = Schema::new(conform::logical(noted.fields()));
        Ok(Filter { condition, files: files.clone(), schema: schema.into(), noted: noted.into() })
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Returns for each row of a part's file whether it is read: it is in `there` and meets the condition. Row groups
    /// whose statistics rule the condition out are not decoded. Blocks.
    pub(super) fn rows(&self, part: &FileRange, there: &RowMask) -> Result<Arc<[bool]>, SourceError> {
        let path = self.files.root().place(&part.file);
        let candidates = self.files.candidates(part, &self.condition, there)?;
        let mut selected = vec![false; candidates.len()];
        let candidates = RowMask::undeleted(Some(candidates.into()));
        let mut reader =
            RowReader::new(self.files.clone(), Arc::clone(&self.schema), Arc::clone(&self.noted));
        for start in (0..selected.len()).step_by(PIECE_ROWS) {
            let end = selected.len().min(start + PIECE_ROWS);
            let piece = FileRange { start: start as u64, end: end as u64, ..part.clone() };
            for chunk in reader.read(&piece, &candidates)? {
                for (row, holds) in chunk.physical.iter().zip(self.condition.of_rows(&chunk.rows)) {
                    let holds = holds.map_err(|message| SourceError::Condition {
                        condition: self.condition.written().to_owned(),
                        message: format!("for row {row} of {path}: {message}"),
                    })?;
                    if let Some(selected) = usize::try_from(*row).ok().and_then(|row| selected.get_mut(row)) {
                        *selected = holds;
                    }
                }
            }
        }
        Ok(selected.into())
    }
}

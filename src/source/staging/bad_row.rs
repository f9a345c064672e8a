//! Rows that cannot be read, and files.

use std::io;

use serde::Serialize;

use crate::config::{FilesSpec, OnBadRow};

/// Reason why a row of another encoding is not read.
pub(super) const NOT_TEXT: &str = "it is not UTF-8; if the file is Latin-1 or Windows-1252, convert it, as with iconv -f WINDOWS-1252 -t UTF-8";
/// Most skipped rows of a file that are noted one by one.
const MAX_NOTED: usize = 100_000;

/// Why a file cannot be staged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    /// It has no bytes yet.
    #[error("it is empty")]
    Empty,
    /// A row stops the file.
    #[error("{row}; mend the row, or leave such rows out with {section}.on_bad_row = \"skip\"")]
    Row {
        row: BadRow,
        /// The section of the job file that says how the file is read.
        section: String,
    },
    /// The file as a whole is wrong.
    #[error("{0}")]
    File(String),
    /// The file cannot be read, or its rows cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The rows cannot be written as Parquet.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The rows are not what their columns hold.
    #[error(transparent)]
    Arrow(#[from] ::arrow::error::ArrowError),
}

/// A row that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("line {line}{}: {reason}", column.as_ref().map_or_else(String::new, |column| format!(", column {column:?}")))]
pub(super) struct BadRow {
    /// Line on which it begins, from 1.
    pub(super) line: u64,
    /// Column of the wrong value; `None` if the row as a whole is wrong.
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

/// The rows of a file that were skipped.
#[derive(Debug)]
pub(super) struct SkippedRows {
    on_bad_row: OnBadRow,
    section: String,
    pub(super) count: u64,
    pub(super) noted: Vec<BadRow>,
}

impl SkippedRows {
    pub(super) fn new(spec: &FilesSpec) -> Self {
        let (on_bad_row, section) = (spec.on_bad_row, spec.section.clone());
        SkippedRows { on_bad_row, section, count: 0, noted: Vec::new() }
    }

    /// Forgets all rows, before the file is read again.
    pub(super) fn clear(&mut self) {
        (self.count, self.noted) = (0, Vec::new());
    }

    /// Skips a row.
    ///
    /// # Errors
    /// When the job stops at such rows.
    pub(super) fn skip(&mut self, row: BadRow) -> Result<(), StageError> {
        if self.on_bad_row == OnBadRow::Stop {
            return Err(StageError::Row { row, section: self.section.clone() });
        }
        self.count += 1;
        if self.noted.len() < MAX_NOTED {
            self.noted.push(row);
        }
        Ok(())
    }
}

/// Returns a value for a message, cut if it is long.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

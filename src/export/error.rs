//! The errors of an export.

use std::io;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use super::format::ExportFormat;
use crate::sink::FailedError;
use crate::store::{Location, LocationError, StoreError};
use crate::table::TableError;
use crate::wording::counted;

/// Reason why rows cannot be turned into the bytes of a file.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Not as text.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// Not as Parquet.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// Not compressed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reason why rows cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The choice of rows does not fit the target, or the target cannot be read.
    #[error(transparent)]
    Rows(#[from] FailedError),
    /// The target cannot be read to its end.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows do not fit the format.
    #[error("the rows cannot be written as {format}: {source}")]
    Encode {
        /// The format.
        format: ExportFormat,
        /// Why.
        source: EncodeError,
    },
    /// Standard output cannot be written.
    #[error("cannot write to the standard output: {0}")]
    StandardOutput(io::Error),
    /// The reader of standard output has closed it.
    #[error("the reader of the standard output closed it after {}", counted(*rows, "row"))]
    ReaderClosed {
        /// Number of rows that were written.
        rows: u64,
    },
    /// A signal asked to stop.
    #[error("interrupted; nothing was exported")]
    Interrupted,
    /// There is no target.
    #[error("there is no target {at} yet")]
    NoTarget {
        /// Where it would be.
        at: Location,
    },
    /// The destination is no location.
    #[error("--to {0}")]
    Location(LocationError),
    /// Nothing states the format.
    #[error("{written:?} does not say in which format: {}", formats())]
    UnknownFormat {
        /// The destination as the user gave it.
        written: String,
    },
    /// The name of the file states another format.
    #[error("the name {written:?} says {named}, and --format says {format}")]
    OtherFormat {
        /// The destination as the user gave it.
        written: String,
        /// The format that its ending states.
        named: ExportFormat,
        /// The format that was asked for.
        format: ExportFormat,
    },
    /// A file has the name.
    #[error("{at} is there already")]
    Exists {
        /// The file.
        at: Location,
    },
    /// The folder holds something.
    #[error("the folder {at} is not empty")]
    NotEmpty {
        /// The folder.
        at: Location,
    },
    /// The path is that of a file.
    #[error("{at} is a file, and --to names a folder")]
    NotAFolder {
        /// The path.
        at: Location,
    },
    /// The path is that of a device or the like.
    #[error("{at} is not a file")]
    NotAFile {
        /// The path.
        at: Location,
    },
    /// The destination is one of the job's own tables, or inside it.
    #[error("{at} is in the job's {table}, which would take the files for its own")]
    OwnTable {
        /// The destination.
        at: Location,
        /// Which of the tables.
        table: &'static str,
    },
}

fn formats() -> String {
    let endings = ExportFormat::ALL.map(|format| format!(".{format}"));
    format!("a file's name ends in {}, a folder's in /, or --format says it", endings.join(", "))
}

impl ExportError {
    /// Returns whether the user has to change the command, as opposed to a failure of I/O.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            ExportError::Rows(error) => error.is_usage(),
            ExportError::NoTarget { .. }
            | ExportError::Location(_)
            | ExportError::UnknownFormat { .. }
            | ExportError::OtherFormat { .. }
            | ExportError::Exists { .. }
            | ExportError::NotEmpty { .. }
            | ExportError::NotAFolder { .. }
            | ExportError::NotAFile { .. }
            | ExportError::OwnTable { .. } => true,
            ExportError::Table(_)
            | ExportError::Store(_)
            | ExportError::Encode { .. }
            | ExportError::StandardOutput(_)
            | ExportError::ReaderClosed { .. }
            | ExportError::Interrupted => false,
        }
    }

    /// Returns what the user can do about the error, or `None` if there is nothing to add to its message.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ExportError::NoTarget { .. } => Some("enrich run makes it"),
            ExportError::Exists { .. } => Some("--overwrite replaces it"),
            ExportError::NotEmpty { .. } => Some(
                "name another one, or empty it; without a file _SUCCESS an export into it did not come to its end",
            ),
            ExportError::NotAFile { .. } => Some("--to - writes to the standard output"),
            ExportError::Table(_) | ExportError::Store(_) => Some(
                "see to the disk, the store or the permissions and export again: the target is unchanged",
            ),
            _ => None,
        }
    }
}

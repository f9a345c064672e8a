//! Sources that cannot be read.

use crate::checkpoint::FileRange;
use crate::store::Location;
use crate::table::TableError;
use crate::wording::counted;

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is nothing at its place.
    #[error("the source {path} is not there")]
    Missing {
        /// Where it should be.
        path: Location,
    },
    /// What is there is no table.
    #[error(
        "the source {} is neither a Delta table nor a Parquet file nor a directory of Parquet files",
        path
    )]
    NoTable {
        /// Where it is.
        path: Location,
    },
    /// It has something that this version cannot read.
    #[error("the source {path} {what}")]
    Unsupported {
        /// Where it is.
        path: Location,
        /// What it has.
        what: String,
    },
    /// A commit changes rows that may have been read.
    #[error("version {version} of the source {path} {operation} rows of {}: a later run would not see the change. enrich run --restart asks about the table as it is now; source.skip_change_commits = true passes over such commits, and over every row that they add", counted(*files as u64, "file"))]
    Changed {
        /// Where it is.
        path: Location,
        /// The version.
        version: u64,
        /// What the commit does, for example "deletes".
        operation: String,
        /// Number of files whose rows it takes away.
        files: usize,
    },
    /// The log lacks a version that is to be read.
    #[error(
        "version {version} of the source {} is no longer in its log: the rows that it added cannot be found",
        path
    )]
    Gap {
        /// Where it is.
        path: Location,
        /// The version.
        version: u64,
    },
    /// A column is named that it does not have.
    #[error("source.columns names {column:?}, and the source {path} has no such column{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
    UnknownColumn {
        /// Where it is.
        path: Location,
        /// The column.
        column: String,
        /// The one that was meant, perhaps.
        near: Option<String>,
    },
    /// The condition on its rows is wrong.
    #[error("source.where = {condition:?} is wrong: {message}")]
    Condition {
        /// As it stands in the job file.
        condition: String,
        /// What is wrong.
        message: String,
    },
    /// The place to start at is not there.
    #[error("source.{key} of {path}: {message}")]
    Start {
        /// Where it is.
        path: Location,
        /// The key in the job file.
        key: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A planned file is not there any more.
    #[error("the source file {path} is gone, and rows of it are planned and not written: {}", if *is_of_table { "it was deleted, or taken out of the table and vacuumed" } else { "it was deleted or renamed" })]
    Gone {
        /// The file.
        path: Location,
        /// Whether a Delta table had it.
        is_of_table: bool,
    },
    /// A file cannot be read.
    #[error("cannot read the source file {path}: {message}")]
    File {
        /// The file.
        path: Location,
        /// Why.
        message: String,
    },
    /// Its log cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl SourceError {
    /// Returns what to do about it, or `None` if the message says it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SourceError::Gone { is_of_table: true, .. } => Some(
                "bring the file back (from a backup, or RESTORE the table); a longer delta.deletedFileRetentionDuration keeps files as long as a job takes. Without the file only enrich run --restart goes on",
            ),
            SourceError::Gap { .. } => Some(
                "a longer delta.logRetentionDuration keeps the log as long as there may be between two runs. Without that version only enrich run --restart goes on, which reads the table as it is now",
            ),
            SourceError::File { .. } | SourceError::Gone { is_of_table: false, .. } => {
                Some("mend the file, or bring it back as it was; what is answered is kept")
            }
            SourceError::Missing { .. }
            | SourceError::NoTable { .. }
            | SourceError::Unsupported { .. }
            | SourceError::Changed { .. }
            | SourceError::UnknownColumn { .. }
            | SourceError::Condition { .. }
            | SourceError::Start { .. }
            | SourceError::Table(_) => None,
        }
    }

    /// Returns whether the job or its surroundings are to be mended, as opposed to trouble on the way.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            SourceError::Missing { .. }
            | SourceError::NoTable { .. }
            | SourceError::Unsupported { .. }
            | SourceError::Changed { .. }
            | SourceError::UnknownColumn { .. }
            | SourceError::Condition { .. }
            | SourceError::Start { .. }
            | SourceError::Gap { .. }
            | SourceError::Gone { .. } => true,
            SourceError::File { .. } | SourceError::Table(_) => false,
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "errors and strings are handed over alike")]
    pub(crate) fn file(path: &Location, message: impl ToString) -> Self {
        SourceError::File { path: path.to_owned(), message: message.to_string() }
    }

    /// For a planned file that cannot be opened.
    pub(super) fn gone(path: &Location, part: &FileRange, error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                SourceError::Gone { path: path.to_owned(), is_of_table: part.version.is_some() }
            }
            _ => SourceError::file(path, error),
        }
    }
}

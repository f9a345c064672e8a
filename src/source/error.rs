//! Errors of opening and reading a source.

use crate::checkpoint::FileRange;
use crate::store::{HubError, Location, StoreError};
use crate::table::TableError;
use crate::wording::counted;

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing exists at the source's location.
    #[error("the source {path} is not there")]
    Missing {
        /// Location of the source.
        path: Location,
    },
    /// The location holds neither a Delta table nor files of a known format.
    #[error(
        "the source {} is neither a Delta table nor a file or directory of Parquet, CSV, TSV, JSON, Arrow IPC or Avro; \
         source.format says what files are whose names do not",
        path
    )]
    NoTable {
        /// Location of the source.
        path: Location,
    },
    /// The source cannot be read, or does not fit the checkpoint or target.
    #[error("the source {path} {what}")]
    Unsupported {
        /// Location of the source.
        path: Location,
        /// Predicate of the message's sentence, such as "has no files".
        what: String,
    },
    /// A commit changes rows that may have been read.
    #[error("version {version} of the source {path} {operation} rows of {}: a later run would not see the change. enrich run --restart sends the rows of the table as it is now; source.skip_change_commits = true passes over such commits, and over every row that they add", counted(*files as u64, "file"))]
    Changed {
        /// Location of the source.
        path: Location,
        /// Version that the commit made.
        version: u64,
        /// What the commit does, such as "(DELETE) deletes or rewrites".
        operation: String,
        /// Number of files whose rows the commit deletes or rewrites.
        files: usize,
    },
    /// The log lacks a version that is to be read.
    #[error(
        "version {version} of the source {} is no longer in its log: the rows that it added cannot be found",
        path
    )]
    Gap {
        /// Location of the source.
        path: Location,
        /// The missing version.
        version: u64,
    },
    /// `source.columns` names a column that the source does not have.
    #[error("source.columns names {column:?}, and the source {path} has no such column{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near:?}?")))]
    UnknownColumn {
        /// Location of the source.
        path: Location,
        /// Name in the job file.
        column: String,
        /// The most similar name of a column; `None` if none is similar.
        near: Option<String>,
    },
    /// The condition on rows is invalid, or fails for a row.
    #[error("source.where = {condition:?} is wrong: {message}")]
    Condition {
        /// As written in the job file.
        condition: String,
        /// What is wrong.
        message: String,
    },
    /// The query of the source is wrong, or its result cannot be a source.
    #[error("source.query {message}")]
    Query {
        /// What is wrong, as a predicate.
        message: String,
    },
    /// The query of the source cannot be computed.
    #[error("source.query cannot be computed: {message}")]
    QueryFailed {
        /// The reason.
        message: String,
    },
    /// The source cannot be read from the version or time that the job file states.
    #[error("source.{key} of {path}: {message}")]
    Start {
        /// Location of the source.
        path: Location,
        /// Key in the job file, below `source`.
        key: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A planned file no longer exists.
    #[error("the source file {path} is gone, and rows of it are planned and not written: {}", if *is_of_table { "it was deleted, or taken out of the table and vacuumed" } else { "it was deleted or renamed" })]
    Gone {
        /// Location of the file.
        path: Location,
        /// Whether the file belonged to a Delta table.
        is_of_table: bool,
    },
    /// A file cannot be read.
    #[error("cannot read the source file {path}: {message}")]
    File {
        /// Location of the file.
        path: Location,
        /// The reason.
        message: String,
    },
    /// A dataset repository of Hugging Face cannot be read.
    #[error("cannot read the source {path}: {error}")]
    Hub {
        /// Location of the source.
        path: Location,
        /// The reason.
        error: HubError,
    },
    /// A file cannot be staged, because of the disk.
    #[error(transparent)]
    Staging(#[from] StoreError),
    /// The log of a Delta table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl SourceError {
    /// Returns what to do about the error, or `None` if its message is enough.
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
            | SourceError::Query { .. }
            | SourceError::QueryFailed { .. }
            | SourceError::Hub { .. }
            | SourceError::Staging(_)
            | SourceError::Table(_) => None,
        }
    }

    /// Whether the job or the source has to be changed, as opposed to a failure while reading.
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
            | SourceError::Query { .. }
            | SourceError::Gap { .. }
            | SourceError::Gone { .. } => true,
            SourceError::Hub { error, .. } => error.is_usage(),
            SourceError::File { .. }
            | SourceError::QueryFailed { .. }
            | SourceError::Staging(_)
            | SourceError::Table(_) => false,
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "errors and strings are handed over alike")]
    pub(crate) fn file(path: &Location, message: impl ToString) -> Self {
        SourceError::File { path: path.to_owned(), message: message.to_string() }
    }

    /// Returns the error for a planned file that cannot be opened.
    pub(super) fn missing_file(path: &Location, part: &FileRange, error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                SourceError::Gone { path: path.to_owned(), is_of_table: part.version.is_some() }
            }
            _ => SourceError::file(path, error),
        }
    }
}

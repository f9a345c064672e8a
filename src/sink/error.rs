//! Errors of targets that do not fit a job or cannot be used.

use crate::store::Location;
use crate::table::TableError;

/// Table property that lets a `txn` action expire, after which a batch could be written again.
pub(super) const RETENTION: &str = "delta.setTransactionRetentionDuration";

/// Reason why a target cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Columns that the job would write have clashing names or unusable types.
    #[error("{message}")]
    Columns {
        /// The clash and its remedy.
        message: String,
    },
    /// The table's columns do not fit the job's.
    #[error("the target {at} does not fit this job: {what}")]
    Schema {
        /// Location of the table.
        at: Location,
        /// The first difference.
        what: String,
    },
    /// The table lets its `txn` actions expire.
    #[error(
        "the target {} sets {RETENTION}: a forgotten transaction could be written again. Unset the property",
        at
    )]
    Retention {
        /// Location of the table.
        at: Location,
    },
    /// The table is append-only.
    #[error("the target {at} is append-only (delta.appendOnly): failed rows cannot be replaced in it")]
    AppendOnly {
        /// Location of the table.
        at: Location,
    },
    /// The table holds rows of other jobs.
    #[error("the target {at} holds {rows} rows of other jobs, so it is not emptied")]
    Shared {
        /// Location of the table.
        at: Location,
        /// Number of rows of other jobs.
        rows: u64,
    },
    /// The log does not show which job the rows of the table belong to.
    #[error(
        "the target {} may hold rows of others, so it is not emptied: target.metadata is off, and its log does not show that every row is of this job",
        at
    )]
    Unowned {
        /// Location of the table.
        at: Location,
    },
    /// The rows do not name their source rows.
    #[error("{}: nothing says which source row a row is, so failed rows cannot be sent again", pending_columns(at, metadata.as_deref()))]
    NoKeys {
        /// Location of the table.
        at: Location,
        /// Name of the metadata column, or `None` if the job turns it off.
        metadata: Option<String>,
    },
    /// The job has a metadata column and the table has none.
    #[error(
        "the target {} does not fit this job: it has no column {metadata:?}, and target.metadata is on",
        at
    )]
    NoMetadata {
        /// Location of the table.
        at: Location,
        /// Name of the metadata column.
        metadata: String,
    },
    /// The table has a metadata column and the job has none.
    #[error(
        "the target {} does not fit this job: its column {metadata:?} says where rows came from, and target.metadata is off",
        at
    )]
    HasMetadata {
        /// Location of the table.
        at: Location,
        /// Name of the metadata column.
        metadata: String,
    },
    /// Data files that the log names no longer exist.
    #[error(
        "of {files} data files of the target {}, {missing} are not on the disk, for example {example}",
        at
    )]
    FilesGone {
        /// Location of the table.
        at: Location,
        /// Number of files that the log names.
        files: usize,
        /// Number of files that are missing.
        missing: usize,
        /// Path of a missing file, relative to the table.
        example: String,
    },
    /// The table has a feature that a write would violate.
    #[error("the target {at} has the table feature {feature}, which cannot be written")]
    Feature {
        /// Location of the table.
        at: Location,
        /// The feature's name in the Delta protocol.
        feature: String,
    },
    /// A constraint of the table cannot be checked.
    #[error("the target {at} demands that {demand} holds: {message}")]
    Constraint {
        /// Location of the table.
        at: Location,
        /// The constraint.
        demand: String,
        /// Why it cannot be checked.
        message: String,
    },
    /// A row breaks a constraint of the table even as an error row.
    #[error(
        "the target {} demands that {demand} holds, which row {row} of {file} does not do, also as an error row",
        at
    )]
    Unwritable {
        /// Location of the table.
        at: Location,
        /// The constraint.
        demand: String,
        /// The row's source file.
        file: String,
        /// Physical row number in that file.
        row: u64,
    },
    /// The table was restored to an earlier version while a run was writing to it.
    #[error("the target {at} was restored to an earlier version (its version {version}) during the run")]
    Restored {
        /// Location of the table.
        at: Location,
        /// Version of the restoring commit.
        version: u64,
    },
    /// Something other than a Delta table is at the target's location.
    #[error("the target {at} is there and is no Delta table")]
    NoTable {
        /// Location of the target.
        at: Location,
    },
    /// The table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl TargetError {
    /// Returns what the user can do, or `None` if the message already says it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            TargetError::NoTable { .. } => {
                Some("give the answers a place of their own: target.path names a Delta table, or nothing yet")
            }
            TargetError::NoKeys { .. } => Some(
                "enrich errors lists them; enrich run --restart sends every row again; only a target made with target.metadata = true can be retried",
            ),
            TargetError::NoMetadata { .. } => Some(
                "set target.metadata = false to go on without the column, or give the answers another target.path",
            ),
            TargetError::HasMetadata { .. } => Some(
                "take target.metadata = false out to go on with the column (target.metadata_column names it), or give the answers another target.path",
            ),
            TargetError::FilesGone { .. } => Some(
                "bring them back from a backup; without one, take them out of the log (FSCK REPAIR TABLE in Spark, repair() in delta-rs): their rows are lost, and only enrich run --restart sends them again",
            ),
            TargetError::Restored { .. } => Some(
                "enrich run --refill goes on, and sends the rows that are missing now; what was answered is kept",
            ),
            TargetError::Unwritable { .. } => Some(
                "where the row itself breaks it, leave such rows out with source.where; where an error in the output does, let the constraint allow it (OR answer LIKE 'ERROR: %')",
            ),
            TargetError::Feature { .. } => Some(
                "take the feature off the table with the engine that wrote it, or give the answers another target.path",
            ),
            TargetError::Unowned { .. } => {
                Some("give the answers another target.path, or remove this table yourself")
            }
            TargetError::Columns { .. }
            | TargetError::Schema { .. }
            | TargetError::Retention { .. }
            | TargetError::AppendOnly { .. }
            | TargetError::Shared { .. }
            | TargetError::Constraint { .. }
            | TargetError::Table(_) => None,
        }
    }

    /// Returns whether the user has to change the job or the table, as opposed to a failure of I/O.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            TargetError::Columns { .. }
            | TargetError::Schema { .. }
            | TargetError::Retention { .. }
            | TargetError::AppendOnly { .. }
            | TargetError::Shared { .. }
            | TargetError::Unowned { .. }
            | TargetError::NoKeys { .. }
            | TargetError::NoMetadata { .. }
            | TargetError::HasMetadata { .. }
            | TargetError::Feature { .. }
            | TargetError::Constraint { .. }
            | TargetError::Unwritable { .. }
            | TargetError::Restored { .. }
            | TargetError::NoTable { .. } => true,
            TargetError::FilesGone { .. } | TargetError::Table(_) => false,
        }
    }
}

/// Returns the reason why the rows of a target have no metadata.
fn pending_columns(at: &Location, metadata: Option<&str>) -> String {
    match metadata {
        Some(metadata) => format!("the target {at} has no column {metadata:?}"),
        None => format!("target.metadata is off for the target {at}"),
    }
}

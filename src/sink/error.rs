//! Targets that do not fit a job or cannot be used.

use super::target::RETENTION;
use crate::store::Location;
use crate::table::TableError;

/// A target that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The job's columns do not fit together.
    #[error("{message}")]
    Columns {
        /// What clashes, and what to do.
        message: String,
    },
    /// The table has other columns than the job needs.
    #[error("the target {at} does not fit this job: {what}")]
    Schema {
        /// The table.
        at: Location,
        /// The first column that does not fit.
        what: String,
    },
    /// The table lets its `txn` actions expire.
    #[error(
        "the target {} sets {RETENTION}: a forgotten transaction could be written again. Unset the property",
        at
    )]
    Retention {
        /// The table.
        at: Location,
    },
    /// The table takes new rows only.
    #[error("the target {at} is append-only (delta.appendOnly): failed rows cannot be replaced in it")]
    AppendOnly {
        /// The table.
        at: Location,
    },
    /// The table holds rows of other jobs.
    #[error("the target {at} holds {rows} rows of other jobs, so it is not emptied")]
    Shared {
        /// The table.
        at: Location,
        /// Those rows.
        rows: u64,
    },
    /// It is not certain whose rows the table holds.
    #[error(
        "the target {} may hold rows of others, so it is not emptied: target.metadata is off, and its log does not show that every row is of this job",
        at
    )]
    Unowned {
        /// The table.
        at: Location,
    },
    /// Its rows cannot be told from each other.
    #[error("{}: nothing says which source row a row is, so failed rows cannot be asked again", lacking(at, metadata.as_deref()))]
    NoKeys {
        /// The table.
        at: Location,
        /// Name of the metadata column; none where the job has it off.
        metadata: Option<String>,
    },
    /// The job has the metadata column, the table has not.
    #[error(
        "the target {} does not fit this job: it has no column {metadata:?}, and target.metadata is on",
        at
    )]
    NoMetadata {
        /// The table.
        at: Location,
        /// Name of the metadata column.
        metadata: String,
    },
    /// The table has a metadata column, the job has not.
    #[error(
        "the target {} does not fit this job: its column {metadata:?} says where rows came from, and target.metadata is off",
        at
    )]
    HasMetadata {
        /// The table.
        at: Location,
        /// Name of the metadata column.
        metadata: String,
    },
    /// Data files of the table were deleted behind its back.
    #[error(
        "of {files} data files of the target {}, {missing} are not on the disk, for example {example}",
        at
    )]
    FilesGone {
        /// The table.
        at: Location,
        /// Files that its log names.
        files: usize,
        /// Those that are gone.
        missing: usize,
        /// One of them, relative to the table.
        example: String,
    },
    /// The table has a feature that writing to it would not keep.
    #[error("the target {at} has the table feature {feature}, which cannot be written")]
    Feature {
        /// The table.
        at: Location,
        /// Its name in the Delta protocol.
        feature: String,
    },
    /// Something that the table demands of its rows cannot be seen to.
    #[error("the target {at} demands that {demand} holds: {message}")]
    Constraint {
        /// The table.
        at: Location,
        /// What it demands.
        demand: String,
        /// Why it cannot be checked.
        message: String,
    },
    /// A row that the table would not take even as an error row.
    #[error(
        "the target {} demands that {demand} holds, which row {row} of {file} does not do, also as an error row",
        at
    )]
    Unwritable {
        /// The table.
        at: Location,
        /// What it demands.
        demand: String,
        /// The row's source file.
        file: String,
        /// Its physical row there.
        row: u64,
    },
    /// It was taken back to an earlier version while a run was writing to it.
    #[error("the target {at} was restored to an earlier version (its version {version}) during the run")]
    Restored {
        /// The table.
        at: Location,
        /// The commit that did it.
        version: u64,
    },
    /// There is something else in its place.
    #[error("the target {at} is there and is no Delta table")]
    NoTable {
        /// Where it is.
        at: Location,
    },
    /// The table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl TargetError {
    /// Returns what to do about it, or `None` if the message says it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            TargetError::NoTable { .. } => {
                Some("give the answers a place of their own: target.path names a Delta table, or nothing yet")
            }
            TargetError::NoKeys { .. } => Some(
                "enrich errors lists them; enrich run --restart asks about every row again; only a target made with target.metadata = true can be retried",
            ),
            TargetError::NoMetadata { .. } => Some(
                "set target.metadata = false to go on without the column, or give the answers another target.path",
            ),
            TargetError::HasMetadata { .. } => Some(
                "take target.metadata = false out to go on with the column (target.metadata_column names it), or give the answers another target.path",
            ),
            TargetError::FilesGone { .. } => Some(
                "bring them back from a backup; without one, take them out of the log (FSCK REPAIR TABLE in Spark, repair() in delta-rs): their rows are lost, and only enrich run --restart asks about them again",
            ),
            TargetError::Restored { .. } => Some(
                "enrich run --refill goes on, and asks about rows that are missing now; what was answered is kept",
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

    /// Returns whether the job or its surroundings are to be mended, as opposed to trouble on the way.
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

/// Why rows of a target have no metadata.
fn lacking(at: &Location, metadata: Option<&str>) -> String {
    match metadata {
        Some(metadata) => format!("the target {at} has no column {metadata:?}"),
        None => format!("target.metadata is off for the target {at}"),
    }
}

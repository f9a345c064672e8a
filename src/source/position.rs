//! The rows that follow a position in a source, and the rows of its files that a target holds.

use crate::checkpoint::FileRange;
use crate::passed::PassedOver;

/// The next file after a position, and the rows that are passed over before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextRows {
    /// Rows between the position and the file, or the end, that are passed over regardless of `source.where`.
    pub passed: PassedOver,
    /// The file; `None` at the end of the source.
    pub file: Option<NextFile>,
}

/// A file with rows that are not planned yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextFile {
    /// The file from the row to begin at; `end` is not known and 0.
    pub part: FileRange,
    /// Whether it may have a row that meets the source's condition, by the statistics in the log; true without a log.
    pub may_match: bool,
    /// Number of rows in the whole file that are not deleted; `None` if no log states it.
    pub rows: Option<u64>,
}

/// How far a job is behind its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Number of versions of a Delta table that are not read to their end; `None` for Parquet files.
    pub versions: Option<u64>,
    /// Number of files with rows that are not planned.
    pub files: u64,
    /// Number of rows that are not planned.
    pub rows: u64,
}

/// The rows of a source file that a target holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Path relative to the source's root.
    pub file: String,
    /// Number of its rows in the target.
    pub rows: u64,
    /// Physical row after the last of them.
    pub end: u64,
}

/// Numbers of rows of a source file before and after the row up to which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadProgress {
    /// Rows before it that are not deleted and meet the condition.
    pub(super) before: u64,
    /// Deleted rows before it, which are in the target if they were read before they were deleted.
    pub(super) deleted: u64,
    /// Rows from it on that are not deleted and meet the condition.
    pub(super) after: u64,
}

//! What follows after a position in a source, and what a target holds of its files.

use crate::checkpoint::FileRange;
use crate::passed::PassedOver;

/// What comes after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextRows {
    /// Rows between the position and the file, or the end, that are passed over whatever `source.where` says.
    pub passed: PassedOver,
    /// The file; `None` at the end.
    pub file: Option<NextFile>,
}

/// A file with rows that are not planned yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextFile {
    /// The whole file as a part; `end` is not known and 0.
    pub part: FileRange,
    /// Whether it may have a row that meets the source's condition, as far as the log tells.
    pub may_match: bool,
    /// Its rows that are not deleted, where the log tells them.
    pub rows: Option<u64>,
}

/// How far a job is behind its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Versions of a Delta table that are not read to their end; none for Parquet files.
    pub versions: Option<u64>,
    /// Files with rows that are not planned.
    pub files: u64,
    /// Those rows.
    pub rows: u64,
}

/// What a target holds of a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Path relative to the source's root.
    pub file: String,
    /// Rows in the target.
    pub rows: u64,
    /// Physical row after the last of them.
    pub end: u64,
}

/// What a target holds of a source file that was read up to some row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadProgress {
    /// Rows before it that are kept.
    pub(super) before: u64,
    /// Deleted rows before it, which may be in the target from before they were.
    pub(super) deleted: u64,
    /// Rows after it that are kept.
    pub(super) after: u64,
}

//! The parts of a plan, stored in the checkpoint and, in part, in commits of the target.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ident::{BatchId, Fingerprint};

/// Identity of the source that a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceId {
    /// A Delta table, identified by its metadata.
    Delta {
        /// The id in the table's metadata.
        table_id: String,
    },
    /// A file or a folder of files of one format, identified by either of two paths.
    #[serde(rename = "parquet")] // The stored name of the first format; it stands for all.
    Folder {
        /// The path as written in the job file.
        written: String,
        /// The absolute path that it resolved to.
        path: String,
    },
    /// A query, whose rows are known by their key.
    Query {
        /// Names of the key's columns.
        key: Vec<String>,
    },
}

impl SourceId {
    /// Whether both are the same source. One matching path is enough: a moved project keeps the path in its job
    /// file, and a rewritten job file keeps the absolute path.
    #[must_use]
    pub fn is_same(&self, other: &SourceId) -> bool {
        match (self, other) {
            (SourceId::Delta { table_id: a }, SourceId::Delta { table_id: b }) => a == b,
            (SourceId::Folder { written: a, path: p }, SourceId::Folder { written: b, path: q }) => {
                a == b || p == q
            }
            (SourceId::Query { key: a }, SourceId::Query { key: b }) => a == b,
            _ => false,
        }
    }
}

/// How far a source is read: all rows before this position are planned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Position {
    /// Nothing is read.
    #[default]
    Start,
    /// In the files of a Delta table as of a pinned version, ordered by (modification time, path).
    DeltaSnapshot {
        /// The pinned version.
        version: u64,
        /// Modification time of the last file that is planned, wholly or in part, in milliseconds since 1970.
        modified_ms: i64,
        /// Path of that file.
        file: String,
        /// Next physical row in that file; `None` when all of it is planned.
        row: Option<u64>,
    },
    /// In the files that later commits of a Delta table add, in the order of its log.
    DeltaLog {
        /// The next version to read, or the one that is read in part.
        version: u64,
        /// Number of files of that version that are planned as a whole.
        files: u64,
        /// Next physical row in the file after those.
        row: u64,
    },
    /// In a folder of files, each of which is read once.
    #[serde(rename = "parquet")] // The stored name of the first format; it stands for all.
    Folder {
        /// The files that are planned, wholly or in part, with their sizes in bytes.
        files: BTreeMap<String, u64>,
        /// The file that is planned in part, and its next row.
        partial: Option<(String, u64)>,
    },
}

/// A range of physical rows of one source file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRange {
    /// Path relative to the source's root.
    pub file: String,
    /// Size of the file in bytes, when it was planned.
    pub size: u64,
    /// Version of the source in which the file was found; `None` for Parquet sources.
    pub version: Option<u64>,
    /// First physical row.
    pub start: u64,
    /// Physical row after the last one.
    pub end: u64,
    /// Values of the partition columns, which are not in the file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partition: BTreeMap<String, Option<String>>,
}

impl FileRange {
    /// Returns the range of physical rows.
    #[must_use]
    pub fn rows(&self) -> Range<u64> {
        self.start..self.end
    }
}

/// A batch whose content is fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBatch {
    /// Number of the batch.
    pub id: BatchId,
    /// The rows of the batch, in the source's order.
    pub parts: Vec<FileRange>,
    /// Memory that the rows take, in bytes, estimated from Parquet footers.
    pub bytes: u64,
    /// Position of the source after the batch.
    pub next: Position,
    /// The condition that the rows must meet, as it was when they were planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Number of rows that met the condition and were not deleted when they were planned; `None` if no row was left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

impl PlannedBatch {
    /// Returns the number of rows that were to be processed when the batch was planned.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.kept.unwrap_or_else(|| self.physical_rows())
    }

    fn physical_rows(&self) -> u64 {
        self.parts.iter().map(|part| part.end - part.start).sum()
    }

    /// Returns the digest of the batch's content: the files and rows, in order, and the condition.
    #[must_use]
    pub fn digest(&self) -> Fingerprint {
        let parts: Vec<Vec<u8>> = self
            .parts
            .iter()
            .flat_map(|part| {
                [
                    part.file.clone().into_bytes(),
                    part.start.to_le_bytes().to_vec(),
                    part.end.to_le_bytes().to_vec(),
                ]
            })
            .chain(self.condition.iter().map(|condition| condition.clone().into_bytes()))
            .collect();
        Fingerprint::of(parts.iter().map(Vec::as_slice))
    }
}

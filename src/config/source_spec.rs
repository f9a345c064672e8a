//! The source of a validated job: a table, files, or a query over several.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::source_files::FilesSpec;
use crate::store::Location;

/// The table or files to read.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// Path or URL as written in the job file.
    pub written: String,
    /// The resolved location; for a query the folder of its results.
    pub location: Location,
    /// The query whose rows are the source; `None` for a table or files.
    pub query: Option<Arc<QuerySpec>>,
    /// Whether commits that change rows are skipped instead of refused.
    pub skip_change_commits: bool,
    /// The columns that are carried to the target; `None` for all.
    pub columns: Option<Vec<String>>,
    /// What to do with columns that a target cannot hold.
    pub on_unsupported: OnUnsupported,
    /// Whether byte strings without an annotation are text.
    pub binary_as_text: bool,
    /// The SQL condition that rows must meet.
    pub condition: Option<String>,
    /// How files are read that are no tables.
    pub files: FilesSpec,
    /// Where a job without a checkpoint begins; `None` for the whole table.
    pub start: Option<SourceStart>,
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(query) = &self.query else { return self.location.fmt(f) };
        let tables: Vec<&str> = query.tables.iter().map(|table| table.name.as_str()).collect();
        write!(f, "query over {}", tables.join(", "))
    }
}

/// The first version of a Delta source that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStart {
    /// A version number.
    Version(u64),
    /// The first version that was made at this time or later.
    Timestamp(DateTime<Utc>),
}

impl SourceStart {
    /// Returns the key of the job file that sets it.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            SourceStart::Version(_) => "starting_version",
            SourceStart::Timestamp(_) => "starting_timestamp",
        }
    }

    /// Returns the version number, or `None` if the start is a time.
    #[must_use]
    pub const fn version(self) -> Option<u64> {
        match self {
            SourceStart::Version(version) => Some(version),
            SourceStart::Timestamp(_) => None,
        }
    }
}

/// Name of the folder of a query's results. It lies in the checkpoint's folder.
pub const QUERY_RESULTS: &str = "query";

/// A query, and the tables that it reads.
#[derive(Clone, Debug)]
pub struct QuerySpec {
    /// The SQL text.
    pub sql: String,
    /// Names of the columns that together name a row.
    pub key: Vec<String>,
    /// The tables.
    pub tables: Vec<QueryTable>,
}

/// A table of a query.
#[derive(Clone, Debug)]
pub struct QueryTable {
    /// Name in the query.
    pub name: String,
    /// Where its rows come from.
    pub rows: TableRows,
}

/// Where the rows of a table come from.
#[derive(Clone, Debug)]
pub enum TableRows {
    /// A Delta table or files.
    Source {
        /// As the source of a job.
        spec: SourceSpec,
        /// Version of a Delta table; `None` for the newest.
        version: Option<u64>,
    },
    /// Documents whose path or URL matches a pattern.
    Documents {
        /// The pattern as written, such as `docs/**/*.pdf`.
        pattern: String,
        /// The folder that it is relative to.
        folder: PathBuf,
    },
}

/// What to do with columns of Parquet files that a Delta table cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnsupported {
    /// The run is refused, unless `columns` leaves them out.
    #[default]
    Stop,
    /// The columns are left out.
    Skip,
    /// The columns are carried as text.
    Text,
}

//! How files of a source are read that are no tables.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// Apache Parquet.
    Parquet,
    /// Text with a record a line and separated cells (RFC 4180).
    Csv,
    /// The same with tabs.
    Tsv,
    /// One JSON object per line.
    Jsonl,
    /// One JSON array of objects, or objects one after the other.
    Json,
    /// Apache Arrow's IPC format, file or stream.
    Arrow,
    /// Apache Avro's object container files.
    Avro,
}

/// Type of a column of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Int,
    /// A number of 64 bits with a fraction.
    Float,
    /// `true` or `false`.
    Bool,
    /// A day, as `2026-05-01`.
    Date,
    /// A day and time with its zone, as `2026-05-01T08:00:00Z`.
    Timestamp,
    /// A day and time without a zone.
    TimestampNtz,
}

/// What to do with a row that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// The file is refused.
    #[default]
    Stop,
    /// The row is left out.
    Skip,
}

/// Encoding of a text file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TextEncoding {
    /// UTF-8, with or without a byte order mark.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
}

/// How files are read that are no tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilesSpec {
    /// The section of the job file that says it, for messages.
    #[serde(skip)]
    pub section: String,
    /// The format; `None` if the files' names decide.
    pub format: Option<SourceFormat>,
    /// Types of columns of text files.
    pub schema: BTreeMap<String, ColumnType>,
    /// Whether the first line has the names of the columns.
    pub has_header: bool,
    /// What separates cells; `None` to find it out.
    pub delimiter: Option<u8>,
    /// What encloses cells; `None` for nothing.
    pub quote: Option<u8>,
    /// Encoding of text files.
    pub encoding: TextEncoding,
    /// Texts that stand for null.
    pub null_values: Vec<String>,
    /// What to do with rows that cannot be read.
    pub on_bad_row: OnBadRow,
}

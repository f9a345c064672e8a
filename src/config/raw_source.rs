//! The section `[source]` of a job file. The doc comments are the reference of the keys, like those of [`super::raw`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::raw_table::RawTable;
use super::source_files::{ColumnType, OnBadRow, SourceFormat, TextEncoding};
use super::source_spec::OnUnsupported;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    /// Delta table; or a file or directory of Parquet, CSV, TSV, JSON, Arrow IPC or Avro, the last five also
    /// compressed with gzip or zstd; folders named `column=value` become text columns. A local path, relative to the
    /// job file, or a URL: `file://`, `s3://`, `az://`, `abfss://`, `gs://`, or
    /// `hf://datasets/<owner>/<name>[@<revision>]/<path>` for files of a dataset repository. Keys, region and endpoint
    /// of a store come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AZURE_STORAGE_ACCOUNT_NAME`,
    /// `GOOGLE_APPLICATION_CREDENTIALS`, `HF_TOKEN`, …) and from where the store's own tools keep them. Default: none,
    /// where there is a `query`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) path: String,
    /// SQL query whose rows are the source, over the tables of `[source.table.<name>]`, instead of `path`. Each run
    /// computes it once, in bounded memory, and keeps the rows whose key the target does not have until they are
    /// written. Names are taken as written, even without quotes. Default: none.
    #[schemars(length(min = 1))]
    pub(super) query: Option<String>,
    /// The columns of a query's result that together name a row: no two rows have the same values, and none is null.
    /// Default: none, where there is no `query`.
    #[schemars(length(min = 1))]
    pub(super) key: Option<Vec<String>>,
    /// The tables of a query, by name. Default: none.
    #[serde(default)]
    pub(super) table: BTreeMap<String, RawTable>,
    /// Whether to skip the changes of commits that delete or rewrite rows of a Delta source, instead of refusing
    /// them. The rows that such a commit writes are not read. Default: false.
    #[serde(default)]
    pub(super) skip_change_commits: bool,
    /// The columns to read and carry to the target, in this order; templates can use only these. Default: all.
    #[schemars(length(min = 1))]
    pub(super) columns: Option<Vec<String>>,
    /// What to do with columns of Parquet files that a Delta table cannot hold, such as times of day, or numbers that
    /// are whole in one file and not in another: `stop` refuses the run unless `columns` leaves them out, `skip`
    /// leaves them out, `text` carries them as text. Default: `stop`.
    #[serde(default)]
    pub(super) on_unsupported: OnUnsupported,
    /// Whether to read byte strings in Parquet files as text if the file does not state their type, as some old
    /// writers leave it. Default: false.
    #[serde(default)]
    pub(super) binary_as_text: bool,
    /// SQL condition for the rows to read, over the columns of the source, also those that are not carried. Other
    /// rows are passed over for good: a later change of the condition affects only rows that are not planned yet.
    /// Files and row groups that the condition excludes by their statistics or partition values are not opened.
    /// Functions of the time or of chance are refused. Default: every row.
    #[serde(rename = "where")]
    #[schemars(length(min = 1))]
    pub(super) condition: Option<String>,
    /// Version of a Delta source to begin with: rows added in this and later versions are read, earlier rows are not.
    /// Has no effect once there is a checkpoint. Default: the whole table, as it is at the first run.
    pub(super) starting_version: Option<u64>,
    /// The same by time: begins with the first version made at this time or later, such as `2026-05-01T08:00:00Z` or
    /// a day. Not together with `starting_version`. Default: as for `starting_version`.
    #[schemars(length(min = 1))]
    pub(super) starting_timestamp: Option<String>,
    /// Format of the files, where their names do not end in that of a format. Default: by the names (`.parquet`,
    /// `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json`, `.arrow`, `.feather`, `.avro`, each but the first also with `.gz`
    /// or `.zst` behind it).
    pub(super) format: Option<SourceFormat>,
    /// Types of columns of CSV, TSV and JSON files, such as `{ zip = "string", age = "int" }`. The other columns, or
    /// all, get the narrowest type that holds every value of the files that the first run finds; later files keep to
    /// it. Default: none.
    #[serde(default)]
    pub(super) schema: BTreeMap<String, ColumnType>,
    /// Whether the first line of a CSV or TSV file has the names of the columns. Without it they are named `column_1`
    /// and so on. Default: true.
    pub(super) header: Option<bool>,
    /// What separates the cells of a CSV file, one ASCII character. Default: a tab in TSV files; in others what is most
    /// frequent in the first line, of comma, semicolon, tab
    /// and vertical bar.
    #[schemars(length(equal = 1), extend("examples" = [";"]))]
    pub(super) delimiter: Option<String>,
    /// What encloses a cell of a CSV or TSV file, one ASCII character; twice in a cell it stands for itself. Nothing if
    /// empty. Default: `"`.
    #[schemars(length(max = 1), extend("examples" = ["'"]))]
    pub(super) quote: Option<String>,
    /// Texts that stand for null in CSV and TSV files, beside the empty cell, such as `["NA", "-"]`. Default: none.
    #[serde(default)]
    pub(super) null_values: Vec<String>,
    /// Encoding of text files; a byte order mark is passed over. Others are refused. Default: `utf-8`.
    #[serde(default)]
    pub(super) encoding: TextEncoding,
    /// What to do with a row of a CSV, TSV or JSON file that cannot be read or does not fit the columns: `stop` refuses
    /// the file, with its line; `skip` leaves the row out, counts it, and notes line and reason in a file beside the
    /// checkpoint. Default: `stop`.
    #[serde(default)]
    pub(super) on_bad_row: OnBadRow,
}

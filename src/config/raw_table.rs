//! A section `[source.table.<name>]` of a job file. The doc comments are the reference of the keys, like those of
//! [`super::raw`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::source_files::{ColumnType, OnBadRow, SourceFormat, TextEncoding};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTable {
    /// Delta table, file or directory of files, as `source.path`. Default: none, where there is
    /// `files`.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// Documents, instead of `path`: a path or URL with wildcards, such as `docs/**/*.pdf`. The table has a row for each
    /// document, with the columns `path`, `size`, `modified` and `content`. Default: none.
    #[schemars(length(min = 1))]
    pub(super) files: Option<String>,
    /// Version of a Delta table. Default: its newest.
    pub(super) version: Option<u64>,
    /// As `source.binary_as_text`. Default: false.
    #[serde(default)]
    pub(super) binary_as_text: bool,
    /// As `source.format`. Default: by the names of the files.
    pub(super) format: Option<SourceFormat>,
    /// As `source.schema`. Default: none.
    #[serde(default)]
    pub(super) schema: BTreeMap<String, ColumnType>,
    /// As `source.header`. Default: true.
    pub(super) header: Option<bool>,
    /// As `source.delimiter`. Default: what the first line has.
    #[schemars(length(equal = 1), extend("examples" = [";"]))]
    pub(super) delimiter: Option<String>,
    /// As `source.quote`. Default: `"`.
    #[schemars(length(max = 1), extend("examples" = ["'"]))]
    pub(super) quote: Option<String>,
    /// As `source.null_values`. Default: none.
    #[serde(default)]
    pub(super) null_values: Vec<String>,
    /// As `source.encoding`. Default: `utf-8`.
    #[serde(default)]
    pub(super) encoding: TextEncoding,
    /// As `source.on_bad_row`. Default: `stop`.
    #[serde(default)]
    pub(super) on_bad_row: OnBadRow,
}

//! Checks the section `[source]` of a job file.

use std::sync::Arc;

use super::check::Checker;
use super::error::ConfigError;
use super::raw_source::RawSource;
use super::raw_table::RawTable;
use super::source_files::{FilesSpec, OnBadRow};
use super::source_spec::{
    OnUnsupported, QUERY_RESULTS, QuerySpec, QueryTable, SourceSpec, SourceStart, TableRows,
};
use super::units::moment;
use crate::store::Location;

impl Checker<'_> {
    pub(super) fn source(&self, mut raw: RawSource) -> Result<SourceSpec, ConfigError> {
        let query = self.query(&mut raw)?;
        let location = match &query {
            // It is known with the checkpoint's place.
            Some(_) => Location::local(QUERY_RESULTS),
            None => self.location("source.path", &raw.path)?,
        };
        let files = self.files("source", &raw)?;
        let start = match (raw.starting_version, raw.starting_timestamp) {
            (Some(_), Some(_)) => {
                return Err(self
                    .wrong("source.starting_timestamp", "and starting_version are both set; take one out"));
            }
            (Some(version), None) => Some(SourceStart::Version(version)),
            (None, Some(time)) => {
                let moment = moment(&time).ok_or_else(|| {
                    let message =
                        format!("is {time:?}, neither a time like \"2026-05-01T08:00:00Z\" nor a day");
                    self.wrong("source.starting_timestamp", message)
                })?;
                Some(SourceStart::Timestamp(moment))
            }
            (None, None) => None,
        };
        Ok(SourceSpec {
            files,
            location,
            query,
            written: raw.path,
            skip_change_commits: raw.skip_change_commits,
            columns: self.distinct("source.columns", raw.columns)?,
            on_unsupported: raw.on_unsupported,
            binary_as_text: raw.binary_as_text,
            condition: raw.condition,
            start,
        })
    }

    /// Checks the keys of a query, and takes them out of the section. Returns `None` if there is none.
    fn query(&self, raw: &mut RawSource) -> Result<Option<Arc<QuerySpec>>, ConfigError> {
        let (key, tables) = (raw.key.take(), std::mem::take(&mut raw.table));
        let Some(sql) = raw.query.take() else {
            if raw.path.is_empty() {
                return Err(
                    self.wrong("source.path", "is missing; it, or source.query, says which rows are read")
                );
            }
            return match key.is_some() || !tables.is_empty() {
                true => {
                    Err(self.wrong("source.query", "is missing; source.key and source.table are for a query"))
                }
                false => Ok(None),
            };
        };
        let has_other = [
            ("path", !raw.path.is_empty()),
            ("starting_version", raw.starting_version.is_some()),
            ("starting_timestamp", raw.starting_timestamp.is_some()),
            ("skip_change_commits", raw.skip_change_commits),
            ("where", raw.condition.is_some()),
        ];
        if let Some((other, _)) = has_other.iter().find(|(_, is_set)| *is_set) {
            let message = format!(
                "and source.query are both set; take {other} out, and write what it is for into the query or [source.table.<name>]"
            );
            return Err(self.wrong(format!("source.{other}"), message));
        }
        if raw.files_are_described() {
            let message = "is a query, whose tables say how their files are read: move format, schema, header, \
                           delimiter, quote, null_values and on_bad_row to [source.table.<name>]";
            return Err(self.wrong("source.query", message));
        }
        let Some(key) = self.distinct("source.key", key)? else {
            let message =
                "is missing; it names the columns of the query that tell its rows apart, such as [\"id\"]";
            return Err(self.wrong("source.key", message));
        };
        if let Some(columns) = &raw.columns
            && let Some(missing) = key.iter().find(|name| !columns.contains(name))
        {
            let message = format!("lacks {missing:?} of source.key, by which rows of the target are known");
            return Err(self.wrong("source.columns", message));
        }
        if tables.is_empty() {
            return Err(
                self.wrong("source.table", "is missing; [source.table.<name>] says what the query reads")
            );
        }
        let tables = tables.into_iter().map(|(name, raw)| self.table(name, raw)).collect::<Result<_, _>>()?;
        Ok(Some(Arc::new(QuerySpec { sql, key, tables })))
    }

    fn table(&self, name: String, mut raw: RawTable) -> Result<QueryTable, ConfigError> {
        let is_plain =
            |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with("__");
        if !is_plain(&name) {
            let message =
                format!("has the name {name:?}; letters, digits and _ are allowed, and no __ in front");
            return Err(self.wrong("source.table", message));
        }
        let section = format!("source.table.{name}");
        let (version, documents) = (raw.version, raw.files.take());
        let path_key = format!("{section}.path");
        let rows = match (&raw.path, documents) {
            (Some(_), Some(_)) => return Err(self.wrong(&path_key, "and files are both set; take one out")),
            (None, None) => {
                return Err(self.wrong(&path_key, "is missing; it, or files, says what the table is"));
            }
            (None, Some(pattern)) => {
                if version.is_some() || raw.binary_as_text || raw.into_source().files_are_described() {
                    return Err(self.wrong(&section, "has keys beside files, which documents do not have"));
                }
                // It has to be a path or a URL like any other.
                self.location(&format!("{section}.files"), &pattern)?;
                TableRows::Documents { pattern, folder: self.folder.to_owned() }
            }
            (Some(path), None) => {
                let location = self.location(&path_key, path)?;
                let raw = raw.into_source();
                let files = self.files(&section, &raw)?;
                TableRows::Source { spec: SourceSpec::of_files(raw.path, location, files), version }
            }
        };
        Ok(QueryTable { name, rows })
    }
}

impl RawSource {
    /// Whether a key says how files are read that are no tables.
    fn files_are_described(&self) -> bool {
        let text = [&self.delimiter, &self.quote];
        self.format.is_some()
            || !self.schema.is_empty()
            || self.header.is_some()
            || text.iter().any(|key| key.is_some())
            || !self.null_values.is_empty()
            || self.on_bad_row != OnBadRow::Stop
    }
}

impl SourceSpec {
    /// Returns a source of all rows and columns of a location.
    fn of_files(written: String, location: Location, files: FilesSpec) -> Self {
        SourceSpec {
            written,
            location,
            query: None,
            skip_change_commits: false,
            columns: None,
            on_unsupported: OnUnsupported::Text,
            binary_as_text: false,
            condition: None,
            files,
            start: None,
        }
    }
}

impl RawTable {
    /// Returns the section of a source that reads the same rows; without a path for documents.
    fn into_source(self) -> RawSource {
        RawSource {
            path: self.path.unwrap_or_default(),
            binary_as_text: self.binary_as_text,
            format: self.format,
            schema: self.schema,
            header: self.header,
            delimiter: self.delimiter,
            quote: self.quote,
            null_values: self.null_values,
            encoding: self.encoding,
            on_bad_row: self.on_bad_row,
            ..RawSource::default()
        }
    }
}

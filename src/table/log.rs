//! The files of a version and the entries of the log.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use deltalake::kernel::{Action, Add};
use deltalake::logstore::get_actions;
use serde_json::Value;

use super::open::error_of;
use super::statistics::integer_at;
use super::{Table, TableError};

/// A data file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Path relative to the table.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was made, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Values of the partition columns, as the log has them.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Rows that its deletion vector takes out.
    pub deleted_rows: u64,
    /// Rows in it, deleted ones included, where the log says so.
    pub rows: Option<u64>,
}

impl DataFile {
    /// Rows in it that are not deleted, where the log says so.
    #[must_use]
    pub fn live_rows(&self) -> Option<u64> {
        self.rows.map(|rows| rows.saturating_sub(self.deleted_rows))
    }
}

/// The data files of a version, held against the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Files that were looked for.
    pub files: usize,
    /// Those that are not there.
    pub missing: usize,
    /// One of them, relative to the table.
    pub example: Option<String>,
}

/// A commit of a table.
#[derive(Clone, Debug, Default)]
pub struct LogEntry {
    /// Files that bring new rows, in the order of the commit.
    pub added: Vec<DataFile>,
    /// Paths of files whose rows the commit deletes or rewrites.
    pub removed: Vec<String>,
    /// Whether the commit changes schema, partitioning or properties.
    pub changes_metadata: bool,
    /// Name of the operation, where the commit says it.
    pub operation: Option<String>,
    /// What the committing application added to the commit's information.
    pub info: BTreeMap<String, Value>,
}

impl Table {
    /// The files of this version, ordered by (modification time, path).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn files(&self) -> Result<Vec<DataFile>, TableError> {
        let mut files: Vec<DataFile> = self
            .state("list the files of")?
            .log_data()
            .iter()
            .map(|file| DataFile {
                path: file.object_store_path().to_string(),
                size: u64::try_from(file.size()).unwrap_or_default(),
                modified_ms: file.modification_time(),
                partition_values: file.partition_values_map().into_iter().collect(),
                deleted_rows: file.deletion_vector_descriptor().map_or(0, |vector| count(vector.cardinality)),
                rows: file.num_records().map(|rows| rows as u64),
            })
            .collect();
        files.sort_by(|a, b| (a.modified_ms, &a.path).cmp(&(b.modified_ms, &b.path)));
        Ok(files)
    }

    /// Paths of the files of this version of which an integer in the statistics passes a test, ordered by
    /// (modification time, path). `place` is the path of that integer in the form of the Delta protocol;
    /// files whose statistics lack it are tested with `None`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn files_where(
        &self,
        place: &[&str],
        mut keep: impl FnMut(Option<i64>) -> bool,
    ) -> Result<Vec<String>, TableError> {
        let mut kept = Vec::new();
        for file in self.state("list the files of")?.log_data().iter() {
            if keep(file.stats().and_then(|stats| integer_at(&stats, place))) {
                kept.push((file.modification_time(), file.path().into_owned()));
            }
        }
        kept.sort_unstable();
        Ok(kept.into_iter().map(|(_, path)| path).collect())
    }

    /// Whether all of these files belong to this version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn has_files(&self, wanted: &BTreeSet<String>) -> Result<bool, TableError> {
        let files = self.state("list the files of")?.log_data();
        Ok(files.iter().filter(|file| wanted.contains(file.path().as_ref())).count() == wanted.len())
    }

    /// Looks for the files of this version on the disk, by their names in the listings of their folders.
    /// Files that the log names by a URL, as shallow clones do, are not looked for.
    ///
    /// # Errors
    /// When the log or a folder cannot be read.
    pub fn on_disk(&self) -> Result<OnDisk, TableError> {
        let action = "list the files of";
        let mut folders: HashMap<PathBuf, HashSet<OsString>> = HashMap::new();
        let mut found = OnDisk::default();
        for file in self.state(action)?.log_data().iter() {
            let path = file.path();
            if path.contains("://") {
                continue;
            }
            found.files += 1;
            let place = self.path().join(path.as_ref());
            let (Some(folder), Some(name)) = (place.parent(), place.file_name()) else { continue };
            let names = match folders.entry(folder.to_owned()) {
                Entry::Occupied(names) => names.into_mut(),
                Entry::Vacant(unread) => {
                    let names = names_in(folder).map_err(|source| TableError {
                        action,
                        path: self.path().to_owned(),
                        source: Box::new(source),
                    })?;
                    unread.insert(names)
                }
            };
            if !names.contains(name) {
                found.missing += 1;
                found.example.get_or_insert_with(|| path.into_owned());
            }
        }
        Ok(found)
    }

    /// The commit that made a version; none if the log has no entry for it.
    ///
    /// # Errors
    /// When the entry cannot be read.
    pub async fn log_entry(&self, version: u64) -> Result<Option<LogEntry>, TableError> {
        let error = error_of("read the log of", self.path());
        let Some(bytes) = self.inner.log_store().read_commit_entry(version).await.map_err(&error)? else {
            return Ok(None);
        };
        let mut entry = LogEntry::default();
        for action in get_actions(version, &bytes).map_err(&error)? {
            match action {
                Action::Add(add) if add.data_change => entry.added.push(data_file(add)),
                Action::Remove(remove) if remove.data_change => entry.removed.push(remove.path),
                Action::Metadata(_) | Action::Protocol(_) => entry.changes_metadata = true,
                Action::CommitInfo(info) => {
                    entry.operation = info.operation;
                    entry.info = info.info.into_iter().collect();
                }
                _ => {}
            }
        }
        Ok(Some(entry))
    }
}

/// Names in a folder; none if there is no such folder.
fn names_in(folder: &Path) -> io::Result<HashSet<OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error),
    }
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn data_file(add: Add) -> DataFile {
    let rows = add
        .stats
        .as_deref()
        .and_then(|stats| serde_json::from_str::<Value>(stats).ok())
        .and_then(|stats| stats.get("numRecords").and_then(Value::as_u64));
    DataFile {
        path: add.path,
        size: u64::try_from(add.size).unwrap_or_default(),
        modified_ms: add.modification_time,
        partition_values: add.partition_values.into_iter().collect(),
        deleted_rows: add.deletion_vector.map_or(0, |vector| count(vector.cardinality)),
        rows,
    }
}

//! Reads the data files of a table version, and the commits in the log.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use delta_kernel::{Expression, Predicate, PredicateRef};
use deltalake::kernel::{Action, Add, LogicalFileView};
use deltalake::logstore::get_actions;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use serde_json::Value;

use super::condition::Condition;
use super::open::VersionState;
use super::statistics::integer_at;
use super::store_access::{LOG_FOLDER, error_of};
use super::{Table, TableError};

const IN_COMMIT_TIMES: &str = "delta.enableInCommitTimestamps";

/// A data file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Path relative to the table.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Values of the partition columns, as stored in the log.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Number of rows that its deletion vector marks as deleted.
    pub deleted_rows: u64,
    /// Number of rows in it, including deleted ones; `None` if the log does not state it.
    pub rows: Option<u64>,
    /// Whether it may have a row that meets the condition of the listing, by its statistics; true without a
    /// condition.
    pub may_match: bool,
}

impl DataFile {
    /// Returns the number of rows that are not deleted; `None` if the log does not state it.
    #[must_use]
    pub fn live_rows(&self) -> Option<u64> {
        self.rows.map(|rows| rows.saturating_sub(self.deleted_rows))
    }
}

/// Result of looking for the data files of a version in storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesInStorage {
    /// Number of files that were looked for.
    pub files: usize,
    /// Number of those files that do not exist.
    pub missing: usize,
    /// Path of one of the missing files, relative to the table.
    pub example: Option<String>,
}

/// A commit of a table.
#[derive(Clone, Debug, Default)]
pub struct LogEntry {
    /// Files that add new rows, in the order of the commit.
    pub added: Vec<DataFile>,
    /// Paths of files whose rows the commit deletes or rewrites.
    pub removed: Vec<String>,
    /// Whether the commit changes schema, partitioning, properties or protocol.
    pub changes_metadata: bool,
    /// Name of the operation; `None` if the commit does not state it.
    pub operation: Option<String>,
    /// When the commit was made, in milliseconds since 1970; `None` if the table has no in-commit timestamps.
    pub made_ms: Option<i64>,
    /// What the committing application added to the information of the commit.
    pub info: BTreeMap<String, Value>,
}

impl LogEntry {
    /// Whether the commit takes the table back to an earlier version.
    #[must_use]
    pub fn is_restore(&self) -> bool {
        self.operation.as_deref() == Some("RESTORE")
    }
}

impl Table {
    /// Visits the files of this version. If their entries are not loaded, `predicate` may leave out files whose
    /// statistics rule it out.
    pub(super) async fn each_file(
        &self,
        action: &'static str,
        predicate: Option<PredicateRef>,
        mut visit: impl FnMut(LogicalFileView),
    ) -> Result<(), TableError> {
        let error = error_of(action, self.at());
        match &self.state {
            VersionState::Loaded(table) => {
                table.snapshot().map_err(error)?.log_data().iter().for_each(visit);
            }
            VersionState::Opened(_, loaded) if let Some(table) = loaded.get() => {
                table.snapshot().map_err(error)?.log_data().iter().for_each(visit);
            }
            VersionState::Opened(snapshot, _) => {
                let mut files = snapshot.file_views(self.store.as_ref(), predicate);
                while let Some(file) = files.try_next().await.map_err(&error)? {
                    visit(file);
                }
            }
        }
        Ok(())
    }

    /// Returns the files of this version, ordered by (modification time, path).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn files(&self) -> Result<Vec<DataFile>, TableError> {
        self.files_for(None).await
    }

    /// As [`Table::files`], with [`DataFile::may_match`] for a condition.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn files_for(&self, condition: Option<&Condition>) -> Result<Vec<DataFile>, TableError> {
        Ok(self.files_from(condition, None, usize::MAX).await?.0)
    }

    /// Returns the first `most` files, in their order, that are at or after `first`, a (modification time, path),
    /// and whether there are more. No more than these are ever in memory.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn files_from(
        &self,
        condition: Option<&Condition>,
        first: Option<(i64, &str)>,
        most: usize,
    ) -> Result<(Vec<DataFile>, bool), TableError> {
        let mut files: BTreeMap<(i64, String), DataFile> = BTreeMap::new();
        let mut has_more = false;
        let take = |file: LogicalFileView| {
            let path = file.object_store_path().to_string();
            let key = (file.modification_time(), path);
            let is_before = first.is_some_and(|(time, path)| (key.0, key.1.as_str()) < (time, path));
            let is_beyond =
                files.len() >= most && files.last_key_value().is_some_and(|(last, _)| key > *last);
            has_more |= is_beyond;
            if is_before || is_beyond {
                return;
            }
            let partition_values = file.partition_values_map().into_iter().collect();
            let may_match = condition.is_none_or(|condition| {
                condition.may_hold_in_file(file.stats().as_deref(), &partition_values)
            });
            let found = DataFile {
                path: key.1.clone(),
                size: u64::try_from(file.size()).unwrap_or_default(),
                modified_ms: key.0,
                partition_values,
                may_match,
                deleted_rows: file.deletion_vector_descriptor().map_or(0, |vector| count(vector.cardinality)),
                rows: rows_in(&file),
            };
            files.insert(key, found);
            if files.len() > most {
                files.pop_last();
                has_more = true;
            }
        };
        self.each_file("list the files of", None, take).await?;
        Ok((files.into_values().collect(), has_more))
    }

    /// Counts the rows of the files after the file `after`, a (modification time, path), and, if `row` is set, those of
    /// the file `after` itself from `row` on. Deleted rows count in the file `after` only. `None` if the log lacks the
    /// number of rows of a file.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn rows_after(
        &self,
        after: Option<(i64, &str)>,
        row: Option<u64>,
    ) -> Result<Option<u64>, TableError> {
        let mut sum = Some(0_u64);
        let take = |file: LogicalFileView| {
            let path = file.object_store_path().to_string();
            let order = after
                .map_or(Ordering::Greater, |after| (file.modification_time(), path.as_str()).cmp(&after));
            let deleted = || file.deletion_vector_descriptor().map_or(0, |vector| count(vector.cardinality));
            let rows = match (order, row) {
                (Ordering::Greater, _) => rows_in(&file).map(|rows| rows.saturating_sub(deleted())),
                (Ordering::Equal, Some(row)) => rows_in(&file).map(|rows| rows.saturating_sub(row)),
                _ => Some(0),
            };
            sum = sum.zip(rows).map(|(sum, rows)| sum + rows);
        };
        self.each_file("list the files of", None, take).await?;
        Ok(sum)
    }

    /// Returns the paths of the files of this version in which an integer inside a struct may be more than 0,
    /// because their statistics do not rule it out, ordered by (modification time, path). Of the other files only
    /// the log entry is read. Keeps the entries of the returned files for later queries.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn files_above_zero(&mut self, parent: &str, column: &str) -> Result<Vec<String>, TableError> {
        let integer = Expression::column([parent, column]);
        let predicate = Arc::new(Predicate::gt(integer, Expression::literal(0_i32)));
        let mut kept = HashMap::new();
        let take = |file: LogicalFileView| {
            let add = entry_of(&file);
            let stats = add.stats.as_deref().unwrap_or_default();
            if integer_at(stats, &["maxValues", parent, column]).is_none_or(|most| most > 0) {
                kept.insert(add.path.clone(), add);
            }
        };
        self.each_file("list the files of", Some(predicate), take).await?;
        let mut files: Vec<&Add> = kept.values().collect();
        files.sort_unstable_by_key(|add| (add.modification_time, &add.path));
        let paths = files.into_iter().map(|add| add.path.clone()).collect();
        self.entries = kept;
        Ok(paths)
    }

    /// Returns the paths of the files of this version, as [`Table::scan`] takes them, ordered by (modification
    /// time, path).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn paths(&self) -> Result<Vec<String>, TableError> {
        let mut files = Vec::new();
        let take = |file: LogicalFileView| files.push((file.modification_time(), file.path().into_owned()));
        self.each_file("list the files of", None, take).await?;
        files.sort_unstable();
        Ok(files.into_iter().map(|(_, path)| path).collect())
    }

    /// Whether all of these files belong to this version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn has_files(&self, files: &BTreeSet<String>) -> Result<bool, TableError> {
        let mut found = 0;
        let look = |file: LogicalFileView| found += usize::from(files.contains(file.path().as_ref()));
        self.each_file("list the files of", None, look).await?;
        Ok(found == files.len())
    }

    /// Looks for the files of this version in storage, by their names in the listings of their folders. Files that
    /// the log names by a URL, as shallow clones do, are not looked for.
    ///
    /// # Errors
    /// When the log or a folder cannot be read.
    pub async fn on_disk(&self) -> Result<FilesInStorage, TableError> {
        let action = "list the files of";
        if self.at().path().is_none() {
            return self.in_store().await;
        }
        let mut named: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
        let mut found = FilesInStorage::default();
        let root = self.at().path().unwrap_or(Path::new("")).to_owned();
        let take = |file: LogicalFileView| {
            let path = file.path();
            let place = root.join(path.as_ref());
            if let (false, Some(folder), Some(name)) =
                (path.contains("://"), place.parent(), place.file_name())
            {
                found.files += 1;
                named.entry(folder.to_owned()).or_default().insert(name.to_owned());
            }
        };
        self.each_file(action, None, take).await?;
        for (folder, names) in named {
            let there = names_in(&folder).map_err(|source| TableError {
                action,
                at: self.at().clone(),
                source: Box::new(source),
            })?;
            let missing = names.iter().filter(|name| !there.contains(*name));
            for name in missing {
                found.missing += 1;
                let place = folder.join(name);
                let place = place.strip_prefix(&root).unwrap_or(&place);
                found.example.get_or_insert_with(|| place.to_string_lossy().into_owned());
            }
        }
        Ok(found)
    }

    /// As [`Table::on_disk`], by the listing of an object store.
    async fn in_store(&self) -> Result<FilesInStorage, TableError> {
        let action = "list the files of";
        let error = error_of(action, self.at());
        let mut missing = BTreeSet::new();
        let take = |file: LogicalFileView| {
            if !file.path().contains("://") {
                missing.insert(file.object_store_path().to_string());
            }
        };
        self.each_file(action, None, take).await?;
        let files = missing.len();
        let store = self.store.object_store(None);
        let mut objects = store.list(None);
        while let Some(object) = objects.try_next().await.map_err(|source| error(source.into()))? {
            missing.remove(object.location.as_ref());
        }
        Ok(FilesInStorage { files, missing: missing.len(), example: missing.into_iter().next() })
    }

    /// Returns the versions in the log and when each was made, in milliseconds since 1970, both rising. The times
    /// are those of the log's files, as Delta defines it, or those that the commits state if the table has
    /// in-commit timestamps.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn commit_times(&self) -> Result<Vec<(u64, i64)>, TableError> {
        let error = error_of("list the log of", self.at());
        let store = self.store.object_store(None);
        let mut times: BTreeMap<u64, i64> = BTreeMap::new();
        let mut entries = store.list(Some(&ObjectPath::from(LOG_FOLDER)));
        while let Some(entry) = entries.try_next().await.map_err(|source| error(source.into()))? {
            let name = entry.location.filename().unwrap_or_default();
            if let Some(Ok(version)) = name.strip_suffix(".json").map(str::parse) {
                times.insert(version, entry.last_modified.timestamp_millis());
            }
        }
        let in_commit = self.properties()?.get(IN_COMMIT_TIMES).is_some_and(|value| value == "true");
        if in_commit {
            for (version, time) in &mut times {
                let entry = self.log_entry(*version, None).await?;
                *time = entry.and_then(|entry| entry.made_ms).unwrap_or(*time);
            }
        }
        let mut newest = i64::MIN;
        Ok(times
            .into_iter()
            .map(|(version, time)| {
                // A clock may have gone back, or files may have been copied, and the times must rise all the same.
                newest = time.max(newest.saturating_add(1));
                (version, newest)
            })
            .collect())
    }

    /// Returns the commit that made a version; `None` if the log has no entry for it. [`DataFile::may_match`] of
    /// its files is for `condition`.
    ///
    /// # Errors
    /// When the entry cannot be read.
    pub async fn log_entry(
        &self,
        version: u64,
        condition: Option<&Condition>,
    ) -> Result<Option<LogEntry>, TableError> {
        let error = error_of("read the log of", self.at());
        let Some(bytes) = self.store.read_commit_entry(version).await.map_err(&error)? else {
            return Ok(None);
        };
        let mut entry = LogEntry::default();
        for action in get_actions(version, &bytes).map_err(&error)? {
            match action {
                Action::Add(add) if add.data_change => entry.added.push(data_file(add, condition)),
                Action::Remove(remove) if remove.data_change => entry.removed.push(remove.path),
                Action::Metadata(_) | Action::Protocol(_) => entry.changes_metadata = true,
                Action::CommitInfo(info) => {
                    entry.operation = info.operation;
                    entry.made_ms = info.in_commit_timestamp;
                    entry.info = info.info.into_iter().collect();
                }
                _ => {}
            }
        }
        Ok(Some(entry))
    }
}

/// Returns the number of rows in a file, including deleted ones; `None` if its statistics do not state it.
fn rows_in(file: &LogicalFileView) -> Option<u64> {
    file.num_records().and_then(|rows| u64::try_from(rows).ok())
}

/// Returns the number of rows in a file that are not deleted; `None` if its statistics do not state it.
pub(super) fn live_rows_in(file: &LogicalFileView) -> Option<u64> {
    let deleted = file.deletion_vector_descriptor().map_or(0, |vector| count(vector.cardinality));
    rows_in(file).map(|rows| rows.saturating_sub(deleted))
}

/// Returns the log entry of a file.
pub(super) fn entry_of(file: &LogicalFileView) -> Add {
    Add {
        path: file.path().into_owned(),
        partition_values: file.partition_values_map(),
        size: file.size(),
        modification_time: file.modification_time(),
        data_change: true,
        stats: file.stats(),
        deletion_vector: file.deletion_vector_descriptor(),
        ..Add::default()
    }
}

/// Returns the names in a folder; empty if the folder does not exist.
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

fn data_file(add: Add, condition: Option<&Condition>) -> DataFile {
    let rows = add
        .stats
        .as_deref()
        .and_then(|stats| serde_json::from_str::<Value>(stats).ok())
        .and_then(|stats| stats.get("numRecords").and_then(Value::as_u64));
    let partition_values = add.partition_values.into_iter().collect();
    DataFile {
        may_match: condition
            .is_none_or(|condition| condition.may_hold_in_file(add.stats.as_deref(), &partition_values)),
        path: add.path,
        size: u64::try_from(add.size).unwrap_or_default(),
        modified_ms: add.modification_time,
        partition_values,
        deleted_rows: add.deletion_vector.map_or(0, |vector| count(vector.cardinality)),
        rows,
    }
}

//! A Delta table as a source: the files of a pinned version, then the files that later commits add.
//!
//! The order is that of Spark's Delta source: files of the first version by (modification time, path), then commit by
//! commit in the order of their `add` actions with `dataChange`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ::arrow::datatypes::SchemaRef;

use super::SourceError;
use super::position::{HeldFile, NextFile, NextRows, ReadProgress};
use crate::checkpoint::{FileRange, Position, SourceId};
use crate::config::{SourceSpec, SourceStart};
use crate::passed::PassedOver;
use crate::store::Location;
use crate::table::{Condition, DataFile, LogEntry, Table};

#[derive(Debug)]
pub(super) struct DeltaCatalog {
    path: Location,
    /// The table at the version that was the newest when the run started.
    table: Table,
    /// Where a job begins that has read nothing yet; `None` for the whole table.
    start: Option<SourceStart>,
    /// The condition that rows must meet; it excludes files by their statistics.
    pub(super) condition: Option<Condition>,
    skip_change_commits: bool,
    /// The loaded files of the version that a snapshot position names.
    snapshot: Option<FileRun>,
    /// The version that was read last, its log entry, and how many of its rows are passed over.
    entry: Option<(u64, (LogEntry, PassedOver))>,
    /// The rows from before the version that the job begins with, once they are counted.
    before_start: Option<PassedOver>,
    /// Whether files of the table can have deletion vectors.
    has_vectors: bool,
    /// Files of the pinned version, once listed; true for those with deleted rows.
    deleted: Option<HashMap<String, bool>>,
    /// The file that was looked up last, and which of its rows are not deleted.
    kept: Option<(String, Option<Arc<[bool]>>)>,
}

/// Table property that states how long removed files are kept; 7 days by default.
const RETENTION: &str = "delta.deletedFileRetentionDuration";
/// Maximum number of commits after a position whose rows are counted.
const MAX_COUNTED_VERSIONS: usize = 200;
/// Number of files of a version that are loaded at once, besides the one at the position.
const LISTED_FILES: usize = 1_000;

/// Consecutive files of a version, in the order in which they are read.
#[derive(Debug)]
struct FileRun {
    version: u64,
    files: Vec<DataFile>,
    /// Whether the version has files after these.
    has_more: bool,
}

/// Reader features of Delta tables that this source supports.
const SUPPORTED_FEATURES: [&str; 7] = [
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

impl DeltaCatalog {
    pub(super) async fn open(
        path: &Location,
        spec: &SourceSpec,
    ) -> Result<(Self, SchemaRef, SourceId), SourceError> {
        let unread = |feature: &str| SourceError::Unsupported {
            path: path.to_owned(),
            what: format!("has the table feature {feature}, which cannot be read"),
        };
        let table = Table::open(path).await;
        let table = table.map_err(|error| error.feature().map_or_else(|| error.into(), unread))?;
        let features = table.reader_features()?;
        if let Some(feature) = features.iter().find(|feature| !SUPPORTED_FEATURES.contains(&feature.as_str()))
        {
            return Err(unread(feature));
        }
        let schema = table.schema()?;
        let id = SourceId::Delta { table_id: table.id()? };
        let source = DeltaCatalog {
            path: path.to_owned(),
            table,
            start: spec.start,
            condition: None,
            skip_change_commits: spec.skip_change_commits,
            snapshot: None,
            entry: None,
            before_start: None,
            has_vectors: features.iter().any(|feature| feature == "deletionVectors"),
            deleted: None,
            kept: None,
        };
        Ok((source, schema, id))
    }

    pub(super) async fn next_file(&mut self, position: &Position) -> Result<NextRows, SourceError> {
        let nothing = PassedOver::default();
        match position {
            Position::Start => {
                if let Some(start) = self.start {
                    let first = self.first_version(start).await?;
                    let passed = self.before(first).await;
                    return self.next_in_log(first, 0, 0, passed).await;
                }
                let version = self.table.version();
                let listing = self.listing(version, None).await?;
                let file = listing.files.first().map(|file| next(file, version, 0));
                Ok(NextRows { passed: nothing, file })
            }
            Position::DeltaSnapshot { version, modified_ms, file, row } => {
                let version = *version;
                let key = (*modified_ms, file.as_str());
                let listing = self.listing(version, Some((key, *row))).await?;
                let found = listing.files.iter().find_map(|candidate| {
                    let candidate_key = (candidate.modified_ms, candidate.path.as_str());
                    let start = match row {
                        Some(row) if candidate_key == key => *row,
                        _ if candidate_key > key => 0,
                        _ => return None,
                    };
                    Some(next(candidate, version, start))
                });
                match found {
                    Some(file) => Ok(NextRows { passed: nothing, file: Some(file) }),
                    None => self.next_in_log(version + 1, 0, 0, nothing).await,
                }
            }
            Position::DeltaLog { version, files, row } => {
                self.next_in_log(*version, *files, *row, nothing).await
            }
            Position::Folder { .. } => Err(SourceError::Unsupported {
                path: self.path.clone(),
                what: "was a folder of files when the checkpoint was made, and is a Delta table now".into(),
            }),
        }
    }

    /// Returns the next file to read in the log. Of `version` the first `skip` files are read, and of the file after
    /// them the first `row` rows. `passed` counts the rows that are passed over so far.
    async fn next_in_log(
        &mut self,
        mut version: u64,
        mut skip: u64,
        mut row: u64,
        mut passed: PassedOver,
    ) -> Result<NextRows, SourceError> {
        while version <= self.table.version() {
            let (entry, left_out) = self.log_entry(version).await?;
            passed += *left_out;
            let at = usize::try_from(skip).unwrap_or(usize::MAX);
            if let Some(file) = entry.added.get(at) {
                return Ok(NextRows { passed, file: Some(next(file, version, row)) });
            }
            version += 1;
            (skip, row) = (0, 0);
        }
        Ok(NextRows { passed, file: None })
    }

    /// Counts the rows that the table had before a version.
    async fn before(&mut self, version: u64) -> PassedOver {
        if let Some(known) = self.before_start {
            return known;
        }
        let mut passed = PassedOver::default();
        if let Some(before) = version.checked_sub(1) {
            let rows = async {
                let table = Table::open_at(&self.path, before).await.ok()?;
                table.rows_after(None, None).await.ok()?
            };
            match rows.await {
                Some(rows) => passed.by_start = rows,
                None => passed.or_more = true,
            }
        }
        self.before_start = Some(passed);
        passed
    }

    /// Returns the version that a job begins with.
    async fn first_version(&self, start: SourceStart) -> Result<u64, SourceError> {
        let wrong =
            |message: String| SourceError::Start { path: self.path.clone(), key: start.key(), message };
        let newest = self.table.version();
        match start {
            SourceStart::Version(version) if version > newest + 1 => {
                Err(wrong(format!("{version} is after the newest version, {newest}")))
            }
            SourceStart::Version(version) => Ok(version),
            SourceStart::Timestamp(time) => {
                let commits = self.table.commit_times().await?;
                let start_ms = time.timestamp_millis();
                match commits.iter().find(|(_, made)| *made >= start_ms) {
                    // Earlier commits, which the log no longer has, may be late enough too.
                    Some((version, _))
                        if commits.first().is_some_and(|(first, _)| first == version) && *version > 0 =>
                    {
                        Err(wrong(format!(
                            "the log begins with version {version}, which is later than {time}: what came between cannot be found. Set source.starting_version = {version} to begin there"
                        )))
                    }
                    Some((version, _)) => Ok(*version),
                    None => Err(wrong(format!(
                        "no version was made at {time} or later. To begin with the next one, set source.starting_version = {}",
                        newest + 1
                    ))),
                }
            }
        }
    }

    /// Returns the log entry of a version with only the files that add new rows, and how many rows of the entry are
    /// passed over.
    async fn log_entry(&mut self, version: u64) -> Result<&(LogEntry, PassedOver), SourceError> {
        let entry = match self.entry.take() {
            Some((cached, entry)) if cached == version => entry,
            _ => self.read_log_entry(version).await?,
        };
        Ok(&self.entry.insert((version, entry)).1)
    }

    async fn read_log_entry(&self, version: u64) -> Result<(LogEntry, PassedOver), SourceError> {
        let mut passed = PassedOver::default();
        let mut entry = self
            .table
            .log_entry(version, self.condition.as_ref())
            .await?
            .ok_or_else(|| SourceError::Gap { path: self.path.clone(), version })?;
        if !entry.removed.is_empty() {
            if !self.skip_change_commits {
                return Err(SourceError::Changed {
                    path: self.path.clone(),
                    version,
                    operation: format!(
                        "({}) deletes or rewrites",
                        entry.operation.as_deref().unwrap_or("unnamed")
                    ),
                    files: entry.removed.len(),
                });
            }
            // The files that a deletion adds hold the rows that remain, which existed before.
            let is_deletion = entry.operation.as_deref() == Some("DELETE");
            match entry.added.iter().filter(|_| !is_deletion).map(DataFile::live_rows).sum::<Option<u64>>() {
                Some(rows) => passed.by_change_commits = rows,
                None => passed.or_more = true,
            }
            entry.added.clear();
        }
        Ok((entry, passed))
    }

    /// Returns files of a version. The next file to read is among them unless all are read.
    /// `after` is the (modification time,
    /// path) of the file read last and its next row, or no row if it is read to its end; without `after` the files
    /// begin with the first.
    async fn listing(
        &mut self,
        version: u64,
        after: Option<((i64, &str), Option<u64>)>,
    ) -> Result<&FileRun, SourceError> {
        let holds = |listing: &&FileRun| {
            let key = |file: &DataFile| (file.modified_ms, file.path.clone());
            let (first, last) = (listing.files.first().map(key), listing.files.last().map(key));
            listing.version == version
                && match after {
                    None => false,
                    Some(((time, path), row)) => {
                        let at = Some((time, path.to_owned()));
                        // After a file that is read to its end, the next one must be loaded too, if there is one.
                        first <= at && (at < last || (at == last && row.is_some()) || !listing.has_more)
                    }
                }
        };
        if self.snapshot.as_ref().filter(holds).is_none() {
            let old;
            let table = match version == self.table.version() {
                true => &self.table,
                false => {
                    old = Table::open_at(&self.path, version).await?;
                    &old
                }
            };
            let first = after.map(|(key, _)| key);
            // One more, since the first file may already be read to its end.
            let listed = table.files_from(self.condition.as_ref(), first, LISTED_FILES + 1).await?;
            self.snapshot = Some(FileRun { version, files: listed.0, has_more: listed.1 });
        }
        self.snapshot
            .as_ref()
            .ok_or_else(|| SourceError::Unsupported { path: self.path.clone(), what: "has no files".into() })
    }

    /// Returns which rows of a part's file are not deleted, or `None` if no row is. The pinned version decides, or the
    /// version of the part if the pinned one no longer has the file.
    pub(super) async fn kept(&mut self, part: &FileRange) -> Result<Option<Arc<[bool]>>, SourceError> {
        if !self.has_vectors {
            return Ok(None);
        }
        if let Some((_, kept)) = self.kept.as_ref().filter(|(file, _)| *file == part.file) {
            return Ok(kept.clone());
        }
        if self.deleted.is_none() {
            self.deleted = Some(self.table.files_with_deleted_rows().await?);
        }
        let found = self.deleted.as_ref().and_then(|files| files.get(&part.file)).copied();
        let kept = match (found, part.version) {
            (Some(false), _) | (None, None) => None,
            (Some(true), _) => self.table.kept_rows(&part.file).await?,
            // The file was rewritten or deleted since the part was planned.
            (None, Some(version)) => {
                let planned = Table::open_at(&self.path, version).await?;
                let has_deleted =
                    planned.files().await?.iter().any(|file| file.path == part.file && file.deleted_rows > 0);
                if has_deleted { planned.kept_rows(&part.file).await? } else { None }
            }
        };
        let kept: Option<Arc<[bool]>> = kept.map(Into::into);
        self.kept = Some((part.file.clone(), kept.clone()));
        Ok(kept)
    }

    pub(super) fn following(&self, part: &FileRange, most: usize) -> Vec<FileRange> {
        let Some(version) = part.version else { return Vec::new() };
        let snapshot = self.snapshot.iter().filter(|run| run.version == version).map(|run| &run.files);
        let commit =
            self.entry.iter().filter(|(read, _)| *read == version).map(|(_, (entry, _))| &entry.added);
        let run = snapshot.chain(commit).find_map(|files| {
            let at = files.iter().position(|file| file.path == part.file)?;
            files.get(at + 1..)
        });
        let files = run.unwrap_or_default().iter().filter(|file| file.may_match);
        files.take(most).map(|file| self::part(file, version, 0)).collect()
    }

    pub(super) fn advance(&self, before: &Position, part: &FileRange, end: u64, is_whole: bool) -> Position {
        let version = part.version.unwrap_or_default();
        let in_snapshot = match before {
            Position::Start => self.start.is_none(),
            Position::DeltaSnapshot { version: pinned, .. } => version == *pinned,
            _ => false,
        };
        if in_snapshot {
            let (files, has_more) = match &self.snapshot {
                Some(listing) => (listing.files.as_slice(), listing.has_more),
                None => (&[][..], false),
            };
            let modified_ms =
                files.iter().find(|file| file.path == part.file).map_or(0, |file| file.modified_ms);
            // The last file's end is the snapshot's end. A log position saves opening the old version again.
            if is_whole && !has_more && files.last().is_some_and(|last| last.path == part.file) {
                return Position::DeltaLog { version: version + 1, files: 0, row: 0 };
            }
            return Position::DeltaSnapshot {
                version,
                modified_ms,
                file: part.file.clone(),
                row: (!is_whole).then_some(end),
            };
        }
        let done = match before {
            Position::DeltaLog { version: reading, files, .. } if *reading == version => *files,
            _ => 0,
        };
        let in_commit = self.entry.as_ref().filter(|(cached, ..)| *cached == version);
        let is_last = in_commit.is_some_and(|(_, (entry, _))| done + 1 == entry.added.len() as u64);
        if is_whole && is_last {
            Position::DeltaLog { version: version + 1, files: 0, row: 0 }
        } else if is_whole {
            Position::DeltaLog { version, files: done + 1, row: 0 }
        } else {
            Position::DeltaLog { version, files: done, row: end }
        }
    }

    /// Returns the first version that the job file states, or `None` if it states a time or nothing.
    pub(super) fn first(&self) -> Option<u64> {
        self.start.and_then(SourceStart::version)
    }

    /// Returns how long VACUUM keeps files that were removed from the table.
    pub(super) fn retention(&self) -> Duration {
        let properties = self.table.properties().unwrap_or_default();
        let written =
            properties.get(RETENTION).map(|written| written.replace("interval", "").replace(' ', ""));
        let found = written.and_then(|written| humantime::parse_duration(&written).ok());
        found.unwrap_or(Duration::from_secs(7 * 86_400))
    }

    /// Returns the version that the source ends with.
    pub(super) fn version(&self) -> u64 {
        self.table.version()
    }

    /// Returns the position after everything in the source.
    pub(super) fn end(&self) -> Position {
        Position::DeltaLog { version: self.table.version() + 1, files: 0, row: 0 }
    }

    /// Returns the number of rows after a position, or `None` if the log does not state it or too much of the log would
    /// have to be read.
    pub(super) async fn rows_after(&self, position: &Position) -> Option<u64> {
        match position {
            Position::Start if self.start.is_some() => None,
            Position::Start => self.table.rows_after(None, None).await.ok()?,
            Position::DeltaSnapshot { version, modified_ms, file, row }
                if *version == self.table.version() =>
            {
                self.table.rows_after(Some((*modified_ms, file)), *row).await.ok()?
            }
            Position::DeltaLog { version, files, row } => self.rows_of_log(*version, *files, *row).await,
            _ => None,
        }
    }

    /// Counts the rows of the commits from `first` on, without the first `files` files of that version and the first
    /// `row` rows of the file after them.
    async fn rows_of_log(&self, first: u64, files: u64, row: u64) -> Option<u64> {
        let versions = first..=self.table.version();
        if versions.clone().count() > MAX_COUNTED_VERSIONS {
            return None;
        }
        let mut rows = 0;
        for version in versions {
            let entry = self.table.log_entry(version, None).await.ok()??;
            if !entry.removed.is_empty() {
                match self.skip_change_commits {
                    true => continue,
                    false => return None,
                }
            }
            let done = if version == first { usize::try_from(files).ok()? } else { 0 };
            rows += entry.added.iter().skip(done).map(DataFile::live_rows).sum::<Option<u64>>()?;
        }
        Some(rows.saturating_sub(row))
    }

    /// Returns the files of the pinned version, each as a whole, in which a row may meet the condition.
    pub(super) async fn parts(&self) -> Result<Vec<FileRange>, SourceError> {
        let version = self.table.version();
        let files = self.table.files_for(self.condition.as_ref()).await?.into_iter();
        Ok(files.filter(|file| file.may_match).map(|file| part(&file, version, 0)).collect())
    }

    /// Returns the parts of files that are before a position (`end` is 0 for a whole file).
    pub(super) async fn parts_before(&mut self, position: &Position) -> Result<Vec<FileRange>, SourceError> {
        if self.skip_change_commits {
            return Err(SourceError::Unsupported {
                path: self.path.clone(),
                what: "is read with source.skip_change_commits, so what of it was read cannot be determined"
                    .into(),
            });
        }
        let whole = |file: &DataFile, version: u64| part(file, version, 0);
        match position {
            Position::Start | Position::Folder { .. } => Ok(Vec::new()),
            Position::DeltaSnapshot { version, modified_ms, file, row } => {
                let key = (*modified_ms, file.as_str());
                let files = self.files_of(*version).await?;
                let before = files.iter().filter_map(|found| {
                    match (found.modified_ms, found.path.as_str()).cmp(&key) {
                        Ordering::Less => Some(whole(found, *version)),
                        Ordering::Equal => match row {
                            Some(0) => None,
                            row => Some(FileRange { end: row.unwrap_or_default(), ..whole(found, *version) }),
                        },
                        Ordering::Greater => None,
                    }
                });
                Ok(before.collect())
            }
            Position::DeltaLog { version, files, row } => {
                let mut parts = Vec::new();
                if let Some(before) = version.checked_sub(1) {
                    let mut not_read = HashSet::new();
                    if let Some(start) = self.start
                        && let Some(passed) = self.first_version(start).await?.checked_sub(1)
                    {
                        not_read.extend(self.files_of(passed).await?.into_iter().map(|file| file.path));
                    }
                    let there = self.files_of(before).await?;
                    let left: HashSet<&str> = there.iter().map(|file| file.path.as_str()).collect();
                    if let Some(removed) = not_read.iter().find(|file| !left.contains(file.as_str())) {
                        return Err(SourceError::Unsupported {
                            path: self.path.clone(),
                            what: format!(
                                "was compacted since the version that the job begins with ({removed} is another file's part now): which rows came before cannot be determined"
                            ),
                        });
                    }
                    let read = there.iter().filter(|file| !not_read.contains(&file.path));
                    parts.extend(read.map(|file| whole(file, before)));
                }
                if (*files, *row) != (0, 0) {
                    let (entry, _) = self.log_entry(*version).await?;
                    let done = usize::try_from(*files).unwrap_or(usize::MAX);
                    parts.extend(entry.added.iter().take(done).map(|file| whole(file, *version)));
                    let begun = entry.added.get(done).filter(|_| *row > 0);
                    parts.extend(begun.map(|file| FileRange { end: *row, ..whole(file, *version) }));
                }
                Ok(parts)
            }
        }
    }

    /// Returns the files of a version, in reading order.
    async fn files_of(&self, version: u64) -> Result<Vec<DataFile>, SourceError> {
        if version == self.table.version() {
            return Ok(self.table.files().await?);
        }
        Ok(Table::open_at(&self.path, version).await?.files().await?)
    }

    /// Returns the position after the rows that a target holds. With a condition, `expected` has the read progress of
    /// each file in which a row may meet it.
    pub(super) async fn position_after(
        &self,
        held: &[HeldFile],
        expected: &HashMap<String, ReadProgress>,
    ) -> Result<Position, SourceError> {
        let unknown = |what: String| SourceError::Unsupported { path: self.path.clone(), what };
        let mut held: BTreeMap<&str, &HeldFile> =
            held.iter().map(|file| (file.file.as_str(), file)).collect();
        let mut last = None;
        for file in self.table.files().await? {
            let Some(found) = held.remove(file.path.as_str()) else {
                if held.is_empty() {
                    break;
                }
                let has_rows = match &self.condition {
                    Some(_) => expected.get(&file.path).is_some_and(|of_file| of_file.after > 0),
                    None => file.live_rows() != Some(0),
                };
                if !has_rows {
                    continue;
                }
                return Err(unknown(format!(
                    "cannot be matched with the target: the target lacks {}, and holds rows of later files",
                    file.path
                )));
            };
            // Rows that are deleted now may have been read before, so the target may or may not hold them.
            let lacks = |rows: u64, of: u64| rows > of || rows + file.deleted_rows < of;
            let is_wrong = match (&self.condition, expected.get(&file.path)) {
                (Some(_), Some(ReadProgress { before, deleted, after })) => {
                    found.rows < *before || found.rows > before + deleted || (!held.is_empty() && *after > 0)
                }
                (Some(_), None) => true,
                (None, _) => {
                    lacks(found.rows, found.end)
                        || (!held.is_empty() && file.rows.is_some_and(|rows| lacks(found.rows, rows)))
                }
            };
            if is_wrong {
                return Err(unknown(format!(
                    "cannot be matched with the target: the target holds only some rows of {}",
                    file.path
                )));
            }
            last = Some((file, found.end));
        }
        if let Some(file) = held.keys().next() {
            return Err(unknown(format!(
                "cannot be matched with the target: the target holds rows of {file}, which is no file of version {}",
                self.table.version()
            )));
        }
        Ok(last.map_or(Position::Start, |(file, end)| Position::DeltaSnapshot {
            version: self.table.version(),
            modified_ms: file.modified_ms,
            file: file.path,
            row: Some(end),
        }))
    }
}

fn next(file: &DataFile, version: u64, start: u64) -> NextFile {
    NextFile { part: part(file, version, start), may_match: file.may_match, rows: file.live_rows() }
}

fn part(file: &DataFile, version: u64, start: u64) -> FileRange {
    FileRange {
        file: file.path.clone(),
        size: file.size,
        version: Some(version),
        start,
        end: 0,
        partition: file.partition_values.clone(),
    }
}

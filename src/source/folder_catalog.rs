//! The catalog of a folder of files, or of one file: each file is read once, in the order of modification times.
//!
//! Folders named `column=value` are partitions as Hive writes them; their columns are text.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};

use super::SourceError;
use super::columns::{MergedColumns, UnsupportedColumn};
use super::file::Root;
use super::file_format::ByteStrings;
use super::file_format::{FileFormat, FileInspection, SourceFiles};
use super::known_footers::KnownFooters;
use super::listing::{FolderListing, FoundFile, list};
use super::position::{HeldFile, ReadProgress};
use super::shape::Footer;
use super::staging::{self, FileStamp, StagingArea, StagingPlace, StagingProgress};
use crate::checkpoint::{FileRange, Position};
use crate::config::{OnUnsupported, SourceSpec};
use crate::store::{DatasetPath, Location, StoreError};
use crate::table::delta_schema;
use crate::wording::counted;

/// Number of footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

#[derive(Debug)]
pub(super) struct FolderCatalog {
    at: Location,
    root: Root,
    format: FileFormat,
    source_files: SourceFiles,
    /// The files of the folder when the run started, ordered by (modification time, path).
    files: Vec<FoundFile>,
    /// Files without a footer, which are left for a later run.
    unfinished: BTreeSet<String>,
    /// Descriptions of what is left out of the source, with the reasons.
    left_out: Vec<String>,
    /// The search for an unread file that found one last.
    search: Option<UnreadSearch>,
    known_footers: KnownFooters,
    /// Whether files are removed once their rows are in the target.
    removes_files: bool,
}

/// A search for the first unread file after a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnreadSearch {
    /// Number of files in the position.
    seen: usize,
    /// Index of the file that was found.
    found: usize,
}

impl FolderCatalog {
    /// Lists a folder and reads the footers of its files that the local folder `state` does not tell. Returns the catalog, the root and format of its files, the
    /// columns that can be carried, and those that cannot.
    pub(super) async fn open(
        at: &Location,
        spec: &SourceSpec,
        state: &Path,
        place: StagingPlace,
        progress: StagingProgress,
    ) -> Result<(Self, SourceFiles, SchemaRef, Vec<UnsupportedColumn>), SourceError> {
        let bytes = ByteStrings::of(spec);
        let stated = spec.files.format;
        let FolderListing { root, format, mut files, mut left_out } =
            list(at, stated, &FileFormat::all(stated, bytes)).await?;
        files.sort_by(|a, b| (a.modified_ms, &a.path).cmp(&(b.modified_ms, &b.path)));
        if matches!(format, FileFormat::Parquet(_)) && at.dataset().is_none() {
            // A store may give a new ETag to the same bytes; a footer is read at little cost.
            files.iter_mut().for_each(|file| file.content = None);
        }
        let (source_files, reading) = match format {
            FileFormat::Parquet(bytes) => (SourceFiles::parquet(root.clone(), bytes), format!("{format:?}")),
            FileFormat::Staged(format) => {
                let stamps = files.iter().map(|file| {
                    let content = file.content.clone().unwrap_or_default();
                    let stamp = FileStamp { size: file.size, modified_ms: file.modified_ms, content };
                    (file.path.clone(), stamp)
                });
                let staging =
                    StagingArea::new(&root, format, &spec.files, state, place, stamps.collect(), progress);
                let staging = staging.map_err(SourceError::Staging)?;
                (SourceFiles::staged(root.clone(), staging), StagingArea::reading(format, &spec.files))
            }
            #[cfg(test)]
            FileFormat::Lines => (SourceFiles::lines(root.clone()), format!("{format:?}")),
        };
        let mut known_footers = KnownFooters::load(state, root.at(), reading);
        look(at, &source_files, &mut files, &mut known_footers).await?;
        left_out.extend(skipped_rows(&source_files, &files));
        // If no file is whole, the error is about the first one.
        let is_whole = |file: &&FoundFile| matches!(file.footer, Footer::Whole { .. });
        let Some(first) = files.iter().find(is_whole).or(files.first()) else {
            return Err(SourceError::NoTable { path: at.clone() });
        };
        if let Some(other) = files.iter().find(|file| !file.partition.keys().eq(first.partition.keys())) {
            let what = format!(
                "has files in partition folders of different names ({} and {}); a source has the same ones for all its files",
                first.path, other.path
            );
            return Err(SourceError::Unsupported { path: at.clone(), what });
        }
        let (schema, unsupported) = schema_of(&root, format, &files, first, spec.on_unsupported)?;
        let unfinished = BTreeSet::new();
        let source = FolderCatalog {
            source_files: source_files.clone(),
            at: at.clone(),
            root,
            format,
            files,
            unfinished,
            left_out,
            search: None,
            known_footers,
            removes_files: false,
        };
        Ok((source, source_files, schema, unsupported))
    }

    /// Says that files are removed once their rows are in the target.
    pub(super) fn set_removing(&mut self) {
        self.removes_files = true;
    }

    /// Stores the footers of the files for later runs. Blocks.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn save_footers(&mut self) -> Result<(), StoreError> {
        self.known_footers.save()
    }

    /// Removes the staged files that neither a planned batch nor the rest of the source after a position needs.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn remove_staged<'a>(
        &'a self,
        position: &'a Position,
        planned: impl Iterator<Item = &'a str>,
    ) -> Result<(), StoreError> {
        let left = self.files.iter().map(|file| file.path.as_str()).filter(|path| match position {
            Position::Folder { files, partial } => {
                !files.contains_key(*path) || partial.as_ref().is_some_and(|(file, _)| file == path)
            }
            _ => true,
        });
        self.source_files.retain_staged(left.chain(planned))
    }

    /// Returns the position after rows up to `end` of a file; `is_whole` if nothing of it is left.
    pub(super) fn advance(&self, before: Position, part: &FileRange, end: u64, is_whole: bool) -> Position {
        let mut files = match before {
            Position::Folder { files, .. } => files,
            _ => BTreeMap::new(),
        };
        if self.removes_files {
            // Those that are removed do not come again.
            files.retain(|name, _| self.files.iter().any(|file| file.path == *name));
        }
        files.insert(part.file.clone(), part.size);
        Position::Folder { files, partial: (!is_whole).then(|| (part.file.clone(), end)) }
    }

    /// Returns the next file to read after a position, or `None` if every complete file is read. Files without a footer
    /// are added to the unfinished ones.
    pub(super) fn next_file(&mut self, position: &Position) -> Result<Option<FileRange>, SourceError> {
        let nothing = BTreeMap::new();
        let (seen, partial) = match position {
            Position::Start => (&nothing, None),
            Position::Folder { files, partial } => (files, partial.as_ref()),
            _ => {
                return Err(SourceError::Unsupported {
                    path: self.at.clone(),
                    what: "was a Delta table when the checkpoint was made, and is a folder of files now"
                        .into(),
                });
            }
        };
        let first = self.first_candidate(seen);
        if first == 0 {
            self.check_unchanged(seen)?;
            self.accept_unread(seen)?;
        }
        if let Some((name, row)) = partial {
            let mut files = self.files[first.saturating_sub(1)..].iter().chain(&self.files);
            let file = files.find(|file| file.path == *name).ok_or_else(|| {
                self.source_files.refusal(name).unwrap_or_else(|| {
                    SourceError::file(&self.root.place(name), "it is gone, and not all of its rows are read")
                })
            })?;
            return Ok(Some(part(file, *row)));
        }
        let unread = self.files.iter().enumerate().skip(first);
        for (found, file) in unread.filter(|(_, file)| !seen.contains_key(&file.path)) {
            if self.unfinished.contains(&file.path) {
                continue;
            }
            match &file.footer {
                Footer::Whole { .. } => {
                    self.search = Some(UnreadSearch { seen: seen.len(), found });
                    return Ok(Some(part(file, 0)));
                }
                Footer::Damaged(message) => {
                    return Err(SourceError::file(&self.root.place(&file.path), message));
                }
                Footer::Missing => self.unfinished.insert(file.path.clone()),
            };
        }
        Ok(None)
    }

    /// Returns at most `most` files that come after the file that the last search found.
    pub(super) fn following(&self, most: usize) -> Vec<FileRange> {
        let Some(UnreadSearch { found, .. }) = self.search else { return Vec::new() };
        let whole =
            self.files.iter().skip(found + 1).filter(|file| matches!(file.footer, Footer::Whole { .. }));
        whole.take(most).map(|file| part(file, 0)).collect()
    }

    /// Returns an index before which every file is in `seen` or unfinished, so that a plan of many files does not look
    /// at the first ones again and again; 0 if the last search does not tell.
    ///
    /// The positions of one process follow each other in the order of the files. One that has the file that the last
    /// search found, and one file more than the position of that search, is the position after that file.
    fn first_candidate(&self, seen: &BTreeMap<String, u64>) -> usize {
        let Some(UnreadSearch { seen: before, found }) = self.search else { return 0 };
        match seen.len().checked_sub(before) {
            Some(0) if !seen.contains_key(&self.files[found].path) => found,
            Some(1) if seen.contains_key(&self.files[found].path) => found + 1,
            _ => 0,
        }
    }

    /// Returns a description of the source for messages.
    pub(super) fn what(&self) -> String {
        let dataset = self.at.dataset();
        let commit = dataset.as_ref().and_then(DatasetPath::revision);
        let at_commit = commit.map_or_else(String::new, |commit| format!(", commit {commit}"));
        match self.root.at() == &self.at {
            true => format!(
                "{} folder, {}{at_commit}",
                self.format.name(),
                counted(self.files.len() as u64, "file")
            ),
            false => format!("{} file{at_commit}", self.format.name()),
        }
    }

    /// Adds a description of something that is left out of the source.
    pub(super) fn leave_out(&mut self, what: String) {
        self.left_out.push(what);
    }

    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    pub(super) fn unfinished(&self) -> &BTreeSet<String> {
        &self.unfinished
    }

    /// Returns the number of rows after a position, or `None` if a file is damaged or the position is in a Delta table.
    pub(super) fn rows_after(&self, position: &Position) -> Option<u64> {
        let rows = |file: &FoundFile| match &file.footer {
            Footer::Whole { rows, .. } => Some(*rows),
            Footer::Missing => Some(0),
            Footer::Damaged(_) => None,
        };
        match position {
            Position::Start => self.files.iter().map(rows).sum(),
            Position::Folder { files, partial } => {
                let fresh = self.files.iter().filter(|file| !files.contains_key(&file.path));
                let begun = partial.as_ref().and_then(|(name, row)| {
                    let file = self.files.iter().find(|file| file.path == *name)?;
                    Some(rows(file)?.saturating_sub(*row))
                });
                fresh.map(rows).sum::<Option<u64>>().map(|fresh| fresh + begun.unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Returns the files that have a readable footer, each as a whole.
    pub(super) fn parts(&self) -> Vec<FileRange> {
        let whole = self.files.iter().filter(|file| matches!(file.footer, Footer::Whole { .. }));
        whole.map(|file| part(file, 0)).collect()
    }

    /// Returns the position after all files that have a readable footer.
    pub(super) fn end(&self) -> Position {
        let whole = self.files.iter().filter(|file| matches!(file.footer, Footer::Whole { .. }));
        let files = whole.map(|file| (file.path.clone(), file.size)).collect();
        Position::Folder { files, partial: None }
    }

    /// Returns the parts of files that are before a position (`end` is 0 for a whole file), and the names of files that
    /// were read and no longer exist.
    ///
    /// # Errors
    /// When a file has changed since it was read.
    pub(super) fn parts_before(
        &self,
        position: &Position,
    ) -> Result<(Vec<FileRange>, Vec<String>), SourceError> {
        let Position::Folder { files, partial } = position else { return Ok((Vec::new(), Vec::new())) };
        self.check_unchanged(files)?;
        let begun = self.parts().into_iter().filter(|part| files.contains_key(&part.file));
        let begun = begun.filter_map(|part| match partial {
            Some((file, 0)) if *file == part.file => None,
            Some((file, row)) if *file == part.file => Some(FileRange { end: *row, ..part }),
            _ => Some(part),
        });
        let is_lost =
            |name: &&String| !self.removes_files && self.files.iter().all(|file| file.path != **name);
        Ok((begun.collect(), files.keys().filter(is_lost).cloned().collect()))
    }

    /// Takes new contents of files that were not read before.
    fn accept_unread(&mut self, seen: &BTreeMap<String, u64>) -> Result<(), SourceError> {
        let mut has_accepted = false;
        for file in self.files.iter_mut().filter(|file| !seen.contains_key(&file.path)) {
            if self.source_files.accept(&file.path) {
                self.known_footers.add(file);
                has_accepted = true;
            }
        }
        // Otherwise the next run would compare these files, which are read then, with their earlier contents.
        let save = || self.known_footers.save().map_err(SourceError::Staging);
        has_accepted.then(save).unwrap_or(Ok(()))
    }

    /// Checks that files that were read have the size in bytes that they had then, and the same content.
    fn check_unchanged(&self, files: &BTreeMap<String, u64>) -> Result<(), SourceError> {
        for file in &self.files {
            if files.contains_key(&file.path)
                && let Some(refusal) = self.source_files.refusal(&file.path)
            {
                return Err(refusal);
            }
            if let Some(size) = files.get(&file.path).filter(|size| **size != file.size) {
                return Err(SourceError::file(
                    &self.root.place(&file.path),
                    format!(
                        "it had {size} bytes when it was read and has {} now; a file is read once, give new data a new name",
                        file.size
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Returns the position after the rows that a target holds. With a condition, `expected` has the files' read
    /// progress.
    pub(super) fn position_after(
        &self,
        held: &[HeldFile],
        expected: &HashMap<String, ReadProgress>,
    ) -> Result<Position, SourceError> {
        let unknown = |what: String| SourceError::Unsupported { path: self.at.clone(), what };
        let mut files = BTreeMap::new();
        let mut partial = None;
        let is_there = |held: &&HeldFile| self.files.iter().any(|file| file.path == held.file);
        for held in held.iter().filter(|held| !self.removes_files || is_there(held)) {
            let file = self.files.iter().find(|file| file.path == held.file).ok_or_else(|| {
                unknown(format!(
                    "cannot be matched with the target: it lacks {}, whose rows the target holds",
                    held.file
                ))
            })?;
            let rows = match &file.footer {
                Footer::Whole { rows, .. } => *rows,
                Footer::Missing => 0,
                Footer::Damaged(message) => {
                    return Err(SourceError::file(&self.root.place(&file.path), message));
                }
            };
            let of_file = expected.get(&file.path);
            let (before, after) = of_file
                .map_or((held.end, rows.saturating_sub(held.end)), |of_file| (of_file.before, of_file.after));
            if held.rows != before || held.end > rows || (after > 0 && partial.is_some()) {
                return Err(unknown(format!(
                    "cannot be matched with the target: the target holds only some rows of {}",
                    file.path
                )));
            }
            if after > 0 {
                partial = Some((file.path.clone(), held.end));
            }
            files.insert(file.path.clone(), file.size);
        }
        Ok(Position::Folder { files, partial })
    }
}

/// Reads the footers that are not known. The columns of text files get the types that hold the values of all files that
/// are new together, and keep to them.
async fn look(
    at: &Location,
    source_files: &SourceFiles,
    files: &mut [FoundFile],
    known_footers: &mut KnownFooters,
) -> Result<(), SourceError> {
    let known = known_footers.kinds();
    source_files.set_kinds(known.clone());
    let looks = |paths: Vec<(usize, String)>, again: bool| {
        let looks = paths.into_iter().map(move |(at, path)| {
            let look = source_files.blocking(move |files| files.look(&path, again));
            async move { look.await.map(|looked| (at, looked)) }
        });
        stream::iter(looks).buffered(FOOTERS_AT_ONCE).try_collect::<Vec<_>>()
    };
    let mut unknown = Vec::new();
    for (at, file) in files.iter_mut().enumerate() {
        match known_footers.of(file) {
            Some(footer) => file.footer = footer,
            None => unknown.push((at, file.path.clone())),
        }
    }
    let looked = looks(unknown, false).await?;
    let joined = staging::joined(&known, looked.iter().flat_map(|(_, looked)| &looked.kinds));
    let mut others = Vec::new();
    for (at, FileInspection { footer, kinds, content }) in looked {
        if !staging::has_types(&kinds, &joined) {
            others.push((at, files[at].path.clone()));
        }
        files[at].footer = footer;
        files[at].content = files[at].content.take().or(content);
    }
    source_files.set_kinds(joined.clone());
    for (at, FileInspection { footer, .. }) in looks(others, true).await? {
        files[at].footer = footer;
    }
    if !joined.is_empty() {
        known_footers.set_kinds(joined);
    }
    source_files.refuse(refusals(at, files, known_footers));
    for file in files.iter_mut().filter(|file| source_files.refusal(&file.path).is_none()) {
        known_footers.add(file);
    }
    Ok(())
}

/// Returns why files of which rows were read cannot be read further: their contents have changed, or they are no longer in
/// their repository.
fn refusals(at: &Location, files: &[FoundFile], known_footers: &KnownFooters) -> BTreeMap<String, String> {
    let revisions: BTreeMap<&str, &str> = known_footers.revisions().collect();
    let pinned = |path: &str| {
        let at = revisions.get(path).map(|revision| at.at_revision(Some(revision)));
        at.map_or_else(String::new, |at| format!("; it is read as it was with source.path = \"{at}\""))
    };
    let changed = files.iter().filter_map(|file| {
        let size = known_footers.size_of_other_content(file)?;
        let what = match size == file.size {
            true => {
                format!("its content is not what it was when it was read, and its size, {size} bytes, is")
            }
            false => format!("it had {size} bytes when it was read and has {} now", file.size),
        };
        let what = format!("{what}; a file is read once, give new data a new name{}", pinned(&file.path));
        Some((file.path.clone(), what))
    });
    let there: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let gone = revisions.keys().filter(|path| !there.contains(**path)).map(|path| {
        let what = format!("it is gone, and not all of its rows are written{}", pinned(path));
        ((*path).to_owned(), what)
    });
    changed.chain(gone).collect()
}

/// Describes the rows that were left out because they cannot be read.
fn skipped_rows(source_files: &SourceFiles, files: &[FoundFile]) -> Option<String> {
    let of_file = |file: &FoundFile| match file.footer {
        Footer::Whole { skipped, .. } => skipped,
        _ => 0,
    };
    let rows: u64 = files.iter().map(of_file).sum();
    let with = files.iter().filter(|file| of_file(file) > 0);
    let last = with.clone().next_back()?;
    Some(format!(
        "{} of {} that cannot be read (source.on_bad_row = \"skip\"); those of {} are listed in {}",
        counted(rows, "row"),
        counted(with.count() as u64, "file"),
        last.path,
        source_files.skipped_rows(&last.path)?.display()
    ))
}

/// Returns the merged columns of all files and their folders, and the columns that cannot be carried. `first` is whole
/// unless no file is.
fn schema_of(
    root: &Root,
    format: FileFormat,
    files: &[FoundFile],
    first: &FoundFile,
    on_unsupported: OnUnsupported,
) -> Result<(SchemaRef, Vec<UnsupportedColumn>), SourceError> {
    match &first.footer {
        Footer::Whole { .. } => {}
        Footer::Missing => {
            let what = match format {
                FileFormat::Staged(_) => "it is empty",
                _ => "it is no whole file (cut off, or still being written?)",
            };
            return Err(SourceError::file(&root.place(&first.path), what));
        }
        Footer::Damaged(message) => return Err(SourceError::file(&root.place(&first.path), message)),
    }
    let mut columns = MergedColumns::new(on_unsupported);
    // Files have the same partition columns, and those of equal columns share them.
    let mut added = HashSet::new();
    for file in files {
        let Footer::Whole { columns: of_file, .. } = &file.footer else { continue };
        if !added.insert(of_file.as_ptr()) {
            continue;
        }
        let in_folders = |field: &&FieldRef| file.partition.contains_key(field.name());
        let own: Fields = of_file.iter().filter(|field| !in_folders(field)).cloned().collect();
        columns.add(&own, &root.place(&file.path));
    }
    let wrong = |what: String| SourceError::file(root.at(), what);
    let (columns, unsupported) = columns.finish().map_err(wrong)?;
    let schema = delta_schema(&with_partitions(&Schema::new(columns), &first.partition)).map_err(wrong)?;
    Ok((schema, unsupported))
}

fn part(file: &FoundFile, start: u64) -> FileRange {
    FileRange {
        file: file.path.clone(),
        size: file.size,
        version: None,
        start,
        end: 0,
        partition: file.partition.clone(),
    }
}

/// Returns the columns of a file with its partition columns. A partition column replaces a file column of its name.
fn with_partitions(schema: &Schema, partition: &BTreeMap<String, Option<String>>) -> Schema {
    let own = schema.fields().iter().filter(|field| !partition.contains_key(field.name())).cloned();
    let folders = partition.keys().map(|name| Arc::new(Field::new(name, DataType::Utf8, true)));
    Schema::new(own.chain(folders).collect::<Vec<_>>())
}

//! A Parquet file or a directory of them as a source: each file is read once. Folders named `column=value` are
//! partitions as Hive writes them; their columns are text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use percent_encoding::percent_decode_str;

use super::merge::merge;
use super::shape::metadata;
use super::{Expected, FileShape, HeldFile, SourceError};
use crate::checkpoint::{Part, Position};
use crate::table::{delta_schema, is_delta_table};

const MAGIC: &[u8] = b"PAR1";
/// How Hive names the folder of null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

#[derive(Debug)]
pub(super) struct ParquetSource {
    path: PathBuf,
    root: PathBuf,
    /// As the folder was when the run started, by (modification time, path).
    files: Vec<Found>,
    /// Files without a footer, which are left for a later run.
    unfinished: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    modified_ms: u128,
    path: String,
    size: u64,
    /// What its folders say, by column.
    partition: BTreeMap<String, Option<String>>,
}

impl ParquetSource {
    pub(super) fn open(path: &Path) -> Result<(Self, PathBuf, SchemaRef), SourceError> {
        let mut files = Vec::new();
        let root = if path.is_dir() {
            walk(path, path, &mut files)?;
            path.to_owned()
        } else {
            let root = path.parent().unwrap_or(path).to_owned();
            let starts_right = std::fs::File::open(path)
                .and_then(|mut file| {
                    let mut magic = [0; 4];
                    file.read_exact(&mut magic).map(|()| magic == MAGIC)
                })
                .unwrap_or(false);
            if !starts_right {
                return Err(SourceError::NoTable { path: path.to_owned() });
            }
            files.push(found(&root, path)?);
            root
        };
        files.sort();
        // Where nothing is whole, the first says what is wrong.
        let Some(first) = files.iter().find(|file| is_whole(&root.join(&file.path))).or(files.first()) else {
            return Err(SourceError::NoTable { path: path.to_owned() });
        };
        if let Some(other) = files.iter().find(|file| !file.partition.keys().eq(first.partition.keys())) {
            let what = format!(
                "has files in partition folders of different names ({} and {}); a source has the same ones for all its files",
                first.path, other.path
            );
            return Err(SourceError::Unsupported { path: path.to_owned(), what });
        }
        let schema = schema_of(&root, &files, first)?;
        let unfinished = BTreeSet::new();
        Ok((ParquetSource { path: path.to_owned(), root: root.clone(), files, unfinished }, root, schema))
    }

    pub(super) fn next_file(&mut self, position: &Position) -> Result<Option<Part>, SourceError> {
        let nothing = BTreeMap::new();
        let (seen, partial) = match position {
            Position::Start => (&nothing, None),
            Position::Parquet { files, partial } => (files, partial.as_ref()),
            _ => {
                return Err(SourceError::Unsupported {
                    path: self.path.clone(),
                    what: "was a Delta table when the checkpoint was made, and is a set of Parquet files now"
                        .into(),
                });
            }
        };
        for file in &self.files {
            if let Some(size) = seen.get(&file.path).filter(|size| **size != file.size) {
                return Err(SourceError::file(
                    &self.root.join(&file.path),
                    format!(
                        "it had {size} bytes when it was read and has {} now; a file is read once, give new data a new name",
                        file.size
                    ),
                ));
            }
        }
        if let Some((name, row)) = partial {
            let file = self.files.iter().find(|file| file.path == *name).ok_or_else(|| {
                SourceError::file(&self.root.join(name), "it is gone, and not all of its rows are read")
            })?;
            return Ok(Some(part(file, *row)));
        }
        for file in self.files.iter().filter(|file| !seen.contains_key(&file.path)) {
            if self.unfinished.contains(&file.path) {
                continue;
            }
            if is_whole(&self.root.join(&file.path)) {
                return Ok(Some(part(file, 0)));
            }
            self.unfinished.insert(file.path.clone());
        }
        Ok(None)
    }

    /// Files that were passed over because they have no footer.
    pub(super) fn unfinished(&self) -> &BTreeSet<String> {
        &self.unfinished
    }

    /// Reads the footers of the files that are left.
    pub(super) fn rows_after(&self, position: &Position) -> Option<u64> {
        let rows = |file: &Found| {
            let path = self.root.join(&file.path);
            if !is_whole(&path) {
                return Some(0);
            }
            FileShape::read(&path, &Schema::empty()).ok().map(|shape| shape.rows())
        };
        match position {
            Position::Start => self.files.iter().map(rows).sum(),
            Position::Parquet { files, partial } => {
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

    /// The files that are whole.
    pub(super) fn parts(&self) -> Vec<Part> {
        let whole = self.files.iter().filter(|file| is_whole(&self.root.join(&file.path)));
        whole.map(|file| part(file, 0)).collect()
    }

    /// `expected` says what the target should hold of a file, where a condition chooses the rows.
    pub(super) fn position_after(
        &self,
        held: &[HeldFile],
        expected: &HashMap<String, Expected>,
    ) -> Result<Position, SourceError> {
        let unknown = |what: String| SourceError::Unsupported { path: self.path.clone(), what };
        let mut files = BTreeMap::new();
        let mut partial = None;
        for held in held {
            let file = self.files.iter().find(|file| file.path == held.file).ok_or_else(|| {
                unknown(format!(
                    "cannot be matched with the target: it lacks {}, whose rows the target holds",
                    held.file
                ))
            })?;
            let rows = FileShape::read(&self.root.join(&file.path), &Schema::empty())?.rows();
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
        Ok(Position::Parquet { files, partial })
    }
}

/// The columns of all files together, and those of their folders.
fn schema_of(root: &Path, files: &[Found], first: &Found) -> Result<SchemaRef, SourceError> {
    let mut columns = Fields::empty();
    let mut untyped: Vec<Field> = Vec::new();
    let whole = files.iter().filter(|file| is_whole(&root.join(&file.path)));
    // Where none is whole, reading the first says why.
    for file in whole.chain([first].into_iter().filter(|first| !is_whole(&root.join(&first.path)))) {
        let path = root.join(&file.path);
        let footer = metadata(&path)?;
        let (nulls, typed): (Vec<_>, Vec<_>) =
            footer.schema().fields().iter().cloned().partition(|field| *field.data_type() == DataType::Null);
        let own = delta_schema(&Schema::new(typed)).map_err(|what| SourceError::file(&path, what))?;
        columns = merge(&columns, own.fields()).map_err(|what| SourceError::file(&path, what))?;
        // A column without any value has no type yet.
        untyped.extend(nulls.iter().map(|field| Field::new(field.name(), DataType::Utf8, true)));
    }
    let columns =
        merge(&columns, &untyped.into_iter().filter(|field| columns.find(field.name()).is_none()).collect());
    let columns = columns.map_err(|what| SourceError::file(root, what))?;
    let schema = with_partitions(&Schema::new(columns), &first.partition);
    delta_schema(&schema).map_err(|what| SourceError::file(root, what))
}

pub(super) fn advance(before: &Position, part: &Part, end: u64, is_whole: bool) -> Position {
    let mut files = match before {
        Position::Parquet { files, .. } => files.clone(),
        _ => BTreeMap::new(),
    };
    files.insert(part.file.clone(), part.size);
    Position::Parquet { files, partial: (!is_whole).then(|| (part.file.clone(), end)) }
}

fn part(file: &Found, start: u64) -> Part {
    Part {
        file: file.path.clone(),
        size: file.size,
        version: None,
        start,
        end: 0,
        partition: file.partition.clone(),
    }
}

/// The columns of a file and those of its folders, which count where both have one.
fn with_partitions(schema: &Schema, partition: &BTreeMap<String, Option<String>>) -> Schema {
    let own = schema.fields().iter().filter(|field| !partition.contains_key(field.name())).cloned();
    let folders = partition.keys().map(|name| Arc::new(Field::new(name, DataType::Utf8, true)));
    Schema::new(own.chain(folders).collect::<Vec<_>>())
}

/// What folders named `column=value` on the way to a file say.
fn partition_of(path: &str) -> BTreeMap<String, Option<String>> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|folder| folder.split_once('='));
    pairs.map(|(name, value)| (decoded(name), (value != NULL_PARTITION).then(|| decoded(value)))).collect()
}

/// Whether a file ends as Parquet files do, or cannot be looked at: then reading it says why.
fn is_whole(path: &Path) -> bool {
    let end = std::fs::File::open(path).and_then(|mut file| {
        let mut magic = [0; 4];
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut magic).map(|()| magic == MAGIC)
    });
    match end {
        Ok(is_whole) => is_whole,
        Err(error) => error.kind() != std::io::ErrorKind::InvalidInput,
    }
}

/// Collects the Parquet files below a folder. Names that begin with `_` or `.` are passed over, as Spark
/// and Hive do.
fn walk(root: &Path, folder: &Path, files: &mut Vec<Found>) -> Result<(), SourceError> {
    let entries = std::fs::read_dir(folder).map_err(|error| SourceError::file(folder, error))?;
    let mut paths = BTreeSet::new();
    for entry in entries {
        paths.insert(entry.map_err(|error| SourceError::file(folder, error))?.path());
    }
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(['_', '.']) {
            continue;
        }
        if path.is_dir() {
            if is_delta_table(&path) {
                return Err(SourceError::Unsupported {
                    path: root.to_owned(),
                    what: format!("has a Delta table inside ({name}), whose removed files would be read too"),
                });
            }
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet")) {
            files.push(found(root, &path)?);
        }
    }
    Ok(())
}

fn found(root: &Path, path: &Path) -> Result<Found, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|error| SourceError::file(path, error))?;
    let modified = metadata.modified().map_err(|error| SourceError::file(path, error))?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    let name = relative.to_str().ok_or_else(|| SourceError::file(path, "its name is not Unicode"))?;
    let name = name.replace('\\', "/");
    Ok(Found {
        modified_ms: modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis(),
        partition: partition_of(&name),
        path: name,
        size: metadata.len(),
    })
}

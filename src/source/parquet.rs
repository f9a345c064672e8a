//! A Parquet file or a directory of them as a source: each file is read once. Folders named `column=value` are
//! partitions as Hive writes them; their columns are text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::reader::{ChunkReader, Length};
use percent_encoding::percent_decode_str;

use super::file::Root;
use super::merge::merge;
use super::{Expected, HeldFile, SourceError};
use crate::checkpoint::{Part, Position};
use crate::store::Location;
use crate::table::{delta_schema, objects};

const LOG_FOLDER: &str = "_delta_log";
/// Footers that are read side by side.
const FOOTERS_AT_ONCE: usize = 16;
const MAGIC: &[u8] = b"PAR1";
/// How Hive names the folder of null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

#[derive(Debug)]
pub(super) struct ParquetSource {
    at: Location,
    root: Root,
    /// As the folder was when the run started, by (modification time, path).
    files: Vec<Found>,
    /// Files without a footer, which are left for a later run.
    unfinished: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Found {
    modified_ms: u64,
    path: String,
    size: u64,
    /// What its folders say, by column.
    partition: BTreeMap<String, Option<String>>,
    footer: Footer,
}

/// What the end of a file says.
#[derive(Clone, Debug)]
enum Footer {
    Whole {
        rows: u64,
        columns: Fields,
    },
    /// It has none, or not yet.
    Missing,
    Damaged(String),
}

impl Found {
    fn new(path: String, modified_ms: u64, size: u64) -> Self {
        Found { modified_ms, partition: partition_of(&path), path, size, footer: Footer::Missing }
    }
}

impl ParquetSource {
    pub(super) async fn open(at: &Location) -> Result<(Self, Root, SchemaRef), SourceError> {
        let (root, mut files) = match at.path() {
            Some(_) => {
                let at = at.clone();
                Root::from(at.clone()).blocking(move |_| on_disk(&at)).await?
            }
            None => in_store(at).await?,
        };
        files.sort_by(|a, b| (a.modified_ms, &a.path).cmp(&(b.modified_ms, &b.path)));
        let looked = files.into_iter().map(|mut file| {
            let root = root.clone();
            async move {
                root.blocking(move |root| {
                    file.footer = look(&root, &file.path);
                    Ok(file)
                })
                .await
            }
        });
        let files: Vec<Found> = stream::iter(looked).buffered(FOOTERS_AT_ONCE).try_collect().await?;
        // Where nothing is whole, the first says what is wrong.
        let is_whole = |file: &&Found| matches!(file.footer, Footer::Whole { .. });
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
        let schema = schema_of(&root, &files, first)?;
        let unfinished = BTreeSet::new();
        Ok((ParquetSource { at: at.clone(), root: root.clone(), files, unfinished }, root, schema))
    }

    pub(super) fn next_file(&mut self, position: &Position) -> Result<Option<Part>, SourceError> {
        let nothing = BTreeMap::new();
        let (seen, partial) = match position {
            Position::Start => (&nothing, None),
            Position::Parquet { files, partial } => (files, partial.as_ref()),
            _ => {
                return Err(SourceError::Unsupported {
                    path: self.at.clone(),
                    what: "was a Delta table when the checkpoint was made, and is a set of Parquet files now"
                        .into(),
                });
            }
        };
        for file in &self.files {
            if let Some(size) = seen.get(&file.path).filter(|size| **size != file.size) {
                return Err(SourceError::file(
                    &self.root.place(&file.path),
                    format!(
                        "it had {size} bytes when it was read and has {} now; a file is read once, give new data a new name",
                        file.size
                    ),
                ));
            }
        }
        if let Some((name, row)) = partial {
            let file = self.files.iter().find(|file| file.path == *name).ok_or_else(|| {
                SourceError::file(&self.root.place(name), "it is gone, and not all of its rows are read")
            })?;
            return Ok(Some(part(file, *row)));
        }
        for file in self.files.iter().filter(|file| !seen.contains_key(&file.path)) {
            if self.unfinished.contains(&file.path) {
                continue;
            }
            match &file.footer {
                Footer::Whole { .. } => return Ok(Some(part(file, 0))),
                Footer::Damaged(message) => {
                    return Err(SourceError::file(&self.root.place(&file.path), message));
                }
                Footer::Missing => self.unfinished.insert(file.path.clone()),
            };
        }
        Ok(None)
    }

    /// Files that were passed over because they have no footer.
    pub(super) fn unfinished(&self) -> &BTreeSet<String> {
        &self.unfinished
    }

    /// Rows of the files that are left.
    pub(super) fn rows_after(&self, position: &Position) -> Option<u64> {
        let rows = |file: &Found| match &file.footer {
            Footer::Whole { rows, .. } => Some(*rows),
            Footer::Missing => Some(0),
            Footer::Damaged(_) => None,
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
        let whole = self.files.iter().filter(|file| matches!(file.footer, Footer::Whole { .. }));
        whole.map(|file| part(file, 0)).collect()
    }

    /// `expected` says what the target should hold of a file, where a condition chooses the rows.
    pub(super) fn position_after(
        &self,
        held: &[HeldFile],
        expected: &HashMap<String, Expected>,
    ) -> Result<Position, SourceError> {
        let unknown = |what: String| SourceError::Unsupported { path: self.at.clone(), what };
        let mut files = BTreeMap::new();
        let mut partial = None;
        for held in held {
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
        Ok(Position::Parquet { files, partial })
    }
}

/// The columns of all files together, and those of their folders.
fn schema_of(root: &Root, files: &[Found], first: &Found) -> Result<SchemaRef, SourceError> {
    match &first.footer {
        Footer::Whole { .. } => {}
        Footer::Missing => {
            let what = "it is no whole Parquet file (cut off, or still being written?)";
            return Err(SourceError::file(&root.place(&first.path), what));
        }
        Footer::Damaged(message) => return Err(SourceError::file(&root.place(&first.path), message)),
    }
    let mut columns = Fields::empty();
    let mut untyped: Vec<Field> = Vec::new();
    for file in files {
        let Footer::Whole { columns: of_file, .. } = &file.footer else { continue };
        let wrong = |what: String| SourceError::file(&root.place(&file.path), what);
        let (nulls, typed): (Vec<_>, Vec<_>) =
            of_file.iter().cloned().partition(|field| *field.data_type() == DataType::Null);
        let own = delta_schema(&Schema::new(typed)).map_err(wrong)?;
        columns = merge(&columns, own.fields()).map_err(wrong)?;
        // A column without any value has no type yet.
        untyped.extend(nulls.iter().map(|field| Field::new(field.name(), DataType::Utf8, true)));
    }
    let wrong = |what: String| SourceError::file(root.at(), what);
    let untyped = untyped.into_iter().filter(|field| columns.find(field.name()).is_none()).collect();
    let columns = merge(&columns, &untyped).map_err(wrong)?;
    delta_schema(&with_partitions(&Schema::new(columns), &first.partition)).map_err(wrong)
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

/// Looks at the end of a file.
fn look(root: &Root, path: &str) -> Footer {
    let file = match root.open(path) {
        Ok(file) => file,
        Err(error) => return Footer::Damaged(error.to_string()),
    };
    let has_end = file.len() >= 4 && file.get_bytes(file.len() - 4, 4).is_ok_and(|end| end.as_ref() == MAGIC);
    if !has_end {
        return Footer::Missing;
    }
    match ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()) {
        Ok(footer) => {
            let rows = footer.metadata().file_metadata().num_rows();
            let columns = footer.schema().fields().clone();
            Footer::Whole { rows: u64::try_from(rows).unwrap_or_default(), columns }
        }
        Err(error) => Footer::Damaged(format!("its footer cannot be read: {error}")),
    }
}

/// The Parquet files of a local folder, or the one file.
fn on_disk(at: &Location) -> Result<(Root, Vec<Found>), SourceError> {
    let none = || SourceError::NoTable { path: at.clone() };
    let path = at.path().ok_or_else(none)?;
    let mut files = Vec::new();
    if path.is_dir() {
        walk(path, path, &mut files)?;
        return Ok((Root::from(at.clone()), files));
    }
    let begin = File::open(path).and_then(|mut file| {
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map(|()| magic == MAGIC)
    });
    if !begin.unwrap_or(false) {
        return Err(none());
    }
    let folder = path.parent().unwrap_or(path);
    files.push(found(folder, path)?);
    Ok((Root::from(Location::local(folder)), files))
}

/// The Parquet files below a place in an object store, or the one object.
async fn in_store(at: &Location) -> Result<(Root, Vec<Found>), SourceError> {
    let wrong = |error: object_store::Error| SourceError::file(at, error);
    let is_parquet =
        |name: &str| name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case("parquet"));
    let found = |object: &ObjectMeta| {
        let modified_ms = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default();
        Found::new(object.location.to_string(), modified_ms, object.size)
    };
    let store = objects(at).await?;
    let mut files = Vec::new();
    let mut listed = store.list(None);
    while let Some(object) = listed.try_next().await.map_err(wrong)? {
        let path = object.location.as_ref();
        if path.split('/').any(|part| part == LOG_FOLDER) {
            let what = format!("has a Delta table inside ({path}), whose removed files would be read too");
            return Err(SourceError::Unsupported { path: at.clone(), what });
        }
        if !path.split('/').any(|part| part.starts_with(['_', '.'])) && is_parquet(path) {
            files.push(found(&object));
        }
    }
    if files.is_empty()
        && let Some((folder, name)) = at.split()
        && is_parquet(&name)
    {
        let store = objects(&folder).await?;
        let object = store.head(&ObjectPath::from(name.as_str())).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => SourceError::Missing { path: at.clone() },
            error => wrong(error),
        })?;
        // A store below a prefix does not take that off what it tells of one object.
        let file = Found { path: name, ..found(&object) };
        return Ok((Root::remote(folder, store), vec![Found { partition: BTreeMap::new(), ..file }]));
    }
    if files.is_empty() {
        return Err(SourceError::Missing { path: at.clone() });
    }
    Ok((Root::remote(at.clone(), store), files))
}

/// Collects the Parquet files below a folder. Names that begin with `_` or `.` are passed over, as Spark
/// and Hive do.
fn walk(root: &Path, folder: &Path, files: &mut Vec<Found>) -> Result<(), SourceError> {
    let entries = std::fs::read_dir(folder).map_err(|error| SourceError::file(&folder.into(), error))?;
    let mut paths = BTreeSet::new();
    for entry in entries {
        paths.insert(entry.map_err(|error| SourceError::file(&folder.into(), error))?.path());
    }
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(['_', '.']) {
            continue;
        }
        if path.is_dir() {
            if path.join(LOG_FOLDER).is_dir() {
                return Err(SourceError::Unsupported {
                    path: root.into(),
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
    let metadata = std::fs::metadata(path).map_err(|error| SourceError::file(&path.into(), error))?;
    let modified = metadata.modified().map_err(|error| SourceError::file(&path.into(), error))?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    let name = relative.to_str().ok_or_else(|| SourceError::file(&path.into(), "its name is not Unicode"))?;
    let name = name.replace('\\', "/");
    let modified_ms = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(Found::new(name, u64::try_from(modified_ms).unwrap_or(u64::MAX), metadata.len()))
}

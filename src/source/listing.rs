//! Which files of a folder, or below a prefix of an object store, are a source of Parquet files.
//!
//! Files are those named `*.parquet`. Where there is none, they are those that begin as Parquet files do, as Hive and
//! Trino write them without an ending. Names that begin with `_` or `.` are passed over, as Spark and Hive do, but for
//! folders of partitions (`_year=2020`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ::arrow::datatypes::Fields;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::file::reader::{ChunkReader, Length};
use percent_encoding::percent_decode_str;

use super::SourceError;
use super::file::ByteStrings;
use super::file::Root;
use super::footer::load;
use crate::store::Location;
use crate::table::objects;
use crate::wording::counted;

const LOG_FOLDER: &str = "_delta_log";
/// How a file begins and ends ("File format" in the documentation of Parquet), and how one ends whose footer is
/// encrypted ("Parquet Modular Encryption").
const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED: &[u8] = b"PARE";
/// How Hive names the folder of null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// Files with other names that are opened to see whether they are Parquet files.
const MAX_SNIFFED: usize = 1_000;

/// What is in a folder.
#[derive(Debug)]
pub(super) struct FolderListing {
    /// What the paths are relative to.
    pub(super) root: Root,
    pub(super) files: Vec<FoundFile>,
    /// What of it is no part of the source, and why.
    pub(super) left_out: Vec<String>,
}

impl FolderListing {
    fn reading(self, bytes: ByteStrings) -> Self {
        FolderListing { root: self.root.reading(bytes), ..self }
    }
}

/// A file of a source.
#[derive(Clone, Debug)]
pub(super) struct FoundFile {
    pub(super) modified_ms: u64,
    pub(super) path: String,
    pub(super) size: u64,
    /// What its folders say, by column.
    pub(super) partition: BTreeMap<String, Option<String>>,
    pub(super) footer: Footer,
}

/// What the end of a file says.
#[derive(Clone, Debug)]
pub(super) enum Footer {
    Whole {
        rows: u64,
        columns: Fields,
    },
    /// It has none, or not yet.
    Missing,
    Damaged(String),
}

impl FoundFile {
    fn new(path: String, modified_ms: u64, size: u64) -> Self {
        FoundFile { modified_ms, partition: partition_of(&path), path, size, footer: Footer::Missing }
    }

    fn of_object(object: &ObjectMeta) -> Self {
        let modified_ms = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default();
        FoundFile::new(object.location.to_string(), modified_ms, object.size)
    }
}

/// The files of a place.
///
/// # Errors
/// When there are none, a Delta table is among them, or something cannot be read.
pub(super) async fn list(at: &Location, bytes: ByteStrings) -> Result<FolderListing, SourceError> {
    let (root, walked) = match at.path() {
        Some(path) if path.is_dir() => {
            let folder = path.to_owned();
            let walk = move |_| {
                let mut walk = Walk::default();
                walk.folder(&folder, &folder)?;
                Ok(walk)
            };
            let root = Root::from(at.clone());
            let walked = root.blocking(walk).await?;
            (root, walked)
        }
        Some(path) => return the_file(at, path).map(|listed| listed.reading(bytes)),
        None => match in_store(at).await? {
            StoreListing::Folder(root, walked) => (root, walked),
            StoreListing::File(listed) => return Ok(listed.reading(bytes)),
        },
    };
    let Walk { files, others, mut left_out, .. } = walked;
    if files.is_empty() && others.is_empty() {
        return Err(match at.path() {
            Some(_) => SourceError::NoTable { path: at.clone() },
            None => SourceError::Missing { path: at.clone() },
        });
    }
    let looked = others.into_iter().take(MAX_SNIFFED).collect::<Vec<_>>();
    let sniff = |root: Root| {
        Ok(looked.into_iter().filter(|file| begins(&root, &file.path, MAGIC)).collect::<Vec<_>>())
    };
    let others = root.blocking(sniff).await?;
    let files = match (files.is_empty(), others.first()) {
        (true, None) => return Err(SourceError::NoTable { path: at.clone() }),
        (true, Some(_)) => others,
        (false, None) => files,
        (false, Some(first)) => {
            left_out.push(format!(
                "{} whose names do not end in .parquet, among them {}: only where no name ends so are such files read. \
                 Rename them if they belong to the source",
                counted(others.len() as u64, "Parquet file"),
                root.place(&first.path)
            ));
            files
        }
    };
    Ok(FolderListing { root, files, left_out }.reading(bytes))
}

/// A file as a source of its own.
fn the_file(at: &Location, path: &Path) -> Result<FolderListing, SourceError> {
    let begin = File::open(path).and_then(|mut file| {
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map(|()| magic == MAGIC || magic == ENCRYPTED)
    });
    if !begin.unwrap_or(false) {
        return Err(SourceError::NoTable { path: at.clone() });
    }
    let folder = path.parent().unwrap_or(path);
    let files = vec![found(folder, path)?];
    Ok(FolderListing { root: Root::from(Location::local(folder)), files, left_out: Vec::new() })
}

/// What of a folder was seen so far.
#[derive(Debug, Default)]
struct Walk {
    /// Files that are named as Parquet files are.
    files: Vec<FoundFile>,
    /// The others.
    others: Vec<FoundFile>,
    left_out: Vec<String>,
    /// Folders that were walked, by the paths without links.
    walked: BTreeSet<PathBuf>,
}

impl Walk {
    /// Collects the files below a folder. Links are followed, but not to a folder that was walked or that it is in.
    fn folder(&mut self, root: &Path, folder: &Path) -> Result<(), SourceError> {
        let wrong = |error: std::io::Error| SourceError::file(&folder.into(), error);
        let real = folder.canonicalize().map_err(wrong)?;
        let real_root = root.canonicalize().map_err(wrong)?;
        if (real != real_root && real_root.starts_with(&real)) || self.walked.contains(&real) {
            self.left_out.push(format!(
                "{}, which leads to {}: its files would be read twice",
                folder.display(),
                real.display()
            ));
            return Ok(());
        }
        self.walked.insert(real);
        let mut paths = BTreeSet::new();
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            paths.insert(entry.map_err(wrong)?.path());
        }
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_hidden(&name) {
                continue;
            }
            if path.is_dir() {
                if path.join(LOG_FOLDER).is_dir() && !is_above(&path, &real_root) {
                    return Err(with_table_inside(&root.into(), &name));
                }
                self.folder(root, &path)?;
            } else if is_parquet(&name) {
                self.files.push(found(root, &path)?);
            } else if let Ok(other) = found(root, &path) {
                self.others.push(other);
            }
        }
        Ok(())
    }
}

/// Whether a folder is, or has in it, another one.
fn is_above(folder: &Path, other: &Path) -> bool {
    folder.canonicalize().is_ok_and(|folder| other.starts_with(folder))
}

fn with_table_inside(at: &Location, name: &str) -> SourceError {
    let what = format!("has a Delta table inside ({name}), whose removed files would be read too");
    SourceError::Unsupported { path: at.clone(), what }
}

/// What is below a prefix of a store.
enum StoreListing {
    Folder(Root, Walk),
    /// The place is an object.
    File(FolderListing),
}

async fn in_store(at: &Location) -> Result<StoreListing, SourceError> {
    let wrong = |error: object_store::Error| SourceError::file(at, error);
    let store = objects(at).await?;
    let mut walk = Walk::default();
    let mut listed = store.list(None);
    while let Some(object) = listed.try_next().await.map_err(wrong)? {
        let path = object.location.as_ref();
        if path.split('/').any(|part| part == LOG_FOLDER) {
            return Err(with_table_inside(at, path));
        }
        if path.split('/').any(is_hidden) {
            continue;
        }
        let files = if is_parquet(path) { &mut walk.files } else { &mut walk.others };
        files.push(FoundFile::of_object(&object));
    }
    if walk.files.is_empty()
        && walk.others.is_empty()
        && let Some((folder, name)) = at.split()
    {
        let store = objects(&folder).await?;
        let object = store.head(&ObjectPath::from(name.as_str())).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => SourceError::Missing { path: at.clone() },
            error => wrong(error),
        })?;
        // A store below a prefix does not take that off what it tells of one object.
        let file = FoundFile { path: name, partition: BTreeMap::new(), ..FoundFile::of_object(&object) };
        let root = Root::remote(folder, store);
        return Ok(StoreListing::File(FolderListing { root, files: vec![file], left_out: Vec::new() }));
    }
    Ok(StoreListing::Folder(Root::remote(at.clone(), store), walk))
}

fn is_parquet(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case("parquet"))
}

/// Whether a name is one that is passed over.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

fn found(root: &Path, path: &Path) -> Result<FoundFile, SourceError> {
    let metadata =
        std::fs::metadata(path).map_err(|error| match (error.kind(), std::fs::read_link(path)) {
            (std::io::ErrorKind::NotFound, Ok(to)) => {
                let to = to.display();
                SourceError::file(&path.into(), format!("it is a link to {to}, which is not there"))
            }
            _ => SourceError::file(&path.into(), error),
        })?;
    let modified = metadata.modified().map_err(|error| SourceError::file(&path.into(), error))?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    let name = relative.to_str().ok_or_else(|| SourceError::file(&path.into(), "its name is not Unicode"))?;
    let name = name.replace('\\', "/");
    let modified_ms = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(FoundFile::new(name, u64::try_from(modified_ms).unwrap_or(u64::MAX), metadata.len()))
}

/// What folders named `column=value` on the way to a file say.
fn partition_of(path: &str) -> BTreeMap<String, Option<String>> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|folder| folder.split_once('='));
    pairs.map(|(name, value)| (decoded(name), (value != NULL_PARTITION).then(|| decoded(value)))).collect()
}

/// Whether a file begins with these bytes.
fn begins(root: &Root, path: &str, with: &[u8]) -> bool {
    let Ok(file) = root.open(path) else { return false };
    file.len() >= with.len() as u64 && file.get_bytes(0, with.len()).is_ok_and(|bytes| bytes.as_ref() == with)
}

/// Looks at the end of a file.
pub(super) fn look(root: &Root, path: &str) -> Footer {
    let file = match root.open(path) {
        Ok(file) => file,
        Err(error) => return Footer::Damaged(error.to_string()),
    };
    let end = (file.len() >= 4).then(|| file.get_bytes(file.len() - 4, 4).ok()).flatten();
    match end.as_deref() {
        Some(MAGIC) => {}
        Some(ENCRYPTED) => {
            return Footer::Damaged("it is encrypted; this program has no keys for it".to_owned());
        }
        _ => return Footer::Missing,
    }
    match load(&file, root.byte_strings()) {
        Ok(footer) => {
            let rows = footer.metadata().file_metadata().num_rows();
            let columns = footer.schema().fields().clone();
            Footer::Whole { rows: u64::try_from(rows).unwrap_or_default(), columns }
        }
        Err(error) => Footer::Damaged(format!("its footer cannot be read: {error}")),
    }
}

//! Lists the files of a source, in a folder or below a prefix of an object store.
//!
//! The files are those with the ending of a format, such as `*.parquet`. If there are none, they are those whose first
//! bytes are those of a format, since Hive and Trino write files without an ending. Names that begin with `_` or `.`
//! are passed over, as in Spark and Hive, except those of partition folders (`_year=2020`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::FileType;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use percent_encoding::percent_decode_str;

use super::SourceError;
use super::file::Root;
use super::file_format::FileFormat;
use super::shape::Footer;
use crate::config::SourceFormat;
use crate::store::{Location, without_store_name};
use crate::table::objects;
use crate::wording::counted;

const LOG_FOLDER: &str = "_delta_log";
/// Hive's value for null in the name of a partition folder.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// Maximum number of files with other endings that are opened to name them in a message.
const MAX_SNIFFED: usize = 1_000;

/// The files found in a folder.
#[derive(Debug)]
pub(super) struct FolderListing {
    /// The folder or prefix that the paths are relative to.
    pub(super) root: Root,
    /// The format of all its files.
    pub(super) format: FileFormat,
    pub(super) files: Vec<FoundFile>,
    /// Descriptions of what is left out of the source, with the reasons.
    pub(super) left_out: Vec<String>,
}

/// A file of a source.
#[derive(Clone, Debug)]
pub(super) struct FoundFile {
    pub(super) modified_ms: u64,
    pub(super) path: String,
    pub(super) size: u64,
    /// Identifies the content, where that is known.
    pub(super) content: Option<String>,
    /// Values of partition columns, from the names of its folders; `None` for null.
    pub(super) partition: BTreeMap<String, Option<String>>,
    pub(super) footer: Footer,
}

impl FoundFile {
    fn new(path: String, modified_ms: u64, size: u64) -> Self {
        let partition = partition_of(&path);
        FoundFile { modified_ms, partition, path, size, content: None, footer: Footer::Missing }
    }

    fn of_object(object: &ObjectMeta) -> Self {
        let modified_ms = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default();
        let file = FoundFile::new(object.location.to_string(), modified_ms, object.size);
        FoundFile { content: object.e_tag.clone(), ..file }
    }
}

/// Lists the files of a location.
///
/// # Errors
/// When there are no files of a format, a Delta table is among them, or something cannot be read.
pub(super) async fn list(
    at: &Location,
    stated: Option<SourceFormat>,
    formats: &[FileFormat],
) -> Result<FolderListing, SourceError> {
    let is_stated = stated.is_some();
    let (root, walked) = match at.path() {
        Some(path) if path.is_dir() => {
            let (folder, formats) = (path.to_owned(), formats.to_vec());
            let walk = move |_| {
                let mut walk = Walk { formats, ..Walk::default() };
                walk.folder(&folder, &folder)?;
                Ok(walk)
            };
            let root = Root::from(at.clone());
            let walked = root.blocking(walk).await?;
            (root, walked)
        }
        Some(path) => return list_local_file(at, path, is_stated, formats).await,
        None => match list_store(at, formats).await? {
            StoreListing::Folder(root, walked) => (root, walked),
            StoreListing::File(root, file) => {
                return list_single_file(at, root, file, is_stated, formats).await;
            }
        },
    };
    let Walk { files, others, mut left_out, .. } = walked;
    if files.is_empty() && others.is_empty() {
        return Err(match at.path() {
            Some(_) => SourceError::NoTable { path: at.clone() },
            None => SourceError::Missing { path: at.clone() },
        });
    }
    // If some files have the ending, the others are opened for the message alone.
    let most = if files.is_empty() { usize::MAX } else { MAX_SNIFFED };
    let looked = others.into_iter().take(most).collect::<Vec<_>>();
    let of_all = formats.to_vec();
    let sniff = move |root: Root| {
        let format_of = |file: &FoundFile| {
            of_all.iter().copied().find(|format| format.matches_content(&root, &file.path, is_stated))
        };
        Ok(looked.into_iter().filter_map(|file| Some((format_of(&file)?, file))).collect::<Vec<_>>())
    };
    let others = root.blocking(sniff).await?;
    let named = |format: &FileFormat| files.iter().any(|file| format.has_ending(&file.path));
    let mut by_name = formats.iter().copied().filter(named);
    // Files that are Parquet by their content are the source, whatever else lies beside them.
    let by_name = by_name.next().filter(|format| {
        let is_table = matches!(format, FileFormat::Parquet(_));
        is_table || others.iter().all(|(other, _)| other == format)
    });
    let (format, files) = match (by_name, others.first()) {
        (None, None) => return Err(SourceError::NoTable { path: at.clone() }),
        (None, Some((format, _))) => {
            let format = *format;
            leave_out_named(&mut left_out, &root, format, &files);
            let files = others.into_iter().filter(|(of_file, _)| *of_file == format);
            (format, files.map(|(_, file)| file).collect())
        }
        (Some(format), first) => {
            if let Some((_, first)) = first {
                let endings = format.endings().join(" or .");
                left_out.push(format!(
                    "{} whose names do not end in .{endings}, among them {}: only where no name ends so are such files read. \
                     Rename them if they belong to the source",
                    counted(others.len() as u64, &format!("{} file", format.name())),
                    root.place(&first.path)
                ));
            }
            let (files, named): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|file| format.has_ending(&file.path));
            leave_out_named(&mut left_out, &root, format, &named);
            (format, files)
        }
    };
    Ok(FolderListing { root, format, files, left_out })
}

/// Describes files with the endings of other formats, which are left out.
fn leave_out_named(left_out: &mut Vec<String>, root: &Root, format: FileFormat, files: &[FoundFile]) {
    if let Some(first) = files.first() {
        left_out.push(format!(
            "{} of other formats, among them {}: a source has files of one format, and here that is {}",
            counted(files.len() as u64, "file"),
            root.place(&first.path),
            format.name()
        ));
    }
}

/// Returns a local file as the only one of a source.
async fn list_local_file(
    at: &Location,
    path: &Path,
    is_stated: bool,
    formats: &[FileFormat],
) -> Result<FolderListing, SourceError> {
    let folder = path.parent().unwrap_or(path);
    let file = stat_file(folder, path)?;
    list_single_file(at, Root::from(Location::local(folder)), file, is_stated, formats).await
}

/// Returns a file as the only one of a source, whatever its name.
async fn list_single_file(
    at: &Location,
    root: Root,
    file: FoundFile,
    is_stated: bool,
    formats: &[FileFormat],
) -> Result<FolderListing, SourceError> {
    let (of_all, name) = (formats.to_vec(), file.path.clone());
    let find = move |root: Root| {
        let mut of_all = of_all.into_iter();
        Ok(of_all.find(|format| format.matches_single_file(&root, &name, is_stated)))
    };
    let Some(format) = root.blocking(find).await? else {
        return Err(SourceError::NoTable { path: at.clone() });
    };
    Ok(FolderListing { root, format, files: vec![file], left_out: Vec::new() })
}

/// The files that a walk through a folder has found so far.
#[derive(Debug, Default)]
struct Walk {
    formats: Vec<FileFormat>,
    /// Files with the ending of one of the formats.
    files: Vec<FoundFile>,
    /// Files with other endings.
    others: Vec<FoundFile>,
    left_out: Vec<String>,
    /// Folders that were walked, by their paths without links.
    walked: BTreeSet<PathBuf>,
}

impl Walk {
    /// Collects the files below a folder. Links are followed, except to a folder that was walked or that contains the
    /// root.
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
        let mut entries: Vec<(OsString, FileType)> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            entries.push((entry.file_name(), entry.file_type().map_err(wrong)?));
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, kind) in entries {
            let (path, name) = (folder.join(&name), name.to_string_lossy());
            if is_hidden(&name) {
                continue;
            }
            if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
                if path.join(LOG_FOLDER).is_dir() && !is_above(&path, &real_root) {
                    return Err(with_table_inside(&root.into(), &name));
                }
                self.folder(root, &path)?;
            } else if self.formats.iter().any(|format| format.has_ending(&name)) {
                self.files.push(stat_file(root, &path)?);
            } else if let Ok(other) = stat_file(root, &path) {
                self.others.push(other);
            }
        }
        Ok(())
    }
}

/// Whether a folder is or contains another one.
fn is_above(folder: &Path, other: &Path) -> bool {
    folder.canonicalize().is_ok_and(|folder| other.starts_with(folder))
}

fn with_table_inside(at: &Location, name: &str) -> SourceError {
    let what = format!("has a Delta table inside ({name}), whose removed files would be read too");
    SourceError::Unsupported { path: at.clone(), what }
}

/// The objects found at a location in a store.
enum StoreListing {
    Folder(Root, Walk),
    /// The location is that of one object.
    File(Root, FoundFile),
}

async fn list_store(at: &Location, formats: &[FileFormat]) -> Result<StoreListing, SourceError> {
    let wrong = |error: object_store::Error| SourceError::file(at, without_store_name(error));
    let store = objects(at).await?;
    let mut walk = Walk { formats: formats.to_vec(), ..Walk::default() };
    let mut listed = store.list(None);
    while let Some(object) = listed.try_next().await.map_err(wrong)? {
        let path = object.location.as_ref();
        if path.split('/').any(|part| part == LOG_FOLDER) {
            return Err(with_table_inside(at, path));
        }
        if path.split('/').any(is_hidden) {
            continue;
        }
        let is_named = walk.formats.iter().any(|format| format.has_ending(path));
        let files = if is_named { &mut walk.files } else { &mut walk.others };
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
        // A store with a prefix does not strip the prefix from the metadata of a single object.
        let file = FoundFile { path: name, partition: BTreeMap::new(), ..FoundFile::of_object(&object) };
        return Ok(StoreListing::File(Root::remote(folder, store), file));
    }
    Ok(StoreListing::Folder(Root::remote(at.clone(), store), walk))
}

/// Whether a file or folder of this name is passed over.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

fn stat_file(root: &Path, path: &Path) -> Result<FoundFile, SourceError> {
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

/// Returns the values of partition columns from the folders named `column=value` in a file's path.
fn partition_of(path: &str) -> BTreeMap<String, Option<String>> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|folder| folder.split_once('='));
    pairs.map(|(name, value)| (decoded(name), (value != NULL_PARTITION).then(|| decoded(value)))).collect()
}

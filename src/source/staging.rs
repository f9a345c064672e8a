//! Files that are no tables, written as Parquet before rows of them are planned.
//!
//! A staged file is named after its source file, that file's size, modification time and, in a store, ETag, and the way
//! in which it is read. It is there as a whole or not at all (test `files::a_kill_while_staging_loses_and_doubles_nothing`), and
//! may be lost: it is written again when it is needed, with the same rows. ColumnKinds of columns that were inferred once are
//! kept, so that a later file does not change the type of a column.

mod bad_row;
mod carried_types;
mod csv_rows;
mod input;
mod json_records;
mod json_rows;
mod kind;
mod parquet_file;
mod progress;
mod typed_rows;

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::file::reader::{FileReader, SerializedFileReader};
use tempfile::TempDir;

use self::bad_row::{SkippedRows, StageError};
use self::input::StagingInput;
use self::parquet_file::{NOTE, StagedNote};
use super::SourceError;
use super::file::Root;
use crate::checkpoint::FileRange;
use crate::config::{FilesSpec, OnBadRow, SourceFormat};
use crate::faultpoint::{self, Side};
use crate::ident::Fingerprint;
use crate::panics;
use crate::store::{self, Location, StoreError, disk_trouble};

pub(crate) use self::carried_types::ColumnConversion;
pub(super) use self::kind::{ColumnKind, ColumnKinds};
pub(crate) use self::parquet_file::ParquetFileWriter;
pub use self::progress::StagingProgress;

const FOLDER: &str = "staged";
const SKIPPED_FOLDER: &str = "skipped";

/// Where staged files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StagingPlace {
    /// In the job's local state.
    State,
    /// There if it exists already, else in a folder that is removed with the source.
    StateIfThere,
}

/// The files of a source that are staged, and the folder of the staged ones.
#[derive(Debug)]
pub(super) struct StagingArea {
    root: Root,
    format: SourceFormat,
    spec: FilesSpec,
    /// The folder of state, with those of staged files and of notes on skipped rows.
    state: PathBuf,
    _temporary: Option<TempDir>,
    files: BTreeMap<String, FileStamp>,
    kinds: Mutex<ColumnKinds>,
    progress: StagingProgress,
    /// Held while a file is staged: one is enough for memory.
    turn: Mutex<()>,
}

/// What a staged file is named after, besides its path: size, modification time and content of its source file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileStamp {
    pub(super) size: u64,
    pub(super) modified_ms: u64,
    /// As the listing of a store says it; empty on a local disk.
    pub(super) content: String,
}

/// What a file turned out to be when it was staged.
#[derive(Debug)]
pub(super) enum StagingResult {
    Whole {
        /// The columns of a text file.
        kinds: Vec<(String, ColumnKind)>,
        skipped: u64,
    },
    /// It has no bytes yet.
    Empty,
    /// With a message.
    Wrong(String),
}

impl StagingArea {
    /// Returns the staging of a source's files.
    ///
    /// # Errors
    /// When there is no folder for staged files.
    pub(super) fn new(
        root: &Root,
        format: SourceFormat,
        spec: &FilesSpec,
        state: &Path,
        place: StagingPlace,
        files: BTreeMap<String, FileStamp>,
        progress: StagingProgress,
    ) -> Result<Arc<Self>, StoreError> {
        let (state, temporary) = match place {
            StagingPlace::StateIfThere if !state.is_dir() => {
                let temporary = tempfile::tempdir()
                    .map_err(StoreError::of("create a folder in", std::env::temp_dir()))?;
                (temporary.path().to_owned(), Some(temporary))
            }
            _ => (state.to_owned(), None),
        };
        store::create_folder(&state.join(FOLDER))?;
        let (kinds, turn) = (Mutex::default(), Mutex::default());
        let (root, spec) = (root.clone(), spec.clone());
        let _temporary = temporary;
        Ok(Arc::new(StagingArea { root, format, spec, state, _temporary, files, kinds, progress, turn }))
    }

    /// Returns a name for the way in which files are read.
    pub(super) fn reading(format: SourceFormat, spec: &FilesSpec) -> String {
        // What is done with bad rows changes nothing about the others.
        let spec = FilesSpec { on_bad_row: OnBadRow::default(), ..spec.clone() };
        // A spec is made of what JSON can hold.
        let spec = serde_json::to_string(&(format, spec)).unwrap_or_default();
        Fingerprint::of([spec.as_bytes()]).to_string()
    }

    /// Sets the kinds of columns to which files are held.
    pub(super) fn set_kinds(&self, kinds: ColumnKinds) {
        *self.kinds.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
    }

    /// Returns the root of the staged files.
    pub(super) fn root(&self) -> Root {
        Root::from(Location::local(self.state.join(FOLDER)))
    }

    /// Returns the path of a note on the skipped rows of a file.
    pub(super) fn skipped_rows(&self, file: &str) -> PathBuf {
        let name = self.name(file).replace(".parquet", ".jsonl");
        self.state.join(SKIPPED_FOLDER).join(name)
    }

    /// Returns the name of a staged file.
    pub(super) fn name(&self, file: &str) -> String {
        let FileStamp { size, modified_ms, content } = self.files.get(file).cloned().unwrap_or_default();
        let root = self.root.at().at_revision(None).to_string();
        let (size, modified_ms) = (size.to_le_bytes(), modified_ms.to_le_bytes());
        let parts = [root.as_bytes(), file.as_bytes(), &size, &modified_ms, content.as_bytes()];
        let reading = StagingArea::reading(self.format, &self.spec);
        let name = Fingerprint::of(parts.into_iter().chain([reading.as_bytes()])).to_string();
        format!("{name}.parquet")
    }

    /// Stages a file unless it is staged. With `again`, it is staged in any case. Blocks.
    ///
    /// # Errors
    /// When the staged file cannot be written.
    pub(super) fn stage(&self, file: &str, again: bool) -> Result<StagingResult, SourceError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.state.join(FOLDER).join(self.name(file));
        if !again && let Some(note) = note(&path) {
            return Ok(StagingResult::Whole { kinds: note.kinds, skipped: note.skipped });
        }
        let failed = |error| SourceError::Staging(StoreError::of("write", path.as_path())(error));
        faultpoint::pass("stage", Side::Before).map_err(failed)?;
        let beside = path.with_extension("tmp");
        let to = open_locked(&beside).map_err(failed)?;
        if !again && let Some(note) = note(&path) {
            return Ok(StagingResult::Whole { kinds: note.kinds, skipped: note.skipped });
        }
        let mut skipped = SkippedRows::new(&self.spec);
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let input = StagingInput { root: &self.root, path: file, progress: &self.progress };
        let size = self.files.get(file).map_or(0, |stamp| stamp.size);
        self.progress.begin(self.root.place(file), size);
        let stage = || match self.format {
            SourceFormat::Csv | SourceFormat::Tsv => {
                csv_rows::stage(input, &self.spec, self.format, &kinds, &mut skipped, &to)
            }
            SourceFormat::Json | SourceFormat::Jsonl => {
                json_rows::stage(input, &self.spec, &kinds, &mut skipped, &to)
            }
            SourceFormat::Arrow => typed_rows::stage_arrow(input, &to),
            SourceFormat::Avro => typed_rows::stage_avro(input, &to),
            SourceFormat::Parquet => Err(StageError::File("it is a table".into())),
        };
        let staged = panics::catch(stage).unwrap_or_else(|message| {
            Err(StageError::File(format!("a library that reads it has failed: {message}")))
        });
        self.progress.end();
        let note = match staged {
            Ok(note) => note,
            Err(error) => {
                store::remove(&beside).map_err(SourceError::Staging)?;
                return match error {
                    StageError::Empty => Ok(StagingResult::Empty),
                    StageError::Io(error) if disk_trouble(&error).is_some() => Err(failed(error)),
                    error => Ok(StagingResult::Wrong(error.to_string())),
                };
            }
        };
        self.note_skipped(file, &skipped).map_err(SourceError::Staging)?;
        std::fs::rename(&beside, &path).map_err(failed)?;
        store::sync_folder(&self.state.join(FOLDER)).map_err(SourceError::Staging)?;
        faultpoint::pass("stage", Side::After).map_err(failed)?;
        Ok(StagingResult::Whole { kinds: note.kinds, skipped: note.skipped })
    }

    /// Writes down which rows of a file were skipped, and why.
    fn note_skipped(&self, file: &str, skipped: &SkippedRows) -> Result<(), StoreError> {
        if skipped.count == 0 {
            return Ok(());
        }
        let path = self.skipped_rows(file);
        store::create_folder(&self.state.join(SKIPPED_FOLDER))?;
        let mut text = Vec::new();
        for row in &skipped.noted {
            let line = serde_json::json!({
                "file": file, "line": row.line, "column": row.column, "reason": row.reason
            });
            text.extend_from_slice(line.to_string().as_bytes());
            text.push(b'\n');
        }
        store::replace(&path, &text)
    }

    /// Returns a planned part of a source file as one of its staged file, which is staged if it is not there. Blocks.
    ///
    /// # Errors
    /// When the source file is gone, or has changed since it was planned, or cannot be staged any more.
    pub(super) fn part(&self, part: &FileRange) -> Result<FileRange, SourceError> {
        let at = self.root.place(&part.file);
        let Some(FileStamp { size, .. }) = self.files.get(&part.file) else {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(SourceError::missing_file(&at, part, gone));
        };
        if *size != part.size {
            let what = format!("it had {} bytes when it was planned and has {size} now", part.size);
            return Err(SourceError::file(&at, what));
        }
        let file = self.file(&part.file)?;
        let path = self.state.join(FOLDER).join(&file);
        let size = std::fs::metadata(&path).map_err(|error| SourceError::file(&at, error))?.len();
        Ok(FileRange { file, size, ..part.clone() })
    }

    /// Returns a digest of a source file; `None` if it is in a store, or cannot be read. Blocks.
    pub(super) fn content(&self, file: &str) -> Option<String> {
        let file = File::open(self.root.at().path()?.join(file)).ok()?;
        Some(blake3::Hasher::new().update_reader(file).ok()?.finalize().to_hex().to_string())
    }

    /// Returns the name of a staged file, which is staged if it is not there. Blocks.
    ///
    /// # Errors
    /// When it cannot be staged.
    pub(super) fn file(&self, file: &str) -> Result<String, SourceError> {
        let at = self.root.place(file);
        match self.stage(file, false)? {
            StagingResult::Whole { .. } => Ok(self.name(file)),
            StagingResult::Empty => Err(SourceError::file(&at, "it is empty")),
            StagingResult::Wrong(message) => Err(SourceError::file(&at, message)),
        }
    }

    /// Removes the staged files, except those of the given source files. What another process writes stays. Blocks.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn retain<'a>(&self, needed: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
        let needed: HashSet<String> = needed.map(|file| self.name(file)).collect();
        let folder = self.state.join(FOLDER);
        let entries = std::fs::read_dir(&folder).map_err(StoreError::of("read", folder.as_path()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let is_needed = entry.file_name().to_str().is_some_and(|name| needed.contains(name));
            let is_unfinished = path.extension().is_some_and(|ending| ending == "tmp");
            let is_being_written = is_unfinished
                && File::open(&path)
                    .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
            if !is_needed && !is_being_written {
                store::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Opens a file to be written, alone: another process may be staging the same file, and rename it then.
fn open_locked(path: &Path) -> std::io::Result<File> {
    loop {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        file.lock()?;
        let is_same = |there: std::fs::Metadata, own: std::fs::Metadata| {
            (there.dev(), there.ino()) == (own.dev(), own.ino())
        };
        if std::fs::metadata(path).and_then(|there| Ok(is_same(there, file.metadata()?))).unwrap_or(false) {
            return Ok(file);
        }
    }
}

/// Reads what a staged file says about itself; `None` if there is none.
fn note(path: &Path) -> Option<StagedNote> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    let pairs = reader.metadata().file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == NOTE)?.value.as_deref()?;
    serde_json::from_str(text).ok()
}

/// Returns the kinds of columns that hold the values of several files, given what is known and what each file has. A
/// column without a value is text from then on.
pub(super) fn joined<'a>(
    known: &ColumnKinds,
    files: impl Iterator<Item = &'a (String, ColumnKind)>,
) -> ColumnKinds {
    let mut inferred = ColumnKinds::new();
    for (name, kind) in files.filter(|(name, _)| !known.contains_key(name)) {
        let before = inferred.remove(name).unwrap_or(ColumnKind::Null);
        inferred.insert(name.clone(), before.join(kind.clone()));
    }
    let inferred = inferred.into_iter().map(|(name, kind)| match kind {
        ColumnKind::Null => (name, ColumnKind::Text),
        kind => (name, kind),
    });
    known.clone().into_iter().chain(inferred).collect()
}

/// Whether a file that has these kinds has the types of the joined ones.
pub(super) fn has_types(file: &[(String, ColumnKind)], joined: &ColumnKinds) -> bool {
    file.iter()
        .all(|(name, kind)| joined.get(name).is_none_or(|joined| joined.data_type() == kind.data_type()))
}

//! The folder that holds a job's journals.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::format::{ENDING, JournalEntry, JournalHeader, Record, path_of};
use super::shared::WeakJournal;
use super::{Copies, Journal, JournalError, JournalReader, JournalWriter, read_all};
use crate::faultpoint::{self, Side};
use crate::ident::{BatchId, Fingerprint, RowKey};
use crate::store;

const ASIDE: &str = "aside-";

/// The folder of a job's journals.
#[derive(Clone, Debug)]
pub struct JournalFolder {
    path: PathBuf,
    /// Where the journals are copied to; `None` if they are not copied.
    copies: Option<Copies>,
    /// The journals that are open for writing.
    open: OpenJournals,
}

/// Journals that are open for writing, by batch. Clones share it.
type OpenJournals = Arc<Mutex<HashMap<BatchId, WeakJournal>>>;

/// A journal that an earlier run left.
#[derive(Clone, Debug)]
pub struct FormerJournal {
    /// Path of the file.
    pub path: PathBuf,
    /// The batch that it belongs to; `None` for a file that was cut within its header.
    pub header: Option<JournalHeader>,
}

impl FormerJournal {
    /// Whether the journal was put aside, and so belongs to no batch.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ASIDE))
    }
}

impl FormerJournal {
    /// Whether the journal was last changed before `time`. False if its modification time cannot be read.
    #[must_use]
    pub fn is_older_than(&self, time: SystemTime) -> bool {
        let changed = std::fs::metadata(&self.path).and_then(|file| file.modified());
        changed.is_ok_and(|changed| changed < time)
    }
}

impl JournalFolder {
    /// Opens a folder, creating it if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        store::create_private_folder(path).map_err(|source| JournalError::Io {
            action: "make the folder of",
            path: path.to_owned(),
            source,
        })?;
        Ok(JournalFolder { path: path.to_owned(), copies: None, open: OpenJournals::default() })
    }

    /// Makes `copies` copy the journals that are opened from now on.
    pub fn copy_to(&mut self, copies: Copies) {
        self.copies = Some(copies);
    }

    /// Returns the path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the total size of the journals in a folder, in bytes. Files whose size cannot be read are left out.
    #[must_use]
    pub fn bytes_in(folder: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        let journals =
            entries.flatten().filter(|entry| entry.path().extension().is_some_and(|ending| ending == ENDING));
        journals.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Counts the rows of a batch that have an outcome for at least `steps` steps, in the batch's journal in a
    /// folder or in `copied`, the records of its copies. `is_outcome` decides which records count. Also returns why
    /// the journal could not be read to its end, if it is damaged or unreadable.
    #[must_use]
    pub fn rows_with_outcome(
        folder: &Path,
        header: &JournalHeader,
        steps: usize,
        copied: Vec<Record>,
        is_outcome: impl Fn(&Record) -> bool,
    ) -> (u64, Option<JournalError>) {
        let folder = JournalFolder { path: folder.to_owned(), copies: None, open: OpenJournals::default() };
        let mut settled: HashMap<RowKey, HashSet<Arc<str>>> = HashMap::new();
        let mut settle = |record: Record| {
            if is_outcome(&record) {
                settled.entry(record.key).or_default().insert(record.step);
            }
        };
        for record in copied {
            settle(record);
        }
        let path = path_of(&folder.path, header.batch);
        let mut read = || {
            if !path.exists() {
                return Ok(());
            }
            let mut reader = JournalReader::open(&path)?;
            if reader.header() == Some(header) {
                while let Some(record) = reader.next_record()? {
                    settle(record);
                }
            }
            Ok(())
        };
        let trouble = read().err();
        (settled.values().filter(|done| done.len() >= steps).count() as u64, trouble)
    }

    /// Lists the journals in the folder, ordered by name.
    ///
    /// # Errors
    /// When the folder or a header cannot be read.
    pub fn list(&self) -> Result<Vec<FormerJournal>, JournalError> {
        let io = |source| JournalError::Io { action: "list", path: self.path.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                let header = JournalReader::open(&path)?.header().copied();
                found.push(FormerJournal { path, header });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Opens the journal of a batch for writing; see [`JournalWriter::open`]. While it is open it is the same for all.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn writer(
        &self,
        header: &JournalHeader,
        take: impl FnMut(JournalEntry),
    ) -> Result<Journal, JournalError> {
        let path = path_of(&self.path, header.batch);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = open.get(&header.batch).and_then(WeakJournal::upgrade) {
            journal.read(&path, take)?;
            return Ok(journal);
        }
        let writer = JournalWriter::open(&path, header, take)?;
        let journal = Journal::new(writer, self.copies.as_ref().map(Copies::pending));
        open.insert(header.batch, journal.downgrade());
        drop(open);
        if let Some(copies) = &self.copies {
            copies.follow(header, path, &journal);
        }
        Ok(journal)
    }

    /// Opens the journal of a batch for reading. `None` if there is no such journal.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn reader(&self, batch: BatchId) -> Result<Option<JournalReader>, JournalError> {
        let path = path_of(&self.path, batch);
        path.exists().then(|| JournalReader::open(&path)).transpose()
    }

    /// Opens the journal of a batch for writing, by the header in its file, and returns it with its entries. `None` if
    /// there is no such journal.
    ///
    /// # Errors
    /// As [`JournalWriter::open`].
    pub fn reopen(&self, batch: BatchId) -> Result<Option<(Journal, Vec<JournalEntry>)>, JournalError> {
        let path = path_of(&self.path, batch);
        if !path.exists() {
            return Ok(None);
        }
        let Some(header) = JournalReader::open(&path)?.header().copied() else { return Ok(None) };
        let mut entries = Vec::new();
        let journal = self.writer(&header, |entry| entries.push(entry))?;
        Ok(Some((journal, entries)))
    }

    /// Removes the journal of a committed batch.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget(&self, batch: BatchId) -> Result<(), JournalError> {
        let path = path_of(&self.path, batch);
        // Whoever still has it writes to a file that is gone, and the next one to open it begins another.
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&batch);
        let removed = faultpoint::pass("journal-removal", Side::Before)
            .and_then(|()| remove(&path))
            .and_then(|()| faultpoint::pass("journal-removal", Side::After));
        if let Some(copies) = &self.copies {
            copies.forget(batch);
        }
        removed.map_err(|source| JournalError::Io { action: "remove", path, source })
    }

    /// Removes a journal whose answers are not to be used.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, found: &FormerJournal) -> Result<(), JournalError> {
        let path = found.path.clone();
        remove(&path).map_err(|source| JournalError::Io { action: "remove", path, source })
    }

    /// Renames a journal that belongs to no planned batch, to a name that no batch uses, and returns its new path.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn put_aside(&self, found: &FormerJournal) -> Result<PathBuf, JournalError> {
        if found.is_aside() {
            return Ok(found.path.clone());
        }
        let path = self.path.join(format!("{ASIDE}{}.{ENDING}", uuid::Uuid::now_v7()));
        std::fs::rename(&found.path, &path).map_err(|source| JournalError::Io {
            action: "put aside",
            path: found.path.clone(),
            source,
        })?;
        Ok(path)
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Paid answers from journals that belong to no planned batch, because a checkpoint was lost or its plan changed.
/// They are still valid for the same row and the same request.
#[derive(Debug, Default)]
pub struct StrayAnswers {
    files: Vec<PathBuf>,
    records: HashMap<(RowKey, Arc<str>, Fingerprint), Record>,
}

impl StrayAnswers {
    /// Adds the records of a journal that was put aside.
    ///
    /// # Errors
    /// As [`read_all`].
    pub fn absorb(&mut self, path: PathBuf) -> Result<(), JournalError> {
        self.absorb_records(read_all(&path)?);
        self.files.push(path);
        Ok(())
    }

    /// Adds records that were read from copies.
    pub fn absorb_records(&mut self, records: Vec<Record>) {
        for record in records {
            let key = (record.key.clone(), Arc::clone(&record.step), record.fingerprint);
            self.records.insert(key, record);
        }
    }

    /// Returns all records, in no particular order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Removes and returns the answer to this request of this row.
    pub fn claim(&mut self, key: &RowKey, step: &Arc<str>, fingerprint: Fingerprint) -> Option<Record> {
        self.records.remove(&(key.clone(), Arc::clone(step), fingerprint))
    }

    /// Removes the files. To be called when every row that could use them is in the target.
    ///
    /// # Errors
    /// When a file is there and cannot be removed.
    pub fn discard(self) -> Result<(), JournalError> {
        self.files.into_iter().try_for_each(|path| {
            remove(&path).map_err(|source| JournalError::Io { action: "remove", path, source })
        })
    }
}

//! A journal that the concurrent requests of a batch write to.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::pending_copies::PendingCopies;
use super::{JournalEntry, JournalError, JournalReader, JournalWriter, Record, SubmittedRows};

/// The journal of an open batch. Clones write to the same file.
///
/// A request is in flight until its answer is appended, so that an answer is always either in flight or in the journal.
#[derive(Clone, Debug)]
pub struct Journal {
    writer: Arc<Mutex<JournalWriter>>,
    /// The bytes that wait to be copied; `None` if the journal is not copied.
    pending: Option<PendingCopies>,
}

/// A journal that is open as long as somebody else has it.
#[derive(Clone, Debug)]
pub(super) struct WeakJournal {
    writer: Weak<Mutex<JournalWriter>>,
    pending: Option<PendingCopies>,
}

impl WeakJournal {
    pub(super) fn upgrade(&self) -> Option<Journal> {
        Some(Journal { writer: self.writer.upgrade()?, pending: self.pending.clone() })
    }
}

impl Journal {
    pub(super) fn new(writer: JournalWriter, pending: Option<PendingCopies>) -> Self {
        Journal { writer: Arc::new(Mutex::new(writer)), pending }
    }

    pub(super) fn downgrade(&self) -> WeakJournal {
        WeakJournal { writer: Arc::downgrade(&self.writer), pending: self.pending.clone() }
    }

    /// Passes the entries of the file to `take`, oldest first.
    pub(super) fn read(&self, path: &Path, mut take: impl FnMut(JournalEntry)) -> Result<(), JournalError> {
        // Nothing is appended meanwhile.
        let _writer = self.writer();
        let mut reader = JournalReader::open(path)?;
        while let Some(entry) = reader.next_entry()? {
            take(entry);
        }
        Ok(())
    }

    /// Whether both are one journal.
    #[must_use]
    pub fn is_same(&self, other: &Journal) -> bool {
        Arc::ptr_eq(&self.writer, &other.writer)
    }

    fn writer(&self) -> MutexGuard<'_, JournalWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`JournalWriter::append`].
    ///
    /// # Errors
    /// As [`JournalWriter::append`].
    pub fn append<'a>(&self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), JournalError> {
        self.write(|writer| writer.append(records))
    }

    /// See [`JournalWriter::append_all`].
    ///
    /// # Errors
    /// As [`JournalWriter::append_all`].
    pub fn append_all(&self, answers: &[&[Record]]) -> Result<(), JournalError> {
        self.write(|writer| writer.append_all(answers))
    }

    /// See [`JournalWriter::append_submitted`].
    ///
    /// # Errors
    /// As [`JournalWriter::append_submitted`].
    pub fn append_submitted(&self, submitted: &SubmittedRows) -> Result<(), JournalError> {
        self.write(|writer| writer.append_submitted(submitted))
    }

    fn write(
        &self,
        append: impl FnOnce(&mut JournalWriter) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let mut writer = self.writer();
        let before = writer.len();
        let appended = append(&mut writer);
        if let Some(pending) = &self.pending {
            pending.add(writer.len() - before);
        }
        appended
    }

    /// Length of the file in bytes. The file ends with a whole record.
    pub(super) fn len(&self) -> u64 {
        self.writer().len()
    }

    /// See [`JournalWriter::sync`].
    ///
    /// # Errors
    /// As [`JournalWriter::sync`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.writer().sync()
    }
}

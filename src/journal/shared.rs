//! A journal that several requests of a batch write to.

use std::sync::{Arc, Mutex, PoisonError};

use super::{JournalError, JournalWriter, Record};

/// The journal of an open batch. Clones write to the same file.
///
/// A request in flight appends its own answer before it lands, so that an answer is either in flight or
/// in the journal, and nowhere in between.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Mutex<JournalWriter>>);

impl Journal {
    pub(super) fn new(writer: JournalWriter) -> Self {
        Journal(Arc::new(Mutex::new(writer)))
    }

    /// See [`JournalWriter::append`].
    ///
    /// # Errors
    /// As there.
    pub fn append<'a>(&self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), JournalError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(records)
    }

    /// See [`JournalWriter::sync`].
    ///
    /// # Errors
    /// As there.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sync()
    }
}

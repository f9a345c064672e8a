//! The processes that read documents: as many as are asked at the same time, up to a maximum, kept for later documents.

use std::sync::{Condvar, Mutex, PoisonError};

use super::error::DocumentError;
use super::reader::{DocumentReader, ReaderEnd};
use super::reply::{DocumentReply, DocumentRequest};
use super::settings::DocumentSettings;
use super::unread::{UnreadDocument, UnreadReason};

#[derive(Debug)]
pub(super) struct ReaderPool {
    settings: DocumentSettings,
    slots: Mutex<ReaderSlots>,
    is_free: Condvar,
}

#[derive(Debug, Default)]
struct ReaderSlots {
    idle: Vec<DocumentReader>,
    busy: usize,
}

impl ReaderPool {
    pub(super) fn new(settings: DocumentSettings) -> Self {
        ReaderPool { settings, slots: Mutex::default(), is_free: Condvar::new() }
    }

    /// Asks about a document, and waits for a process that is free and for its reply.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn ask(
        &self,
        question: DocumentRequest,
        document: &[u8],
    ) -> Result<DocumentReply, DocumentError> {
        let unread = |reason| Ok(DocumentReply::Unread(UnreadDocument::new(reason)));
        if document.is_empty() {
            return unread(UnreadReason::Empty);
        }
        if document.len() > self.settings.document_bytes {
            return unread(UnreadReason::TooLarge);
        }
        let mut place = self.enter();
        loop {
            let reader = match &mut place.reader {
                Some(reader) => reader,
                none => none.insert(DocumentReader::start(&self.settings)?),
            };
            let was_fresh = reader.is_fresh;
            match reader.ask(question, document, self.settings.time_limit) {
                Ok(reply) => return Ok(reply),
                Err(end) => {
                    place.reader = None;
                    match end {
                        ReaderEnd::TimedOut => return unread(UnreadReason::TimedOut),
                        ReaderEnd::Died if was_fresh => return unread(UnreadReason::Exhausted),
                        // What earlier documents left in its memory is not this one's fault.
                        ReaderEnd::Died => {}
                    }
                }
            }
        }
    }

    fn enter(&self) -> ReaderPermit<'_> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |slots: &mut ReaderSlots| slots.busy >= self.settings.processes.get();
        let mut slots = self.is_free.wait_while(slots, is_full).unwrap_or_else(PoisonError::into_inner);
        slots.busy += 1;
        ReaderPermit { reader: slots.idle.pop(), pool: self }
    }
}

/// The right to use one process.
struct ReaderPermit<'a> {
    reader: Option<DocumentReader>,
    pool: &'a ReaderPool,
}

impl Drop for ReaderPermit<'_> {
    fn drop(&mut self) {
        let mut slots = self.pool.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.busy -= 1;
        slots.idle.extend(self.reader.take());
        self.pool.is_free.notify_one();
    }
}

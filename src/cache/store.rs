//! A cache as its users see it: answers are put and fetched by the fingerprint of their request.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};

use super::byte_budget::ByteBudget;
use super::group::{Entry, WriterMessage};
use super::limits::{TOUCH_AFTER_SECONDS, unix_seconds};
use super::writer::Writer;
use super::{CacheError, CacheLimits, file};
use crate::ident::Fingerprint;
use crate::store::{self, StoreError};

/// Maximum number of messages, mostly answers, that wait for the writer.
const QUEUE_ANSWERS: usize = 1000;
/// Maximum number of bytes of bodies that wait to be written or are being written.
const QUEUE_BYTES: usize = 8 << 20;

const GET: &str = "SELECT used, body FROM answers WHERE key = ?1 AND created >= ?2";

/// An open cache. Other stores, in this process and others, may have the same file open.
///
/// Dropping it writes what is pending and ends its thread. Errors are not reported then, so flush first.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    limits: CacheLimits,
    reader: Mutex<Connection>,
    room: Arc<ByteBudget>,
    queue: SyncSender<WriterMessage>,
    writer: Option<JoinHandle<()>>,
}

/// The size of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Number of answers, including those that are too old and not yet removed.
    pub entries: u64,
    /// Number of bytes of the file that are in use.
    pub bytes: u64,
}

impl Store {
    /// Opens a cache, creating its folder and file if they are missing.
    ///
    /// # Errors
    /// When the file or its folder cannot be created or opened, when the file is damaged or is no cache, and when a
    /// later version wrote it.
    pub fn open(path: &Path, limits: CacheLimits) -> Result<Self, CacheError> {
        // SQLite gives some relative names a special meaning, such as `:memory:` and `file:a?mode=ro`.
        let path =
            std::path::absolute(path).map_err(StoreError::of("find", path)).map_err(CacheError::Store)?;
        path.parent()
            .map_or(Ok(()), |folder| {
                store::create_private_folder(folder)
                    .map_err(store::StoreError::of("create the folder", folder))
            })
            .map_err(CacheError::Store)?;
        let connection = file::open_to_write(&path)?;
        let reader = Mutex::new(file::open_to_read(&path)?);
        let (queue, messages) = sync_channel(QUEUE_ANSWERS);
        let writer = Writer::new(messages, connection, path.clone(), limits);
        let thread = Builder::new().name("cache-writer".to_owned()).spawn(move || writer.run());
        let writer = thread.map_err(|source| CacheError::Io {
            action: "start a thread for",
            path: path.clone(),
            source,
        })?;
        Ok(Store { path, limits, reader, room: ByteBudget::new(QUEUE_BYTES), queue, writer: Some(writer) })
    }

    /// Returns the answer to a request; `None` if it is not stored or is too old. Answers that were put are sure to
    /// be found after [`Store::flush`].
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn get(&self, key: Fingerprint) -> Result<Option<Bytes>, CacheError> {
        let now = unix_seconds();
        // The statement is prepared anew: rusqlite's cache of statements needs one more crate, hashlink.
        let found: Option<(i64, Vec<u8>)> = self
            .reader()
            .query_row(GET, (key.to_bytes(), self.limits.oldest_returned(now)), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(CacheError::of("read", &self.path))?;
        let Some((used, body)) = found else { return Ok(None) };
        if used < now - TOUCH_AFTER_SECONDS {
            // If the queue is full, the mark is dropped and the caller does not wait: the next `get` sets it.
            let _ = self.queue.try_send(WriterMessage::Touch(key));
        }
        Ok(Some(body.into()))
    }

    /// Stores an answer, unless an answer to the same request is stored already and not too old, or it takes more
    /// than a tenth of the cache. Waits while 1,000 answers or 8 MiB of them wait to be written. The answer is
    /// committed within a moment; [`Store::flush`] reports whether that succeeded.
    pub fn put(&self, key: Fingerprint, body: &[u8]) {
        if body.len() as u64 > self.limits.most_body_bytes() {
            return;
        }
        let place = self.room.take(body.len());
        // Without a writer the answer is lost; `flush` reports it.
        let _ = self.queue.send(WriterMessage::Put(Entry { key, body: body.into(), _reserved: place }));
    }

    /// Waits until all answers put before are committed, so that they survive the death of this process.
    ///
    /// # Errors
    /// If a write has failed since the last flush: the error of the first one. Later writes are still tried. If the
    /// writer thread has died.
    pub fn flush(&self) -> Result<(), CacheError> {
        let (reply, replied) = sync_channel(1);
        let ended = || CacheError::Ended { path: self.path.clone() };
        self.queue.send(WriterMessage::Flush(reply)).map_err(|_| ended())?;
        replied.recv().map_err(|_| ended())?
    }

    /// Counts the answers and the bytes in use. Reads all keys.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn stats(&self) -> Result<Stats, CacheError> {
        let reader = self.reader();
        let count = reader.query_row("SELECT COUNT(*) FROM answers", [], |row| row.get::<_, i64>(0));
        let entries = count.map_err(CacheError::of("read", &self.path))?;
        let bytes = file::filled_bytes(&reader).map_err(CacheError::of("read", &self.path))?;
        Ok(Stats { entries: u64::try_from(entries).unwrap_or(0), bytes })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.queue.send(WriterMessage::End);
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has reported it already.
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_writer_that_died_is_reported() {
        fn is_shared_by_threads<T: Send + Sync>(_: &T) {}
        let folder = tempfile::TempDir::new().unwrap();
        let limits = CacheLimits { max_bytes: 1 << 20, max_age: Duration::MAX, not_before: i64::MIN };
        let mut store = Store::open(&folder.path().join("cache"), limits).unwrap();
        is_shared_by_threads(&store);
        store.queue = sync_channel(1).0;
        store.put(Fingerprint::from_bytes([1; 16]), b"lost");
        assert!(matches!(store.flush().unwrap_err(), CacheError::Ended { .. }));
    }
}

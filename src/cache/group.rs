//! The messages to the writer, and the group of them that one commit writes.

use std::sync::mpsc::SyncSender;

use rusqlite::{Connection, Statement, TransactionBehavior};

use super::CacheError;
use super::byte_budget::ReservedBytes;
use super::limits::TOUCH_AFTER_SECONDS;
use crate::ident::Fingerprint;

/// A message to the writer.
pub(super) enum WriterMessage {
    /// Store this answer.
    Put(Entry),
    /// Mark this answer as used now.
    Touch(Fingerprint),
    /// Commit the earlier messages, and send the result of all writes since the last flush.
    Flush(SyncSender<Result<(), CacheError>>),
    /// Commit the earlier messages, and end.
    End,
}

/// An answer that waits to be written.
pub(super) struct Entry {
    /// Fingerprint of its request.
    pub(super) key: Fingerprint,
    pub(super) body: Box<[u8]>,
    /// Reservation of the body's bytes.
    pub(super) _reserved: ReservedBytes,
}

/// Answers and marks of use that one commit writes.
#[derive(Default)]
pub(super) struct Group {
    entries: Vec<Entry>,
    touched: Vec<Fingerprint>,
    bytes: usize,
}

impl Group {
    pub(super) fn put(&mut self, entry: Entry) {
        self.bytes += entry.body.len();
        self.entries.push(entry);
    }

    pub(super) fn touch(&mut self, key: Fingerprint) {
        self.touched.push(key);
    }

    /// Number of answers and marks.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.touched.len()
    }

    /// Number of answers.
    pub(super) fn answers(&self) -> usize {
        self.entries.len()
    }

    /// Total size of the bodies, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Commits the group, all or nothing. The first answer to a request stays, unless it was created before
    /// `oldest`. Times are in Unix seconds.
    pub(super) fn commit(&self, connection: &mut Connection, now: i64, oldest: i64) -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare(
                "INSERT INTO answers (key, created, used, body) VALUES (?1, ?2, ?2, ?3)
                 ON CONFLICT (key) DO NOTHING",
            )?;
            let mut remove_old =
                transaction.prepare("DELETE FROM answers WHERE key = ?1 AND created < ?2")?;
            for entry in &self.entries {
                let is_known = insert_one(&mut insert, entry, now)? == 0;
                if is_known && remove_old.execute((entry.key.to_bytes(), oldest))? > 0 {
                    insert_one(&mut insert, entry, now)?;
                }
            }
            let mut touch =
                transaction.prepare("UPDATE answers SET used = ?2 WHERE key = ?1 AND used < ?3")?;
            for key in &self.touched {
                touch.execute((key.to_bytes(), now, now - TOUCH_AFTER_SECONDS))?;
            }
        }
        transaction.commit()
    }
}

fn insert_one(insert: &mut Statement<'_>, entry: &Entry, now: i64) -> rusqlite::Result<usize> {
    insert.execute((entry.key.to_bytes(), now, &entry.body[..]))
}

//! The writer thread of a store: it collects messages, commits them in groups, and removes answers beyond the
//! limits.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use rusqlite::Connection;

use super::file::filled_bytes;
use super::group::{Group, WriterMessage};
use super::limits::unix_seconds;
use super::removal::Removal;
use super::{CacheError, CacheLimits};
use crate::clock;

/// Maximum number of answers and marks in a commit.
const GROUP_ANSWERS: usize = 1000;
/// Number of bytes of bodies at which a group is committed.
const GROUP_BYTES: usize = 1 << 20;
/// How long a group waits for more messages.
const GROUP_TIME: Duration = Duration::from_millis(50);
/// Pause between two steps of removal, in which others get access to the file.
const BETWEEN_STEPS: Duration = Duration::from_millis(5);

/// The writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Receiver<WriterMessage>,
    connection: Connection,
    path: PathBuf,
    limits: CacheLimits,
    removal: Removal,
    /// Whether there are more answers to be removed.
    has_more_to_remove: bool,
    failure: Option<FlushFailure>,
}

/// The failed writes since the last flush.
#[derive(Debug)]
struct FlushFailure {
    first: rusqlite::Error,
    lost: u64,
}

/// Why a group is written.
enum FlushReason {
    /// The group is large enough, or the time to wait for more messages is over.
    Time,
    /// A caller waits for it.
    Flush(SyncSender<Result<(), CacheError>>),
    /// It is the last group.
    End,
}

impl Writer {
    pub(super) fn new(
        queue: Receiver<WriterMessage>,
        connection: Connection,
        path: PathBuf,
        limits: CacheLimits,
    ) -> Self {
        let removal = Removal::new(limits);
        Writer { queue, connection, path, limits, removal, has_more_to_remove: true, failure: None }
    }

    /// Writes until it receives [`WriterMessage::End`] or the store is gone.
    pub(super) fn run(mut self) {
        loop {
            let (group, due) = self.gather();
            let before = self.write(&group);
            // Frees the reserved bytes before anything else is done.
            drop(group);
            if let Some(before) = before {
                self.shrink(before);
            }
            match due {
                FlushReason::Time => {}
                FlushReason::Flush(reply) => {
                    // A caller that no longer waits does not need the result.
                    let _ = reply.send(self.take_failure());
                }
                FlushReason::End => return,
            }
        }
    }

    fn gather(&self) -> (Group, FlushReason) {
        let mut group = Group::default();
        let mut next = if self.has_more_to_remove {
            self.queue.recv_timeout(BETWEEN_STEPS)
        } else {
            self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let deadline = clock::now() + GROUP_TIME;
        loop {
            match next {
                Ok(WriterMessage::Put(entry)) => group.put(entry),
                Ok(WriterMessage::Touch(key)) => group.touch(key),
                Ok(WriterMessage::Flush(reply)) => return (group, FlushReason::Flush(reply)),
                Ok(WriterMessage::End) | Err(RecvTimeoutError::Disconnected) => {
                    return (group, FlushReason::End);
                }
                Err(RecvTimeoutError::Timeout) => return (group, FlushReason::Time),
            }
            if group.len() >= GROUP_ANSWERS || group.bytes() >= GROUP_BYTES {
                return (group, FlushReason::Time);
            }
            next = self.queue.recv_timeout(deadline.saturating_duration_since(clock::now()));
        }
    }

    /// Commits a group and returns the number of bytes that the file used before the commit; `None` if the commit
    /// failed.
    fn write(&mut self, group: &Group) -> Option<u64> {
        let now = unix_seconds();
        let written = filled_bytes(&self.connection).and_then(|before| {
            if group.len() > 0 {
                group.commit(&mut self.connection, now, self.limits.oldest_returned(now))?;
            }
            Ok(before)
        });
        written.map_err(|error| self.fail(error, group.answers())).ok()
    }

    /// Removes one step of answers, and further ones while the file uses more bytes than both `before` and its
    /// limit.
    fn shrink(&mut self, before: u64) {
        let now = unix_seconds();
        loop {
            let left = self.removal.step(&mut self.connection, now);
            self.has_more_to_remove = matches!(left, Ok(Some(_)));
            match left {
                Ok(Some(filled)) if filled > before.max(self.limits.max_bytes) => {}
                Ok(_) => return,
                Err(error) => return self.fail(error, 0),
            }
        }
    }

    fn fail(&mut self, error: rusqlite::Error, lost: usize) {
        let failure = self.failure.get_or_insert(FlushFailure { first: error, lost: 0 });
        failure.lost += lost as u64;
        self.has_more_to_remove = false;
    }

    fn take_failure(&mut self) -> Result<(), CacheError> {
        match self.failure.take() {
            Some(FlushFailure { first, lost }) => Err(CacheError::of_write(&self.path, lost, first)),
            None => Ok(()),
        }
    }
}

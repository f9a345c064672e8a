//! Standard error, written by a thread of its own, so that no row waits if nobody reads it: a pipe is full, or a
//! terminal is stopped.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::progress::Display;

/// Maximum number of pieces that wait to be written; further ones are dropped and counted.
const MAX_WAITING: usize = 10_000;
/// Maximum time that the end of the process waits for pieces that are not written yet.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Task {
    /// Bytes to write, above the lines of a display if there is one.
    Write(Vec<u8>, Option<Display>),
    /// Channel to notify once everything before it is written.
    Flush(SyncSender<()>),
}

static WRITER: OnceLock<SyncSender<Task>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Queues bytes to be written soon, in the order of the calls.
pub(super) fn write(bytes: Vec<u8>, display: Option<Display>) {
    if let Err(TrySendError::Full(_)) = writer().try_send(Task::Write(bytes, display)) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until everything queued is written, for `LAST_WORDS` at most.
pub(super) fn flush() {
    let Some(writer) = WRITER.get() else { return };
    let (done, written) = sync_channel(1);
    if writer.try_send(Task::Flush(done)).is_ok() {
        // A timeout means that nobody reads standard error, so it is no use to wait longer.
        let _ = written.recv_timeout(LAST_WORDS);
    }
}

fn writer() -> &'static SyncSender<Task> {
    WRITER.get_or_init(|| {
        let (sender, tasks) = sync_channel(MAX_WAITING);
        // Without a thread the channel is closed, and nothing is written.
        let _ = std::thread::Builder::new().name("stderr".to_owned()).spawn(move || serve(&tasks));
        sender
    })
}

fn serve(tasks: &Receiver<Task>) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Write(bytes, display) => {
                let write = || {
                    // Standard error may be closed, which is not an error.
                    let _ = std::io::stderr().lock().write_all(&bytes);
                };
                match display {
                    Some(display) => display.above(write),
                    None => write(),
                }
                let dropped = DROPPED.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let text = format!("{dropped} lines were not written here: they were not read\n");
                    let _ = std::io::stderr().lock().write_all(text.as_bytes());
                }
            }
            Task::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

//! Standard error, written by a thread of its own: where nobody reads it, a pipe is full or a terminal is stopped, no row
//! waits for that.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::progress::Display;

/// Pieces that wait to be written; what comes beyond them is dropped, and counted.
const MAX_WAITING: usize = 10_000;
/// How long the end of the process waits for what is not written yet.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Task {
    /// Bytes to be written, above the lines of a display where there is one.
    Write(Vec<u8>, Option<Display>),
    /// Something to be told once all before it is written.
    Flush(SyncSender<()>),
}

static WRITER: OnceLock<SyncSender<Task>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes, soon and in the order of the calls.
pub(super) fn write(bytes: Vec<u8>, display: Option<Display>) {
    if let Err(TrySendError::Full(_)) = writer().try_send(Task::Write(bytes, display)) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until all is written that there is, but not for ever.
pub(super) fn flush() {
    let Some(writer) = WRITER.get() else { return };
    let (done, written) = sync_channel(1);
    if writer.try_send(Task::Flush(done)).is_ok() {
        // Nobody reads it: then there is nobody to wait for.
        let _ = written.recv_timeout(LAST_WORDS);
    }
}

fn writer() -> &'static SyncSender<Task> {
    WRITER.get_or_init(|| {
        let (sender, tasks) = sync_channel(MAX_WAITING);
        // Without a thread the channel is closed, and nothing is said.
        let _ = std::thread::Builder::new().name("stderr".to_owned()).spawn(move || serve(&tasks));
        sender
    })
}

fn serve(tasks: &Receiver<Task>) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Write(bytes, display) => {
                let write = || {
                    // It may be closed, which is nobody's error.
                    let _ = std::io::stderr().lock().write_all(&bytes);
                };
                match display {
                    Some(display) => display.above(write),
                    None => write(),
                }
                let dropped = DROPPED.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let text = format!("{dropped} lines were not written here: nobody read them\n");
                    let _ = std::io::stderr().lock().write_all(text.as_bytes());
                }
            }
            Task::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

//! A process that reads documents, seen from the one that asks it.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::error::DocumentError;
use super::reply::{DocumentReply, DocumentRequest, GREETING, read_reply, write_request};
use super::settings::{DocumentSettings, READER_COMMAND};

/// Maximum time until a process takes requests.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running process. It ends with this value.
#[derive(Debug)]
pub(super) struct DocumentReader {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// Whether it has read no document yet.
    pub(super) is_fresh: bool,
}

/// How a process ended before it replied. It is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderEnd {
    /// It took too long.
    TimedOut,
    /// It ended by itself.
    Died,
}

impl DocumentReader {
    pub(super) fn start(settings: &DocumentSettings) -> Result<Self, DocumentError> {
        let program = match &settings.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(DocumentError::UnknownProgram)?,
        };
        let mut child = spawn(&program, settings.memory_bytes)
            .map_err(|source| DocumentError::Start { program: program.clone(), source })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(DocumentError::NoReader { program });
        };
        let mut reader = DocumentReader { child, input, output, is_fresh: true };
        let output = &mut reader.output;
        let greeting = within(START_LIMIT, &mut reader.child, || {
            let mut greeting = [0; GREETING.len()];
            output.read_exact(&mut greeting)?;
            Ok(greeting)
        });
        match greeting {
            Ok(greeting) if greeting == *GREETING => Ok(reader),
            _ => Err(DocumentError::NoReader { program }),
        }
    }

    pub(super) fn ask(
        &mut self,
        question: DocumentRequest,
        document: &[u8],
        limit: Duration,
    ) -> Result<DocumentReply, ReaderEnd> {
        self.is_fresh = false;
        let (input, output) = (&mut self.input, &mut self.output);
        within(limit, &mut self.child, || {
            write_request(input, question, document)?;
            read_reply(output)
        })
    }
}

impl Drop for DocumentReader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, memory_bytes: u64) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg(READER_COMMAND).arg(memory_bytes.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Nobody reads it, and it takes memory where there is none.
    command.env_remove("RUST_BACKTRACE");
    // Ctrl-C at a terminal is for the process that asks, which then ends this one.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

/// Does something with the pipes of a process, which is killed when that takes too long.
fn within<T: Send>(
    limit: Duration,
    child: &mut Child,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T, ReaderEnd> {
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        scope.spawn(move || sender.send(work()));
        match receiver.recv_timeout(limit) {
            Ok(done) => done.map_err(|_| ReaderEnd::Died),
            Err(RecvTimeoutError::Disconnected) => Err(ReaderEnd::Died),
            Err(RecvTimeoutError::Timeout) => {
                // The pipes are closed by this, which ends the work.
                let _ = child.kill();
                Err(ReaderEnd::TimedOut)
            }
        }
    })
}

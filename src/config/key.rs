//! The key of a provider: its origin, and how it is read again after a provider refused it.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::clock;

/// Maximum time for a command to print a key.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which a command is checked for its end.
const COMMAND_LOOK: Duration = Duration::from_millis(10);
/// Maximum wait for further output of a command that has ended.
const AFTER_END: Duration = Duration::from_millis(500);
/// Maximum number of bytes that are read of a command's output.
const MAX_PRINTED: u64 = 64 * 1024;
/// Maximum number of characters of a command's error output in a message.
const MAX_SHOWN: usize = 300;

/// A key, its header and its origin. `Debug` does not show the key.
#[derive(Clone)]
pub struct ApiKey {
    /// Name of the header.
    pub header: String,
    /// Whether the value is `Bearer <key>`, or the bare key.
    pub bearer: bool,
    secret: String,
    source: KeySource,
}

/// Origin of a key.
#[derive(Clone, Debug)]
pub(super) enum KeySource {
    /// An environment variable, which does not change.
    Variable,
    /// A file.
    File(PathBuf),
    /// A command that prints the key, and the folder in which it runs.
    Command { arguments: Vec<String>, folder: PathBuf },
}

impl ApiKey {
    pub(super) fn new(header: String, bearer: bool, secret: String, source: KeySource) -> Self {
        ApiKey { header, bearer, secret, source }
    }

    /// Returns the key as it was first read; for the request header and for removing it from messages.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Reads the key again from its file or its command. Returns `None` if it comes from a variable. May block for
    /// half a minute.
    ///
    /// # Errors
    /// With the reason why it cannot be read, in words that hold no secret of ours.
    pub fn read_again(&self) -> Option<Result<String, String>> {
        match &self.source {
            KeySource::Variable => None,
            source => Some(source.read()),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}: …)", self.header)
    }
}

impl KeySource {
    /// Reads the key and removes white space around it.
    pub(super) fn read(&self) -> Result<String, String> {
        let text = match self {
            KeySource::Variable => return Err("is not read again".to_owned()),
            KeySource::File(path) => std::fs::read_to_string(path)
                .map_err(|error| format!("names {}, which cannot be read: {error}", path.display()))?,
            KeySource::Command { arguments, folder } => {
                let shown = arguments.join(" ");
                run_command(arguments, folder)
                    .map_err(|what| format!("names the command `{shown}`, which {what}"))?
            }
        };
        checked(&text)
    }
}

/// Removes white space around a key and checks that a header can carry it.
pub(super) fn checked(text: &str) -> Result<String, String> {
    let secret = text.trim();
    if secret.is_empty() || secret.chars().any(char::is_control) || !secret.is_ascii() {
        return Err("leads to a key that is empty or holds characters that no header can carry".to_owned());
    }
    Ok(secret.to_owned())
}

/// Runs a command and returns its output.
fn run_command(arguments: &[String], folder: &PathBuf) -> Result<String, String> {
    let [program, arguments @ ..] = arguments else { return Err("is empty".to_owned()) };
    // A program with a path is relative to the job file, like its other paths.
    let program = if program.contains('/') { folder.join(program) } else { program.into() };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let output = child.stdout.take().map(read_beside);
    let complaint = child.stderr.take().map(read_beside);
    let status = wait_for_exit(&mut child)?;
    // A process that the command started may keep the pipe open, so only output that comes without a pause is
    // awaited.
    let text = |read: Option<Receiver<Vec<u8>>>| {
        let pieces = |read: Receiver<Vec<u8>>| {
            std::iter::from_fn(move || read.recv_timeout(AFTER_END).ok()).flatten().collect::<Vec<u8>>()
        };
        String::from_utf8_lossy(&read.map(pieces).unwrap_or_default()).into_owned()
    };
    if status.success() {
        return Ok(text(output));
    }
    let complaint: String = text(complaint).trim().chars().take(MAX_SHOWN).collect();
    let shown = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
    Err(format!("failed ({status}){shown}; run it by hand to see why"))
}

/// Reads a pipe in a thread while the command runs, since a full pipe would block the command.
fn read_beside(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut pipe = pipe.take(MAX_PRINTED);
        let mut bytes = [0; 4_096];
        // After an error, what was read so far is used.
        while let Ok(read @ 1..) = pipe.read(&mut bytes) {
            if sender.send(bytes[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn wait_for_exit(child: &mut Child) -> Result<std::process::ExitStatus, String> {
    let started = clock::now();
    while clock::now() - started < COMMAND_TIMEOUT {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => std::thread::sleep(COMMAND_LOOK),
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
    // Killing fails if the command has just ended.
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("took longer than {}", humantime::format_duration(COMMAND_TIMEOUT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(arguments: &[&str]) -> Result<String, String> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        KeySource::Command { arguments, folder: "/".into() }.read()
    }

    #[test]
    fn a_command_gives_what_it_prints_or_says_why_it_fails() {
        assert_eq!(command(&["printf", " key-1\n"]), Ok("key-1".to_owned()));
        assert_eq!(
            command(&["sh", "-c", "echo no login >&2; exit 3"]),
            Err("names the command `sh -c echo no login >&2; exit 3`, which failed (exit status: 3): no login; run it by hand to see why".into())
        );
        assert!(command(&["no-such-program-anywhere"]).unwrap_err().contains("cannot be run"));
        // The background process keeps the pipe open.
        assert_eq!(command(&["sh", "-c", "sleep 60 & echo key-2"]), Ok("key-2".to_owned()));
        assert!(command(&["true"]).unwrap_err().starts_with("leads to a key that is empty"));
    }
}

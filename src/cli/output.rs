//! Standard output and standard error. Either may be closed, which is not an error.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};

use chrono::SecondsFormat;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::stderr;
use crate::clock;
use crate::progress::Display;

/// Writes a line of data to standard output. Returns `false` if the reader has closed it (`| head`), which is not an
/// error.
///
/// # Errors
/// When the line cannot be written for another reason.
pub(super) fn data(line: impl AsRef<str>) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let what = format!("cannot write to the standard output: {error}");
            Err(io::Error::new(error.kind(), what))
        }
    }
}

/// Writes a message to standard error, for commands without a display.
pub(super) fn talk(line: impl AsRef<str>) {
    Console::default().talk(line);
}

/// Format of the log and of all other messages on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Standard error: messages and the log, above the display if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Console {
    format: LogFormat,
    display: Arc<OnceLock<Display>>,
    /// Whether each line begins with its time and its job, for files in which cron collects the lines of many runs.
    is_log: bool,
    /// The `app_id` of the job that the lines are about.
    job: Arc<OnceLock<String>>,
}

impl Console {
    pub(super) fn new(format: LogFormat) -> Self {
        Console { format, is_log: !io::stderr().is_terminal(), ..Console::default() }
    }

    /// Writes above this display from now on.
    pub(super) fn show(&self, display: Display) {
        let _ = self.display.set(display);
    }

    pub(super) fn has_display(&self) -> bool {
        self.display.get().is_some()
    }

    /// Names this job in lines from now on.
    pub(super) fn names_job(&self, app_id: &str) {
        let _ = self.job.set(app_id.to_owned());
    }

    /// Removes the display once everything that belongs above it is written.
    pub(super) fn end_display(&self) {
        stderr::flush();
        if let Some(display) = self.display.get() {
            display.end();
        }
    }

    /// Writes a message.
    pub(super) fn talk(&self, line: impl AsRef<str>) {
        match self.format {
            LogFormat::Text => self.line(Level::INFO, line.as_ref()),
            LogFormat::Json => self.object(Level::INFO, line.as_ref(), &[]),
        }
    }

    /// Writes an error and a hint what to do about it.
    pub(super) fn problem(&self, what: impl AsRef<str>, hint: Option<&str>) {
        let what = what.as_ref();
        match self.format {
            LogFormat::Text => {
                self.line(Level::ERROR, &format!("error: {what}"));
                if let Some(hint) = hint {
                    self.line(Level::ERROR, &format!("hint: {hint}"));
                }
            }
            LogFormat::Json => {
                let hint = hint.map(|hint| ("hint", Value::from(hint)));
                self.object(Level::ERROR, what, hint.as_slice());
            }
        }
    }

    /// Writes how a run ended: as lines for people, or as one object with the summary.
    pub(super) fn last(&self, lines: &[String], summary: &impl Serialize) {
        match self.format {
            LogFormat::Text => lines.iter().for_each(|line| self.line(Level::INFO, line)),
            LogFormat::Json => {
                let message = lines.first().map(String::as_str).unwrap_or_default();
                let summary = serde_json::to_value(summary).unwrap_or_default();
                self.object(Level::INFO, message, &[("summary", summary)]);
            }
        }
    }

    /// Writes an object of the same form as the log's lines.
    fn object(&self, level: Level, message: &str, more: &[(&str, Value)]) {
        let mut object = Map::new();
        object.insert("timestamp".into(), now().into());
        object.insert("level".into(), level.as_str().into());
        if let Some(job) = self.job.get() {
            object.insert("app_id".into(), job.as_str().into());
        }
        object.insert("message".into(), message.into());
        object.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.emit(format!("{}\n", Value::Object(object)).as_bytes());
    }

    fn line(&self, level: Level, line: &str) {
        let line = match (self.is_log, self.job.get()) {
            (true, Some(job)) => format!("{} {level:>5} [{job}] {line}\n", now()),
            (true, None) => format!("{} {level:>5} {line}\n", now()),
            (false, _) => format!("{line}\n"),
        };
        self.emit(line.as_bytes());
    }

    fn emit(&self, bytes: &[u8]) {
        stderr::write(bytes.to_vec(), self.display.get().cloned());
    }

    /// Starts the log on this console. `RUST_LOG` sets what is logged; `default` applies if it is not set.
    pub(super) fn start_log(&self, default: &str) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            .with_ansi(may_colour())
            .with_writer(self.clone())
            .log_internal_errors(false);
        let _ = match self.format {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
        };
    }
}

/// Returns the time in the format of the log.
fn now() -> String {
    clock::wall().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Whether colours are used: on a terminal, unless `NO_COLOR` is set (no-color.org).
fn may_colour() -> bool {
    let is_turned_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_turned_off
}

impl MakeWriter<'_> for Console {
    type Writer = Console;

    fn make_writer(&self) -> Console {
        self.clone()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.emit(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Standard output and standard error. Either may be closed; that is nobody's error.

use std::io::{self, Write};

use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Writes a line of data. False if nobody reads any more, which is no error (`| head`).
///
/// # Errors
/// When the line could not be written for another reason.
pub(super) fn data(line: impl AsRef<str>) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a line of talk.
pub(super) fn talk(line: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
}

/// Sends the log to standard error, above the progress line where there is one.
pub(super) fn start_log(bar: Option<ProgressBar>, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none())
        .with_writer(AboveBar(bar))
        .log_internal_errors(false)
        .try_init();
}

#[derive(Clone)]
struct AboveBar(Option<ProgressBar>);

impl MakeWriter<'_> for AboveBar {
    type Writer = AboveBar;

    fn make_writer(&self) -> AboveBar {
        self.clone()
    }
}

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().lock().write_all(bytes);
        let _ = match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

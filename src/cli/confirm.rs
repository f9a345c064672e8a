//! Questions to whoever runs a command, before something that cannot be taken back.

use std::io::{self, BufRead, IsTerminal, Write};

use super::stderr;
use crate::run::RunError;

/// Whether there is somebody to ask.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks whether something is meant; where nobody can be asked, `--yes` has to say so.
pub(super) fn confirm(question: &str, what: &str) -> anyhow::Result<()> {
    if !can_ask() {
        let what = format!("{what}, and nobody can be asked");
        return Err(RunError::Mismatch { what, hint: "say --yes if that is meant" }.into());
    }
    stderr::flush();
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    anyhow::bail!("nothing was changed")
}

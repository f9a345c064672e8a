//! Confirmation questions before something irreversible.

use std::io::{self, BufRead, IsTerminal, Write};

use super::stderr;
use crate::run::RunError;

/// Whether standard input is a terminal, so that a user can answer.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for confirmation. Without a terminal it fails with `what`, the consequence, and a hint to give `--yes`.
pub(super) fn confirm(question: &str, what: &str) -> anyhow::Result<()> {
    if !can_ask() {
        let what = format!("{what}, and there is no terminal to ask at");
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

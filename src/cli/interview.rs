//! Questions to the one who sits at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use super::exit::misuse;
use super::{output, told};

/// What is asked, unless its flag tells it.
pub(super) struct Question<'a> {
    pub(super) flag: &'a str,
    pub(super) text: &'a str,
    /// What an empty answer means.
    pub(super) usual: Option<&'a str>,
}

impl Question<'_> {
    /// Takes what was given, or asks until the answer is one that passes.
    pub(super) fn answer<T>(
        &self,
        given: Option<&str>,
        check: impl Fn(&str) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if let Some(given) = given {
            return check(given);
        }
        loop {
            match check(&self.ask()?) {
                Ok(answer) => return Ok(answer),
                Err(error) => again(&error),
            }
        }
    }

    /// Asks until something is written.
    pub(super) fn ask(&self) -> anyhow::Result<String> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            misuse!("--{} is missing, and there is no terminal to ask for it", self.flag);
        }
        let hint = self.usual.map_or_else(String::new, |usual| format!(" [{usual}]"));
        loop {
            let mut err = io::stderr().lock();
            write!(err, "{}{hint}: ", self.text).and_then(|()| err.flush())?;
            let mut line = String::new();
            if io::stdin().lock().read_line(&mut line)? == 0 {
                misuse!("nothing was written");
            }
            match (line.trim(), self.usual) {
                ("", Some(usual)) => return Ok(usual.to_owned()),
                ("", None) => {}
                (line, _) => return Ok(line.to_owned()),
            }
        }
    }
}

/// Says why an answer will not do, before the question comes again.
pub(super) fn again(error: &anyhow::Error) {
    output::talk(format!("  that will not do: {}", told(error)));
}

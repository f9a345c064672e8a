//! Questions to the user at the terminal.

use std::io::{self, IsTerminal};

use console::Term;
use dialoguer::Input;
use dialoguer::theme::SimpleTheme;

use super::exit::misuse;
use super::{message_with_causes, output, stderr};

/// A question for a value that no flag gives.
pub(super) struct InitQuestion<'a> {
    pub(super) flag: &'a str,
    pub(super) text: &'a str,
    /// The value that an empty answer stands for.
    pub(super) usual: Option<&'a str>,
}

impl InitQuestion<'_> {
    /// Checks the given value, or asks until an answer passes the check.
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

    /// Asks until the answer is not empty or stands for the usual value.
    pub(super) fn ask(&self) -> anyhow::Result<String> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            misuse!("--{} is missing, and there is no terminal to ask for it", self.flag);
        }
        // Earlier messages are written before the question.
        stderr::flush();
        let mut input = Input::<String>::with_theme(&SimpleTheme).with_prompt(self.text);
        if let Some(usual) = self.usual {
            input = input.default(usual.to_owned());
        }
        match input.interact_text_on(&Term::stderr()) {
            Ok(line) => Ok(line.trim().to_owned()),
            Err(_) => misuse!("nothing was written"),
        }
    }
}

/// Writes why an answer was rejected, before the question is repeated.
pub(super) fn again(error: &anyhow::Error) {
    output::talk(format!("  that will not do: {}", message_with_causes(error)));
}

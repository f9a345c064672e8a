//! Questions to the one who sits at the terminal.

use std::io::{self, IsTerminal};

use console::Term;
use dialoguer::Input;
use dialoguer::theme::SimpleTheme;

use super::exit::misuse;
use super::{output, stderr, told};

/// What is asked, unless its flag tells it.
pub(super) struct InitQuestion<'a> {
    pub(super) flag: &'a str,
    pub(super) text: &'a str,
    /// What an empty answer means.
    pub(super) usual: Option<&'a str>,
}

impl InitQuestion<'_> {
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
        // What was said before comes before the question.
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

/// Says why an answer will not do, before the question comes again.
pub(super) fn again(error: &anyhow::Error) {
    output::talk(format!("  that will not do: {}", told(error)));
}

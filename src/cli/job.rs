//! Arguments that name the job, for every command that takes one.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;

use crate::config::{ConfigError, Job, Keys};

#[derive(Clone, Debug, Args)]
pub(super) struct JobArguments {
    /// The job file
    job: PathBuf,
    #[command(flatten)]
    set: SetArguments,
}

#[derive(Clone, Debug, Args)]
pub(super) struct SetArguments {
    /// Override a key of the job, as in provider.openai.model=gpt-5 or step.0.max_tokens=50; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl JobArguments {
    /// Returns the arguments as text to be typed again for another command.
    pub(super) fn typed(&self) -> String {
        self.set.typed(&self.job)
    }

    pub(super) fn load(&self, keys: Keys) -> Result<Job, ConfigError> {
        self.set.load(&self.job, keys)
    }

    /// As [`JobArguments::load`], for a job that is served.
    pub(super) fn load_served(&self, keys: Keys) -> Result<Job, ConfigError> {
        self.set.load_served(&self.job, keys)
    }
}

impl SetArguments {
    /// Returns the job file and its overrides as text to be typed again for another command.
    pub(super) fn typed(&self, file: &Path) -> String {
        let mut typed = shell_quoted(&file.to_string_lossy());
        for written in &self.set {
            typed.push_str(" --set ");
            typed.push_str(&shell_quoted(written));
        }
        typed
    }

    /// Whether a `--set` overrides this key.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.set.iter().filter_map(|written| written.split_once('=')).any(|(set, _)| set.trim() == key)
    }

    pub(super) fn load(&self, file: &Path, keys: Keys) -> Result<Job, ConfigError> {
        self.load_with(file, |set| Job::load_set(file, set, keys))
    }

    /// As [`SetArguments::load`], for a job that is served.
    pub(super) fn load_served(&self, file: &Path, keys: Keys) -> Result<Job, ConfigError> {
        self.load_with(file, |set| Job::load_served(file, set, keys))
    }

    fn load_with(
        &self,
        file: &Path,
        load: impl FnOnce(&[String]) -> Result<Job, ConfigError>,
    ) -> Result<Job, ConfigError> {
        // The first job that is loaded is the command's own.
        let _ = TYPED.set(self.typed(file));
        load(&self.set)
    }
}

/// The job of the command, as text to be typed again.
static TYPED: OnceLock<String> = OnceLock::new();

/// Returns a hint with the command's job in place of the word `JOB`.
pub(super) fn about_job(hint: &str) -> String {
    hint.replace("JOB", TYPED.get().map_or("JOB", String::as_str))
}

/// Quotes a word so that a POSIX shell reads it back unchanged.
pub(super) fn shell_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_read_back_by_a_shell() {
        for word in ["job.toml", "step.0.prompt=it's {{ a }} \"b\" $HOME `x` \\", "", "ünï cödé\nx", "*", "~"]
        {
            let script = format!("printf %s {}", shell_quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(shell_quoted("provider.p.model=gpt-4o"), "provider.p.model=gpt-4o");
    }
}

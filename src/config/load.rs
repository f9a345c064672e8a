//! Reads and validates job files.

use std::path::Path;

use super::check::{Checker, Environment};
use super::error::{ConfigError, NO_KEY};
use super::job::Job;
use super::overrides;
use super::raw::RawJob;

/// Whether the keys of providers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Keys are read: the command calls a provider.
    Read,
    /// Keys are neither needed nor read.
    Unneeded,
}

impl Job {
    /// Reads and validates a job file. Also reads the keys, from the environment, from files or from commands.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake found.
    pub fn load(file: &Path) -> Result<Job, ConfigError> {
        Job::of_text(file, &read(file)?, &[], Keys::Read)
    }

    /// Reads and validates a job file for a command that calls no provider: keys are neither needed nor read.
    ///
    /// # Errors
    /// As [`Job::load`], without those about keys.
    pub fn load_without_keys(file: &Path) -> Result<Job, ConfigError> {
        Job::of_text(file, &read(file)?, &[], Keys::Unneeded)
    }

    /// Reads and validates a job file after setting some of its keys, each written as `section.key=value`.
    ///
    /// # Errors
    /// As [`Job::load`], and when a key cannot be set.
    pub fn load_set(file: &Path, set: &[String], keys: Keys) -> Result<Job, ConfigError> {
        Job::of_text(file, &read(file)?, set, keys)
    }

    /// Reads and validates a job file as [`Job::load_set`] does, for rows that other programs post: it needs neither
    /// source nor target.
    ///
    /// # Errors
    /// As [`Job::load_set`].
    pub fn load_served(file: &Path, set: &[String], keys: Keys) -> Result<Job, ConfigError> {
        Job::of_text_served(file, &read(file)?, set, keys)
    }

    /// Validates the text of a job file after setting some of its keys. Relative paths are resolved against the
    /// folder of `file`.
    ///
    /// # Errors
    /// As [`Job::load_set`].
    pub fn of_text(file: &Path, text: &str, set: &[String], keys: Keys) -> Result<Job, ConfigError> {
        Job::of(file, text, set, keys, false)
    }

    /// Validates the text of a job file as [`Job::of_text`] does, for rows that other programs post.
    ///
    /// # Errors
    /// As [`Job::load_set`].
    pub fn of_text_served(file: &Path, text: &str, set: &[String], keys: Keys) -> Result<Job, ConfigError> {
        Job::of(file, text, set, keys, true)
    }

    fn of(file: &Path, text: &str, set: &[String], keys: Keys, is_served: bool) -> Result<Job, ConfigError> {
        let environment: Environment<'_> = &|name| std::env::var(name).ok();
        let environment = (keys == Keys::Read).then_some(environment);
        if set.is_empty() {
            return Job::check(file, text, environment, is_served);
        }
        let syntax = |error| ConfigError::from_toml(file, text, NO_KEY, &error);
        let mut table: toml::Table = toml::from_str(text).map_err(syntax)?;
        for written in set {
            overrides::set(&mut table, written).map_err(|message| ConfigError::Set { message })?;
        }
        let raw: RawJob = serde_path_to_error::deserialize(table)
            .map_err(|error| ConfigError::merged(file, &error.path().to_string(), error.inner()))?;
        Job::validate(file, raw, environment, is_served)
    }

    /// Validates the text of a job file. Relative paths are resolved against the folder of `file`; `environment`
    /// looks up variables.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake found.
    pub fn parse(
        file: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Job, ConfigError> {
        Job::check(file, text, Some(&environment), false)
    }

    fn check(
        file: &Path,
        text: &str,
        environment: Option<Environment<'_>>,
        is_served: bool,
    ) -> Result<Job, ConfigError> {
        let document = toml::Deserializer::parse(text)
            .map_err(|error| ConfigError::from_toml(file, text, NO_KEY, &error))?;
        let raw: RawJob = serde_path_to_error::deserialize(document)
            .map_err(|error| ConfigError::from_toml(file, text, &error.path().to_string(), error.inner()))?;
        Job::validate(file, raw, environment, is_served)
    }

    fn validate(
        file: &Path,
        raw: RawJob,
        environment: Option<Environment<'_>>,
        is_served: bool,
    ) -> Result<Job, ConfigError> {
        let folder = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Checker { file, folder, environment, is_served }.job(raw)
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { path: file.to_owned(), source })
}

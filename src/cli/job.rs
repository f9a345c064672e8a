//! Arguments that name the job, for every command that has one.

use std::path::{Path, PathBuf};

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
    /// Set a key of the job otherwise, as in provider.openai.model=gpt-5 or step.0.max_tokens=50; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl JobArguments {
    pub(super) fn load(&self, keys: Keys) -> Result<Job, ConfigError> {
        self.set.load(&self.job, keys)
    }
}

impl SetArguments {
    pub(super) fn load(&self, file: &Path, keys: Keys) -> Result<Job, ConfigError> {
        Job::load_set(file, &self.set, keys)
    }
}

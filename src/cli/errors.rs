//! `enrich errors`.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::output;
use crate::config::Job;
use crate::sink::{FailedRow, failed_rows};

#[derive(Debug, Args)]
pub(super) struct ErrorsArguments {
    /// The job file
    job: PathBuf,
}

pub(super) async fn errors(arguments: ErrorsArguments) -> anyhow::Result<Exit> {
    let job = Job::load_without_keys(&arguments.job)?;
    let mut count = 0_u64;
    let mut is_read = true;
    failed_rows(&job, |FailedRow { key, step, error }| {
        count += 1;
        if is_read {
            is_read = output::data(format!("{} row {}\t{step}\t{error}", key.file, key.row));
        }
    })
    .await?;
    output::talk(format!("{count} failed rows in {}", job.target.location));
    Ok(Exit::Done)
}

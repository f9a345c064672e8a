//! `enrich errors`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::exit::Exit;
use super::output;
use crate::config::Job;
use crate::sink::{FailedRow, failed_rows};
use crate::table::is_delta_table;

#[derive(Debug, Args)]
pub(super) struct ErrorsArguments {
    /// The job file
    job: PathBuf,
}

pub(super) async fn errors(arguments: ErrorsArguments) -> anyhow::Result<Exit> {
    let job = Job::load_without_keys(&arguments.job)?;
    if !is_delta_table(job.target.location.path()) {
        anyhow::bail!("there is no target {} yet; enrich run makes it", job.target.location);
    }
    let mut count = 0_u64;
    let mut written = Ok(true);
    failed_rows(&job, |FailedRow { key, step, error }| {
        count += 1;
        if matches!(written, Ok(true)) {
            written = output::data(format!("{} row {}\t{step}\t{error}", key.file, key.row));
        }
    })
    .await?;
    written.context("the list could not be written to the end")?;
    output::talk(format!("{count} failed rows in {}", job.target.location));
    Ok(Exit::Done)
}

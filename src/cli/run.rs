//! `enrich run`.

use std::path::PathBuf;

use clap::Args;

use super::direct::DirectArguments;
use super::exit::Exit;
use super::job::SetArguments;
use super::session::{self, Errand, SessionArguments};
use crate::config::Keys;

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The job file
    #[arg(required_unless_present = "source")]
    job: Option<PathBuf>,
    #[command(flatten)]
    set: SetArguments,
    /// Ask about so many rows at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_rows: Option<u64>,
    #[command(flatten)]
    session: SessionArguments,
    #[command(flatten)]
    direct: DirectArguments,
}

pub(super) async fn run(arguments: RunArguments) -> anyhow::Result<Exit> {
    let RunArguments { job, set, max_rows, session, direct } = arguments;
    let load = || {
        let file = match job {
            Some(file) => file,
            None => direct.job_file()?,
        };
        Ok(set.load(&file, Keys::Read)?)
    };
    session::attend(&session, &Errand::Run(max_rows), load).await
}

//! The command `enrich report`: writes the page about a job's runs.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, misuse};
use super::job::JobArguments;
use super::output;
use crate::config::Keys;
use crate::report_page;
use crate::store;

#[derive(Debug, Args)]
pub(super) struct ReportArguments {
    #[command(flatten)]
    job: JobArguments,
    /// Write the page to this file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn report(arguments: ReportArguments) -> anyhow::Result<Exit> {
    let job = arguments.job.load(Keys::Unneeded)?;
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        misuse!("the report is a page of HTML: say where it goes with --output report.html");
    }
    let report = report_page::gather(&job).await?;
    let batches = report.metrics.len();
    let page = report_page::render(&report)?;
    match &arguments.output {
        None => {
            output::data(page)?;
        }
        Some(path) => {
            store::replace(path, page.as_bytes())?;
            output::talk(format!("{} written", path.display()));
        }
    }
    if batches == 0 {
        output::talk(
            "no batch has figures yet: those of runs from now on are shown, or of earlier ones with metrics.path as it was",
        );
    }
    Ok(Exit::Done)
}

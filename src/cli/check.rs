//! The command `enrich check`: checks everything that a run checks before its first request.

use clap::Args;
use console::style;

use super::exit::Exit;
use super::job::{JobArguments, about_job};
use super::{exit_of, output};
use crate::config::Keys;
use crate::simulator::Simulator;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    job: JobArguments,
    /// Also send one request to each provider, at almost no cost
    #[arg(long)]
    live: bool,
    /// Repair damage where that is safe: put damaged checkpoints and journals aside, keep what is intact in them
    #[arg(long)]
    repair: bool,
}

pub(super) async fn check(arguments: CheckArguments) -> anyhow::Result<Exit> {
    if arguments.repair {
        let job = arguments.job.load_served(Keys::Unneeded)?;
        let done = crate::inspect::salvage(&job).await?;
        for line in &done {
            output::data(format!("{}  {line}", style("mended").yellow()))?;
        }
        if done.is_empty() {
            output::data("nothing is damaged")?;
        }
        // A job without tables is only served, and the rest is about runs.
        if arguments.job.load(Keys::Unneeded).is_err() {
            return Ok(Exit::Done);
        }
    }
    let (job, keyless) = match arguments.job.load(Keys::Read) {
        Ok(job) => (job, None),
        // Without its keys much can still be checked, if nothing else is wrong with the job.
        Err(error) => match arguments.job.load(Keys::Unneeded) {
            Ok(job) => (job, Some(error)),
            Err(_) => return Err(error.into()),
        },
    };
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    // Without a key that the job names, no request is sent.
    let live = arguments.live && keyless.is_none();
    let findings = crate::inspect::check(&job, live, simulator.as_ref().map(Simulator::url)).await;
    let mut exit = Exit::Done;
    match keyless {
        None => output::data(format!("{}  job: {}", style("ok    ").green(), job.file.display()))?,
        Some(error) => {
            exit = Exit::Usage;
            output::data(format!("{}  job: {error}", style("wrong ").red()))?
        }
    };
    for finding in findings {
        match finding.result {
            Ok(found) => {
                output::data(format!("{}  {}: {found}", style("ok    ").green(), finding.about))?;
            }
            Err(error) => {
                // The message may begin with the same words as the line.
                let message = error.to_string();
                let about = format!("{}: ", finding.about);
                let message = message.strip_prefix(&about).unwrap_or(&message);
                output::data(format!("{}  {about}{message}", style("wrong ").red()))?;
                if let Some(hint) = error.hint() {
                    output::data(format!("        {}", about_job(hint)))?;
                }
                if exit == Exit::Done {
                    exit = exit_of(&error);
                }
            }
        }
    }
    Ok(exit)
}

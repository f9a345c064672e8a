//! The command `enrich try`: sends a few rows and shows them beside their outcomes.

use clap::Args;

use super::exit::Exit;
use super::job::JobArguments;
use super::output::{self, Console};
use super::{plan, signals};
use crate::config::Keys;
use crate::event::Voice;
use crate::inspect::ForecastOptions;
use crate::progress::Log;
use crate::simulator::Simulator;

#[derive(Debug, Args)]
pub(super) struct TrialArguments {
    #[command(flatten)]
    job: JobArguments,
    /// Number of rows to send
    #[arg(long, value_name = "ROWS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rows: u64,
    /// Seed for choosing rows; the same number chooses the same rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(super) async fn trial(arguments: TrialArguments) -> anyhow::Result<Exit> {
    let TrialArguments { job: named, rows, seed } = arguments;
    let console = Console::default();
    console.start_log("off,enrich=warn");
    let job = named.load(Keys::Read)?;
    let stop = signals::watch_signals(&console)?;
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    // The sample has more rows than are sent, so that these are not the first ones.
    let options =
        ForecastOptions { sample: rows.saturating_mul(20).max(200), pilot: Some(rows), seed, prompts: 0 };
    let url = simulator.as_ref().map(Simulator::url);
    let voice = Voice::new(vec![Box::new(Log::default())]);
    let forecast = crate::inspect::forecast(&job, options, stop, url, voice).await?;
    let typed = named.typed();
    let Some(pilot) = &forecast.pilot else {
        output::data("nothing to do: the source has no new rows")?;
        return Ok(Exit::Done);
    };
    output::data(plan::answers(pilot).join("\n").trim_start())?;
    output::talk(format!(
        "nothing is written but the answers, which are kept: enrich run {typed} does not request them again"
    ));
    Ok(if pilot.answers > 0 || pilot.errors == 0 { Exit::Done } else { Exit::Errors })
}

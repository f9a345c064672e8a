//! `enrich retry`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;

use super::exit::Exit;
use super::select::SelectArguments;
use super::{output, signals};
use crate::checkpoint::Retrying;
use crate::config::Job;
use crate::engine::{self, End, RunOptions};
use crate::event::{Listener, Voice};
use crate::report::{Log, Tally};
use crate::simulator::Simulator;

#[derive(Debug, Args)]
pub(super) struct RetryArguments {
    /// The job file
    job: PathBuf,
    #[command(flatten)]
    select: SelectArguments,
    /// Ask this provider of the job in place of the steps' own
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Retry so many rows at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// How long requests in flight may take when the retry is asked to stop
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    grace: Duration,
    /// Ask nothing new after this time
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    max_duration: Option<Duration>,
    /// Say nothing but problems
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn retry(arguments: RetryArguments) -> anyhow::Result<Exit> {
    let mut tasks = JoinSet::new();
    let stop = signals::watch_signals(&mut tasks)?;
    let job = Job::load(&arguments.job)?;
    output::start_log(None, if arguments.quiet { "off,enrich=warn" } else { "off,enrich=info" });
    let tally = Tally::default();
    let listeners: Vec<Box<dyn Listener>> = vec![Box::new(tally.clone()), Box::new(Log)];
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    let options = RunOptions {
        grace: arguments.grace,
        max_rows: arguments.limit,
        max_duration: arguments.max_duration,
    };
    let wanted = Retrying {
        session: None,
        selection: arguments.select.selection(&[]),
        provider: arguments.provider.clone(),
    };
    let url = simulator.as_ref().map(Simulator::url);
    let end = engine::retry(&job, &wanted, options, stop, url, Voice::new(listeners)).await?;
    let totals = tally.totals();
    if totals.settled == 0 && totals.committed_rows == 0 && matches!(end, End::Complete) {
        output::talk("nothing to do: no failed row is selected");
    } else {
        output::talk(format!(
            "done: {} rows asked again, {} answers, {} errors",
            totals.settled,
            totals.answers,
            totals.error_count()
        ));
    }
    Ok(match end {
        End::Complete | End::MaxRows | End::MaxDuration => Exit::Done,
        End::Stopped => Exit::Interrupted,
        End::Provider { .. } => Exit::Provider,
    })
}

//! The command `enrich simulate`: serves the built-in simulator.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::{output, signals};
use crate::config::{Job, SimulatorSpec};
use crate::simulator::Simulator;

#[derive(Debug, Args)]
pub(super) struct SimulateArguments {
    /// Job file whose [simulator] section configures the simulator
    job: Option<PathBuf>,
    /// Port on the loopback address; 0 picks a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

pub(super) async fn simulate(arguments: SimulateArguments) -> anyhow::Result<Exit> {
    let spec = match &arguments.job {
        Some(job) => Job::load_without_keys(job)?.simulator.unwrap_or_default(),
        None => SimulatorSpec::default(),
    };
    let mut stop = signals::watch_signals(&output::Console::default())?;
    let simulator = Simulator::start(spec, arguments.port).await?;
    output::data(simulator.url().as_str())?;
    output::talk("counts: GET /simulator/counts; Ctrl-C ends it");
    tokio::select! {
        () = simulator.serve() => {}
        _ = stop.changed() => {}
    }
    Ok(Exit::Done)
}

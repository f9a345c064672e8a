//! What `run` and `retry` have in common: arguments, reports while they go on, and last words.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::task::JoinSet;

use super::confirm::{can_ask, confirm};
use super::ending::{self, CommandEnd, EndDetails};
use super::exit::{Exit, Misuse};
use super::output::{self, Console, LogFormat};
use super::signals;
use super::summary::Summary;
use crate::checkpoint::{LockError, Retrying};
use crate::clock;
use crate::config::{Job, duration};
use crate::event::Voice;
use crate::progress::{self, Display, Log, log_progress};
use crate::run::{Begin, RunError, RunOptions};
use crate::simulator::Simulator;
use crate::store;
use crate::tally::Tally;

#[derive(Clone, Debug, Args)]
pub(super) struct SessionArguments {
    /// How long requests in flight may take when asked to stop
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    grace: Duration,
    /// Ask nothing new after this time
    #[arg(long, value_parser = duration, value_name = "TIME")]
    max_duration: Option<Duration>,
    /// What to do when another one holds the job
    #[arg(long, value_enum, default_value_t = IfRunning::Fail, value_name = "WHAT")]
    if_running: IfRunning,
    /// End with status 3 if any row ended with an error
    #[arg(long)]
    pub(super) fail_on_errors: bool,
    /// Say nothing but problems
    #[arg(long, short)]
    quiet: bool,
    /// How what is said on standard error is written; RUST_LOG says how much of it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    /// What is printed at the end
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    summary: SummaryFormat,
    /// Serve figures for Prometheus while it goes on, at http://HOST:PORT/metrics
    #[arg(long, value_name = "HOST:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// Write them to a file at its end, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// How often progress is logged where there is no display
    #[arg(long, hide = true, default_value = "30s", value_parser = positive_duration)]
    progress_interval: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SummaryFormat {
    /// Some lines for people, on standard error
    #[default]
    Text,
    /// Besides, a JSON object for scripts, on standard output
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IfRunning {
    /// End with status 6
    Fail,
    /// End with status 0
    Skip,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum SessionKind {
    /// Enrich rows, so many at most, from here.
    Run { max_rows: Option<u64>, begin: Begin, confirmed: bool, keep_paid: bool },
    /// Ask again about failed rows, so many at most; with the options that say so, as they are typed again.
    Retry { wanted: Box<Retrying>, limit: Option<u64>, typed: String },
}

/// Does it and tells how it went. The job is what `load` reads, with its file and what is set in it as they
/// are typed again.
pub(super) async fn attend(
    arguments: &SessionArguments,
    kind: &SessionKind,
    load: impl FnOnce() -> anyhow::Result<(Job, String)>,
) -> anyhow::Result<Exit> {
    let console = Console::new(arguments.log_format);
    // The console says how even the first mistake is told.
    let attempt = attempt(arguments, kind, load, &console);
    Ok(attempt.await.unwrap_or_else(|error| super::explain(&error, &console)))
}

async fn attempt(
    arguments: &SessionArguments,
    kind: &SessionKind,
    load: impl FnOnce() -> anyhow::Result<(Job, String)>,
    console: &Console,
) -> anyhow::Result<Exit> {
    let started = clock::now();
    let mut tasks = JoinSet::new();
    let stop = signals::watch_signals(console)?;
    clock::is_set(clock::wall()).map_err(Misuse)?;
    let (job, typed) = load()?;
    console.names_job(&job.app_id);
    let tally = Tally::default();
    let mut reports = watch(arguments, console, &tally);
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    if let Some(address) = arguments.metrics_addr {
        let served = progress::scrape(address, job.app_id.clone(), tally.clone(), &mut tasks).await;
        let served = served.with_context(|| format!("--metrics-addr: cannot listen at {address}"))?;
        tracing::info!("figures are at http://{served}/metrics");
    }
    let (max_rows, begin, confirmed, keep_paid) = match kind {
        SessionKind::Run { max_rows, begin, confirmed, keep_paid } => {
            (*max_rows, *begin, *confirmed, *keep_paid)
        }
        SessionKind::Retry { limit, .. } => (*limit, Begin::GoOn, true, true),
    };
    let options = RunOptions {
        grace: arguments.grace,
        max_rows,
        max_duration: arguments.max_duration,
        begin,
        confirmed,
        keep_paid,
    };
    let log = if console.has_display() { Log::default() } else { Log::with_reasons() };
    let url = simulator.as_ref().map(Simulator::url);
    let voice = Voice::new(vec![Box::new(tally.clone()), Box::new(log)]);
    let ended = match kind {
        SessionKind::Run { .. } => {
            let first = crate::run::run(&job, options, stop.clone(), url, voice.clone()).await;
            match first {
                Err(RunError::Doubled { what }) if can_ask() => {
                    reports.shutdown().await;
                    console.end_display();
                    confirm(&format!("{what}. Go on?"), &what)?;
                    reports.spawn(log_progress(tally.clone(), arguments.progress_interval));
                    let options = RunOptions { confirmed: true, ..options };
                    crate::run::run(&job, options, stop, url, voice).await
                }
                first => first,
            }
        }
        SessionKind::Retry { wanted, .. } => crate::run::retry(&job, wanted, options, stop, url, voice).await,
    };
    let ended = match ended {
        Ok(end) => CommandEnd::Run(end),
        Err(RunError::Lock(LockError::Held { holder, .. })) if arguments.if_running == IfRunning::Skip => {
            CommandEnd::Skipped { holder }
        }
        Err(error) => CommandEnd::Failed(error),
    };
    reports.shutdown().await;
    console.end_display();
    let totals = tally.totals();
    let took = clock::now() - started;
    let facts = EndDetails { arguments, kind, job: &job, typed: &typed, totals: &totals, took };
    let exit = tell(&ended, &facts, console)?;
    if let Some(path) = &arguments.metrics_file
        // The file is of the run that has the job.
        && !matches!(ended, CommandEnd::Skipped { .. })
    {
        let ended = progress::RunResult { at: clock::wall(), took, status: exit as u8 };
        let text = progress::prometheus(&job.app_id, &totals, Some(ended))?;
        // The run ended as it did, whether or not this can be written.
        if let Err(error) = store::replace(path, text.as_bytes()) {
            console.problem(format!("--metrics-file: {error}"), None);
        }
    }
    Ok(exit)
}

/// Starts what tells how far the run has come: a display on a terminal, else a line in the log now and then.
fn watch(arguments: &SessionArguments, console: &Console, tally: &Tally) -> JoinSet<()> {
    let mut reports = JoinSet::new();
    if arguments.quiet {
        console.start_log("off,enrich=warn");
        return reports;
    }
    let display = if arguments.log_format == LogFormat::Text { Display::start(tally.clone()) } else { None };
    match display {
        Some(display) => console.show(display),
        None => {
            reports.spawn(log_progress(tally.clone(), arguments.progress_interval));
        }
    }
    console.start_log("off,enrich=info");
    reports
}

/// Tells people and scripts how the run ended.
fn tell(ended: &CommandEnd, facts: &EndDetails<'_>, console: &Console) -> anyhow::Result<Exit> {
    let arguments = facts.arguments;
    let exit = match ended {
        CommandEnd::Run(end) => ending::exit(end, facts),
        CommandEnd::Failed(error) => super::explain_engine(error, console),
        CommandEnd::Skipped { .. } => Exit::Done,
    };
    let summary = Summary::new(ended, exit, facts);
    match ended {
        CommandEnd::Run(end) if !arguments.quiet || exit != Exit::Done => {
            let words = facts.words(end);
            if let Some((what, hint)) = &words.problem {
                console.problem(what, hint.as_deref());
            }
            console.last(&words.lines, &summary);
        }
        // It had begun: what came of it until then is said on a full disk, too.
        CommandEnd::Failed(_) if facts.totals.run.is_some() => {
            console.last(&[facts.counts("stopped")], &summary);
        }
        CommandEnd::Skipped { holder } if !arguments.quiet => {
            console.talk(format!("skipped: another run holds this job: {holder}"));
        }
        // Quiet, or said already.
        CommandEnd::Run(_) | CommandEnd::Failed(_) | CommandEnd::Skipped { .. } => {}
    }
    if arguments.summary == SummaryFormat::Json {
        output::data(serde_json::to_string(&summary)?)?;
    }
    Ok(exit)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| match time {
        Duration::ZERO => Err("it must be longer than that".into()),
        time => Ok(time),
    })
}

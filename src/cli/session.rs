//! The common part of `run` and `retry`: progress reports and last messages.

use anyhow::Context;
use tokio::task::JoinSet;

use super::confirm::{can_ask, confirm};
use super::ending::{self, CommandEnd, EndDetails};
use super::exit::{Exit, Misuse};
use super::output::{self, Console, LogFormat};
use super::session_arguments::{IfRunning, SessionArguments, SessionKind, SummaryFormat};
use super::signals;
use super::summary::Summary;
use crate::checkpoint::LockError;
use crate::clock;
use crate::config::Job;
use crate::event::Voice;
use crate::progress::{self, Display, Log, log_progress};
use crate::run::{Begin, RunError, RunOptions};
use crate::simulator::Simulator;
use crate::store;
use crate::tally::Tally;

/// Runs the session and reports how it ended. `load` reads the job and returns it with its file and overrides, as text
/// to be typed again.
pub(super) async fn attend(
    arguments: &SessionArguments,
    kind: &SessionKind,
    load: impl FnOnce() -> anyhow::Result<(Job, String)>,
) -> anyhow::Result<Exit> {
    let console = Console::new(arguments.log_format);
    // Even the first error is written in the console's format.
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
    let (grace, max_duration) = (arguments.grace, arguments.max_duration);
    let options = match *kind {
        SessionKind::Run { max_rows, begin, confirmed, keep_paid, waits, asks_online } => {
            RunOptions { grace, max_rows, max_duration, begin, confirmed, waits, asks_online, keep_paid }
        }
        SessionKind::Retry { limit, waits, asks_online, .. } => RunOptions {
            grace,
            max_rows: limit,
            max_duration,
            begin: Begin::Continue,
            confirmed: true,
            waits,
            asks_online,
            keep_paid: true,
        },
    };
    let log = if console.has_display() { Log::default() } else { Log::with_reasons() };
    let url = simulator.as_ref().map(Simulator::url);
    let voice = Voice::new(vec![Box::new(tally.clone()), Box::new(log)]);
    let ended = match kind {
        SessionKind::Run { .. } => {
            let first = crate::run::run(&job, options, stop.clone(), url, voice.clone()).await;
            match first {
                Err(RunError::DuplicateRows { what }) if can_ask() => {
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
        SessionKind::Retry { requested, .. } => {
            crate::run::retry(&job, requested, options, stop, url, voice).await
        }
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
        // A skipped run must not overwrite the file of the run that holds the job.
        && !matches!(ended, CommandEnd::Skipped { .. })
    {
        let ended = progress::RunResult { at: clock::wall(), took, status: exit as u8 };
        let text = progress::prometheus(&job.app_id, &totals, Some(ended))?;
        // The exit status stays the run's own, whether or not this file can be written.
        if let Err(error) = store::replace(path, text.as_bytes()) {
            console.problem(format!("--metrics-file: {error}"), None);
        }
    }
    Ok(exit)
}

/// Starts the log and what shows progress: a display on a terminal, else a line in the log from time to time.
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

/// Reports the end of the run to people and scripts, and returns the exit status.
fn tell(ended: &CommandEnd, facts: &EndDetails<'_>, console: &Console) -> anyhow::Result<Exit> {
    let arguments = facts.arguments;
    let exit = match ended {
        CommandEnd::Run(end) => ending::exit(end, facts),
        CommandEnd::Failed(error) => super::report_run_error(error, console),
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
        // The run had started, so its counts are reported even if it failed, on a full disk for example.
        CommandEnd::Failed(_) if facts.totals.run.is_some() => {
            console.last(&[facts.counts("stopped")], &summary);
        }
        CommandEnd::Skipped { holder } if !arguments.quiet => {
            console.talk(format!("skipped: another run holds this job: {holder}"));
        }
        // Quiet, or reported already.
        CommandEnd::Run(_) | CommandEnd::Failed(_) | CommandEnd::Skipped { .. } => {}
    }
    if arguments.summary == SummaryFormat::Json {
        output::data(serde_json::to_string(&summary)?)?;
    }
    Ok(exit)
}

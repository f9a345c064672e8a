//! `enrich run`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::task::JoinSet;

use super::exit::Exit;
use super::{output, signals};
use crate::checkpoint::LockError;
use crate::clock;
use crate::config::Job;
use crate::engine::{self, End, EngineError, RunOptions};
use crate::event::{Listener, Voice};
use crate::fault::Class;
use crate::report::{Log, Progress, Tally, Totals};
use crate::simulator::Simulator;

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The job file
    job: PathBuf,
    /// How long requests in flight may take when the run is asked to stop
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    grace: Duration,
    /// Ask about so many rows at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_rows: Option<u64>,
    /// Ask nothing new after this time
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    max_duration: Option<Duration>,
    /// What to do when another run holds the job
    #[arg(long, value_enum, default_value_t = IfRunning::Fail, value_name = "WHAT")]
    if_running: IfRunning,
    /// Say nothing but problems
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IfRunning {
    /// End with status 6
    Fail,
    /// End with status 0
    Skip,
}

pub(super) async fn run(arguments: RunArguments) -> anyhow::Result<Exit> {
    let started = clock::now();
    let mut tasks = JoinSet::new();
    let stop = signals::watch_signals(&mut tasks)?;
    let job = Job::load(&arguments.job)?;
    let progress = (!arguments.quiet && std::io::stderr().is_terminal()).then(Progress::new);
    let bar = progress.as_ref().map(Progress::bar);
    output::start_log(bar.clone(), if arguments.quiet { "off,enrich=warn" } else { "off,enrich=info" });
    let tally = Tally::default();
    let mut listeners: Vec<Box<dyn Listener>> = vec![Box::new(tally.clone()), Box::new(Log)];
    if let Some(progress) = progress {
        listeners.push(Box::new(progress));
    }
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    let options = RunOptions {
        grace: arguments.grace,
        max_rows: arguments.max_rows,
        max_duration: arguments.max_duration,
    };
    let url = simulator.as_ref().map(Simulator::url);
    let ended = engine::run(&job, options, stop, url, Voice::new(listeners)).await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let end = match ended {
        Err(EngineError::Lock(LockError::Held { holder, .. })) if arguments.if_running == IfRunning::Skip => {
            if !arguments.quiet {
                output::talk(format!("skipped: another run holds this job: {holder}"));
            }
            return Ok(Exit::Done);
        }
        other => other?,
    };
    let totals = tally.totals();
    if !arguments.quiet || !matches!(end, End::Complete | End::MaxRows | End::MaxDuration) {
        let last = Last { arguments: &arguments, job: &job, totals: &totals, took: clock::now() - started };
        last.say(&end);
    }
    Ok(match end {
        End::Complete | End::MaxRows | End::MaxDuration => Exit::Done,
        End::Stopped => Exit::Interrupted,
        End::Provider { failure, .. } if failure.class == Class::Template => Exit::Usage,
        End::Provider { .. } => Exit::Provider,
    })
}

/// The last lines of a run.
struct Last<'a> {
    arguments: &'a RunArguments,
    job: &'a Job,
    totals: &'a Totals,
    took: Duration,
}

impl Last<'_> {
    fn say(&self, end: &End) {
        let job = self.arguments.job.display();
        let again = format!("enrich run {job}");
        match end {
            End::Complete if self.totals.settled == 0 && self.totals.committed_rows == 0 => {
                output::talk(format!(
                    "nothing to do: every row of the source is in {}",
                    self.job.target.location
                ));
                return;
            }
            End::Complete => self.summary("done"),
            End::MaxRows => self.summary("stopped after --max-rows"),
            End::MaxDuration => self.summary("stopped after --max-duration"),
            End::Stopped => {
                self.summary("interrupted");
                output::talk(format!(
                    "everything that was answered is kept; what was cut off in flight is asked again; to go on: {again}"
                ));
                return;
            }
            End::Provider { failure, .. } if failure.class == Class::Template => {
                output::talk(format!(
                    "error: the templates fail for each of the first rows: {}",
                    failure.detail
                ));
                output::talk("hint: mend the template; decimals, dates and times are text in it");
                self.summary("stopped");
                return;
            }
            End::Provider { provider, failure } => {
                output::talk(format!("error: provider {provider} stopped the run: {failure}"));
                output::talk(format!("hint: {}; then: {again}", advice(failure.class)));
                self.summary("stopped");
                return;
            }
        }
        output::talk(format!("result: {}", self.job.target.location));
        if self.totals.error_count() > 0 {
            output::talk(format!("next: enrich errors {job}"));
        } else if !matches!(end, End::Complete) {
            output::talk(format!("to go on: {again}"));
        }
    }

    fn summary(&self, how: &str) {
        let totals = self.totals;
        let took = Duration::from_millis(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX));
        let mut line = format!(
            "{how}: {} rows written, {} answers, {} errors",
            totals.committed_rows,
            totals.answers,
            totals.error_count()
        );
        if !totals.errors.is_empty() {
            let classes: Vec<String> =
                totals.errors.iter().map(|(class, count)| format!("{class} {count}")).collect();
            line.push_str(&format!(" ({})", classes.join(", ")));
        }
        if totals.skipped > 0 {
            line.push_str(&format!(", {} skipped", totals.skipped));
        }
        if totals.recovered > 0 {
            line.push_str(&format!(", {} from the journal", totals.recovered));
        }
        let (prompt, completion) = (totals.tokens.prompt, totals.tokens.completion);
        line.push_str(&format!(
            ", {prompt} + {completion} tokens, {} retries, {}",
            totals.retries,
            humantime::format_duration(took)
        ));
        output::talk(line);
    }
}

/// What to do about a provider that stopped the run.
fn advice(class: Class) -> &'static str {
    match class {
        Class::Auth => "check the key and what it may do",
        Class::Billing | Class::Quota => "raise the quota or the budget at the provider",
        Class::UnknownModel => "check the model's name in the job file",
        Class::Redirect => "check base_url: the endpoint wants another address",
        Class::SameRefusal => "check the job: the provider refuses its requests as they are",
        Class::RateLimited => "come back at that time",
        _ => "check base_url and the network, or wait for the provider",
    }
}

//! The command line: arguments, one file per command, exit statuses.
//!
//! Data goes to standard output, messages to standard error. Either may be closed without harm.

mod batches;
mod check;
mod confirm;
mod direct;
mod ending;
mod errors;
mod exit;
mod export;
mod init;
mod job;
mod listing;
mod output;
mod panics;
mod plan;
mod questions;
mod read_document;
mod report;
mod retry;
mod run;
mod select;
mod serve;
mod session;
mod session_arguments;
mod signals;
mod simulate;
mod status;
mod stderr;
mod summary;
mod trial;

pub use exit::Exit;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::task::JoinSet;

use self::output::Console;
use crate::config::ConfigError;
use crate::export::ExportError;
use crate::run::{EndKind, ErrorKind, RunError};
use crate::serve::TlsError;

/// Runs a language model over every row of a Delta or Parquet table and writes the answers to a Delta
/// table, exactly once.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrich the rows of the source that are not in the target yet
    Run(run::RunArguments),
    /// Answer rows that other programs post, such as Spark: one server asks for all of them
    Serve(serve::ServeArguments),
    /// List the rows that ended with an error
    Errors(errors::ErrorsArguments),
    /// Send failed rows to the model again and replace their results
    Retry(retry::RetryArguments),
    /// Write rows of the target to files: Parquet, CSV or JSON lines
    Export(export::ExportArguments),
    /// Show the state of a job: what is left to do, what failed, which run is active
    Status(status::StatusArguments),
    /// List what was handed to providers' Batch APIs; cancel it, or give it up
    Batches(batches::BatchesArguments),
    /// Send a few rows and show them beside their answers; writes nothing to the target
    Try(trial::TrialArguments),
    /// Estimate what a run would take before anything is spent: rows, tokens, cost, time
    Plan(plan::PlanArguments),
    /// Write an HTML page about all runs: throughput, latency, errors, tokens, cost, and samples
    Report(report::ReportArguments),
    /// Check everything that a run checks before its first request
    Check(check::CheckArguments),
    /// Write a first job file; prompts for values that no option gives
    Init(init::InitArguments),
    /// Print the completion script for a shell
    Completions {
        /// Shell that the script is for
        shell: clap_complete::Shell,
    },
    /// Serve the built-in OpenAI-compatible simulator on loopback
    Simulate(simulate::SimulateArguments),
}

/// Size of a thread's stack in bytes. Third-party code reads the footers of Parquet files recursively, even those with
/// columns a thousand deep, before they are refused.
const STACK_BYTES: usize = 32 << 20;

/// Runs the command line and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    panics::keep_messages();
    // Its memory is limited, which is why it has none of the threads below.
    if let Some(exit) = read_document::read_document() {
        return exit.into();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .on_thread_start(panics::mark_runtime_thread)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::talk(format!("error: cannot start: {error}"));
            stderr::flush();
            return Exit::Internal.into();
        }
    };
    // The command runs on a worker thread, not on this one: for every row the enricher exchanges messages with tasks
    // there.
    let mut task = JoinSet::new();
    task.spawn_on(command(arguments.command), runtime.handle());
    let result = match runtime.block_on(task.join_next()) {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(error.into()),
        None => Ok(Exit::Internal),
    };
    runtime.shutdown_timeout(Duration::from_millis(100));
    let exit = result.unwrap_or_else(|error| explain(&error, &Console::default()));
    stderr::flush();
    exit.into()
}

async fn command(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(arguments) => Box::pin(run::run(arguments)).await,
        Command::Serve(arguments) => Box::pin(serve::serve(arguments)).await,
        Command::Errors(arguments) => Box::pin(errors::errors(arguments)).await,
        Command::Retry(arguments) => Box::pin(retry::retry(arguments)).await,
        Command::Export(arguments) => Box::pin(export::export(arguments)).await,
        Command::Status(arguments) => Box::pin(status::status(arguments)).await,
        Command::Batches(arguments) => Box::pin(batches::batches(arguments)).await,
        Command::Try(arguments) => Box::pin(trial::trial(arguments)).await,
        Command::Plan(arguments) => Box::pin(plan::plan(arguments)).await,
        Command::Report(arguments) => Box::pin(report::report(arguments)).await,
        Command::Check(arguments) => Box::pin(check::check(arguments)).await,
        Command::Init(arguments) => Box::pin(init::init(arguments)).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "enrich", &mut script);
            output::data(without_hidden(&String::from_utf8_lossy(&script), shell))?;
            Ok(Exit::Done)
        }
        Command::Simulate(arguments) => simulate::simulate(arguments).await,
    }
}

/// Returns a completion script without the options that `--help` hides.
fn without_hidden(script: &str, shell: clap_complete::Shell) -> String {
    let command = Arguments::command();
    let hidden: Vec<String> = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .filter(|argument| argument.is_hide_set())
        .filter_map(|argument| argument.get_long().map(ToOwned::to_owned))
        .collect();
    let mut lines = Vec::new();
    for line in script.lines() {
        // Bash lists all options on one line, other shells use a line for each.
        let names =
            |name: &&String| line.contains(&format!("--{name}")) || line.contains(&format!(" -l {name} "));
        match hidden.iter().find(names) {
            Some(name) if line.contains("opts=") => lines.push(line.replace(&format!(" --{name}"), "")),
            Some(_) if shell != clap_complete::Shell::Bash => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// Writes an error with its hint to the console and returns its exit status.
fn explain(error: &anyhow::Error, console: &Console) -> Exit {
    if let Some(error) = error.downcast_ref::<RunError>() {
        return report_run_error(error, console);
    }
    if let Some(error) = error.downcast_ref::<ExportError>() {
        console.problem(error.to_string(), error.hint());
        return if error.is_usage() { Exit::Usage } else { Exit::Internal };
    }
    console.problem(message_with_causes(error), None);
    if error.is::<tokio::task::JoinError>() {
        report_panics(console);
    }
    let is_usage = error.is::<ConfigError>() || error.is::<exit::Misuse>() || error.is::<TlsError>();
    if is_usage { Exit::Usage } else { Exit::Internal }
}

/// Returns the message of an error followed by its causes, except those that the message already contains.
fn message_with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn report_run_error(error: &RunError, console: &Console) -> Exit {
    console.problem(error.to_string(), error.hint().map(job::about_job).as_deref());
    if error.kind() == ErrorKind::Internal {
        report_panics(console);
    }
    exit_of(error)
}

/// Prints the panics that ended a task of this program.
fn report_panics(console: &Console) {
    for message in panics::take_messages() {
        console.problem(message, Some("this is a fault of enrich; please report it"));
    }
}

fn exit_of(error: &RunError) -> Exit {
    match error.kind() {
        ErrorKind::Usage => Exit::Usage,
        ErrorKind::Environment | ErrorKind::Internal => Exit::Internal,
        ErrorKind::Running => Exit::Running,
        ErrorKind::Provider => Exit::Provider,
        ErrorKind::Paused => Exit::Errors,
        ErrorKind::Budget => Exit::Budget,
        // A pilot that came to no end of its own was interrupted.
        ErrorKind::PilotEnded(EndKind::Complete | EndKind::Limited) => Exit::Interrupted,
        ErrorKind::PilotEnded(end) => Exit::of(end),
    }
}

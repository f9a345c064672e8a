//! The command `enrich batches`: lists what was handed to Batch APIs, cancels it, and gives it up.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use indicatif::HumanCount;

use super::confirm::confirm;
use super::errors::{new_table, show};
use super::exit::Exit;
use super::job::JobArguments;
use super::output::{self, Console};
use crate::checkpoint::SubmissionState;
use crate::clock;
use crate::config::{Job, Keys};
use crate::ident::Money;
use crate::inspect::{
    CancellationResult, RemoteReport, Status, SubmissionChoice, SubmissionReport, SubmissionsReport,
};
use crate::run::Scope;
use crate::simulator::Simulator;
use crate::wording::{brief, counted};

#[derive(Debug, Args)]
pub(super) struct BatchesArguments {
    #[command(flatten)]
    job: JobArguments,
    /// The submissions of enrich retry, in place of those of enrich run
    #[arg(long)]
    retry: bool,
    /// Ask the provider to cancel a submission, by its number, or all; the next run or retry collects what was answered and
    /// sends the other rows again
    #[arg(long, value_name = "N|all", value_parser = choice, conflicts_with = "give_up")]
    cancel: Option<SubmissionChoice>,
    /// Give a submission up, by its number: what it may cost counts as spent, and the next run or retry sends its rows
    /// again; asks for confirmation
    #[arg(long, value_name = "N")]
    give_up: Option<u64>,
    /// Answer yes to the confirmation question
    #[arg(long)]
    yes: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = BatchesFormat::Text, value_name = "FORMAT")]
    format: BatchesFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BatchesFormat {
    Text,
    Json,
}

fn choice(text: &str) -> Result<SubmissionChoice, String> {
    match text {
        "all" => Ok(SubmissionChoice::All),
        _ => text.parse().map(SubmissionChoice::Number).map_err(|_| "write a number, or all".to_owned()),
    }
}

pub(super) async fn batches(arguments: BatchesArguments) -> anyhow::Result<Exit> {
    let keys = if arguments.cancel.is_some() { Keys::Read } else { Keys::Unneeded };
    let job = arguments.job.load(keys)?;
    let typed = arguments.job.typed();
    let scope = if arguments.retry { Scope::Retry } else { Scope::Run };
    let exit = match (arguments.cancel, arguments.give_up) {
        (Some(choice), _) => cancel(&job, scope, choice, &typed).await?,
        (None, Some(number)) => give_up(&job, scope, number, arguments.yes, &typed).await?,
        (None, None) => Exit::Done,
    };
    let has_acted = arguments.cancel.is_some() || arguments.give_up.is_some();
    match arguments.format {
        BatchesFormat::Json => {
            let report = crate::inspect::submissions(&job, scope).await?;
            output::data(serde_json::to_string(&report)?)?;
        }
        BatchesFormat::Text if has_acted => {}
        BatchesFormat::Text => {
            list(&crate::inspect::submissions(&job, scope).await?)?;
            if scope == Scope::Run {
                let retries = crate::inspect::submissions(&job, Scope::Retry).await?.submissions.len() as u64;
                if retries > 0 {
                    let those = counted(retries, "submission");
                    output::data(format!("of retries: {those}, listed by enrich batches {typed} --retry"))?;
                }
            }
        }
    }
    Ok(exit)
}

/// The command that goes on with submissions.
fn command_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Run | Scope::Server => "run",
        Scope::Retry => "retry",
    }
}

async fn cancel(job: &Job, scope: Scope, choice: SubmissionChoice, typed: &str) -> anyhow::Result<Exit> {
    let command = command_of(scope);
    let simulator = match job.simulator.clone() {
        Some(spec) if job.simulated => Some(Simulator::start(spec, 0).await?),
        _ => None,
    };
    let url = simulator.as_ref().map(Simulator::url);
    let results = crate::inspect::cancel_submissions(job, scope, choice, url).await?;
    let console = Console::default();
    if results.is_empty() {
        console.talk("nothing to cancel: no submission is under way");
    }
    let mut exit = Exit::Done;
    for (SubmissionReport { number, provider, state, .. }, result) in &results {
        let problem = match result {
            CancellationResult::Requested => {
                console.talk(format!(
                    "submission {number}: {provider} was asked to cancel it; enrich {command} {typed} collects what was \
                     answered and sends the other rows again"
                ));
                continue;
            }
            CancellationResult::Dropped => {
                console.talk(format!(
                    "submission {number} was not at {provider} yet and is dropped; enrich {command} {typed} sends its rows \
                     again"
                ));
                continue;
            }
            CancellationResult::Unclear => (
                format!("submission {number}: it is not known whether {provider} has a batch of it"),
                format!("enrich {command} {typed} looks for it; it can be cancelled then"),
            ),
            CancellationResult::Ended => {
                // The batches of one that is at the provider have ended.
                let is_there = *state == SubmissionState::Created;
                let state = if is_there { SubmissionState::Ended } else { *state };
                (
                    format!("submission {number} cannot be cancelled: it is {}", words_of(state)),
                    format!("enrich {command} {typed} goes on"),
                )
            }
            CancellationResult::Failed(failure) => (
                format!("submission {number}: provider {provider}: {failure}"),
                format!(
                    "try again; should the provider have lost it, enrich batches {typed}{} --give-up {number} has \
                     its rows sent again",
                    if scope == Scope::Retry { " --retry" } else { "" }
                ),
            ),
        };
        console.problem(problem.0, Some(&problem.1));
        if exit != Exit::Provider {
            let has_failed = matches!(result, CancellationResult::Failed(_));
            exit = if has_failed { Exit::Provider } else { Exit::Usage };
        }
    }
    Ok(exit)
}

async fn give_up(
    job: &Job,
    scope: Scope,
    number: u64,
    is_confirmed: bool,
    typed: &str,
) -> anyhow::Result<Exit> {
    let submission = crate::inspect::submission_to_give_up(job, scope, number).await?;
    let (rows, provider) = (counted(submission.rows, "row"), &submission.provider);
    let cost = submission.max_cost_usd.map(dollars);
    if !is_confirmed {
        let billed = cost.as_ref().map_or_else(String::new, |cost| format!("up to {cost} "));
        confirm(
            &format!(
                "Give up submission {number}, {rows} at {provider}? The provider may bill {billed}for it, and its rows \
                 are sent and paid for again."
            ),
            &format!("--give-up {number} has {rows} sent again, which may be paid for twice"),
        )?;
    }
    crate::inspect::give_up_submission(job, scope, number).await?;
    let spent = cost.map_or_else(String::new, |cost| format!("{cost} counts as spent, and "));
    let command = command_of(scope);
    output::talk(format!(
        "submission {number} is given up: {spent}enrich {command} {typed} sends its {rows} again"
    ));
    Ok(Exit::Done)
}

fn list(report: &SubmissionsReport) -> anyhow::Result<()> {
    let SubmissionsReport { providers, submissions, closed, .. } = report;
    if providers.is_empty() {
        output::data(
            "no provider of the job is asked through its Batch API: none has a section [provider.<name>.batch]",
        )?;
    }
    if submissions.is_empty() && (closed.submissions > 0 || !providers.is_empty()) {
        output::data("no submissions: no rows are at a Batch API")?;
    }
    if !submissions.is_empty() {
        let now = clock::wall();
        let mut table = new_table(&["number", "rows", "provider", "state", "for", "cost", "at the provider"]);
        for submission in submissions {
            let age = (now - submission.since).to_std().unwrap_or_default();
            let copies: Vec<String> = submission.remote.iter().map(remote).collect();
            table.add_row([
                submission.number.to_string(),
                HumanCount(submission.rows).to_string(),
                submission.provider.clone(),
                state(submission).to_owned(),
                brief(age),
                cost(submission),
                copies.join("\n"),
            ]);
        }
        show(&table)?;
    }
    if closed.submissions > 0 {
        let took = closed.cost_usd.map_or_else(String::new, |cost| format!(", {}", dollars(cost)));
        output::data(format!(
            "done with: {} of {}{took}",
            counted(closed.submissions, "submission"),
            counted(closed.rows, "row")
        ))?;
    }
    Ok(())
}

fn state(submission: &SubmissionReport) -> &'static str {
    let mut running = submission.remote.iter().filter(|copy| copy.ended_at.is_none()).peekable();
    let is_running = submission.state == SubmissionState::Created && running.peek().is_some();
    if is_running && running.all(|copy| copy.cancelled_at.is_some()) {
        "being cancelled"
    } else {
        words_of(submission.state)
    }
}

fn words_of(state: SubmissionState) -> &'static str {
    match state {
        SubmissionState::Sealed => "to be uploaded",
        SubmissionState::Uploaded => "uploaded, without a batch",
        SubmissionState::Creating | SubmissionState::Unclear => "unclear whether there is a batch",
        SubmissionState::Created => "at the provider",
        SubmissionState::Ended => "ready to be collected",
        SubmissionState::Collected => "collected",
        SubmissionState::GivenUp => "given up",
        SubmissionState::Dropped => "dropped",
    }
}

fn cost(submission: &SubmissionReport) -> String {
    let most = submission.max_cost_usd.map(dollars);
    let shown = match submission.state {
        SubmissionState::Dropped => Some("none".to_owned()),
        SubmissionState::Collected => submission.cost_usd.map(dollars),
        SubmissionState::GivenUp => most,
        _ => most.map(|most| format!("up to {most}")),
    };
    shown.unwrap_or_else(|| "unknown".to_owned())
}

/// Describes a batch at the provider.
fn remote(copy: &RemoteReport) -> String {
    let counts = copy.completed.zip(copy.failed).map_or_else(String::new, |(completed, failed)| {
        format!(", {} completed, {} failed", HumanCount(completed), HumanCount(failed))
    });
    let expiry = copy.expires_at.filter(|_| copy.ended_at.is_none());
    let expiry = expiry.map_or_else(String::new, |at| format!(", expires {}", clock::format_time(at)));
    format!("{}: {}{counts}{expiry}", copy.id, status_of(copy))
}

fn status_of(copy: &RemoteReport) -> String {
    match (copy.missing_since, copy.cancelled_at) {
        (Some(since), _) => format!("not found since {}", clock::format_time(since)),
        (None, Some(_)) if copy.ended_at.is_none() => "cancelling".to_owned(),
        (None, _) => copy.status.clone(),
    }
}

fn dollars(amount: f64) -> String {
    Money::from_dollars(amount).unwrap_or_default().to_string()
}

/// Returns the lines of a job's status about what was submitted and has not come back.
pub(super) fn submitted(job: &Job, status: &Status) -> Vec<(&'static str, String)> {
    let mut by_provider: BTreeMap<&str, Vec<&SubmissionReport>> = BTreeMap::new();
    for submission in status.open_submissions() {
        by_provider.entry(&submission.provider).or_default().push(submission);
    }
    let mut texts = Vec::new();
    for (provider, own) in &by_provider {
        let of = |states: [SubmissionState; 2]| -> Vec<&SubmissionReport> {
            own.iter().filter(|submission| states.contains(&submission.state)).copied().collect()
        };
        texts.extend(at_provider(provider, &of([SubmissionState::Created, SubmissionState::Ended])));
        let waiting = of([SubmissionState::Sealed, SubmissionState::Uploaded]);
        if !waiting.is_empty() {
            let files = counted(waiting.len() as u64, "file");
            texts.push(format!("{} in {files} for {provider}: enrich run hands them in", rows_of(&waiting)));
        }
        for submission in of([SubmissionState::Creating, SubmissionState::Unclear]) {
            texts.push(format!(
                "{} of submission {}{}: the answer to the creation of its batch at {provider} was lost; {}",
                rows_of(&[submission]),
                submission.number,
                set_aside(&[submission]),
                next_look(job, provider)
            ));
        }
    }
    let label = |at| if at == 0 { "submitted" } else { "" };
    texts.into_iter().enumerate().map(|(at, text)| (label(at), text)).collect()
}

/// Describes submissions whose batches a provider has; `None` if there are none.
fn at_provider(provider: &str, there: &[&SubmissionReport]) -> Option<String> {
    let made = |submission: &SubmissionReport| -> DateTime<Utc> {
        let made = submission.remote.iter().filter_map(|copy| copy.created_at);
        made.min().unwrap_or(submission.since)
    };
    let oldest = there.iter().min_by_key(|submission| made(submission))?;
    let copy = oldest.remote.iter().find(|copy| copy.ended_at.is_none()).or(oldest.remote.first());
    let progress = copy.map_or_else(String::new, |copy| {
        let done = copy.completed.map_or_else(String::new, |done| {
            format!(", {} of {}", HumanCount(done), HumanCount(oldest.rows))
        });
        format!(" ({}{done})", status_of(copy))
    });
    Some(format!(
        "{} in {} at {provider}, {}since {}{progress}{}",
        rows_of(there),
        counted(there.len() as u64, "batch"),
        if there.len() > 1 { "oldest " } else { "" },
        clock::format_time(made(oldest)),
        set_aside(there)
    ))
}

fn rows_of(submissions: &[&SubmissionReport]) -> String {
    counted(submissions.iter().map(|submission| submission.rows).sum(), "row")
}

/// Returns what submissions may cost, as a part of a sentence; nothing if that is not known.
fn set_aside(submissions: &[&SubmissionReport]) -> String {
    let most: Option<f64> = submissions.iter().map(|submission| submission.max_cost_usd).sum();
    most.map_or_else(String::new, |most| format!(", {} set aside", dollars(most)))
}

/// Describes how a run finds out about a lost answer.
fn next_look(job: &Job, provider: &str) -> String {
    let settings = job.providers.iter().find(|own| own.name == provider).and_then(|own| own.batch.as_ref());
    let again = match settings {
        None => String::new(),
        Some(settings) if settings.is_idempotent => ", or makes it again".to_owned(),
        Some(settings) => format!(
            ", and makes it again once the provider's list has not shown it for {}",
            humantime::format_duration(settings.recreate_after)
        ),
    };
    format!("enrich run looks for it{again}")
}

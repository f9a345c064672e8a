//! The command `enrich status`: shows the state of a job.

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};

use super::batches;
use super::exit::Exit;
use super::job::JobArguments;
use super::output;
use crate::checkpoint::LastRun;
use crate::clock;
use crate::config::{Job, Keys};
use crate::inspect::{CheckpointStatus, NextCommand, OutstandingBatch, Status};
use crate::wording::counted;

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    job: JobArguments,
    /// Output format
    #[arg(long, value_enum, default_value_t = StatusFormat::Text, value_name = "FORMAT")]
    format: StatusFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    Text,
    Json,
}

pub(super) async fn status(arguments: StatusArguments) -> anyhow::Result<Exit> {
    let job = arguments.job.load(Keys::Unneeded)?;
    let status = crate::inspect::status(&job).await?;
    match arguments.format {
        StatusFormat::Json => output::data(serde_json::to_string(&status)?)?,
        StatusFormat::Text => output::data(text(&job, &status, &arguments.job.typed()))?,
    };
    Ok(Exit::Done)
}

fn text(job: &Job, status: &Status, typed: &str) -> String {
    let mut lines: Vec<(&str, String)> = vec![("job", status.app_id.to_string())];
    match (&status.running, &status.retrying) {
        (None, None) => lines.push(("running", "no run".to_owned())),
        (run, retry) => {
            lines.extend(run.iter().map(|holder| ("running", holder.clone())));
            lines.extend(retry.iter().map(|holder| ("retrying", holder.clone())));
        }
    }
    lines.push(("source", job.source.to_string()));
    lines.push(("", source(status)));
    lines.extend(
        status
            .passed_over
            .filter(|passed| !passed.is_nothing())
            .map(|passed| ("", format!("rows that were passed over: {passed}"))),
    );
    let checkpoint = match status.checkpoint {
        CheckpointStatus::None | CheckpointStatus::Good => None,
        CheckpointStatus::Missing => Some("missing; enrich run rebuilds it from the target"),
        CheckpointStatus::Old => Some("older than the target; enrich run takes its position from there"),
        CheckpointStatus::Refused => Some("does not fit the target; enrich check says why"),
    };
    lines.extend(checkpoint.map(|what| ("checkpoint", what.to_owned())));
    lines.extend(
        status
            .paused
            .iter()
            .map(|paused| ("paused", format!("since {}: {}", clock::format_time(paused.since), paused.why))),
    );
    lines.push(("target", job.target.location.to_string()));
    match &status.target {
        None => lines.push(("", "not there yet; enrich run makes it".to_owned())),
        Some(target) => {
            let rows = target.rows.map_or_else(|| "? rows".to_owned(), |rows| counted(rows, "row"));
            let files = counted(target.files, "file");
            lines.push((
                "",
                format!("version {}, {rows} in {files}, whichever job wrote them", target.version),
            ));
            let failed: u64 = target.failed.iter().map(|group| group.rows).sum();
            let groups: Vec<String> = target
                .failed
                .iter()
                .map(|group| format!("{} {} {}", group.step, group.class, HumanCount(group.rows)))
                .collect();
            let more = if groups.is_empty() { String::new() } else { format!(": {}", groups.join(", ")) };
            lines.push(("failed", format!("{}{more}", HumanCount(failed))));
        }
    }
    lines.extend(status.restored.map(|version| {
        let what = format!(
            "to an earlier version, by version {version}: rows may be missing; enrich run {typed} --refill sends them"
        );
        ("restored", what)
    }));
    lines.extend(status.older.iter().map(|older| ("older", older.to_string())));
    let has_submitted = status.open_submissions().next().is_some();
    lines.push(("open", open(&status.open_batches, has_submitted)));
    if !status.open_retry_batches.is_empty() {
        lines.push(("open retry", open(&status.open_retry_batches, false)));
    }
    lines.extend(batches::submitted(job, status));
    lines.push(("journal", HumanBytes(status.journal_bytes).to_string()));
    lines.extend(status.journal_error().map(|error| ("", error.to_owned())));
    lines.extend(status.spent.as_ref().map(|spent| ("budget", spent.to_string())));
    let is_running = status.running.is_some();
    lines.extend(last("last run", status.last_run.as_ref(), is_running));
    if status.last_retry.is_some() {
        lines.extend(last("last retry", status.last_retry.as_ref(), status.retrying.is_some()));
    }
    lines.extend(status.next.map(|next| {
        let command = match next {
            NextCommand::Run => format!("enrich run {typed}"),
            NextCommand::Retry => format!("enrich retry {typed}"),
            NextCommand::Errors => format!("enrich errors {typed} --summary"),
            NextCommand::Check => format!("enrich check {typed}"),
            NextCommand::Salvage => {
                format!("enrich check {typed} --repair keeps the answers that are intact")
            }
            NextCommand::Unpause => {
                format!("mend the job, and enrich run {typed} goes on; as it is, with --unpause")
            }
            NextCommand::Budget => format!("raise the budget, then enrich run {typed}"),
        };
        ("next:", command)
    }));
    let lines = lines.iter().map(|(name, text)| format!("{name:<10}  {text}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Describes what the source has that the target lacks.
fn source(status: &Status) -> String {
    let open: u64 = status.open_batches.iter().map(|batch| batch.rows).sum();
    match &status.source {
        Some(lag) if lag.rows == 0 && open == 0 => "no new rows".to_owned(),
        Some(lag) if lag.rows == 0 => {
            let are = if open == 1 { "is" } else { "are" };
            format!("read to its end; {} {are} not in the target yet", counted(open, "row"))
        }
        Some(lag) => {
            let versions = lag
                .versions
                .filter(|versions| *versions > 0)
                .map_or_else(String::new, |versions| format!("{}, ", counted(versions, "version")));
            format!("behind by {versions}{}, {}", counted(lag.files, "file"), counted(lag.rows, "row"))
        }
        None => format!("cannot tell how far behind: {}", status.source_error.as_deref().unwrap_or_default()),
    }
}

/// Describes the batches that are planned and not in the target.
fn open(open: &[OutstandingBatch], has_submitted: bool) -> String {
    let (Some(first), Some(last)) = (open.first(), open.last()) else { return "no batch".to_owned() };
    let rows: u64 = open.iter().map(|batch| batch.rows).sum();
    let answered: u64 = open.iter().map(|batch| batch.answered).sum();
    let numbers = match open.len() {
        1 => first.batch.to_string(),
        _ => format!("{} to {}", first.batch, last.batch),
    };
    let rest = if has_submitted { "submitted or to be sent" } else { "to be sent" };
    format!(
        "{} ({numbers}), {}: {} answered and to be written, {} {rest}",
        counted(open.len() as u64, "batch"),
        counted(rows, "row"),
        HumanCount(answered),
        HumanCount(rows - answered)
    )
}

fn last(name: &'static str, run: Option<&LastRun>, goes_on: bool) -> Vec<(&'static str, String)> {
    let Some(run) = run else { return vec![(name, "none".to_owned())] };
    let LastRun { started, ended, end, rows, answers, errors, tokens, message, .. } = run;
    let how = match (ended, end) {
        (Some(ended), Some(end)) => format!("to {}: {end}", clock::format_time(*ended)),
        _ if goes_on => "goes on".to_owned(),
        _ => "it did not say how it ended: killed, or the machine went down".to_owned(),
    };
    let mut lines = vec![(name, format!("{} {how}", clock::format_time(*started)))];
    lines.extend(message.iter().map(|message| ("", message.clone())));
    if ended.is_some() {
        let failed: u64 = errors.values().sum();
        lines.push((
            "",
            format!(
                "{} written, {}, {}, {} + {} tokens",
                counted(*rows, "row"),
                counted(*answers, "answer"),
                counted(failed, "error"),
                HumanCount(tokens.prompt),
                HumanCount(tokens.completion)
            ),
        ));
    }
    lines
}

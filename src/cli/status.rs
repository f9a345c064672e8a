//! `enrich status`.

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};

use super::exit::Exit;
use super::job::JobArguments;
use super::output::{self, counted};
use crate::checkpoint::LastRun;
use crate::config::{Job, Keys};
use crate::engine::{self, OpenBatch, Status};

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    job: JobArguments,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Shape::Text, value_name = "FORMAT")]
    format: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    Text,
    Json,
}

pub(super) async fn status(arguments: StatusArguments) -> anyhow::Result<Exit> {
    let job = arguments.job.load(Keys::Unneeded)?;
    let status = engine::status(&job).await?;
    match arguments.format {
        Shape::Json => output::data(serde_json::to_string(&status)?)?,
        Shape::Text => output::data(text(&job, &status))?,
    };
    Ok(Exit::Done)
}

fn text(job: &Job, status: &Status) -> String {
    let mut lines: Vec<(&str, String)> = vec![("job", status.app_id.clone())];
    match (&status.running, &status.retrying) {
        (None, None) => lines.push(("running", "nobody".to_owned())),
        (run, retry) => {
            lines.extend(run.iter().map(|holder| ("running", holder.clone())));
            lines.extend(retry.iter().map(|holder| ("retrying", holder.clone())));
        }
    }
    lines.push(("source", job.source.location.to_string()));
    lines.push((
        "",
        match &status.source {
            Some(lag) if lag.rows == 0 => "everything is planned".to_owned(),
            Some(lag) => {
                let versions = lag
                    .versions
                    .map_or_else(String::new, |versions| format!("{}, ", counted(versions, "version")));
                format!("behind by {versions}{}, {}", counted(lag.files, "file"), counted(lag.rows, "row"))
            }
            None => {
                format!("cannot tell how far behind: {}", status.source_error.as_deref().unwrap_or_default())
            }
        },
    ));
    lines.push(("target", job.target.location.to_string()));
    match &status.target {
        None => lines.push(("", "not there yet; enrich run makes it".to_owned())),
        Some(target) => {
            let rows = target.rows.map_or_else(|| "?".to_owned(), |rows| HumanCount(rows).to_string());
            lines.push((
                "",
                format!("version {}, {rows} rows in {}", target.version, counted(target.files, "file")),
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
    lines.push(("open", batches(&status.open_batches)));
    if !status.open_retry_batches.is_empty() {
        lines.push(("open retry", batches(&status.open_retry_batches)));
    }
    lines.push(("journal", HumanBytes(status.journal_bytes).to_string()));
    lines.extend(last_run(status));
    let lines = lines.iter().map(|(name, text)| format!("{name:<10}  {text}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn batches(open: &[OpenBatch]) -> String {
    match (open.first(), open.last()) {
        (Some(first), Some(last)) => {
            let rows: u64 = open.iter().map(|batch| batch.rows).sum();
            format!(
                "{} ({} to {}), {}",
                counted(open.len() as u64, "batch"),
                first.batch,
                last.batch,
                counted(rows, "row")
            )
        }
        _ => "no batch".to_owned(),
    }
}

fn last_run(status: &Status) -> Vec<(&'static str, String)> {
    let Some(run) = &status.last_run else { return vec![("last run", "none".to_owned())] };
    let time = |time: &chrono::DateTime<chrono::Utc>| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let LastRun { started, ended, end, rows, answers, errors, tokens, message, .. } = run;
    let how = match (ended, end) {
        (Some(ended), Some(end)) => format!("to {}: {end}", time(ended)),
        _ if status.running.is_some() => "goes on".to_owned(),
        _ => "it did not say how it ended: killed, or the machine went down; run it again".to_owned(),
    };
    let mut lines = vec![("last run", format!("{} {how}", time(started)))];
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

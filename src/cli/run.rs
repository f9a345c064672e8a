//! The command `enrich run`: its arguments and the confirmations that it asks for.

use std::path::{Path, PathBuf};

use clap::Args;

use super::confirm::confirm;
use super::direct::DirectArguments;
use super::exit::Exit;
use super::job::SetArguments;
use super::select::rows;
use super::session;
use super::session_arguments::{SessionArguments, SessionKind};
use crate::config::{Job, Keys};
use crate::run::Begin;

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The job file
    #[arg(required_unless_present = "source")]
    job: Option<PathBuf>,
    #[command(flatten)]
    set: SetArguments,
    /// Send at most this many rows to the model
    #[arg(long, value_name = "N", value_parser = rows)]
    max_rows: Option<u64>,
    /// Empty the target and process every row again; asks for confirmation
    #[arg(long)]
    restart: bool,
    /// With --restart: reuse answers that were paid for before, if the request is the same
    #[arg(long, requires = "restart")]
    keep_paid: bool,
    /// First process the rows that were read before but are missing from the target, as after a RESTORE of it
    #[arg(long, conflicts_with_all = ["restart", "unpause"])]
    refill: bool,
    /// Run although the job is paused: it stopped at an anomaly or too many errors, and nothing was changed since
    #[arg(long, conflicts_with = "restart")]
    unpause: bool,
    /// Stay until every row has come back that is in a batch at a provider
    #[arg(long)]
    wait: bool,
    /// Send rows by themselves and at once to providers with a Batch API, too
    #[arg(long)]
    online: bool,
    /// Answer yes to every confirmation question
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    session: SessionArguments,
    #[command(flatten)]
    direct: DirectArguments,
}

pub(super) async fn run(arguments: RunArguments) -> anyhow::Result<Exit> {
    let RunArguments {
        job,
        set,
        max_rows,
        restart,
        keep_paid,
        refill,
        unpause,
        wait: waits,
        online: asks_online,
        yes,
        session,
        direct,
    } = arguments;
    let load = || {
        let file = match job {
            Some(file) => file,
            None => direct.job_file()?,
        };
        let job = set.load(&file, Keys::Read)?;
        if restart && !yes {
            confirm_restart(&job)?;
        }
        if set.sets("source.where") && !yes {
            confirm_condition(&job, &file)?;
        }
        Ok((job, set.typed(&file)))
    };
    let begin = match (restart, refill, unpause) {
        (true, ..) => Begin::Restart,
        (_, true, _) => Begin::Refill,
        (.., true) => Begin::Unpaused,
        _ => Begin::Continue,
    };
    let kind = SessionKind::Run { max_rows, begin, confirmed: yes, keep_paid, waits, asks_online };
    session::attend(&session, &kind, load).await
}

/// Asks for confirmation that the target is to be emptied.
fn confirm_restart(job: &Job) -> anyhow::Result<()> {
    let target = &job.target.location;
    confirm(
        &format!("Remove every row of {target}, and send and pay for all rows again?"),
        &format!("--restart removes every row of {target}"),
    )
}

/// Asks for confirmation of a condition that `--set` puts in place of the job file's.
fn confirm_condition(job: &Job, file: &Path) -> anyhow::Result<()> {
    let Some(condition) = job.source.condition.as_deref() else { return Ok(()) };
    if Job::load_without_keys(file)
        .is_ok_and(|written| written.source.condition.as_deref() == Some(condition))
    {
        return Ok(());
    }
    confirm(
        &format!(
            "Rows that do not meet {condition:?} are passed over for good, in this run and in later ones. Go on?"
        ),
        &format!("--set source.where = {condition:?} passes over the other rows for good, in later runs too"),
    )
}

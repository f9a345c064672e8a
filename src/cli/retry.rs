//! The command `enrich retry`: sends failed rows again.

use clap::Args;

use super::exit::Exit;
use super::job::{JobArguments, shell_quoted};
use super::select::{SelectArguments, rows};
use super::session;
use super::session_arguments::{SessionArguments, SessionKind};
use crate::checkpoint::Retrying;
use crate::config::Keys;

#[derive(Debug, Args)]
pub(super) struct RetryArguments {
    #[command(flatten)]
    job: JobArguments,
    #[command(flatten)]
    select: SelectArguments,
    /// Use this provider of the job in place of the steps' own
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Retry at most this many rows
    #[arg(long, value_name = "N", value_parser = rows)]
    limit: Option<u64>,
    /// Stay until every row has come back that is in a batch at a provider
    #[arg(long)]
    wait: bool,
    /// Send a request for each row, also to providers that are asked through their Batch API
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    session: SessionArguments,
}

pub(super) async fn retry(arguments: RetryArguments) -> anyhow::Result<Exit> {
    let RetryArguments { job, select, provider, limit, wait: waits, online: asks_online, session } =
        arguments;
    let mut options = select.typed();
    if let Some(provider) = &provider {
        options.push_str(&format!(" --provider {}", shell_quoted(provider)));
    }
    let requested = Retrying { selection: select.selection(&[]), provider, ..Retrying::default() };
    let typed = job.typed();
    // The limit is for one run; the selection is for all runs of the retry.
    let limited = limit.map_or_else(String::new, |limit| format!(" --limit {limit}"));
    let kind = SessionKind::Retry {
        requested: Box::new(requested),
        limit,
        waits,
        asks_online,
        typed: format!("{options}{limited}"),
    };
    session::attend(&session, &kind, || Ok((job.load(Keys::Read)?, typed))).await
}

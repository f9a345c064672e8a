//! The status of a job, read without changing anything.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::batches::{SubmissionReport, SubmissionsReport, submissions_in};
use crate::checkpoint::{
    Checkpoint, CheckpointFile, LastRun, Paused, PlannedBatch, Position, Recovery, Retrying, Selection,
    recover,
};
use crate::config::Job;
use crate::decode;
use crate::ident::{AppId, BatchId};
use crate::journal::{Copies, JournalFolder, JournalHeader, Record, RecordedOutcome};
use crate::passed::PassedOver;
use crate::run::COPIES;
use crate::run::RETRY_FOLDER;
use crate::run::RunError;
use crate::run::pause;
use crate::run::{RunBudget, Spent};
use crate::run::{holder, home};
use crate::sink::{self, FailedGroup, FailedRows, OlderAnswers, Progress, Sink};
use crate::source::{Lag, Source, SourceError};
use crate::store::Folder;
use crate::table::{Table, TableError, is_delta_table};

/// The status of a job.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Name of the job.
    pub app_id: AppId,
    /// The process that runs the job now, or `None` if there is none.
    pub running: Option<String>,
    /// The process that retries failed rows now, or `None` if there is none.
    pub retrying: Option<String>,
    /// Rows of the source that no batch holds, or `None` if they cannot be counted.
    pub source: Option<SourceStatus>,
    /// Why they cannot be counted.
    pub source_error: Option<String>,
    /// Rows of the source that no run sends, or `None` if they were not counted.
    pub passed_over: Option<PassedOver>,
    /// State of the checkpoint.
    pub checkpoint: CheckpointStatus,
    /// Batches that are planned and not committed.
    pub open_batches: Vec<OutstandingBatch>,
    /// Batches of a retry that are planned and not committed.
    pub open_retry_batches: Vec<OutstandingBatch>,
    /// What was handed to Batch APIs and is not all in the target, or `None` if the job uses none and nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submissions: Option<Vec<SubmissionReport>>,
    /// Bytes of all journals.
    pub journal_bytes: u64,
    /// What was spent of the budget for all runs, or `None` if there is none.
    pub spent: Option<Spent>,
    /// The target, or `None` if it does not exist yet.
    pub target: Option<TargetStatus>,
    /// The version of the target that restored an earlier one, if rows of the job may be missing since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<u64>,
    /// Steps with outdated answers in the target: their prompt, model or parameters were others than the job has now.
    pub older: Vec<OlderAnswers>,
    /// Since when and why a run is refused until somebody has acted, or `None` if it is not.
    pub paused: Option<PausedStatus>,
    /// The last run, or `None` if there was none or it left no record.
    pub last_run: Option<LastRun>,
    /// The last retry of failed rows, or `None` as for a run.
    pub last_retry: Option<LastRun>,
    /// The command to run next, or `None` if there is no reason for one, or a run goes on.
    pub next: Option<NextCommand>,
}

impl Status {
    /// Returns what is wrong with the first journal that is damaged or cannot be read.
    #[must_use]
    pub fn journal_error(&self) -> Option<&str> {
        let mut open = self.open_batches.iter().chain(&self.open_retry_batches);
        open.find_map(|batch| batch.journal_error.as_deref())
    }

    /// Returns the submissions that have not come back.
    pub fn open_submissions(&self) -> impl Iterator<Item = &SubmissionReport> {
        self.submissions.iter().flatten().filter(|submission| submission.state.is_open())
    }
}

/// The part of the source that no batch holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SourceStatus {
    /// Number of versions of a Delta table that are not read to their end, or `None` for Parquet files.
    pub versions: Option<u64>,
    /// Number of files with rows that are not planned.
    pub files: u64,
    /// Number of these rows.
    pub rows: u64,
}

/// State of a checkpoint, as the next run will find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointStatus {
    /// It does not exist, and the target holds nothing of the job, which has not begun.
    None,
    /// It fits the target.
    Good,
    /// It is lost. The next run rebuilds it from the target, which shows how far the source is read.
    Missing,
    /// It is older than the target, which shows how far the source is read.
    Old,
    /// It contradicts the target, and a run is refused.
    Refused,
}

/// A batch that is planned and not committed.
#[derive(Clone, Debug, Serialize)]
pub struct OutstandingBatch {
    /// Number of the batch.
    pub batch: BatchId,
    /// Number of rows in it.
    pub rows: u64,
    /// Number of rows whose outcome for every step is in the journal, and that are not sent again.
    pub answered: u64,
    /// What is wrong with its journal, in which case more rows may be answered than could be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_error: Option<String>,
}

/// The target of a job.
#[derive(Debug, Serialize)]
pub struct TargetStatus {
    /// The newest version.
    pub version: u64,
    /// Number of rows, of all jobs, or `None` if the statistics do not state it.
    pub rows: Option<u64>,
    /// Number of data files.
    pub files: u64,
    /// Failed rows of the job, by step and class.
    pub failed: Vec<FailedGroup>,
}

/// A pause that is in force.
#[derive(Clone, Debug, Serialize)]
pub struct PausedStatus {
    /// When the job was paused.
    pub since: DateTime<Utc>,
    /// What was wrong, in words.
    pub why: String,
}

/// The command to run next, named after the reason for it or what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NextCommand {
    /// Rows of the source are not in the target.
    Run,
    /// A retry was cut short.
    Retry,
    /// Rows of the target have failed.
    Errors,
    /// A run would be refused, or the source cannot be read.
    Check,
    /// A journal is damaged, and no run begins before it is salvaged.
    Salvage,
    /// The job was paused by an anomaly or too many errors.
    Unpause,
    /// Rows are left to send, and too little of the budget.
    Budget,
}

/// How far a job is, by its checkpoint and its target together.
struct JobPosition {
    checkpoint: CheckpointStatus,
    /// How far the source is read, or `None` if only the keys of the target's rows show it.
    position: Option<Position>,
    open: Vec<PlannedBatch>,
}

/// Determines the status of a job.
///
/// # Errors
/// When the target or the checkpoint cannot be read.
pub async fn status(job: &Job) -> Result<Status, RunError> {
    let folder = &job.places.state;
    let retry_folder = folder.join(RETRY_FOLDER);
    let home = home(job).await?;
    let retry_home = home.join(RETRY_FOLDER);
    let target_at = &job.target.location;
    let table = if is_delta_table(target_at).await? {
        Some(Table::open(target_at).await?)
    } else {
        Sink::can_create(target_at).await?;
        None
    };
    let run: Option<Checkpoint<Position>> = CheckpointFile::in_folder(&home).load().await?;
    let retried: Option<Checkpoint<Retrying>> = CheckpointFile::in_folder(&retry_home).load().await?;
    let JobPosition { checkpoint, position, open } = position_of(job, run.as_ref(), table.as_ref()).await?;
    let (source, source_error) = match &position {
        Some(position) => match lag(job, position).await {
            Ok(Lag { versions, files, rows }) => (Some(SourceStatus { versions, files, rows }), None),
            Err(error) => (None, Some(error.to_string())),
        },
        None => (None, Some("only the rows of the target tell it, which the next run reads".to_owned())),
    };
    let retry_journal = job.places.journal.join(RETRY_FOLDER);
    let open_retry = open_retry(job, retried.as_ref(), table.as_ref()).await?;
    let mut status = Status {
        app_id: job.app_id.clone(),
        running: holder(folder, &home).await,
        retrying: holder(&retry_folder, &retry_home).await,
        source,
        source_error,
        passed_over: run.as_ref().and_then(|checkpoint| checkpoint.passed),
        checkpoint,
        open_batches: open_batches(job, &home, &job.places.journal, run.as_ref(), &open).await?,
        open_retry_batches: open_batches(job, &retry_home, &retry_journal, retried.as_ref(), &open_retry)
            .await?,
        submissions: of_interest(submissions_in(job, &home).await?),
        journal_bytes: JournalFolder::bytes_in(&job.places.journal) + JournalFolder::bytes_in(&retry_journal),
        spent: RunBudget::look(job, &home).await?,
        target: target(job, table.as_ref()).await?,
        restored: match &table {
            Some(table) => restored(
                sink::restored(table, &job.app_id, run.as_ref().and_then(|run| run.target_seen)).await?,
                run.as_ref(),
            ),
            None => None,
        },
        older: match &table {
            Some(table) => sink::older(table, job, |_| false).await?,
            None => Vec::new(),
        },
        paused: run
            .as_ref()
            .and_then(|checkpoint| pause::holding(job, checkpoint))
            .map(|Paused { since, why, .. }| PausedStatus { since: *since, why: why.clone() }),
        last_run: LastRun::load(folder),
        last_retry: LastRun::load(&retry_folder),
        next: None,
    };
    status.next = next(&status);
    let newest = status.last_run.as_ref().and_then(|run| run.budget);
    let is_exhausted = status.spent.as_ref().is_some_and(|spent| {
        spent.limit.is_some() || newest.is_some_and(|limit| spent.still_ends_at(&limit))
    });
    let is_next = matches!(status.next, Some(NextCommand::Run | NextCommand::Retry));
    // What comes back is collected without a budget, and may cost less than was set aside.
    if is_exhausted && is_next && status.open_submissions().next().is_none() {
        status.next = Some(NextCommand::Budget);
    }
    Ok(status)
}

/// What is left to do for a job.
pub(super) struct Outlook {
    /// How far its source is planned.
    pub(super) position: Position,
    /// The batches that are planned and not in the target.
    pub(super) open: Vec<PlannedBatch>,
    /// The pause that keeps runs from beginning, or `None`.
    pub(super) paused: Option<Paused>,
}

/// Determines what is left to do for a job.
///
/// # Errors
/// As [`status`], and when only the keys of the target's rows show how far the source is read.
pub(super) async fn outlook(job: &Job) -> Result<Outlook, RunError> {
    let at = &job.target.location;
    let table = if is_delta_table(at).await? { Some(Table::open(at).await?) } else { None };
    let run: Option<Checkpoint<Position>> = CheckpointFile::in_folder(&home(job).await?).load().await?;
    let JobPosition { position, open, .. } = position_of(job, run.as_ref(), table.as_ref()).await?;
    let position = position.ok_or_else(|| RunError::Mismatch {
        what: "the checkpoint is lost, and only the rows of the target tell how far the source is read"
            .to_owned(),
        hint: "enrich run rebuilds it; --max-rows 1 does so for next to nothing",
    })?;
    let paused = run.as_ref().and_then(|checkpoint| pause::holding(job, checkpoint)).cloned();
    Ok(Outlook { position, open, paused })
}

/// Returns what is in a target before its job has begun: the number of rows, of all jobs, and whether it has batches of
/// this job. `None` if the target does not exist.
///
/// # Errors
/// When it exists and cannot be read.
pub async fn target_before(job: &Job) -> Result<Option<(u64, bool)>, RunError> {
    let at = &job.target.location;
    if !is_delta_table(at).await? {
        return Ok(None);
    }
    let table = Table::open(at).await?;
    let rows = table.files().await?.iter().filter_map(|file| file.rows).sum();
    Ok(Some((rows, Progress::read(&table, &job.app_id).await? != Progress::None)))
}

/// Returns the version of a target that restored an earlier one, if the rows that are missing since then were not
/// refilled. `newest` is the newest such version in the log.
pub(super) fn restored(newest: Option<u64>, checkpoint: Option<&Checkpoint>) -> Option<u64> {
    let known = checkpoint.and_then(|checkpoint| checkpoint.restored);
    let is_new = |version: &u64| known.is_none_or(|known| known.version < *version);
    newest.filter(is_new).or(known.filter(|known| !known.is_refilled).map(|known| known.version))
}

async fn position_of(
    job: &Job,
    found: Option<&Checkpoint>,
    table: Option<&Table>,
) -> Result<JobPosition, RunError> {
    let stands = |checkpoint, position, open| Ok(JobPosition { checkpoint, position, open });
    match (found, table) {
        (None, None) => stands(CheckpointStatus::None, Some(Position::Start), Vec::new()),
        (None, Some(table)) => Ok(position_from_log(table, job, CheckpointStatus::Missing).await?),
        (Some(found), Some(table)) if found.target_id == table.id()? => {
            let mut committed = sink::committed(table, &job.app_id, found.lineage).await?;
            committed.lineage = committed.lineage.max(found.adopted);
            match recover(found, committed) {
                Ok(Recovery::Continue(open)) => {
                    stands(CheckpointStatus::Good, Some(found.position.clone()), open)
                }
                Ok(Recovery::Behind { .. }) => {
                    Ok(position_from_log(table, job, CheckpointStatus::Old).await?)
                }
                Err(_) => {
                    stands(CheckpointStatus::Refused, Some(found.position.clone()), found.planned.clone())
                }
            }
        }
        (Some(found), _) => {
            stands(CheckpointStatus::Refused, Some(found.position.clone()), found.planned.clone())
        }
    }
}

/// Determines by the newest commit of the job how far the source is read. `checkpoint` is the state of the checkpoint
/// that makes this necessary.
async fn position_from_log(
    table: &Table,
    job: &Job,
    checkpoint: CheckpointStatus,
) -> Result<JobPosition, TableError> {
    let (checkpoint, position) = match Progress::read(table, &job.app_id).await? {
        Progress::None => (CheckpointStatus::None, Some(Position::Start)),
        Progress::Commit { position, .. } => (checkpoint, position),
        Progress::Restarted { .. } => (checkpoint, Some(Position::Start)),
        Progress::Txn { .. } => (checkpoint, None),
    };
    Ok(JobPosition { checkpoint, position, open: Vec::new() })
}

/// Returns the open batches of a retry; none if its checkpoint does not fit the target.
async fn open_retry(
    job: &Job,
    found: Option<&Checkpoint<Retrying>>,
    table: Option<&Table>,
) -> Result<Vec<PlannedBatch>, RunError> {
    let (Some(found), Some(table)) = (found, table) else { return Ok(Vec::new()) };
    if found.planned.is_empty() || found.target_id != table.id()? {
        return Ok(Vec::new());
    }
    let mut committed = sink::committed(table, &job.app_id.retry(), found.lineage).await?;
    committed.lineage = committed.lineage.max(found.adopted);
    Ok(match recover(found, committed) {
        Ok(Recovery::Continue(open)) => open,
        Ok(Recovery::Behind { .. }) | Err(_) => Vec::new(),
    })
}

async fn lag(job: &Job, position: &Position) -> Result<Lag, RunError> {
    if job.source.query.is_some() && job.source.location.path().is_some_and(|path| !path.exists()) {
        let message = "is computed by the next run".to_owned();
        return Err(SourceError::Query { message }.into());
    }
    let mut source = Source::open(&job.source, &job.places.state).await?;
    Ok(source.lag(position).await?)
}

async fn open_batches<P>(
    job: &Job,
    home: &Folder,
    journal: &std::path::Path,
    checkpoint: Option<&Checkpoint<P>>,
    open: &[PlannedBatch],
) -> Result<Vec<OutstandingBatch>, RunError> {
    let Some(checkpoint) = checkpoint else { return Ok(Vec::new()) };
    let mut batches = Vec::with_capacity(open.len());
    for plan in open {
        let header = JournalHeader { lineage: checkpoint.lineage, batch: plan.id, digest: plan.digest() };
        let copied = match home.objects() {
            Some(objects) => Copies::read_of(&objects.join(COPIES), &header).await?,
            None => Vec::new(),
        };
        let (answered, trouble) =
            JournalFolder::rows_with_outcome(journal, &header, job.steps.len(), copied, is_outcome);
        batches.push(OutstandingBatch {
            batch: plan.id,
            rows: plan.rows(),
            answered: answered.min(plan.rows()),
            journal_error: trouble.map(|error| error.to_string()),
        });
    }
    Ok(batches)
}

/// Whether a record holds an outcome: a failure, or a response that can be read.
fn is_outcome(record: &Record) -> bool {
    match &record.outcome {
        RecordedOutcome::Failure(_) => true,
        RecordedOutcome::Response(body) => decode::parse(body)
            .is_ok_and(|response| !response.choices.is_empty() || !response.data.is_empty()),
    }
}

async fn target(job: &Job, table: Option<&Table>) -> Result<Option<TargetStatus>, RunError> {
    let Some(table) = table else { return Ok(None) };
    let files = table.files().await?;
    let failed = match FailedRows::open(job).await? {
        Some(rows) => rows.summary(&Selection::default()).await?,
        None => Vec::new(),
    };
    let rows = files.iter().map(|file| file.rows).sum();
    Ok(Some(TargetStatus { version: table.version(), rows, files: files.len() as u64, failed }))
}

/// Returns the submissions, or `None` if the job uses no Batch API and there were none.
fn of_interest(report: SubmissionsReport) -> Option<Vec<SubmissionReport>> {
    let has_any = !report.submissions.is_empty() || report.closed.submissions > 0;
    (has_any || !report.providers.is_empty()).then_some(report.submissions)
}

fn next(status: &Status) -> Option<NextCommand> {
    let needs_rebuilding = matches!(status.checkpoint, CheckpointStatus::Missing | CheckpointStatus::Old);
    if status.running.is_some() || status.retrying.is_some() {
        None
    } else if status.journal_error().is_some() {
        Some(NextCommand::Salvage)
    } else if status.checkpoint == CheckpointStatus::Refused || (status.source.is_none() && !needs_rebuilding)
    {
        Some(NextCommand::Check)
    } else if status.paused.is_some() {
        Some(NextCommand::Unpause)
    } else if status.target.is_none()
        || needs_rebuilding
        || !status.open_batches.is_empty()
        || status.open_submissions().next().is_some()
        || status.source.is_some_and(|source| source.rows > 0)
    {
        Some(NextCommand::Run)
    } else if !status.open_retry_batches.is_empty() {
        Some(NextCommand::Retry)
    } else {
        let has_failed = status.target.as_ref().is_some_and(|target| !target.failed.is_empty());
        has_failed.then_some(NextCommand::Errors)
    }
}

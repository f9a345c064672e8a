//! How a job stands, read without changing anything.

use serde::Serialize;

use super::error::EngineError;
use super::retry;
use crate::checkpoint::{Checkpoint, CheckpointFile, LastRun, Lock, Position, Retrying, Selection};
use crate::config::Job;
use crate::ident::BatchId;
use crate::journal::JournalFolder;
use crate::sink::{FailedGroup, FailedRows, Sink};
use crate::source::{Lag, Source};
use crate::table::{Table, is_delta_table};

/// How a job stands.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Name of the job.
    pub app_id: String,
    /// Who runs it now; none if nobody does.
    pub running: Option<String>,
    /// Who retries failed rows now.
    pub retrying: Option<String>,
    /// What the source has and no batch holds; none if it cannot be told.
    pub source: Option<SourceStatus>,
    /// Why that cannot be told.
    pub source_error: Option<String>,
    /// Batches that are planned and not known to be committed.
    pub open_batches: Vec<OpenBatch>,
    /// The same of a retry.
    pub open_retry_batches: Vec<OpenBatch>,
    /// Bytes of all journals.
    pub journal_bytes: u64,
    /// The target; none if it is not there yet.
    pub target: Option<TargetStatus>,
    /// The last run; none if there was none, or it left no word.
    pub last_run: Option<LastRun>,
}

/// What the source has and no batch holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SourceStatus {
    /// Versions of a Delta table that are not read to their end.
    pub versions: Option<u64>,
    /// Files with rows that are not planned.
    pub files: u64,
    /// Those rows.
    pub rows: u64,
}

/// A batch that is planned and not known to be committed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OpenBatch {
    /// Its number.
    pub batch: BatchId,
    /// Rows in it.
    pub rows: u64,
}

/// The target of a job.
#[derive(Debug, Serialize)]
pub struct TargetStatus {
    /// Its newest version.
    pub version: u64,
    /// Rows in it, of whatever job; none if its statistics do not say.
    pub rows: Option<u64>,
    /// Files of it.
    pub files: u64,
    /// Failed rows of the job, by step and class.
    pub failed: Vec<FailedGroup>,
}

/// Finds out how a job stands.
///
/// # Errors
/// When the target or the checkpoint cannot be read.
pub async fn status(job: &Job) -> Result<Status, EngineError> {
    let folder = job.target.location.join("_checkpoints").join(&job.app_id);
    let run: Option<Checkpoint<Position>> = CheckpointFile::in_folder(job.checkpoint.path()).load()?;
    let retried: Option<Checkpoint<Retrying>> =
        CheckpointFile::in_folder(&job.checkpoint.path().join(retry::FOLDER)).load()?;
    let position = run.as_ref().map(|checkpoint| checkpoint.position.clone()).unwrap_or_default();
    let (source, source_error) = match lag(job, &position).await {
        Ok(Lag { versions, files, rows }) => (Some(SourceStatus { versions, files, rows }), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let journals = [job.journal.clone(), job.journal.join(retry::FOLDER)];
    Ok(Status {
        app_id: job.app_id.clone(),
        running: Lock::holder(folder.path()),
        retrying: Lock::holder(&folder.path().join(retry::FOLDER)),
        source,
        source_error,
        open_batches: open(run.as_ref()),
        open_retry_batches: open(retried.as_ref()),
        journal_bytes: journals.iter().map(|folder| JournalFolder::bytes_in(folder)).sum(),
        target: target(job).await?,
        last_run: LastRun::load(folder.path()),
    })
}

async fn lag(job: &Job, position: &Position) -> Result<Lag, EngineError> {
    let mut source = Source::open(&job.source).await?;
    Ok(source.lag(position).await?)
}

fn open<P>(checkpoint: Option<&Checkpoint<P>>) -> Vec<OpenBatch> {
    let planned = checkpoint.iter().flat_map(|checkpoint| &checkpoint.planned);
    planned.map(|batch| OpenBatch { batch: batch.id, rows: batch.rows() }).collect()
}

async fn target(job: &Job) -> Result<Option<TargetStatus>, EngineError> {
    let path = job.target.location.path();
    if !is_delta_table(path) {
        Sink::can_create(path)?;
        return Ok(None);
    }
    let table = Table::open(path).await?;
    let files = table.files()?;
    let failed = match FailedRows::open(job).await? {
        Some(rows) => rows.summary(&Selection::default()).await?,
        None => Vec::new(),
    };
    let rows = files.iter().map(|file| file.rows).sum();
    Ok(Some(TargetStatus { version: table.version(), rows, files: files.len() as u64, failed }))
}

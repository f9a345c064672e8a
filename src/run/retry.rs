//! A retry of failed rows: they are read from the target and sent again, and their new outcomes replace the old ones.
//!
//! A retry has a checkpoint, a journal, a lineage and a lock of its own, so that a run may go on beside it. Like a run,
//! it makes each plan durable before it sends requests, and commits each batch once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;
use url::Url;

use super::end::End;
use super::error::RunError;
use super::feed::{Feed, Metered};
use super::history::History;
use super::options::{RunOptions, StopRequest, unless_stopped};
use super::prepared_job::PreparedJob;
use super::run_budget::RunBudget;
use super::running::Running;
use super::session::{Scope, Session};
use super::writable::check_appendable;
use crate::checkpoint::{
    Checkpoint, CheckpointFile, FileRange, PlannedBatch, Position, Recovery, Retrying, Selection, SourceId,
    recover,
};
use crate::clock;
use crate::config::{BatchLimits, Job};
use crate::enricher::LoadedBatch;
use crate::event::{Event, Voice};
use crate::faultpoint::{self, Side};
use crate::ident::{BatchId, Lineage, RunId};
use crate::sink::{
    Constraints, FailedRow, FailedRowReader, FailedRows, OpenBatchFiles, Reloaded, RetryCommit,
};
use crate::tally::Tally;

/// Sends failed rows again and writes the new outcomes in their place. The job's checkpoint is not changed.
///
/// # Errors
/// When the retry cannot start or is cut short by an error; answers received until then are kept.
pub async fn retry(
    job: &Job,
    requested: &Retrying,
    options: RunOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    voice: Voice,
) -> Result<End, RunError> {
    let missing = || RunError::Mismatch {
        what: format!("there is no target {} yet", job.target.location),
        hint: "enrich run makes it",
    };
    if FailedRows::open(job).await?.is_none() {
        return Err(missing());
    }
    let started = clock::wall();
    let tally = Tally::default();
    let voice = voice.and(Box::new(tally.clone()));
    let job = &with_provider(job, requested.provider.as_deref())?;
    let session = Session::open(job, Scope::Retry, RunId::random()).await?;
    let work = Box::pin(async {
        let start = Box::pin(async {
            let budget = session.budget().await?;
            let rows = FailedRows::open(job).await?.ok_or_else(missing)?;
            start(&session, rows, budget, requested, options, simulator, &voice).await
        });
        let Some((run, running)) = unless_stopped(&stop, start).await? else { return Ok(End::Stopped) };
        let history = History::begin(session.state(), run, started, tally)?;
        let end = running.run(options, stop.clone()).await;
        history.end(&end);
        end
    });
    let end = session.during(work).await;
    session.release().await;
    end
}

/// Opens what a retry needs besides its session. Also returns its run id: a retry that was cut short continues under
/// the id that it began with.
async fn start(
    session: &Session<'_>,
    rows: FailedRows,
    budget: RunBudget,
    requested: &Retrying,
    options: RunOptions,
    simulator: Option<&Url>,
    voice: &Voice,
) -> Result<(RunId, Running<RetryFeed, Metered<RetryCommit>>), RunError> {
    let job = session.job();
    check_appendable(&job.target.location)?;
    let columns = rows.source_columns();
    let file = CheckpointFile::in_folder(session.home());

    // The run id is written with each row; if a retry was cut short, the checkpoint has its id.
    let found = file.load::<Retrying>().await?;
    let state = found.as_ref().map(|checkpoint| checkpoint.position.clone()).unwrap_or_default();
    let mut retrying = Retrying { session: None, limit: options.max_rows, ..requested.clone() };
    // An earlier retry of the same rows that was cut short is continued. The plan of any other is dropped: its rows are
    // still failed, and its answers stay in the journals for the retry that sends these rows again.
    let goes_on = Retrying { session: None, ..state.clone() } == retrying;
    let run = state.session.filter(|_| goes_on).unwrap_or_else(RunId::random);
    retrying.session = Some(run);
    let found = found.filter(|checkpoint| goes_on || checkpoint.planned.is_empty());
    let places = OpenBatchFiles::default();
    let retry_commit = RetryCommit::open(job, &rows, places.clone(), run)?;
    let mut prepared = PreparedJob::new(job, &columns, simulator)?.enricher;
    for step in prepared.steps.iter_mut().filter(|step| step.gives_vectors()) {
        step.hold_length(retry_commit.vector_length(&step.spec.output).await?)?;
    }
    prepared.asks_online = options.asks_online;
    let reader = FailedRowReader::new(rows, prepared.needs(), places);
    let (mut checkpoint, outstanding) = recovered(job, found, &retry_commit).await?;
    checkpoint.position = retrying.clone();
    file.save(&checkpoint).await?;

    let (writer, voice) =
        session.metrics_with_left_behind(run, checkpoint.lineage, voice, &retry_commit).await?;
    let voice = &voice;
    let resumed: u64 = outstanding.iter().map(PlannedBatch::rows).sum();
    let planned = Planned::of(&outstanding);
    let failed = reader.find(&retrying.selection, run).await?;
    let failed: Vec<FailedRow> = failed.into_iter().filter(|found| !planned.contains(found)).collect();
    let capacity = options
        .max_rows
        .map_or(usize::MAX, |most| usize::try_from(most.saturating_sub(resumed)).unwrap_or(usize::MAX));
    let has_more_rows = failed.len() > capacity;
    let queue = least_recently_sent(failed, capacity);
    let rows = resumed + queue.len() as u64;
    voice.say(&Event::Outstanding { rows, row_limit: None });
    voice.say(&Event::Started { run });

    let enricher = session.enricher(prepared, &checkpoint, &outstanding, budget, None, voice);
    let (enricher, copier) = enricher.await?;
    let lineage = checkpoint.lineage;
    let feed = RetryFeed {
        reader,
        queue,
        limits: job.batch,
        has_more_rows,
        file,
        checkpoint,
        places: None,
        constraints: retry_commit.constraints(),
    };
    let drain = Metered::new(retry_commit, writer, voice.clone());
    let lease_guard = session.lease_guard();
    Ok((run, Running::new(enricher, feed, drain, lineage, lease_guard, copier, voice.clone())))
}

/// Returns at most `most` of the rows, in their order: those that were sent longest ago, so that successive retries
/// reach every row.
fn least_recently_sent(rows: Vec<FailedRow>, most: usize) -> VecDeque<FailedRow> {
    if rows.len() <= most {
        return rows.into();
    }
    let mut by_age: Vec<(usize, FailedRow)> = rows.into_iter().enumerate().collect();
    by_age.sort_by(|(_, a), (_, b)| a.run.cmp(&b.run));
    by_age.truncate(most);
    by_age.sort_unstable_by_key(|(at, _)| *at);
    by_age.into_iter().map(|(_, found)| found).collect()
}

/// Returns the job with one provider for all its steps, or unchanged without one.
fn with_provider(job: &Job, provider: Option<&str>) -> Result<Job, RunError> {
    let mut job = job.clone();
    let Some(provider) = provider else { return Ok(job) };
    let place = job.providers.iter().position(|known| known.name == provider);
    let place = place.ok_or_else(|| RunError::Mismatch {
        what: format!("the job has no provider {provider:?}"),
        hint: "name one of its [provider.<name>] sections",
    })?;
    for step in job.steps.iter_mut().map(Arc::make_mut) {
        step.providers = vec![place];
        step.routes.clear();
        step.balance = false;
    }
    Ok(job)
}

/// Returns the checkpoint of the retries, `found` or a new one, and those of its batches that the target lacks.
async fn recovered(
    job: &Job,
    found: Option<Checkpoint<Retrying>>,
    retry_commit: &RetryCommit,
) -> Result<(Checkpoint<Retrying>, Vec<PlannedBatch>), RunError> {
    let target_id = retry_commit.table_id()?;
    if let Some(mut checkpoint) =
        found.filter(|found| found.target_id == target_id && found.app_id == job.app_id.retry())
    {
        let mut committed = retry_commit.committed(checkpoint.lineage).await?;
        if committed.lineage.is_none() && committed.app == checkpoint.adopted {
            committed.lineage = checkpoint.adopted;
        }
        if let Ok(Recovery::Continue(outstanding)) = recover(&checkpoint, committed) {
            checkpoint.planned.clone_from(&outstanding);
            return Ok((checkpoint, outstanding));
        }
        // The plans of that checkpoint are not needed: the failed rows in the table are what is left to do. No row is
        // replaced twice, because a row whose outcome was replaced by an answer is no longer a failed one.
    }
    let newest = retry_commit.committed(Lineage::random()).await?.app;
    let checkpoint = Checkpoint {
        app_id: job.app_id.retry(),
        lineage: Lineage::random(),
        source: SourceId::Delta { table_id: target_id.clone() },
        target_id,
        next_batch: newest.map_or(BatchId::FIRST, BatchId::next),
        position: Retrying::default(),
        passed: None,
        planned: Vec::new(),
        adopted: newest,
        steps: BTreeMap::new(),
        clears_target: false,
        asks_all_since: None,
        target_seen: None,
        restored: None,
        paused: None,
    };
    Ok((checkpoint, Vec::new()))
}

/// The row ranges of planned batches, as (file, start, end).
struct Planned<'a>(BTreeSet<(&'a str, u64, u64)>);

impl<'a> Planned<'a> {
    fn of(batches: &'a [PlannedBatch]) -> Self {
        let parts = batches.iter().flat_map(|batch| &batch.parts);
        Planned(parts.map(|part| (part.file.as_str(), part.start, part.end)).collect())
    }

    fn contains(&self, found: &FailedRow) -> bool {
        let key = (&*found.key.file, found.key.row, u64::MAX);
        let before = self.0.range(..=key).next_back();
        before.is_some_and(|(file, start, end)| {
            **file == *found.key.file && (*start..*end).contains(&found.key.row)
        })
    }
}

/// Plans and reads batches of failed rows of the target.
pub(crate) struct RetryFeed {
    reader: FailedRowReader,
    queue: VecDeque<FailedRow>,
    limits: BatchLimits,
    /// Whether the selection has more rows than this retry covers.
    has_more_rows: bool,
    file: CheckpointFile,
    checkpoint: Checkpoint<Retrying>,
    /// The batch that was planned last, with the files of the target that hold its rows; `None` once it is read.
    places: Option<(BatchId, BTreeSet<String>)>,
    /// The target's constraints on its rows.
    constraints: watch::Receiver<Arc<Constraints>>,
}

impl RetryFeed {
    fn cut(&mut self, id: BatchId) -> Option<PlannedBatch> {
        let mut bytes = 0;
        let fits = |found: &&FailedRow| {
            bytes += found.bytes;
            bytes <= self.limits.max_bytes
        };
        let most = self.queue.iter().take(self.limits.max_rows as usize).take_while(fits).count();
        let rows: Vec<FailedRow> = self.queue.drain(..most.max(1).min(self.queue.len())).collect();
        let mut parts: Vec<FileRange> = Vec::new();
        for FailedRow { key, .. } in &rows {
            match parts.last_mut() {
                Some(part) if part.file == *key.file && part.end == key.row => part.end += 1,
                _ => parts.push(FileRange {
                    file: key.file.to_string(),
                    size: 0,
                    version: None,
                    start: key.row,
                    end: key.row + 1,
                    partition: std::collections::BTreeMap::new(),
                }),
            }
        }
        let places = rows.iter().map(|found| found.place.to_string()).collect();
        self.places = Some((id, places));
        let bytes = rows.iter().map(|found| found.bytes).sum();
        (!rows.is_empty()).then_some(PlannedBatch {
            id,
            parts,
            bytes,
            next: Position::Start,
            condition: None,
            kept: None,
        })
    }

    async fn save(&mut self, checkpoint: Checkpoint<Retrying>) -> Result<(), RunError> {
        self.file.save(&checkpoint).await?;
        self.checkpoint = checkpoint;
        Ok(())
    }
}

impl Feed for RetryFeed {
    async fn plan(&mut self, done: Option<BatchId>) -> Result<Option<LoadedBatch>, RunError> {
        let pass = |side| faultpoint::pass("plan", side).map_err(|error| RunError::Task(error.to_string()));
        pass(Side::Before)?;
        let Some(plan) = self.cut(self.checkpoint.next_batch) else { return Ok(None) };
        pass(Side::After)?;
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.planned.retain(|batch| done.is_none_or(|done| batch.id > done));
        checkpoint.planned.push(plan.clone());
        checkpoint.next_batch = plan.id.next();
        self.save(checkpoint).await?;
        self.load(plan).await.map(Some)
    }

    async fn load(&mut self, plan: PlannedBatch) -> Result<LoadedBatch, RunError> {
        let places = self.places.take().filter(|(id, _)| *id == plan.id).map(|(_, places)| places);
        let selection: &Selection = &self.checkpoint.position.selection;
        let Reloaded { chunks, kept } = self.reader.reload(plan.id, &plan.parts, selection, places).await?;
        let constraints = Arc::clone(&self.constraints.borrow());
        chunks.iter().try_for_each(|chunk| constraints.admit(chunk))?;
        let decoded = chunks.iter().map(|chunk| chunk.rows.num_rows() as u64).sum();
        Ok(LoadedBatch { plan, epoch: None, chunks, decoded, deleted: 0, kept })
    }

    fn planned(&self, id: BatchId) -> Option<PlannedBatch> {
        self.checkpoint.planned.iter().find(|batch| batch.id == id).cloned()
    }

    async fn close(&mut self, done: Option<BatchId>, complete: bool) -> Result<(), RunError> {
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.planned.retain(|batch| done.is_none_or(|done| batch.id > done));
        if complete {
            checkpoint.position = Retrying::default();
        }
        if checkpoint == self.checkpoint { Ok(()) } else { self.save(checkpoint).await }
    }

    fn reaches_end(&self) -> bool {
        !self.has_more_rows
    }

    fn covers_all(&self) -> bool {
        // Answers to rows outside the selection are kept for a later retry that selects these rows.
        self.reaches_end() && self.checkpoint.position.selection == Selection::default()
    }
}

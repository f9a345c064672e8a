//! One run of a job: from its source to its target.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use url::Url;

use super::copier::Copier;
use super::end::End;
use super::error::RunError;
use super::exclusive::{Exclusive, LeaseGuard, home};
use super::feed::{Drain, Feed};
use super::history::History;
use super::prepared_job::PreparedJob;
use super::recover::belongs;
use super::run_budget::RunBudget;
use super::start::{Started, start};
use super::writable::can_append;
use crate::budget::Account;
use crate::checkpoint::{CheckpointFile, LastRun, Position};
use crate::clock::{self, Instant};
use crate::config::{Job, StatePlaces};
use crate::enricher::Enricher;
use crate::enricher::{Anomaly, LoadedBatch, Stop};
use crate::event::{Event, Voice};
use crate::ident::{BatchId, Lineage, RunId};
use crate::ledger::LedgerTask;
use crate::rows::{ConstraintErrors, FilledBatch};
use crate::sink::{Committed, Sink};
use crate::source::Source;
use crate::store;
use crate::table::is_delta_table;
use crate::tally::Tally;
use crate::wording::counted;

/// How long the last answers may take to be copied to the store, where they are.
const LAST_COPIES: Duration = Duration::from_secs(60);
/// The same when the caller wants the end at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// What was spent is flushed to the disk after a commit, at most so often, and at the end.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How long a run may go on.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// How long requests in flight may take once the run is asked to stop.
    pub grace: Duration,
    /// Rows to ask about, at most.
    pub max_rows: Option<u64>,
    /// Time after which nothing new is asked.
    pub max_duration: Option<Duration>,
    /// Where it begins.
    pub begin: Begin,
    /// Whether what a run would ask about first is meant: rows that the target has under another `app_id`.
    pub confirmed: bool,
    /// Whether a job that starts over uses the answers that were paid before.
    pub keep_paid: bool,
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// Where the last one ended.
    #[default]
    GoOn,
    /// There too, though the job is paused.
    Unpaused,
    /// Where the last one ended, after the rows before that which the target lacks.
    Refill,
    /// At the start of the source, into an emptied target.
    Restart,
}

/// What the caller wants of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopRequest {
    /// Go on.
    None,
    /// Ask nothing new, keep what is in flight, commit what is full.
    Gently,
    /// End at once; what is answered is kept.
    Now,
}

enum Done<F, D> {
    Planned(Box<F>, Result<Option<LoadedBatch>, RunError>),
    Loaded(Box<F>, BatchId, Result<LoadedBatch, RunError>),
    Committed(Box<D>, BatchId, u64, Result<(Committed, Vec<ConstraintErrors>), RunError>),
}

/// Runs a job. `simulator` is where the built-in simulator listens, if the job asks for it.
///
/// # Errors
/// What makes the run impossible or cuts it short; what was answered until then is kept.
pub async fn run(
    job: &Job,
    options: RunOptions,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<&Url>,
    voice: Voice,
) -> Result<End, RunError> {
    let run = RunId::random();
    let started = clock::wall();
    let tally = Tally::default();
    let voice = voice.and(Box::new(tally.clone()));
    let told = stop.clone();
    let begun = unless_stopped(
        &told,
        Box::pin(async {
            let source = Source::open(&job.source).await?;
            let prepared = PreparedJob::new(job, source.schema(), simulator)?;
            if is_delta_table(&job.target.location).await? {
                can_append(&job.target.location)?;
            } else {
                Sink::can_create(&job.target.location).await?;
                may_be_made(job, &source, options.begin).await?;
            }
            let home = home(job).await?;
            home.probe().await?;
            store::probe(&job.places.journal)?;
            let StatePlaces { state, journal, lease, .. } = &job.places;
            let exclusive = Exclusive::take(state, &home, journal, *lease, run).await?;
            Ok((source, prepared, home, exclusive))
        }),
    );
    let Some((source, prepared, home, exclusive)) = begun.await? else { return Ok(End::Stopped) };
    let lease_guard = exclusive.lease_guard();
    let work = async {
        let begun = Box::pin(start(job, &home, prepared, source, run, options, &voice));
        let begun = unless_stopped(&told, begun);
        let Some(started_run) = begun.await? else { return Ok(End::Stopped) };
        let Started { enricher, reading, drain, lineage, copier } = started_run;
        voice.say(&Event::Started { run });
        let history = History::begin(&job.places.state, run, started, tally)?;
        let running = Running::new(enricher, reading, drain, lineage, lease_guard, copier, voice.clone());
        let end = running.run(options, stop).await;
        history.end(&end);
        end
    };
    exclusive.during(Box::pin(RunBudget::during(job, &home, run, work))).await
}

/// Whether a run may make the target, which is not there.
pub(crate) async fn may_be_made(job: &Job, source: &Source, begin: Begin) -> Result<(), RunError> {
    let target = &job.target.location;
    if job.target.must_exist {
        return Err(RunError::Mismatch {
            what: format!("the target {target} is not there, and target.must_exist is set"),
            hint: "mount it or bring it back; for the first run of all, --set target.must_exist=false makes it",
        });
    }
    if begin == Begin::Restart {
        return Ok(());
    }
    let file = CheckpointFile::in_folder(&home(job).await?);
    let told = match file.load::<Position>().await? {
        // It is saved when the table is there.
        Some(checkpoint) => {
            belongs(job, source, &file, &checkpoint)?;
            // Batches that are planned and not committed are in no table yet.
            let batches = checkpoint.next_batch.get() - checkpoint.planned.len() as u64;
            format!("the checkpoint {} says that it held {}", file.at(), counted(batches, "batch"))
        }
        // It is left when the table is there.
        None => match LastRun::load(&job.places.state) {
            None => return Ok(()),
            Some(run) => format!("there was a run of {} that had it", clock::format_time(run.started)),
        },
    };
    // Another run may have made both since it was looked for.
    if is_delta_table(target).await? {
        return Ok(());
    }
    Err(RunError::Mismatch {
        what: format!("the target {target} is gone, and {told}"),
        hint: "mount it or bring it back; enrich run --restart makes it anew and asks about every row again",
    })
}

/// What comes of something that is done before a run begins; none where the caller asks for the end first. It may be
/// left at any point, as a process may be killed at any.
pub(crate) async fn unless_stopped<T>(
    stop: &watch::Receiver<StopRequest>,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<Option<T>, RunError> {
    let mut stop = stop.clone();
    let asked = async {
        if stop.wait_for(|asked| *asked != StopRequest::None).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done.map(Some),
        () = asked => Ok(None),
    }
}

/// The loop of a run, between where batches come from and where they go.
pub(crate) struct Running<F, D> {
    enricher: Enricher,
    feed: Option<Box<F>>,
    drain: Option<Box<D>>,
    lineage: Lineage,
    lease_guard: LeaseGuard,
    /// Copies the journals, where the checkpoint is in an object store.
    copier: Option<Copier>,
    tasks: JoinSet<Done<F, D>>,
    newest: Option<BatchId>,
    /// When what was spent was flushed to the disk.
    flushed: Option<Instant>,
    /// Whether later runs are kept from going on; none while there was no reason to try.
    pauses: Option<bool>,
    /// An anomaly that only the end of the run has shown.
    late_anomaly: Option<Anomaly>,
    error: Option<RunError>,
    voice: Voice,
}

impl<F: Feed, D: Drain> Running<F, D> {
    pub(crate) fn new(
        enricher: Enricher,
        feed: F,
        drain: D,
        lineage: Lineage,
        lease_guard: LeaseGuard,
        copier: Option<Copier>,
        voice: Voice,
    ) -> Self {
        Running {
            enricher,
            feed: Some(Box::new(feed)),
            drain: Some(Box::new(drain)),
            lineage,
            lease_guard,
            copier,
            tasks: JoinSet::new(),
            newest: None,
            flushed: None,
            pauses: None,
            late_anomaly: None,
            error: None,
            voice,
        }
    }

    pub(crate) async fn run(
        mut self,
        options: RunOptions,
        mut stop: watch::Receiver<StopRequest>,
    ) -> Result<End, RunError> {
        let mut finish_by: Option<Instant> = options.max_duration.map(|most| clock::now() + most);
        let mut cut_off: Option<Instant> = None;
        let mut timed_out = false;
        let lease_guard = self.lease_guard.clone();
        loop {
            self.enricher.feed();
            if let Err(error) = self.pause().await {
                self.fail(error, &mut cut_off, options.grace);
            }
            while let Some(task) = self.enricher.next_task() {
                self.carry_out(task)?;
            }
            if self.tasks.is_empty() {
                if self.enricher.release_held() {
                    // There may be something to do or to ask now.
                    continue;
                }
                if self.enricher.is_finished() {
                    break;
                }
            }
            let wake = [finish_by, cut_off].into_iter().flatten().min();
            tokio::select! {
                biased;
                Ok(()) = stop.changed() => {
                    let request = *stop.borrow_and_update();
                    if request == StopRequest::Now {
                        self.enricher.halt(Stop::Asked);
                        self.enricher.abort().await;
                        self.tasks.abort_all();
                        return self.end(options, false, AT_ONCE).await;
                    }
                    self.enricher.halt(Stop::Asked);
                    cut_off.get_or_insert(clock::now() + options.grace);
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    let done = done.map_err(|error| RunError::Task(error.to_string()))?;
                    if let Err(error) = self.take(done) {
                        self.fail(error, &mut cut_off, options.grace);
                    }
                }
                () = sleep_until(wake.unwrap_or_else(clock::now)), if wake.is_some() => {
                    let now = clock::now();
                    if finish_by.is_some_and(|at| at <= now) {
                        finish_by = None;
                        timed_out = true;
                        self.enricher.halt(Stop::Asked);
                        cut_off.get_or_insert(now + options.grace);
                    }
                    if cut_off.is_some_and(|at| at <= now) {
                        self.cut_off().await?;
                        break;
                    }
                }
                lost = lease_guard.lost(), if self.error.is_none() => {
                    self.fail(lost.into(), &mut cut_off, options.grace);
                }
                waited = self.enricher.wait() => {
                    waited?;
                    self.enricher.take_in();
                }
            }
        }
        self.end(options, timed_out, LAST_COPIES).await
    }

    /// What is in flight has had its time; full batches are still committed.
    async fn cut_off(&mut self) -> Result<(), RunError> {
        self.enricher.abort().await;
        loop {
            while let Some(task) = self.enricher.next_task() {
                self.carry_out(task)?;
            }
            let Some(done) = self.tasks.join_next().await else { return Ok(()) };
            self.take(done.map_err(|error| RunError::Task(error.to_string()))?)?;
        }
    }

    /// Keeps later runs from paying for more of what this one stops at, as soon as it is known.
    async fn pause(&mut self) -> Result<(), RunError> {
        if let (Some(why), Some(feed)) = (self.enricher.stopped_by().and_then(Stop::pauses), &mut self.feed)
            && self.pauses.is_none()
            && !matches!(self.error, Some(RunError::Lease(_)))
        {
            self.pauses = Some(false);
            self.pauses = Some(feed.pause(why).await?);
        }
        Ok(())
    }

    /// Pauses a job whose run came to its end, or to a limit, with too few answers to stop it before.
    async fn judge(&mut self, timed_out: bool) {
        let is_end = match self.enricher.stopped_by() {
            None | Some(Stop::MaxRows) => true,
            Some(Stop::Asked) => timed_out,
            Some(_) => false,
        };
        if let (Some(anomaly), Some(feed)) = (self.enricher.anomaly_at_the_end(), &mut self.feed)
            && is_end
        {
            match feed.pause(anomaly.to_string()).await {
                // Who cannot be paused was told what came of each row.
                Ok(false) => {}
                Ok(true) => {
                    self.pauses = Some(true);
                    self.late_anomaly = Some(anomaly);
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Goes on only with what is in flight; the first error is the one that is told.
    fn fail(&mut self, error: RunError, cut_off: &mut Option<Instant>, grace: Duration) {
        self.voice.say(&Event::Stopping(&error.to_string()));
        self.error.get_or_insert(error);
        self.enricher.halt(Stop::Asked);
        cut_off.get_or_insert(clock::now() + grace);
    }

    fn carry_out(&mut self, task: LedgerTask) -> Result<(), RunError> {
        match task {
            LedgerTask::Plan => {
                let mut feed = self.feed.take().ok_or_else(|| busy("source"))?;
                let newest = self.newest;
                self.tasks.spawn(async move {
                    let planned = feed.plan(newest).await;
                    Done::Planned(feed, planned)
                });
            }
            LedgerTask::Load(id) => {
                let mut feed = self.feed.take().ok_or_else(|| busy("source"))?;
                let plan = feed.planned(id);
                let plan = plan.ok_or_else(|| RunError::Task(format!("batch {id} has no plan")))?;
                self.tasks.spawn(async move {
                    let loaded = feed.load(plan).await;
                    Done::Loaded(feed, id, loaded)
                });
            }
            LedgerTask::Commit(id) => {
                let mut drain = self.drain.take().ok_or_else(|| busy("target"))?;
                let mut batch: FilledBatch = self.enricher.take(id)?;
                let (lineage, lease_guard) = (self.lineage, self.lease_guard.clone());
                let account = self.due_account();
                self.tasks.spawn(async move {
                    let rows = batch.rows() as u64;
                    let committed = committed(drain.as_mut(), &mut batch, lineage, &lease_guard).await;
                    let committed = match committed {
                        Ok(committed) => flushed(account).await.map(|()| committed),
                        failed => failed,
                    };
                    Done::Committed(drain, id, rows, committed)
                });
            }
            LedgerTask::Forget(id) => {
                return Err(RunError::Task(format!("batch {id} was to be forgotten twice")));
            }
        }
        Ok(())
    }

    /// The account, where it is time to flush what was spent: the disk is busy with it for a while.
    fn due_account(&mut self) -> Option<Account> {
        let now = clock::now();
        let is_due = self.flushed.is_none_or(|at| now.saturating_duration_since(at) >= FLUSH_EVERY);
        is_due.then(|| {
            self.flushed = Some(now);
            self.enricher.account()
        })
    }

    fn take(&mut self, done: Done<F, D>) -> Result<(), RunError> {
        match done {
            Done::Planned(feed, planned) => {
                self.feed = Some(feed);
                match planned.inspect_err(|_| self.enricher.failed(LedgerTask::Plan))? {
                    None => self.enricher.source_ended(),
                    Some(loaded) => {
                        self.enricher.planned(&loaded.plan);
                        self.open(loaded)?;
                    }
                }
            }
            Done::Loaded(feed, id, loaded) => {
                self.feed = Some(feed);
                let failed = |_: &RunError| self.enricher.failed(LedgerTask::Load(id));
                let loaded = loaded.inspect_err(failed)?;
                self.open(loaded)?;
            }
            Done::Committed(drain, id, rows, committed) => {
                self.drain = Some(drain);
                let failed = |_: &RunError| self.enricher.failed(LedgerTask::Commit(id));
                let (committed, turned) = committed.inspect_err(failed)?;
                self.enricher.refused(&turned);
                match committed {
                    Committed::Now(version) => self.voice.say(&Event::Committed { batch: id, rows, version }),
                    Committed::Before => self.voice.say(&Event::AlreadyCommitted { batch: id }),
                }
                self.newest = Some(id);
                self.enricher.committed(id)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, loaded: LoadedBatch) -> Result<(), RunError> {
        let id = loaded.plan.id;
        let opened = self.enricher.open(loaded);
        Ok(opened.inspect_err(|_| self.enricher.failed(LedgerTask::Load(id)))?)
    }

    async fn end(
        mut self,
        options: RunOptions,
        timed_out: bool,
        patience: Duration,
    ) -> Result<End, RunError> {
        let is_complete = self.enricher.is_complete();
        let planned_all = self.feed.as_ref().is_some_and(|feed| feed.reaches_end());
        let covers_all = self.feed.as_ref().is_some_and(|feed| feed.covers_all());
        // Who has lost the job leaves the checkpoint to the one who has it, and who is in a hurry to the next run.
        let is_lost = matches!(self.error, Some(RunError::Lease(_)));
        if let Ok(Err(error)) = timeout(patience, self.pause()).await {
            self.error.get_or_insert(error);
        }
        if self.error.is_none() && patience > AT_ONCE {
            self.judge(timed_out).await;
        }
        if let Some(feed) = &mut self.feed
            && !is_lost
            && patience > AT_ONCE
        {
            let closed = feed.close(self.newest, is_complete && planned_all).await;
            if let Err(error) = closed {
                self.error.get_or_insert(error);
            }
        }
        if let Some(drain) = &mut self.drain
            && !is_lost
            && patience > AT_ONCE
            && let Err(error) = drain.close().await
        {
            self.error.get_or_insert(error);
        }
        let reached_end = covers_all && !is_lost;
        let finished = self.enricher.finish(reached_end).await;
        if let Some(copier) = self.copier {
            if reached_end && is_complete {
                copier.copies.discard_stray_answers();
            }
            // Also where the disk fails: then the copies are all there is.
            copier.finish(patience).await;
        }
        let finished = finished?;
        let stopped = self.late_anomaly.map(Stop::Anomaly).or(finished);
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(match stopped {
            Some(Stop::Provider { provider, failure }) => End::Provider { provider, failure },
            Some(Stop::Budget(limit)) => End::Budget(limit),
            Some(Stop::Errors(errors)) => End::Errors { errors, pauses: self.pauses == Some(true) },
            Some(Stop::Anomaly(anomaly)) => End::Anomaly { anomaly, pauses: self.pauses == Some(true) },
            Some(Stop::Journal(error)) => return Err(error.into()),
            Some(Stop::MaxRows) => End::MaxRows,
            Some(Stop::Asked) if timed_out => End::MaxDuration,
            Some(Stop::Asked) => End::Stopped,
            None if options.max_rows.is_some() && !planned_all => End::MaxRows,
            None if is_complete => End::Complete,
            None => End::Stopped,
        })
    }
}

/// Commits a batch as the target takes it now; gives the outcomes by step that it did not take, too.
async fn committed(
    drain: &mut impl Drain,
    batch: &mut FilledBatch,
    lineage: Lineage,
    lease_guard: &LeaseGuard,
) -> Result<(Committed, Vec<ConstraintErrors>), RunError> {
    let mut turned: Vec<ConstraintErrors> = Vec::new();
    loop {
        lease_guard.confirm().await?;
        let now = drain.judge(batch).await?;
        turned.resize_with(now.len(), ConstraintErrors::default);
        turned.iter_mut().zip(now).for_each(|(turned, now)| *turned += now);
        if let Some(committed) = drain.commit(batch, lineage).await? {
            return Ok((committed, turned));
        }
    }
}

/// What was spent is on the disk.
async fn flushed(account: Option<Account>) -> Result<(), RunError> {
    let Some(account) = account else { return Ok(()) };
    let flushing = tokio::task::spawn_blocking(move || account.sync());
    Ok(flushing.await.map_err(|error| RunError::Task(error.to_string()))??)
}

fn busy(what: &str) -> RunError {
    RunError::Task(format!("the {what} was wanted twice at once"))
}

//! The loop of a run, between its feed, where batches come from, and its drain, where they go.
//!
//! It waits for one event at a time and handles it in one place. Planning, loading and committing take long: each is a
//! task of its own, which takes the feed or the drain and gives it back when it ends.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::copier::Copier;
use super::end::End;
use super::error::RunError;
use super::exclusive::LeaseGuard;
use super::feed::{Delivery, Drain, Feed};
use super::options::{RunOptions, StopRequest};
use crate::budget::Account;
use crate::checkpoint::LeaseError;
use crate::clock::{self, Instant};
use crate::enricher::{Anomaly, Enricher, EnricherError, LoadedBatch, Stop, SubmissionWait};
use crate::event::{Event, Voice};
use crate::ident::{BatchId, Lineage};
use crate::ledger::LedgerTask;
use crate::rows::{ConstraintErrors, FilledBatch};

/// Maximum time for copying the last answers of a run to the object store, if the checkpoint is in one.
const LAST_COPIES: Duration = Duration::from_secs(60);

/// The same time if the caller requests to stop at once.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Minimum time between two flushes of the account to the disk. It is flushed after commits, and at the end of the run.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// The result of a task, with the feed or the drain that it gives back.
enum FinishedTask<F, D> {
    Planned(Box<F>, Result<Option<LoadedBatch>, RunError>),
    Loaded(Box<F>, BatchId, Result<LoadedBatch, RunError>),
    Committed(Box<D>, BatchId, u64, Result<(Delivery, Vec<ConstraintErrors>), RunError>),
}

/// An event that the loop handles.
enum LoopEvent<F, D> {
    /// The caller requests the run to stop.
    StopRequested(StopRequest),
    /// A task has ended, or has panicked.
    TaskDone(Box<Result<FinishedTask<F, D>, JoinError>>),
    /// A deadline is reached.
    Deadline,
    /// Another run holds the job, or may hold it.
    LeaseLost(LeaseError),
    /// Nobody waits for a batch any more.
    Withdrawn(BatchId),
    /// The enricher has replies to take in or room for rows; an error if it cannot go on.
    Replies(Result<(), EnricherError>),
}

/// How the loop goes on after an event.
enum Flow {
    /// It waits for the next event.
    GoOn,
    /// It ends: every batch that could be committed is committed.
    End,
    /// It ends within seconds: batches are not committed, and copies may be left unfinished.
    EndAtOnce,
}

/// The times at which a run stops sending and at which it ends.
#[derive(Clone, Copy, Debug, Default)]
struct Deadlines {
    /// When the run stops sending new requests; `None` without a maximum duration, or once the time is reached.
    finish_by: Option<Instant>,
    /// When requests in flight are cut off; `None` until the grace time begins.
    cut_off: Option<Instant>,
    /// Time that requests in flight get after the caller, `finish_by` or an error has stopped the run.
    grace: Duration,
    /// Whether `finish_by` was reached.
    timed_out: bool,
}

impl Deadlines {
    fn next(&self) -> Option<Instant> {
        [self.finish_by, self.cut_off].into_iter().flatten().min()
    }

    fn begin_grace(&mut self) {
        self.cut_off.get_or_insert(clock::now() + self.grace);
    }

    /// Whether `finish_by` is reached. Returns `true` once only. `is_going` is whether new requests are still sent.
    fn take_finish(&mut self, now: Instant, is_going: bool) -> bool {
        let is_over = self.finish_by.take_if(|at| *at <= now).is_some();
        self.timed_out |= is_over && is_going;
        is_over
    }

    fn is_cut_off(&self, now: Instant) -> bool {
        self.cut_off.is_some_and(|at| at <= now)
    }
}

/// The state of the loop of a run.
pub(crate) struct Running<F, D> {
    enricher: Enricher,
    /// `None` while a task has it.
    feed: Option<Box<F>>,
    /// `None` while a task has it.
    drain: Option<Box<D>>,
    lineage: Lineage,
    lease_guard: LeaseGuard,
    /// Copies the journals to the object store; `None` if the checkpoint is not in one.
    copier: Option<Copier>,
    tasks: JoinSet<FinishedTask<F, D>>,
    withdrawals: Option<mpsc::Receiver<BatchId>>,
    /// The batch that was committed last.
    newest: Option<BatchId>,
    /// When the account was last flushed to the disk.
    flushed: Option<Instant>,
    /// Whether this run has paused the job; `None` if it has not tried to.
    pauses: Option<bool>,
    /// An anomaly that was found only at the end of the run.
    late_anomaly: Option<Anomaly>,
    error: Option<RunError>,
    deadlines: Deadlines,
    voice: Voice,
}

impl<F: Feed, D: Drain> Running<F, D> {
    pub(crate) fn new(
        enricher: Enricher,
        mut feed: F,
        drain: D,
        lineage: Lineage,
        lease_guard: LeaseGuard,
        copier: Option<Copier>,
        voice: Voice,
    ) -> Self {
        Running {
            enricher,
            withdrawals: feed.withdrawals(),
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
            deadlines: Deadlines::default(),
            voice,
        }
    }

    pub(crate) async fn run(
        mut self,
        options: RunOptions,
        mut stop: watch::Receiver<StopRequest>,
    ) -> Result<End, RunError> {
        self.deadlines = Deadlines {
            finish_by: options.max_duration.map(|most| clock::now() + most),
            cut_off: None,
            grace: options.grace,
            timed_out: false,
        };
        loop {
            self.enricher.hand_out_rows();
            if let Err(error) = self.pause().await {
                self.fail(error);
            }
            self.start_tasks()?;
            // A feed that is waited for may have nothing for a long time.
            let awaits_feed = self.withdrawals.is_some() && self.feed.is_none() && self.tasks.len() == 1;
            if awaits_feed && self.enricher.release_held() {
                continue;
            }
            if self.tasks.is_empty() {
                if self.enricher.release_held() {
                    // The released rows may have filled a batch, or are to be sent again.
                    continue;
                }
                let wait = self.enricher.waits();
                if wait != SubmissionWait::Soon && self.enricher.is_finished() {
                    return self.end(options, LAST_COPIES).await;
                }
                if wait == SubmissionWait::ForSubmissions && !options.waits {
                    self.enricher.halt(Stop::Waiting);
                    continue;
                }
            }
            let event = self.next_event(&mut stop).await;
            match self.handle(event).await? {
                Flow::GoOn => {}
                Flow::End => return self.end(options, LAST_COPIES).await,
                Flow::EndAtOnce => return self.end(options, AT_ONCE).await,
            }
        }
    }

    /// Waits for the next event. If several are ready, a stop request comes first and replies come last.
    async fn next_event(&mut self, stop: &mut watch::Receiver<StopRequest>) -> LoopEvent<F, D> {
        let deadline = self.deadlines.next();
        tokio::select! {
            biased;
            Ok(()) = stop.changed() => LoopEvent::StopRequested(*stop.borrow_and_update()),
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => LoopEvent::TaskDone(Box::new(done)),
            () = sleep_until(deadline.unwrap_or_else(clock::now)), if deadline.is_some() => LoopEvent::Deadline,
            lost = self.lease_guard.lost(), if self.error.is_none() => LoopEvent::LeaseLost(lost),
            Some(id) = withdrawn(&mut self.withdrawals) => LoopEvent::Withdrawn(id),
            waited = self.enricher.wait() => LoopEvent::Replies(waited),
        }
    }

    async fn handle(&mut self, event: LoopEvent<F, D>) -> Result<Flow, RunError> {
        match event {
            LoopEvent::StopRequested(StopRequest::Now) => {
                self.enricher.halt(Stop::Requested);
                self.enricher.abort().await;
                self.tasks.abort_all();
                return Ok(Flow::EndAtOnce);
            }
            LoopEvent::StopRequested(StopRequest::Gently) => self.halt(),
            LoopEvent::StopRequested(StopRequest::None) => {}
            LoopEvent::TaskDone(done) => {
                let done = (*done).map_err(|error| RunError::Task(error.to_string()))?;
                if let Err(error) = self.take(done) {
                    self.fail(error);
                }
            }
            LoopEvent::Deadline => {
                let now = clock::now();
                // A run that stops already keeps its reason.
                if self.deadlines.take_finish(now, self.enricher.stopped_by().is_none()) {
                    self.halt();
                }
                if self.deadlines.is_cut_off(now) {
                    self.cut_off().await?;
                    return Ok(Flow::End);
                }
            }
            LoopEvent::LeaseLost(error) => self.fail(error.into()),
            LoopEvent::Withdrawn(id) => self.enricher.withdraw(id),
            LoopEvent::Replies(waited) => {
                waited?;
                self.enricher.take_in();
            }
        }
        Ok(Flow::GoOn)
    }

    /// Stops sending new requests, and starts the grace time of requests in flight.
    fn halt(&mut self) {
        self.enricher.halt(Stop::Requested);
        self.deadlines.begin_grace();
    }

    /// Starts the tasks that the ledger requests.
    fn start_tasks(&mut self) -> Result<(), RunError> {
        while let Some(task) = self.enricher.next_task() {
            self.start_task(task)?;
        }
        Ok(())
    }

    /// Cuts off the requests in flight, and commits the full batches.
    async fn cut_off(&mut self) -> Result<(), RunError> {
        self.enricher.abort().await;
        loop {
            self.start_tasks()?;
            let Some(done) = self.tasks.join_next().await else { return Ok(()) };
            self.take(done.map_err(|error| RunError::Task(error.to_string()))?)?;
        }
    }

    /// Pauses the job as soon as the run stops at too many errors or an anomaly, so that no later run pays for more of
    /// them. Does nothing while a task has the feed.
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

    /// Pauses a job at an anomaly in fewer answers than are needed to stop a run, if the run came to its end or to one
    /// of its limits.
    async fn pause_for_late_anomaly(&mut self) {
        let is_end = match self.enricher.stopped_by() {
            None | Some(Stop::MaxRows | Stop::Waiting) => true,
            Some(Stop::Requested) => self.deadlines.timed_out,
            Some(_) => false,
        };
        if let (Some(anomaly), Some(feed)) = (self.enricher.anomaly_at_the_end(), &mut self.feed)
            && is_end
        {
            match feed.pause(anomaly.to_string()).await {
                // A feed that is not paused hands every outcome to its caller, who can judge them.
                Ok(false) => {}
                Ok(true) => {
                    self.pauses = Some(true);
                    self.late_anomaly = Some(anomaly);
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Stops sending because of an error. The run ends with the first error.
    fn fail(&mut self, error: RunError) {
        self.voice.say(&Event::Stopping(&error.to_string()));
        self.error.get_or_insert(error);
        self.halt();
    }

    fn start_task(&mut self, task: LedgerTask) -> Result<(), RunError> {
        match task {
            LedgerTask::Plan => {
                let mut feed = self.feed.take().ok_or_else(|| busy("source"))?;
                let newest = self.newest;
                self.tasks.spawn(async move {
                    let planned = feed.plan(newest).await;
                    FinishedTask::Planned(feed, planned)
                });
            }
            LedgerTask::Load(id) => {
                let mut feed = self.feed.take().ok_or_else(|| busy("source"))?;
                let plan = feed.planned(id);
                let plan = plan.ok_or_else(|| RunError::Task(format!("batch {id} has no plan")))?;
                self.tasks.spawn(async move {
                    let loaded = feed.load(plan).await;
                    FinishedTask::Loaded(feed, id, loaded)
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
                    FinishedTask::Committed(drain, id, rows, committed)
                });
            }
            LedgerTask::Unload(id) | LedgerTask::Forget(id) => {
                return Err(RunError::Task(format!("batch {id} was not left to the enricher")));
            }
        }
        Ok(())
    }

    /// Returns the account if it is time to flush it, which is slow, and otherwise `None`.
    fn due_account(&mut self) -> Option<Account> {
        let now = clock::now();
        let is_due = self.flushed.is_none_or(|at| now.saturating_duration_since(at) >= FLUSH_EVERY);
        is_due.then(|| {
            self.flushed = Some(now);
            self.enricher.account()
        })
    }

    fn take(&mut self, done: FinishedTask<F, D>) -> Result<(), RunError> {
        match done {
            FinishedTask::Planned(feed, planned) => {
                self.feed = Some(feed);
                match planned.inspect_err(|_| self.enricher.failed(LedgerTask::Plan))? {
                    None => self.enricher.source_ended(),
                    Some(loaded) => {
                        self.enricher.planned(&loaded.plan);
                        self.open(loaded)?;
                    }
                }
            }
            FinishedTask::Loaded(feed, id, loaded) => {
                self.feed = Some(feed);
                let failed = |_: &RunError| self.enricher.failed(LedgerTask::Load(id));
                let loaded = loaded.inspect_err(failed)?;
                self.open(loaded)?;
            }
            FinishedTask::Committed(drain, id, rows, committed) => {
                self.drain = Some(drain);
                let failed = |_: &RunError| self.enricher.failed(LedgerTask::Commit(id));
                let (delivery, turned) = committed.inspect_err(failed)?;
                self.enricher.count_constraint_errors(&turned);
                match delivery {
                    Delivery::Committed(version) => {
                        self.voice.say(&Event::Committed { batch: id, rows, version });
                    }
                    Delivery::CommittedBefore => self.voice.say(&Event::AlreadyCommitted { batch: id }),
                    Delivery::HandedOver => {}
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

    async fn end(mut self, options: RunOptions, patience: Duration) -> Result<End, RunError> {
        let is_complete = self.enricher.is_complete();
        let planned_all = self.feed.as_ref().is_some_and(|feed| feed.reaches_end());
        let covers_all = self.feed.as_ref().is_some_and(|feed| feed.covers_all());
        // A run that has lost the job leaves the checkpoint to the run that has it. One that ends at once leaves it to
        // the next run.
        let is_lost = matches!(self.error, Some(RunError::Lease(_)));
        if let Ok(Err(error)) = timeout(patience, self.pause()).await {
            self.error.get_or_insert(error);
        }
        if self.error.is_none() && patience > AT_ONCE {
            self.pause_for_late_anomaly().await;
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
            // This is done even if `finished` is an error: after a failure of the disk the copies are all there is.
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
            Some(Stop::Submitter(error)) => return Err(error.into()),
            Some(Stop::MaxRows) => End::MaxRows,
            Some(Stop::Waiting) => End::Waiting,
            Some(Stop::Requested) if self.deadlines.timed_out => End::MaxDuration,
            Some(Stop::Requested) => End::Stopped,
            None if options.max_rows.is_some() && !planned_all => End::MaxRows,
            None if is_complete => End::Complete,
            None => End::Stopped,
        })
    }
}

/// Commits a batch. Outcomes that break the target's constraints become errors first; this is repeated if the target
/// changes before the commit. Also returns the outcomes that became errors, by step.
async fn committed(
    drain: &mut impl Drain,
    batch: &mut FilledBatch,
    lineage: Lineage,
    lease_guard: &LeaseGuard,
) -> Result<(Delivery, Vec<ConstraintErrors>), RunError> {
    let mut turned: Vec<ConstraintErrors> = Vec::new();
    loop {
        lease_guard.confirm().await?;
        let now = drain.apply_constraints(batch).await?;
        turned.resize_with(now.len(), ConstraintErrors::default);
        turned.iter_mut().zip(now).for_each(|(turned, now)| *turned += now);
        if let Some(committed) = drain.commit(batch, lineage).await? {
            return Ok((committed, turned));
        }
    }
}

/// Flushes an account to the disk. Does nothing for `None`.
async fn flushed(account: Option<Account>) -> Result<(), RunError> {
    let Some(account) = account else { return Ok(()) };
    let flushing = tokio::task::spawn_blocking(move || account.sync());
    Ok(flushing.await.map_err(|error| RunError::Task(error.to_string()))??)
}

async fn withdrawn(withdrawals: &mut Option<mpsc::Receiver<BatchId>>) -> Option<BatchId> {
    match withdrawals {
        Some(withdrawals) => withdrawals.recv().await,
        None => std::future::pending().await,
    }
}

fn busy(what: &str) -> RunError {
    RunError::Task(format!("the {what} was requested twice at once"))
}

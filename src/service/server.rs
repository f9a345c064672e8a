//! [`Service`]: what an embedding program, and the HTTP interface, work with.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use url::Url;
use uuid::Uuid;

use super::columns::Columns;
use super::drain::ServedDrain;
use super::error::{ServiceError, in_words};
use super::feed::ServedFeed;
use super::register::{BatchName, Posting, Register};
use super::sweeper::sweep;
use crate::budget::Account;
use crate::config::Job;
use crate::event::Voice;
use crate::ident::{AppId, RunId};
use crate::journal::EpochJournals;
use crate::run::{
    Begin, End, PreparedJob, RunError, RunOptions, Running, Scope, Session, StopRequest, unless_stopped,
};
use crate::tally::Tally;

/// Most batches that wait to be taken up.
const MOST_WAITING: usize = 65_536;
/// Most batches that are withdrawn in one sweep.
const MOST_WITHDRAWN: usize = 1_024;
/// Most epochs that are not committed, each of which has open files.
const MOST_EPOCHS: usize = 64;
/// How long one wait for outcomes lasts before the next.
const WAIT: Duration = Duration::from_secs(60);

/// Settings of a service.
#[derive(Clone, Copy, Debug)]
pub struct ServiceOptions {
    /// How long rows are sent, and outcomes kept, after the last one who waited for them.
    pub keep: Duration,
    /// How long requests in flight may still take once the service begins to stop.
    pub grace: Duration,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        ServiceOptions { keep: Duration::from_secs(30), grace: Duration::from_secs(30) }
    }
}

/// A job as a service, which has the job to itself as a run has. Dropping it cuts off what is in flight.
///
/// ```
/// use std::sync::Arc;
///
/// use arrow::array::{ArrayRef, AsArray, StringArray};
/// use arrow::record_batch::RecordBatch;
/// use enrich::config::{Job, Keys, SimulatorSpec};
/// use enrich::event::Voice;
/// use enrich::run::StopRequest;
/// use enrich::service::{Service, ServiceOptions};
/// use enrich::simulator::Simulator;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let text = "app_id = 'reviews'\ncheckpoint.path = 'state'\n\
///     provider.p = { base_url = 'simulator', model = 'simulated' }\n\
///     [[step]]\noutput = 'summary'\nprompt = 'Summarize: {{ review }}'\n";
/// let job = Job::of_text_served(&folder.path().join("job.toml"), text, &[], Keys::Read)?;
/// let simulator = Simulator::start(SimulatorSpec::default(), 0).await?;
///
/// let (stop, stopped) = tokio::sync::watch::channel(StopRequest::None);
/// let url = Some(simulator.url().clone());
/// let service = Service::start(job, ServiceOptions::default(), stopped, url, Voice::default()).await?;
/// for epoch in 0..2 {
///     let reviews: ArrayRef = Arc::new(StringArray::from(vec!["Fine.", "It broke."]));
///     let outcomes = service.ask(epoch, &RecordBatch::try_from_iter([("review", reviews)])?).await?;
///     assert_eq!(outcomes.num_rows(), 2);
///     assert!(!outcomes["summary"].as_string::<i32>().value(1).starts_with("ERROR:"));
///     // Here the outcomes are written to where they are to stay; then their journal may go.
///     service.committed(epoch)?;
/// }
/// stop.send(StopRequest::Gently)?;
/// service.ended().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Service {
    job: Arc<Job>,
    register: Arc<Register>,
    columns: Arc<Columns>,
    epochs: EpochJournals,
    account: Account,
    tally: Tally,
    /// Wakes the session when the first rows are known.
    first_rows: watch::Sender<bool>,
    end: watch::Receiver<Option<Arc<Result<End, RunError>>>>,
    _tasks: Mutex<JoinSet<()>>,
}

/// State of a service.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceState {
    /// Name of the job.
    pub app_id: AppId,
    /// `serving`, `stopping` or `ended`.
    pub state: &'static str,
    /// Why the job has ended; `None` before.
    pub message: Option<String>,
    /// Number of batches that wait for their outcomes or to be fetched.
    pub open_batches: usize,
    /// Number of their rows.
    pub open_rows: u64,
    /// Bytes of these rows and of outcomes that wait to be fetched.
    pub open_bytes: u64,
    /// Epochs that are not committed, each with the number of requests in its journal.
    pub epochs: BTreeMap<u64, u64>,
    /// Requests in flight.
    pub in_flight: u64,
    /// Answers of the model in this session.
    pub answers: u64,
    /// Rows that failed in this session, by class.
    pub errors: BTreeMap<String, u64>,
    /// Attempts that a rate limit refused.
    pub throttled: u64,
    /// Cost of the answers in US dollars; `None` if no price is known.
    pub cost_usd: Option<f64>,
    /// What the session waits for, in words; `None` if nothing holds it back.
    pub waits_for: Option<String>,
}

impl Service {
    /// Starts the service of a job. Returns when it has the job to itself and has read the journals of earlier
    /// services.
    ///
    /// # Errors
    /// When the job cannot be had or its journals cannot be used.
    pub async fn start(
        job: Job,
        options: ServiceOptions,
        stop: watch::Receiver<StopRequest>,
        simulator: Option<Url>,
        voice: Voice,
    ) -> Result<Self, RunError> {
        let job = Arc::new(job);
        let run = RunId::random();
        let (posts, inbox) = mpsc::channel(MOST_WAITING);
        let (withdraw, withdrawals) = mpsc::channel(MOST_WITHDRAWN);
        let register = Arc::new(Register::new(job.window, posts, withdraw));
        let columns = Arc::new(Columns::new(Arc::clone(&job), run));
        let tally = Tally::default();
        let (first_rows, has_rows) = watch::channel(false);
        let (opened, is_open) = oneshot::channel();
        let (ending, end) = watch::channel(None);
        let session = ServedSession {
            job: Arc::clone(&job),
            run,
            options,
            register: Arc::clone(&register),
            columns: Arc::clone(&columns),
            inbox,
            withdrawals,
            has_rows,
            stop,
            simulator,
            voice: voice.and(Box::new(tally.clone())),
        };
        let mut tasks = JoinSet::new();
        let closing = Arc::clone(&register);
        tasks.spawn(async move {
            let mut opened = Some(opened);
            let served = AssertUnwindSafe(session.serve(&mut opened)).catch_unwind();
            let end = Box::pin(served).await;
            // Nobody is to wait for a session that is gone.
            let end = end.unwrap_or_else(|_| Err(RunError::Task("the session has panicked".to_owned())));
            let end = match (end, opened.take()) {
                (Err(error), Some(opened)) => {
                    // The caller may be gone.
                    let _ = opened.send(Err(error));
                    return;
                }
                (end, _) => Arc::new(end),
            };
            closing.close(&match &*end {
                Ok(End::Stopped | End::Complete) => ServiceError::Stopping,
                _ => ServiceError::Ended(Arc::clone(&end)),
            });
            ending.send_replace(Some(end));
        });
        tasks.spawn(sweep(Arc::clone(&register), options.keep));
        let opened =
            is_open.await.map_err(|_| RunError::Task("the session ended before it began".to_owned()))??;
        let _tasks = Mutex::new(tasks);
        let OpenedSession { epochs, account } = opened;
        Ok(Service { job, register, columns, epochs, account, tally, first_rows, end, _tasks })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Returns the columns that rows of a schema get: those of each step, then the metadata column.
    ///
    /// # Errors
    /// When rows of this schema do not fit the job.
    pub fn schema(&self, rows: &SchemaRef) -> Result<SchemaRef, ServiceError> {
        let columns = self.columns.fit(rows)?;
        self.first_rows.send_replace(true);
        Ok(Arc::clone(columns.schema()))
    }

    /// Posts a batch under a name, and waits for its outcomes. The same rows under the same name in the same epoch are
    /// one batch, however often they are posted.
    ///
    /// # Errors
    /// When the rows do not fit the job, when there is no room for them, and when the service has ended.
    pub fn post(&self, epoch: u64, name: &str, rows: &RecordBatch) -> Result<Posting, ServiceError> {
        self.schema(&rows.schema())?;
        if self.epochs.len_beside(epoch) >= MOST_EPOCHS {
            return Err(ServiceError::Rows(format!(
                "{MOST_EPOCHS} epochs are not committed; say of those whose outcomes are written that they are committed, before there is a new one"
            )));
        }
        self.register.check_size(rows.num_rows() as u64, 0)?;
        let posted = self.columns.take(rows)?;
        self.register.post(&BatchName { epoch, name: name.to_owned() }, posted)
    }

    /// Waits for a batch that was posted before. `None` if it is not known, or not any more: then it is to be posted
    /// again.
    ///
    /// # Errors
    /// When the service has ended without its outcomes.
    pub fn find(&self, epoch: u64, name: &str) -> Result<Option<Posting>, ServiceError> {
        self.register.find(&BatchName { epoch, name: name.to_owned() }, None)
    }

    /// Returns the outcomes of rows, one row for each, in order, as soon as all are there. Waits for room first.
    ///
    /// # Errors
    /// When the rows do not fit the job, and when the service has ended.
    pub async fn ask(&self, epoch: u64, rows: &RecordBatch) -> Result<RecordBatch, ServiceError> {
        let name = Uuid::new_v4().simple().to_string();
        let mut room = self.register.room();
        let mut posting = loop {
            room.mark_unchanged();
            match self.post(epoch, &name, rows) {
                Err(ServiceError::Full) => {
                    // The register lives as long as the service.
                    let _ = room.changed().await;
                }
                posted => break posted?,
            }
        };
        loop {
            if let Some(outcomes) = posting.outcomes(WAIT).await? {
                return Ok(outcomes);
            }
        }
    }

    /// Notes that the outcomes of an epoch are where they are to stay. Its journal is removed.
    ///
    /// # Errors
    /// When the account cannot be flushed or the journal cannot be removed.
    pub fn committed(&self, epoch: u64) -> Result<(), ServiceError> {
        // The journal holds what its answers cost, until the account has it for good.
        self.account.sync().map_err(|error| ServiceError::Journal(error.to_string()))?;
        self.epochs.committed(epoch).map_err(|error| ServiceError::Journal(error.to_string()))
    }

    /// Returns the state of the service.
    #[must_use]
    pub fn state(&self) -> ServiceState {
        let (totals, held) = (self.tally.totals(), self.register.held());
        let end = self.end.borrow().clone();
        ServiceState {
            app_id: self.job.app_id.clone(),
            state: match (&end, self.register.closed()) {
                (Some(_), _) => "ended",
                (None, Some(_)) => "stopping",
                (None, None) => "serving",
            },
            message: end.as_deref().map(in_words),
            open_batches: held.batches,
            open_rows: held.rows,
            open_bytes: held.bytes,
            epochs: self.epochs.list().unwrap_or_default().into_iter().collect(),
            in_flight: totals.in_flight(),
            answers: totals.answers,
            errors: totals.errors.iter().map(|(class, count)| ((*class).to_owned(), *count)).collect(),
            throttled: totals.throttled,
            cost_usd: totals.cost.map(crate::ident::Money::dollars),
            waits_for: totals.waiting(crate::clock::now()),
        }
    }

    /// Waits until the job has ended, and returns how.
    pub async fn ended(&self) -> Arc<Result<End, RunError>> {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        ended.unwrap_or_else(|| Arc::new(Err(RunError::Task("the session is gone".to_owned()))))
    }
}

/// Gets what a service shares with its session, or why there is no session.
type OpenedSender = oneshot::Sender<Result<OpenedSession, RunError>>;

/// What a service shares with its session.
struct OpenedSession {
    epochs: EpochJournals,
    account: Account,
}

/// The session behind a service.
struct ServedSession {
    job: Arc<Job>,
    run: RunId,
    options: ServiceOptions,
    register: Arc<Register>,
    columns: Arc<Columns>,
    inbox: mpsc::Receiver<BatchName>,
    withdrawals: mpsc::Receiver<crate::ident::BatchId>,
    has_rows: watch::Receiver<bool>,
    stop: watch::Receiver<StopRequest>,
    simulator: Option<Url>,
    voice: Voice,
}

impl ServedSession {
    /// Serves until the job ends. `opened` is used once the session has the job to itself.
    async fn serve(self, opened: &mut Option<OpenedSender>) -> Result<End, RunError> {
        let job = Arc::clone(&self.job);
        let session = Session::open(&job, Scope::Server, self.run).await?;
        let end = session.during(Box::pin(self.serve_in(&session, opened))).await;
        session.release().await;
        end
    }

    async fn serve_in(
        self,
        session: &Session<'_>,
        opened: &mut Option<OpenedSender>,
    ) -> Result<End, RunError> {
        let ServedSession { job, run: _, options, register, columns, inbox, withdrawals, .. } = self;
        let (mut has_rows, stop, voice) = (self.has_rows, self.stop, self.voice);
        let mut budget = session.budget().await?;
        budget.check(&job)?;
        let (epochs, copier) = session.epochs(&mut budget, &voice).await?;
        if let Some(opened) = opened.take() {
            // The caller may be gone.
            let account = budget.account.clone();
            let _ = opened.send(Ok(OpenedSession { epochs: epochs.clone(), account }));
        }
        let first = unless_stopped(&stop, async {
            let first = has_rows.wait_for(|has_rows| *has_rows).await;
            Ok(first.ok().and_then(|_| columns.read()))
        });
        let Some(read) = first.await?.flatten() else {
            if let Some(copier) = copier {
                copier.finish(options.grace).await;
            }
            return Ok(End::Stopped);
        };
        let mut prepared = PreparedJob::new(&job, &read, self.simulator.as_ref())?;
        prepared.enricher.asks_online = true;
        let lineage = epochs.lineage();
        let (enricher, next) = session.enricher_of_server(prepared.enricher, epochs, &budget, &voice)?;
        let mode = enricher.mode();
        let feed =
            ServedFeed { register: Arc::clone(&register), inbox, withdrawals: Some(withdrawals), mode, next };
        let drain = ServedDrain {
            register,
            columns: columns.fit(&read).map_err(|error| RunError::Task(error.to_string()))?,
        };
        let guard = session.lease_guard();
        let running = Running::new(enricher, feed, drain, lineage, guard, copier, voice);
        let options = RunOptions {
            grace: options.grace,
            max_rows: None,
            max_duration: None,
            begin: Begin::Continue,
            confirmed: true,
            waits: false,
            asks_online: true,
            keep_paid: true,
        };
        running.run(options, stop).await
    }
}

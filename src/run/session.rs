//! A session: everything that a command opens before it may send a request, in one place and one order.
//!
//! First the folders are probed, then the job is locked (and leased, if its checkpoint is in an object store). Once the
//! caller has the checkpoint, it opens the metrics, then the journals with the enricher. A run, a retry and a pilot
//! open the same things; a retry has folders of its own, below those of the run, so that both may go on at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::copier::Copier;
use super::error::RunError;
use super::exclusive::{Exclusive, LeaseGuard, RETRY_FOLDER, home};
use super::feed::{CommitLog, figures_wait};
use super::run_budget::{RunBudget, listed_in};
use super::submission_guard::RunGuard;
use super::writable::check_writable;
use crate::budget::Account;
use crate::cache::{CacheLimits, Store};
use crate::checkpoint::{
    Checkpoint, MachineId, PlannedBatch, Submission, SubmissionState, Submissions, SubmissionsFile,
};
use crate::config::Job;
use crate::enricher::{Enricher, JobSubmissions, Journals, LearnedFile, Prepared, Strictness, asked_by};
use crate::event::{Event, Voice};
use crate::ident::{AppId, BatchId, Fingerprint, Lineage, RunId};
use crate::journal::{self, Copies, EpochJournals, JournalFolder, JournalHeader, Restored, StrayAnswers};
use crate::ledger::{CommitOrder, Ledger, Window};
use crate::metrics::{Counters, MetricsOwner, MetricsWriter, ProviderOfStep, RunKind};
use crate::store::{self, Folder};
use crate::submitter::{self, SharedSubmissions};
use crate::wording::counted;

/// Folder of the copies of the journals, in the folder of the checkpoint.
pub(crate) const COPIES: &str = "journal";

/// Folder of the files of requests for Batch APIs, in the local folder of state.
const SPOOL: &str = "spool";

/// What to do about rows at a provider before a job starts over.
const STILL_OUT: &str = "take them in: enrich run JOB --wait; or let go of each batch: enrich batches JOB --cancel or --give-up with its number";
/// What to do about rows at a provider that is no longer asked by batch.
const NOT_ASKED: &str = "put the section back, and take them in: enrich run JOB --wait; or have them sent again, and perhaps paid for twice: enrich batches JOB --give-up with the number of each batch";

/// Folder of the journals of a server's epochs, in the folder of the journal.
pub(crate) const SERVED_FOLDER: &str = "served";
/// Folder of the copies of these journals, in the folder of the checkpoint.
const SERVED_COPIES: &str = "served-journal";

/// Lowest number for a batch that is in no checkpoint, far above those that a checkpoint reaches.
const FIRST_OUTSIDE: u64 = 1 << 62;

/// What a session is for, which decides about the folders that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A run, or a pilot of one.
    Run,
    /// A retry of failed rows.
    Retry,
    /// A server, to which other programs post rows. It excludes runs.
    Server,
}

/// A job that this process holds exclusively.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    job: &'a Job,
    scope: Scope,
    folders: Folders,
    run: RunId,
    exclusive: Exclusive,
}

/// The folders of a session.
#[derive(Debug)]
struct Folders {
    /// Folder of the job's checkpoint.
    job_home: Folder,
    /// Folder of the session's checkpoint: for a run `job_home`, for a retry a folder in it.
    home: Folder,
    /// Local folder of the lock and of files for the next session, such as the counters.
    state: PathBuf,
    journal: PathBuf,
}

impl Folders {
    async fn of(job: &Job, scope: Scope) -> Result<Self, RunError> {
        let job_home = home(job).await?;
        let (state, journal) = (&job.places.state, &job.places.journal);
        let (home, state, journal) = match scope {
            Scope::Run => (job_home.clone(), state.clone(), journal.clone()),
            Scope::Retry => {
                (job_home.join(RETRY_FOLDER), state.join(RETRY_FOLDER), journal.join(RETRY_FOLDER))
            }
            Scope::Server => (job_home.clone(), state.clone(), journal.join(SERVED_FOLDER)),
        };
        Ok(Folders { job_home, home, state, journal })
    }
}

impl<'a> Session<'a> {
    /// Probes the folders of a job and locks it, as `run`.
    ///
    /// # Errors
    /// When a folder cannot be written, and when another run holds the job.
    pub(crate) async fn open(job: &'a Job, scope: Scope, run: RunId) -> Result<Self, RunError> {
        let folders = Folders::of(job, scope).await?;
        folders.home.probe().await?;
        store::probe(&folders.journal)?;
        Session::in_folders(job, scope, folders, run).await
    }

    /// Locks a job, as `run`, without probing whether its folders can be written.
    ///
    /// # Errors
    /// When another run holds the job.
    pub(crate) async fn lock(job: &'a Job, scope: Scope, run: RunId) -> Result<Self, RunError> {
        Session::in_folders(job, scope, Folders::of(job, scope).await?, run).await
    }

    async fn in_folders(job: &'a Job, scope: Scope, folders: Folders, run: RunId) -> Result<Self, RunError> {
        let Folders { home, state, journal, .. } = &folders;
        let exclusive = Exclusive::take(state, home, journal, job.places.lease, run).await?;
        Ok(Session { job, scope, folders, run, exclusive })
    }

    /// Does `work` with exclusive access to the account of the job's budget. The caller releases the session
    /// afterwards.
    ///
    /// # Errors
    /// Those of the work, and when another session spends from the same budget.
    pub(crate) async fn during<T>(
        &self,
        work: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        Box::pin(RunBudget::during(self.job, &self.folders.job_home, self.run, Box::pin(work))).await
    }

    /// Releases the lease and the locks of the job.
    pub(crate) async fn release(self) {
        self.exclusive.release().await;
    }

    pub(crate) fn job(&self) -> &'a Job {
        self.job
    }

    /// Folder of the session's checkpoint.
    pub(crate) fn home(&self) -> &Folder {
        &self.folders.home
    }

    /// Local folder of files for the next session.
    pub(crate) fn state(&self) -> &PathBuf {
        &self.folders.state
    }

    /// Id of the run that holds the job.
    pub(crate) fn run(&self) -> RunId {
        self.run
    }

    /// The proof that this session holds the job.
    pub(crate) fn lease_guard(&self) -> LeaseGuard {
        self.exclusive.lease_guard()
    }

    /// Opens the budget of the job and its account.
    ///
    /// # Errors
    /// When the record of the spending so far cannot be read.
    pub(crate) async fn budget(&self) -> Result<RunBudget, RunError> {
        RunBudget::open(self.job, &self.folders.job_home).await
    }

    /// Opens the metrics table. Returns its writer, or `None` if the job has no metrics table, and `voice` extended by
    /// the counters of providers.
    ///
    /// # Errors
    /// When the counters of providers cannot be written.
    pub(crate) async fn metrics(
        &self,
        run: RunId,
        lineage: Lineage,
        voice: &Voice,
    ) -> Result<(Option<MetricsWriter>, Voice), RunError> {
        let Some(at) = &self.job.metrics else { return Ok((None, voice.clone())) };
        if let Some(Err(error)) = at.path().map(check_writable) {
            voice.say(&Event::Notice(&figures_wait(&error.into())));
        }
        let names = self.job.providers.iter().map(|provider| provider.name.clone());
        let counters = Counters::open(&self.folders.state, names)?;
        let owner = self.figures_owner(run, lineage);
        let writer = MetricsWriter::open(at, self.folders.home.clone(), owner, counters.clone()).await?;
        Ok((Some(writer), voice.clone().and(Box::new(counters))))
    }

    /// As [`Session::metrics`], and appends the metrics that earlier sessions left behind to the table. If that fails,
    /// a notice is reported and they stay pending.
    ///
    /// # Errors
    /// As [`Session::metrics`], and when the log of `target` cannot be read.
    pub(crate) async fn metrics_with_left_behind(
        &self,
        run: RunId,
        lineage: Lineage,
        voice: &Voice,
        target: &impl CommitLog,
    ) -> Result<(Option<MetricsWriter>, Voice), RunError> {
        let (mut writer, voice) = self.metrics(run, lineage, voice).await?;
        if let Some(writer) = &mut writer {
            let mut newest = BTreeMap::new();
            for lineage in writer.left_behind_lineages() {
                newest.insert(lineage, target.newest_of(lineage).await?);
            }
            if let Err(error) = writer.append_left_behind(&newest).await {
                voice.say(&Event::Notice(&figures_wait(&error)));
            }
        }
        Ok((writer, voice))
    }

    /// Opens the journals of a checkpoint's lineage and starts the enricher. Returns it with the copier of the
    /// journals, which is `None` if the checkpoint is not in an object store.
    ///
    /// # Errors
    /// When a journal or the cache cannot be opened.
    pub(crate) async fn enricher<P>(
        &self,
        prepared: Prepared,
        checkpoint: &Checkpoint<P>,
        outstanding: &[PlannedBatch],
        budget: RunBudget,
        max_rows: Option<u64>,
        voice: &Voice,
    ) -> Result<(Enricher, Option<Copier>), RunError> {
        let (mut journals, copier) = self.journals(checkpoint, outstanding, budget, voice).await?;
        let open = std::mem::take(&mut journals.open);
        let first = outstanding.first().map_or(checkpoint.next_batch, |batch| batch.id);
        let guard = RunGuard {
            lease: self.lease_guard(),
            copies: copier.as_ref().map(|copier| copier.copies.clone()),
        };
        let account = &journals.account;
        journals.submissions = self.submissions(checkpoint.target_id.clone(), first, account, guard).await?;
        let steps = asked_by(&prepared.steps);
        let unloaded = journals
            .submissions
            .as_ref()
            .map(|own| own.list.read(|list| list.still_unloaded(outstanding, steps)));
        let ledger = self.ledger(checkpoint.next_batch, outstanding, &unloaded.unwrap_or_default());
        let strictness = match self.scope {
            Scope::Run | Scope::Server => Strictness::Probation,
            // Failed rows may all fail again, which shows nothing about the run.
            Scope::Retry => Strictness::RowByRow,
        };
        let mut enricher = Enricher::start(prepared, ledger, journals, max_rows, strictness, voice.clone())?;
        enricher.seed(&open)?;
        Ok((enricher, copier))
    }

    /// Starts the enricher of batches that are in no checkpoint, such as that of a pilot: first the batches `planned`,
    /// then those that its feed plans, whose numbers follow the last of `planned`, or begin at [`outside_checkpoint`].
    /// The answers in all journals of the job are used, and no journal is removed. Returns the enricher with the folder
    /// of the journals, in which a drain puts aside those of its batches, so that a run finds their answers.
    ///
    /// # Errors
    /// When a journal or the cache cannot be read.
    pub(crate) fn enricher_without_checkpoint(
        &self,
        prepared: Prepared,
        lineage: Lineage,
        planned: &[PlannedBatch],
        budget: &RunBudget,
        voice: &Voice,
    ) -> Result<(Enricher, JournalFolder), RunError> {
        let folder = JournalFolder::open(&self.folders.journal)?;
        let mut stray_answers = StrayAnswers::default();
        for found in folder.list()? {
            // Journals of a run's open batches count, too: their answers are paid for.
            stray_answers.absorb_records(journal::read_all(&found.path)?);
        }
        let cache = self.job.cache.as_ref().map(|spec| Store::open(&spec.path, spec.into())).transpose()?;
        let next = planned.last().map_or_else(outside_checkpoint, |batch| batch.id.next());
        let ledger = self.ledger(next, planned, &BTreeSet::new());
        let account = budget.account.clone();
        let (learned, open) = (self.learned(), Vec::new());
        let journals = Journals {
            lineage,
            folder: folder.clone(),
            stray_answers,
            epochs: None,
            learned,
            account,
            cache,
            open,
            submissions: None,
        };
        let mut enricher =
            Enricher::start(prepared, ledger, journals, None, Strictness::Probation, voice.clone())?;
        enricher.seed(&[])?;
        Ok((enricher, folder))
    }

    /// Opens the journals of a server's epochs. If the checkpoint is in an object store, restores records that this
    /// machine lacks from their copies there, and starts the copier.
    ///
    /// # Errors
    /// When a journal or its copies cannot be read.
    pub(crate) async fn epochs(
        &self,
        budget: &mut RunBudget,
        voice: &Voice,
    ) -> Result<(EpochJournals, Option<Copier>), RunError> {
        let lineage = served_lineage(&self.job.app_id);
        let mut folder = JournalFolder::open(&self.folders.journal)?;
        let mut copier = None;
        if let Some(objects) = self.folders.home.objects() {
            let copying = &self.job.places.copying;
            let machine = MachineId::of(folder.path())?;
            let copies = Copies::new(objects.join(SERVED_COPIES), &machine, copying.bytes);
            let headers = EpochJournals::headers(lineage, copies.batches(lineage).await?);
            let restored = copies.restore(folder.path(), lineage, BatchId::new(0), &headers).await?;
            report_restored(&restored, voice);
            folder.copy_to(copies.clone());
            copier = Some(Copier::start(copies, budget.copy.take(), copying.every, voice.clone()));
        }
        Ok((EpochJournals::open(folder, lineage)?, copier))
    }

    /// Starts the enricher of a server, whose batches come one by one and have their answers in the journals of their
    /// epochs. Returns it with the number of the first batch.
    ///
    /// # Errors
    /// When the cache cannot be opened.
    pub(crate) fn enricher_of_server(
        &self,
        prepared: Prepared,
        epochs: EpochJournals,
        budget: &RunBudget,
        voice: &Voice,
    ) -> Result<(Enricher, BatchId), RunError> {
        let cache = self.job.cache.as_ref().map(|spec| Store::open(&spec.path, spec.into())).transpose()?;
        let first = outside_checkpoint();
        // What is posted is bounded before it gets here, so that a batch needs no room kept for it.
        let window = Window { batch_rows: 0, batch_bytes: 0, ..Window::of(self.job) };
        let ledger = Ledger::new(window, self.job.steps.len(), first, [], &BTreeSet::new());
        let journals = Journals {
            lineage: served_lineage(&self.job.app_id),
            folder: JournalFolder::open(&self.folders.journal)?,
            stray_answers: StrayAnswers::default(),
            epochs: Some(epochs),
            learned: self.learned(),
            account: budget.account.clone(),
            cache,
            open: Vec::new(),
            submissions: None,
        };
        let ledger = ledger.with_order(CommitOrder::AsFilled);
        let enricher =
            Enricher::start(prepared, ledger, journals, None, Strictness::Probation, voice.clone())?;
        Ok((enricher, first))
    }

    /// Returns a ledger with the batches `planned`; the next batch to be planned gets the number `next`.
    /// Those in `unloaded` are read when a submission comes back.
    fn ledger(&self, next: BatchId, planned: &[PlannedBatch], unloaded: &BTreeSet<BatchId>) -> Ledger {
        let planned = planned.iter().map(|batch| (batch.id, batch.rows(), batch.bytes));
        Ledger::new(Window::of(self.job), self.job.steps.len(), next, planned, unloaded)
    }

    /// Checks that no batch at a provider holds rows of the job, before it starts over.
    ///
    /// # Errors
    /// When one does, and when the list of submissions cannot be read.
    pub(crate) async fn check_nothing_submitted(&self) -> Result<(), RunError> {
        let home = &self.folders.job_home;
        for folder in [home.clone(), home.join(RETRY_FOLDER)] {
            if let Some(list) = SubmissionsFile::in_folder(&folder).load().await? {
                refuse_submitted(&list)?;
            }
        }
        Ok(())
    }

    /// Checks that the providers with rows of the job in batches are still asked by batch. Drops what never reached one
    /// that is not.
    fn check_asked_by_batch(&self, list: &mut Submissions) -> Result<(), RunError> {
        let is_asked = |submission: &Submission| {
            let mut own = self.job.providers.iter().filter(|own| own.name == submission.provider);
            own.any(|provider| provider.batch.is_some())
        };
        for submission in list.open.iter_mut().filter(|own| own.state.is_open() && !is_asked(own)) {
            if submission.state.may_bring_answers() {
                let (rows, provider) = (counted(submission.lines, "row"), &submission.provider);
                let what = format!(
                    "{rows} of this job wait for a batch at provider {provider}, and the job has no section [provider.{provider}.batch]"
                );
                return Err(RunError::Mismatch { what, hint: NOT_ASKED });
            }
            submission.state = SubmissionState::Dropped;
        }
        Ok(())
    }

    /// Opens the list of submissions, if a provider is asked through its Batch API.
    async fn submissions(
        &self,
        target_id: String,
        first_uncommitted: BatchId,
        account: &Account,
        guard: RunGuard,
    ) -> Result<Option<JobSubmissions>, RunError> {
        let file = SubmissionsFile::in_folder(&self.folders.home);
        let mut list = file.load().await?;
        if let Some(list) = &mut list {
            self.check_asked_by_batch(list)?;
        }
        if !self.job.providers.iter().any(|provider| provider.batch.is_some()) {
            return Ok(None);
        }
        let folder = self.folders.state.join(SPOOL);
        if let Some(list) = &list {
            submitter::sweep(&folder, list);
        }
        // A retry has a list of its own, and its batches are told apart by the name of the job that they carry.
        let (app_id, other) = match self.scope {
            Scope::Run | Scope::Server => (self.job.app_id.clone(), self.folders.job_home.join(RETRY_FOLDER)),
            Scope::Retry => (self.job.app_id.retry(), self.folders.job_home.clone()),
        };
        let others = Box::pin(listed_in(&other)).await?;
        let (run, account) = (self.run, account.clone());
        Ok(Some(JobSubmissions {
            app_id: app_id.clone(),
            target_id,
            run: self.run,
            machine: MachineId::of(&self.folders.journal)?,
            list: SharedSubmissions::new(file, list, &app_id, run, account, others),
            folder,
            first_uncommitted,
            guard: Arc::new(guard),
        }))
    }

    fn learned(&self) -> LearnedFile {
        LearnedFile::load(self.folders.home.path().unwrap_or(&self.job.places.state))
    }

    /// Returns the job and run that own the session's metrics.
    fn figures_owner(&self, run_id: RunId, lineage: Lineage) -> MetricsOwner {
        let job = self.job;
        let first_step = |at: usize| {
            let step = job.steps.iter().find(|step| step.all_providers().any(|own| own == at))?;
            Some(ProviderOfStep { provider: job.providers[at].name.clone(), step: step.output.clone() })
        };
        MetricsOwner {
            app_id: job.app_id.clone(),
            kind: match self.scope {
                Scope::Run | Scope::Server => RunKind::Run,
                Scope::Retry => RunKind::Retry,
            },
            run_id,
            lineage,
            steps: job.steps.iter().map(|step| step.output.as_str().into()).collect(),
            providers: (0..job.providers.len()).filter_map(first_step).collect(),
        }
    }

    /// Opens the journals of a checkpoint's lineage: removes those of committed batches and puts aside those of no
    /// planned batch. If the checkpoint is in an object store, restores records that this machine lacks from their
    /// copies there, and starts the copier.
    async fn journals<P>(
        &self,
        checkpoint: &Checkpoint<P>,
        outstanding: &[PlannedBatch],
        mut budget: RunBudget,
        voice: &Voice,
    ) -> Result<(Journals, Option<Copier>), RunError> {
        let lineage = checkpoint.lineage;
        let mut folder = JournalFolder::open(&self.folders.journal)?;
        let mut stray_answers = StrayAnswers::default();
        let mut open = Vec::new();
        let first = outstanding.first().map_or(checkpoint.next_batch, |batch| batch.id);
        for found in folder.list()? {
            let own = found.header.filter(|header| header.lineage == lineage && !found.is_aside());
            let is_planned = |header: &JournalHeader| {
                outstanding.iter().any(|plan| plan.id == header.batch && plan.digest() == header.digest)
            };
            let is_foreign = found.header.is_none_or(|header| header.lineage != lineage);
            let too_old = checkpoint.asks_all_since.is_some_and(|since| found.is_older_than(since.into()));
            match own {
                Some(header) if header.batch < first => folder.forget(header.batch)?,
                Some(header) if is_planned(&header) => open.push(found.path.clone()),
                _ if is_foreign && too_old => folder.remove(&found)?,
                _ => stray_answers.absorb(folder.put_aside(&found)?)?,
            }
        }
        let mut copier = None;
        if let Some(objects) = self.folders.home.objects() {
            let copying = &self.job.places.copying;
            let machine = MachineId::of(folder.path())?;
            let copies = Copies::new(objects.join(COPIES), &machine, copying.bytes);
            let header =
                |plan: &PlannedBatch| JournalHeader { lineage, batch: plan.id, digest: plan.digest() };
            let planned: Vec<JournalHeader> = outstanding.iter().map(header).collect();
            let restored = copies.restore(folder.path(), lineage, first, &planned).await?;
            report_restored(&restored, voice);
            if checkpoint.asks_all_since.is_none() {
                stray_answers.absorb_records(restored.stray_answers);
            }
            folder.copy_to(copies.clone());
            copier = Some(Copier::start(copies, budget.copy.take(), copying.every, voice.clone()));
        }
        let limits = |spec| match checkpoint.asks_all_since {
            // The cache stores times in whole seconds: entries of the second of `since` may be older than `since`.
            Some(since) => CacheLimits { not_before: since.timestamp() + 1, ..CacheLimits::from(spec) },
            None => CacheLimits::from(spec),
        };
        let cache = self.job.cache.as_ref().map(|spec| Store::open(&spec.path, limits(spec))).transpose()?;
        let (learned, account) = (self.learned(), budget.account);
        let journals = Journals {
            lineage,
            folder,
            stray_answers,
            epochs: None,
            learned,
            account,
            cache,
            open,
            submissions: None,
        };
        Ok((journals, copier))
    }
}

/// Refuses to start over while batches at a provider hold rows that would be asked again.
fn refuse_submitted(list: &Submissions) -> Result<(), RunError> {
    let out = list.open.iter().filter(|own| own.state.may_bring_answers());
    let rows: u64 = out.map(|submission| submission.lines).sum();
    if rows == 0 {
        return Ok(());
    }
    Err(RunError::Mismatch {
        what: format!(
            "{} of this job wait for batches at a provider, and would be paid for twice",
            counted(rows, "row")
        ),
        hint: STILL_OUT,
    })
}

/// The lineage of the journals of a job's epochs: the same for every server of the job.
fn served_lineage(app_id: &AppId) -> Lineage {
    Lineage::from_bytes(Fingerprint::of([b"served".as_slice(), app_id.as_str().as_bytes()]).to_bytes())
}

/// Returns a random number for a batch that is in no checkpoint; no job has enough batches to reach it.
pub(crate) fn outside_checkpoint() -> BatchId {
    BatchId::new(FIRST_OUTSIDE + u64::from(fastrand::u32(..)))
}

fn report_restored(restored: &Restored, voice: &Voice) {
    let Restored { records, stray_answers, damaged } = restored;
    let found = records + stray_answers.len() as u64;
    if found > 0 {
        let text = format!("{} brought back from the copies of the journal", counted(found, "answer"));
        voice.say(&Event::Notice(&text));
    }
    for place in damaged {
        let text = format!("{place} is damaged: answers in it that cannot be read are requested again");
        voice.say(&Event::Notice(&text));
    }
}

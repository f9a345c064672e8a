//! The submitter of a provider: one task that writes requests into a file, hands full files to the Batch API, and brings
//! the answers into the journals.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::context::{SubmitterContext, SubmitterNews, SubmitterStatus};
use super::error::SubmitterError;
use super::spool::{Spool, path_of};
use super::submission::{SubmissionAction, SubmissionDriver, SubmissionPolicy};
use crate::checkpoint::{Submission, SubmissionState};
use crate::clock;
use crate::config::{BatchApiSettings, Provider};
use crate::executor::{Billing, ExecutorIo, Mode, Reply, Request, Verdict};
use crate::fault::{Class, Failure};
use crate::faultpoint::{self, Side};
use crate::ident::SubmissionId;
use crate::transport::{BatchApi, Endpoint};

/// Share of `max_bytes` at which a file is full, in hundredths.
const FULL_AT: u64 = 95;
/// Most bytes of a line besides its body.
const AROUND_BODY: u64 = 1_024;
/// Time within which a next step keeps a run from ending.
const SOON: Duration = Duration::from_secs(4 * 60);
/// Longest time for which the task sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Bytes per token, where an estimate is enough.
const BYTES_PER_TOKEN: u64 = 4;

/// One provider's submitter.
pub struct Submitter {
    pub(super) context: SubmitterContext,
    pub(super) name: Arc<str>,
    pub(super) settings: BatchApiSettings,
    pub(super) api: BatchApi,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) billing: Billing,
    pub(super) io: ExecutorIo,
    pub(super) rest: SubmitterStatus,
    pub(super) spool: Option<Spool>,
    pub(super) drivers: HashMap<SubmissionId, SubmissionDriver>,
    /// The number of the last request to hand in files that are not full.
    pub(super) drained: u64,
    /// Number of polls, which decides whose turn it is to be asked for by itself.
    pub(super) turn: usize,
}

/// Why the task ends.
pub(super) enum SubmitterEnd {
    Gone,
    Broken(SubmitterError),
}

impl<E: Into<SubmitterError>> From<E> for SubmitterEnd {
    fn from(error: E) -> Self {
        SubmitterEnd::Broken(error.into())
    }
}

impl Submitter {
    /// Creates the submitter of a provider with a section for its Batch API.
    #[must_use]
    pub fn new(
        provider: &Provider,
        settings: BatchApiSettings,
        api: BatchApi,
        endpoint: Arc<Endpoint>,
        context: SubmitterContext,
        io: ExecutorIo,
    ) -> Self {
        Submitter {
            context,
            name: provider.name.as_str().into(),
            settings,
            api,
            endpoint,
            billing: Billing::new(provider, io.voice.clone()),
            io,
            rest: SubmitterStatus::default(),
            spool: None,
            drivers: HashMap::new(),
            drained: 0,
            turn: 0,
        }
    }

    /// Whether it has nothing to do for a while.
    #[must_use]
    pub fn rest(&self) -> SubmitterStatus {
        self.rest.clone()
    }

    /// Runs until the run ends.
    pub async fn run(mut self) {
        let mut mode = self.io.mode.clone();
        let aborted = async move {
            while *mode.borrow_and_update() != Mode::Aborting {
                if mode.changed().await.is_err() {
                    // The run has ended in its order: what is under way is brought to an end.
                    std::future::pending::<()>().await;
                }
            }
        };
        let worked = tokio::select! {
            biased;
            // What is cut off is found by the next run: before a batch is made, the list says so.
            () = aborted => Err(SubmitterEnd::Gone),
            worked = self.work() => worked,
        };
        if let Err(SubmitterEnd::Broken(error)) = worked {
            let _ = self.context.news.send(SubmitterNews::Broken(error));
            self.io.capacity_freed.notify_one();
        }
        // Rows that still come are given back, so that the run can end.
        self.give_back_all().await;
    }

    async fn work(&mut self) -> Result<(), SubmitterEnd> {
        self.begin().await?;
        loop {
            let mode = *self.io.mode.borrow();
            if mode != Mode::Running {
                return self.end();
            }
            if self.take_steps().await? {
                continue;
            }
            let due = self.next_due();
            self.report_rest(due);
            let has_room = self.outstanding() < self.settings.max_outstanding;
            let sleep = due.map_or(LONGEST_SLEEP, |due| (due - clock::wall()).to_std().unwrap_or_default());
            tokio::select! {
                biased;
                changed = self.io.mode.changed() => changed.map_err(|_| SubmitterEnd::Gone)?,
                request = self.io.inbox.recv(), if has_room => match request {
                    Some(request) => self.take(request).await?,
                    None => return self.end(),
                },
                changed = self.context.drain.changed() => {
                    changed.map_err(|_| SubmitterEnd::Gone)?;
                    self.drained = *self.context.drain.borrow_and_update();
                    self.seal().await?;
                }
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Looks at the submissions of earlier runs: those that never reached the provider, and whose file is not here, are
    /// dropped.
    async fn begin(&mut self) -> Result<(), SubmitterEnd> {
        let (name, folder, machine) =
            (Arc::clone(&self.name), self.context.folder.clone(), self.context.machine);
        let policy = self.policy();
        let kept = self.context.submissions.change(|list| {
            let mut kept = Vec::new();
            let now = clock::wall();
            for submission in list.open.iter_mut().filter(|submission| submission.provider == *name) {
                let has_file = submission.machine == machine && path_of(&folder, submission.id).exists();
                let was_made = submission.state.may_bring_answers();
                if submission.state.is_open() && !was_made && !has_file {
                    (submission.state, submission.since) = (SubmissionState::Dropped, now);
                }
                if submission.state.is_open() {
                    kept.push(submission.id);
                }
            }
            kept
        });
        for id in kept.await? {
            self.drivers.insert(id, SubmissionDriver::new(policy, false));
        }
        self.close().await?;
        Ok(())
    }

    /// Removes submissions from the list whose rows are all in the table, and their files from the provider. Until then the
    /// files stay there, in case the journals are lost.
    async fn close(&mut self) -> Result<(), SubmitterEnd> {
        let SubmitterContext { lineage, first_uncommitted: first, .. } = self.context;
        let name = Arc::clone(&self.name);
        let closed = self.context.submissions.change(|list| {
            // Batches of another lineage are not read again.
            list.close(&name, |own, batch| own != lineage || batch < first)
        });
        for submission in closed.await?.into_iter().filter(|_| !self.settings.keeps_files) {
            let answers = submission.remote.iter().flat_map(|copy| copy.output.iter().chain(&copy.errors));
            for file in submission.file.iter().chain(answers) {
                // A file that stays costs nothing.
                let _ = self.api.delete_file(file).await;
            }
        }
        Ok(())
    }

    fn policy(&self) -> SubmissionPolicy {
        SubmissionPolicy {
            recreate_after: self.settings.recreate_after,
            is_idempotent: self.settings.is_idempotent,
            poll: self.settings.poll,
            deadline: self.settings.deadline,
        }
    }

    /// Number of requests at the provider, and in the file that is being written.
    fn outstanding(&self) -> u64 {
        let open = self.context.submissions.read(|list| {
            let own = list.open.iter().filter(|submission| submission.provider == *self.name);
            own.filter(|submission| submission.state.is_open())
                .map(|submission| submission.lines)
                .sum::<u64>()
        });
        open + self.spool.as_ref().map_or(0, |spool| spool.lines)
    }

    pub(super) fn submission(&self, id: SubmissionId) -> Option<Submission> {
        self.context.submissions.read(|list| list.get(id).cloned())
    }

    /// When the next step of a submission is due.
    fn next_due(&self) -> Option<DateTime<Utc>> {
        let now = clock::wall();
        let next =
            self.drivers.iter().filter_map(|(id, driver)| match driver.next(&self.submission(*id)?, now) {
                SubmissionAction::Wait(until) => Some(until),
                SubmissionAction::Nothing => None,
                _ => Some(now),
            });
        next.min()
    }

    /// Tells whether the run may end: nothing is to be written, and what is next is far off.
    fn report_rest(&self, due: Option<DateTime<Utc>>) {
        let now = clock::wall();
        let is_unclear = |submission: &Submission| {
            !matches!(submission.state, SubmissionState::Created | SubmissionState::Collected)
        };
        let has_unclear =
            self.drivers.keys().filter_map(|id| self.submission(*id)).any(|own| is_unclear(&own));
        let is_soon = due.is_some_and(|due| {
            has_unclear && due - now < chrono::TimeDelta::from_std(SOON).unwrap_or_default()
        });
        let rests = self.spool.is_none() && !is_soon;
        let is_full = self.outstanding() >= self.settings.max_outstanding;
        if self.rest.set(rests.then_some(self.drained), is_full) {
            self.io.capacity_freed.notify_one();
        }
    }

    /// Takes a row: its request becomes a line of the file.
    async fn take(&mut self, request: Request) -> Result<(), SubmitterEnd> {
        self.rest.set(None, false);
        let mut replies = vec![self.add(request).await?];
        while self.outstanding() < self.settings.max_outstanding
            && let Ok(request) = self.io.inbox.try_recv()
        {
            replies.push(self.add(request).await?);
            if replies.len() >= self.io.capacity {
                break;
            }
        }
        self.io.capacity_freed.notify_one();
        self.io.outbox.send(replies).await.map_err(|_| SubmitterEnd::Gone)
    }

    async fn add(&mut self, request: Request) -> Result<Reply, SubmitterEnd> {
        let endpoint =
            if request.params.vectors.is_some() { "/v1/embeddings" } else { "/v1/chat/completions" };
        let body = self.endpoint.body_in_file(&request.question, &request.params);
        let most = self.settings.max_bytes / 100 * FULL_AT;
        if body.len() as u64 + AROUND_BODY > most {
            let failure = Failure::new(
                Class::TooLarge,
                format!("the request is larger than a file may be, {most} bytes"),
            );
            return Ok(self.reply(request, Verdict::Failed(failure)));
        }
        let is_other = self.spool.as_ref().is_some_and(|spool| {
            spool.endpoint != endpoint || spool.bytes + body.len() as u64 + AROUND_BODY > most
        });
        if is_other {
            self.seal().await?;
        }
        let worst = self.billing.worst_case(std::iter::once(&request.question), &request.params);
        if self.spool.is_none() {
            let created = Spool::create(&self.context.folder, endpoint);
            self.spool = Some(created.map_err(|source| self.spool_error("begin", source))?);
        }
        let Some(spool) = &mut self.spool else { return Err(SubmitterEnd::Gone) };
        let added = spool.add(&request, body, worst);
        let is_full = spool.lines >= u64::from(self.settings.max_requests);
        added.map_err(|source| self.spool_error("write", source))?;
        if is_full {
            self.seal().await?;
        }
        Ok(self.reply(request, Verdict::Submitted))
    }

    fn reply(&self, request: Request, verdict: Verdict) -> Reply {
        Reply { request, provider: self.io.provider, attempts: 0, verdict }
    }

    pub(super) fn pass(&self, action: &'static str, side: Side) -> Result<(), SubmitterError> {
        faultpoint::pass(action, side).map_err(|source| self.spool_error(action, source))
    }

    fn spool_error(&self, action: &'static str, source: io::Error) -> SubmitterError {
        SubmitterError::Spool { action, folder: self.context.folder.clone(), source }
    }

    /// Makes a submission of the file that is being written. From then on its rows are asked nowhere else.
    async fn seal(&mut self) -> Result<(), SubmitterEnd> {
        let Some(mut spool) = self.spool.take() else { return Ok(()) };
        self.pass("spool", Side::Before)?;
        spool.finish().map_err(|source| self.spool_error("flush", source))?;
        spool.record(&self.name, self.endpoint.model())?;
        self.pass("spool", Side::After)?;
        let now = clock::wall();
        let submission = Submission {
            id: spool.id,
            number: 0,
            lineage: self.context.lineage,
            machine: self.context.machine,
            run: self.context.run,
            provider: self.name.to_string(),
            model: self.endpoint.model().to_string(),
            address: self.endpoint.address(),
            endpoint: spool.endpoint.to_owned(),
            steps: spool.steps.iter().map(ToString::to_string).collect(),
            files: spool.files.iter().map(ToString::to_string).collect(),
            batches: spool.rows_by_batch(),
            lines: spool.lines,
            bytes: spool.bytes,
            prompt_tokens: spool.prompt_bytes / BYTES_PER_TOKEN,
            worst: spool.worst,
            state: SubmissionState::Sealed,
            since: now,
            file: None,
            uploaded_at: None,
            remote: Vec::new(),
            looks: 0,
            took: None,
        };
        let saved = self.context.submissions.change(|list| {
            let number = list.next_number();
            list.open.push(Submission { number, ..submission });
        });
        saved.await?;
        self.drivers.insert(spool.id, SubmissionDriver::new(self.policy(), true));
        Ok(())
    }

    /// Ends with the run. A file that is not full is given up: its rows are asked by the next run.
    fn end(&mut self) -> Result<(), SubmitterEnd> {
        if let Some(spool) = self.spool.take() {
            spool.discard();
        }
        Ok(())
    }

    /// Gives back rows that still come, until the run has ended.
    async fn give_back_all(&mut self) {
        loop {
            let request = tokio::select! {
                changed = self.io.mode.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                request = self.io.inbox.recv() => request,
            };
            let Some(request) = request else { return };
            let reply = self.reply(request, Verdict::Unsent);
            if self.io.outbox.send(vec![reply]).await.is_err() {
                return;
            }
        }
    }
}

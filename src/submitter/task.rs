//! The submitter of a provider: one task that writes requests into a file, hands full files to the Batch API, and brings
//! the answers into the journals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::time::timeout;

use super::context::{SubmitterContext, SubmitterNews, SubmitterStatus};
use super::error::SubmitterError;
use super::leaders::{Leaders, NewFollowers};
use super::spool::{Spool, tokens_in};
use super::submission::{SubmissionAction, SubmissionDriver, SubmissionPolicy};
use super::unclaimed::UnclaimedAnswers;
use crate::budget::BudgetRefusal;
use crate::checkpoint::{Submission, SubmissionState};
use crate::clock;
use crate::config::{BatchApiSettings, Provider};
use crate::event::OpenSubmissions;
use crate::executor::{Billing, ExecutorIo, Mode, Reply, Request, Verdict};
use crate::fault::{Class, Failure};
use crate::faultpoint::{self, Side};
use crate::ident::{BatchId, SubmissionId};
use crate::transport::{BatchApi, Endpoint};

/// Paths of the interfaces that answer lines.
const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
/// Share of `max_bytes` at which a file is full, in hundredths.
const FULL_AT: u64 = 95;
/// Most bytes of a line besides its body.
const AROUND_BODY: u64 = 1_024;
/// Time within which a next step keeps a run from ending.
const SOON: Duration = Duration::from_secs(4 * 60);
/// Longest time for which the task sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Time until the budget is checked again: a request in flight may cost less than was reserved for it.
const BUDGET_LOOK: Duration = Duration::from_secs(1);
/// Longest time for removing files from the provider at the end of a run.
const CLOSING: Duration = Duration::from_secs(20);

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
    /// A row that cannot be taken before something comes back.
    pub(super) held: Option<Request>,
    /// Requests that other rows can follow; `None` until one could.
    pub(super) leaders: Option<Leaders>,
    pub(super) new_followers: NewFollowers,
    /// Answers of submissions of which no journal names the rows.
    pub(super) unclaimed: Vec<UnclaimedAnswers>,
    /// Whether it is known which batches of the job are at the provider.
    pub(super) has_looked_for_lost: bool,
    next_lost_look: DateTime<Utc>,
    pub(super) drivers: HashMap<SubmissionId, SubmissionDriver>,
    /// The number of the last request to hand in files that are not full.
    pub(super) drained: u64,
    /// The open submissions that were reported last.
    pub(super) reported: Option<OpenSubmissions>,
    /// Number of polls, which decides whose turn it is to be asked for by itself.
    pub(super) turn: usize,
}

/// What becomes of rows that are taken together.
#[derive(Default)]
struct TakenRows {
    replies: Vec<Reply>,
    /// Rows that ask what a submission has answered already, by submission.
    known: BTreeMap<SubmissionId, Vec<Request>>,
    /// Rows of which nothing has become.
    left: Vec<Request>,
    /// Batches with answers in their journals.
    returned: BTreeSet<BatchId>,
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
            held: None,
            leaders: None,
            new_followers: NewFollowers::new(),
            unclaimed: Vec::new(),
            has_looked_for_lost: false,
            next_lost_look: clock::wall(),
            drivers: HashMap::new(),
            drained: 0,
            reported: None,
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
        let mode = self.io.mode.clone();
        let worked = tokio::select! {
            biased;
            // What is cut off is found by the next run: before a batch is made, the list says so.
            () = aborted(mode.clone()) => Err(SubmitterEnd::Gone),
            worked = self.work() => worked,
        };
        let has_ended_in_order = worked.is_ok();
        self.report_open();
        if let Err(SubmitterEnd::Broken(error)) = worked {
            let _ = self.context.news.send(SubmitterNews::Broken(error));
        }
        self.rest.set_begun();
        self.io.capacity_freed.notify_one();
        let ending = async {
            // Rows that still come are given back, so that the run can end.
            self.give_back_all().await;
            if has_ended_in_order {
                // What is left is closed by the next run.
                let _ = timeout(CLOSING, self.close()).await;
            }
        };
        tokio::select! {
            biased;
            () = aborted(mode) => {}
            () = ending => {}
        }
    }

    async fn work(&mut self) -> Result<(), SubmitterEnd> {
        self.begin().await?;
        loop {
            if *self.io.mode.borrow() != Mode::Running {
                return self.end();
            }
            if self.take_steps().await? {
                continue;
            }
            if !self.has_looked_for_lost && clock::wall() >= self.next_lost_look {
                self.next_lost_look = clock::wall() + self.settings.poll;
                self.has_looked_for_lost = self.look_for_lost().await?;
            }
            if !self.rest.has_begun() {
                self.rest.set_begun();
                self.io.capacity_freed.notify_one();
            }
            if let Some(request) = self.held.take() {
                self.take(request).await?;
            }
            let due = self.next_due();
            self.report_rest(due);
            self.report_open();
            let has_room = self.has_room();
            let look = Some(self.next_lost_look).filter(|_| !self.has_looked_for_lost);
            let due = due.into_iter().chain(self.opens_at()).chain(look).min();
            let mut sleep =
                due.map_or(LONGEST_SLEEP, |due| (due - clock::wall()).to_std().unwrap_or_default());
            if self.held.is_some() {
                sleep = sleep.min(BUDGET_LOOK);
            }
            tokio::select! {
                biased;
                changed = self.io.mode.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => return self.end(),
                },
                request = self.io.inbox.recv(), if has_room => match request {
                    Some(request) => self.take(request).await?,
                    None => return self.end(),
                },
                changed = self.context.drain.changed() => {
                    changed.map_err(|_| SubmitterEnd::Gone)?;
                    self.drained = *self.context.drain.borrow_and_update();
                    self.seal().await?;
                }
                () = self.context.submissions.unjudged().judged() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Looks at the submissions of earlier runs. Those that never reached the provider are dropped: their rows may be
    /// asked something else by now.
    async fn begin(&mut self) -> Result<(), SubmitterEnd> {
        let (name, policy, lineage) = (Arc::clone(&self.name), self.policy(), self.context.lineage);
        let list = self.context.submissions.read(|list| list.open.clone());
        let mut without_rows = BTreeSet::new();
        for own in list.iter().filter(|own| own.provider == *name && own.state.may_bring_answers()) {
            let is_of_other = own.lineage != self.context.lineage;
            if !own.without_rows && (is_of_other || self.lacks_rows(own)?) {
                without_rows.insert(own.id);
            }
        }
        let found = self.context.submissions.change(|list| {
            let (mut kept, mut dropped) = (Vec::new(), Vec::new());
            let now = clock::wall();
            for submission in list.open.iter_mut().filter(|submission| submission.provider == *name) {
                if submission.state.is_open() && !submission.state.may_bring_answers() {
                    (submission.state, submission.since) = (SubmissionState::Dropped, now);
                    dropped.push(submission.clone());
                }
                submission.without_rows |= without_rows.contains(&submission.id);
                if submission.without_rows && submission.lineage != lineage {
                    // They are numbers of other batches now.
                    submission.batches.clear();
                    submission.follower_batches.clear();
                }
                if submission.without_rows && submission.state == SubmissionState::Collected {
                    // Its answers are read again, from the files that are here.
                    submission.state = SubmissionState::Ended;
                }
                if submission.state.is_open() {
                    kept.push(submission.id);
                }
            }
            (kept, dropped)
        });
        let (kept, dropped) = found.await?;
        for id in kept {
            self.drivers.insert(id, SubmissionDriver::new(policy, false));
        }
        // Batches that are open already may have taken their rows for submitted.
        dropped.iter().for_each(|submission| self.tell_returned(submission));
        self.has_looked_for_lost = self.context.submissions.was_found() || self.look_for_lost().await?;
        self.look_for_late_duplicates().await?;
        self.close().await?;
        Ok(())
    }

    /// Removes submissions from the list whose rows are all in the table, and their files from the provider. Until then the
    /// files stay there, in case the journals are lost.
    async fn close(&mut self) -> Result<(), SubmitterEnd> {
        let lineage = self.context.lineage;
        let first = BatchId::new(self.context.first_uncommitted.load(Ordering::Acquire));
        let name = Arc::clone(&self.name);
        let since = clock::wall() - TimeDelta::from_std(self.settings.deadline).unwrap_or_default();
        let closed = self.context.submissions.change(|list| {
            // Batches of another lineage are not read again.
            list.close(&name, since, |own, batch| own != lineage || batch < first)
        });
        for submission in closed.await?.into_iter().filter(|_| !self.settings.keeps_files) {
            let mut file = submission.file;
            if file.is_none() && submission.state == SubmissionState::Dropped {
                // It may be there all the same: the run ended before the answer to the upload was written down.
                let found = self.api.find_file(&self.file_name(submission.id), submission.bytes).await;
                file = found.ok().flatten().map(|file| file.id);
            }
            let answers = submission.remote.iter().flat_map(|copy| copy.output.iter().chain(&copy.errors));
            for file in file.iter().chain(answers) {
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
                step if self.is_put_off(&step) => Some(now + TimeDelta::seconds(1)),
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
        let is_soon =
            due.is_some_and(|due| has_unclear && due - now < TimeDelta::from_std(SOON).unwrap_or_default());
        let rests = self.spool.is_none() && !is_soon && !self.lingers();
        let is_full = !self.has_room();
        self.rest.set_awaits_lost(self.awaits_unknown_rows());
        let puts_off_now = self.rest.set_puts_off(self.puts_off());
        if puts_off_now | self.rest.set(rests.then_some(self.drained), is_full) {
            self.io.capacity_freed.notify_one();
        }
    }

    /// Takes a row: its request becomes a line of the file.
    async fn take(&mut self, request: Request) -> Result<(), SubmitterEnd> {
        self.rest.set(None, false);
        self.rest.set_puts_off(false);
        let mut taken = TakenRows::default();
        let result = match self.take_rows(request, &mut taken).await {
            Ok(()) => self.record_followers().await,
            failed => failed,
        };
        let TakenRows { mut replies, known, left, returned } = taken;
        // After a failure the run ends only once it has every row back.
        let left = left.into_iter().chain(known.into_values().flatten());
        replies.extend(left.map(|request| self.reply(request, Verdict::Unsent)));
        self.rest.set_holding(self.held.is_some());
        self.io.capacity_freed.notify_one();
        self.io.outbox.send(replies).await.map_err(|_| SubmitterEnd::Gone)?;
        if !returned.is_empty() {
            let _ =
                self.context.news.send(SubmitterNews::Collected { batches: returned.into_iter().collect() });
        }
        result
    }

    /// Takes a row, and further ones that have come.
    async fn take_rows(&mut self, request: Request, taken: &mut TakenRows) -> Result<(), SubmitterEnd> {
        let (mut next, mut number) = (Some(request), 0);
        while let Some(request) = next.take() {
            number += 1;
            let claimed = self.claim(&request);
            if let Ok(true) = claimed {
                taken.returned.insert(request.cell.batch);
                taken.replies.push(self.reply(request, Verdict::Submitted));
            } else {
                match claimed.and_then(|_| self.leader_of(&request)) {
                    Err(error) => {
                        taken.left.push(request);
                        return Err(error.into());
                    }
                    Ok(Some(leader)) if self.is_collected(leader) => {
                        taken.known.entry(leader).or_default().push(request);
                    }
                    Ok(Some(leader)) => {
                        self.follow(&request, leader);
                        taken.replies.push(self.reply(request, Verdict::Submitted));
                    }
                    Ok(None) => self.add_or_hold(request, taken).await?,
                }
            }
            if self.has_room() && number < self.io.capacity {
                next = self.io.inbox.try_recv().ok();
            }
        }
        while let Some((leader, mut requests)) = taken.known.pop_first() {
            let given = self.take_known(leader, &mut requests);
            taken.left.append(&mut requests);
            for request in given? {
                taken.returned.insert(request.cell.batch);
                taken.replies.push(self.reply(request, Verdict::Submitted));
            }
            while let Some(request) = taken.left.pop() {
                match &self.held {
                    // Another one waits for room: this one is handed out anew.
                    Some(_) => taken.replies.push(self.reply(request, Verdict::Elsewhere)),
                    None => self.add_or_hold(request, taken).await?,
                }
            }
        }
        Ok(())
    }

    /// Writes a request into the file, or holds it.
    async fn add_or_hold(&mut self, request: Request, taken: &mut TakenRows) -> Result<(), SubmitterEnd> {
        match self.add(&request).await {
            Ok(Some(verdict)) => taken.replies.push(self.reply(request, verdict)),
            Ok(None) => self.held = Some(request),
            Err(end) => {
                taken.left.push(request);
                return Err(end);
            }
        }
        Ok(())
    }

    fn is_collected(&self, submission: SubmissionId) -> bool {
        let state = self.context.submissions.read(|list| list.get(submission).map(|own| own.state));
        state == Some(SubmissionState::Collected)
    }

    /// Writes a request into the file. Returns what becomes of it, or `None` if it is to be held: too little of a limit is
    /// left for it before something comes back.
    async fn add(&mut self, request: &Request) -> Result<Option<Verdict>, SubmitterEnd> {
        let endpoint = if request.params.vectors.is_some() { EMBEDDINGS } else { CHAT };
        let body = self.endpoint.body_in_file(&request.question, &request.params);
        let most = self.settings.max_bytes / 100 * FULL_AT;
        if body.len() as u64 + AROUND_BODY > most {
            let failure = Failure::new(
                Class::TooLarge,
                format!("the request is larger than a file may be, {most} bytes"),
            );
            return Ok(Some(Verdict::Failed(failure)));
        }
        let is_other = self.spool.as_ref().is_some_and(|spool| {
            spool.endpoint != endpoint || spool.bytes + body.len() as u64 + AROUND_BODY > most
        });
        if is_other {
            self.seal().await?;
        }
        if self.is_over_tokens(request.question.bytes() as u64) {
            self.seal().await?;
            return Ok(None);
        }
        let worst = self.billing.worst_case_in_batch(&request.question, &request.params);
        match self.io.account.reserve_in_file(worst) {
            Ok(()) => {}
            Err(BudgetRefusal::Later) => {
                // What the file has set aside comes back only once it is handed in.
                self.seal().await?;
                return Ok(None);
            }
            Err(BudgetRefusal::Spent(limit)) => {
                return Ok(Some(Verdict::BudgetSpent(limit)));
            }
        }
        if self.spool.is_none() {
            let created =
                Spool::create(&self.context.folder, endpoint, self.context.submissions.spooled().clone());
            self.spool = Some(created.map_err(|source| self.spool_error("begin", source))?);
        }
        let Some(spool) = &mut self.spool else { return Err(SubmitterEnd::Gone) };
        let added = spool.add(request, body, worst, self.settings.shape);
        let id = spool.id;
        added.map_err(|source| self.spool_error("write", source))?;
        self.lead(request, id);
        if self.spool.as_ref().is_some_and(|spool| spool.lines >= self.most_lines()) {
            self.seal().await?;
        }
        Ok(Some(Verdict::Submitted))
    }

    /// Path of the interface that answers a submission's lines.
    pub(super) fn endpoint_of(&self, submission: &Submission) -> &'static str {
        if submission.endpoint == EMBEDDINGS { EMBEDDINGS } else { CHAT }
    }

    fn reply(&self, request: Request, verdict: Verdict) -> Reply {
        Reply { request, provider: self.io.provider, attempts: 0, verdict }
    }

    pub(super) fn pass(&self, action: &'static str, side: Side) -> Result<(), SubmitterError> {
        faultpoint::pass(action, side).map_err(|source| self.spool_error(action, source))
    }

    pub(super) fn spool_error(&self, action: &'static str, source: io::Error) -> SubmitterError {
        SubmitterError::Spool { action, folder: self.context.folder.clone(), source }
    }

    /// Makes a submission of the file that is being written. From then on its rows are asked nowhere else.
    async fn seal(&mut self) -> Result<(), SubmitterEnd> {
        let Some(mut spool) = self.spool.take() else { return Ok(()) };
        self.pass("spool", Side::Before)?;
        spool.finish().map_err(|source| self.spool_error("flush", source))?;
        spool.record(&self.name, self.endpoint.model())?;
        self.pass("spool", Side::After)?;
        let submission = self.submission_of(&spool);
        let saved = self.context.submissions.change(|list| {
            let number = list.next_number();
            list.open.push(Submission { number, ..submission });
        });
        saved.await?;
        self.io.account.release_file(spool.worst);
        self.drive(spool.id);
        Ok(())
    }

    /// The submission of a complete file. Its number is not set yet.
    pub(super) fn submission_of(&self, spool: &Spool) -> Submission {
        let (batches, follower_batches) = spool.rows_by_batch();
        Submission {
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
            batches,
            follower_batches,
            without_rows: false,
            lines: spool.lines,
            bytes: spool.bytes,
            prompt_tokens: tokens_in(spool.prompt_bytes),
            worst: spool.worst,
            worst_request: spool.worst_request,
            state: SubmissionState::Sealed,
            since: clock::wall(),
            file: None,
            uploaded_at: None,
            remote: Vec::new(),
            looks: 0,
            made_again: 0,
            took: None,
            counted: BTreeSet::new(),
        }
    }

    /// Drives a submission that this run has made.
    pub(super) fn drive(&mut self, id: SubmissionId) {
        self.drivers.insert(id, SubmissionDriver::new(self.policy(), true));
    }

    /// Ends with the run. A file that is not full is given up: its rows are asked by the next run.
    fn end(&mut self) -> Result<(), SubmitterEnd> {
        if let Some(spool) = self.spool.take() {
            self.io.account.release_file(spool.worst);
            spool.discard();
        }
        Ok(())
    }

    /// Gives back rows that still come, until the run has ended.
    async fn give_back_all(&mut self) {
        if let Some(request) = self.held.take() {
            let reply = self.reply(request, Verdict::Unsent);
            if self.io.outbox.send(vec![reply]).await.is_err() {
                return;
            }
        }
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

/// Waits until the run is cut off; for ever if it ends in its order.
async fn aborted(mut mode: watch::Receiver<Mode>) {
    while *mode.borrow_and_update() != Mode::Aborting {
        if mode.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

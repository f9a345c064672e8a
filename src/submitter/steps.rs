//! The steps that a submitter takes for a submission: upload, creation, looks, polls and collection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::collect::{AnswerCollector, CollectError, CollectionReport, Download};
use super::context::{GuardError, SubmitterNews};
use super::limits::is_validated;
use super::spool::path_of;
use super::submission::{CreationResult, SubmissionAction, SubmissionDriver};
use super::task::{Submitter, SubmitterEnd};
use super::unclaimed::UnclaimedAnswers;
use crate::checkpoint::{Submission, SubmissionState};
use crate::clock;
use crate::config::BatchShape;
use crate::event::Event;
use crate::fault::{Failure, Policy};
use crate::faultpoint::Side;
use crate::ident::{Spend, SubmissionId};
use crate::store;
use crate::transport::{BatchCreation, BatchCreationRefusal, RefusalSubject};
use crate::wire::{BatchRequest, BatchStatus, RemoteBatch};
use crate::wording::counted;

/// Number of pages of a list that are looked through for a batch.
const MOST_PAGES: u32 = 20;
/// Number of polls after which a file of answers that is not found is gone: an hour at one a minute.
const GONE_AFTER: u32 = 60;
/// Prefix of the names of uploaded files.
const NAME: &str = "enrich";

/// Number of polls of which one asks for a single batch instead of a list.
const POLLS_PER_SINGLE: usize = 10;

/// What a poll has shown of a submission.
struct PolledSubmission {
    submission: Submission,
    /// States of those of its batches that were asked for, by their ids; `None` for a batch that does not exist.
    states: Vec<(String, Option<RemoteBatch>)>,
    /// Why the state of another batch is not known.
    failure: Option<Failure>,
}

impl Submitter {
    /// Takes the steps that are due. Returns whether there were any.
    pub(super) async fn take_steps(&mut self) -> Result<bool, SubmitterEnd> {
        let now = clock::wall();
        let mut due: Vec<(SubmissionId, SubmissionAction)> = self
            .drivers
            .iter()
            .filter_map(|(id, driver)| Some((*id, driver.next(&self.submission(*id)?, now))))
            .filter(|(_, step)| !matches!(step, SubmissionAction::Wait(_) | SubmissionAction::Nothing))
            .filter(|(_, step)| !self.is_put_off(step))
            .collect();
        due.sort_by_key(|(id, _)| *id);
        if due.iter().any(|(_, step)| *step == SubmissionAction::Poll) {
            // One list shows the states of all: those that are due soon are asked for now.
            let soon = now + TimeDelta::from_std(self.settings.poll / 2).unwrap_or_default();
            let polls = self
                .drivers
                .iter()
                .filter_map(|(id, driver)| driver.polls_by(&self.submission(*id)?, now, soon).then_some(*id));
            let polled: Vec<SubmissionId> = polls.collect();
            self.poll(&polled).await?;
            return Ok(true);
        }
        let Some((id, step)) = due.into_iter().next() else { return Ok(false) };
        self.rest.set(None, false);
        self.rest.set_puts_off(false);
        self.take_step(id, step).await?;
        Ok(true)
    }

    /// Whether a step waits until what has come back is looked at.
    pub(super) fn is_put_off(&self, step: &SubmissionAction) -> bool {
        *step == SubmissionAction::Create && self.context.submissions.unjudged().is_waited_for()
    }

    /// Whether steps wait until what has come back is looked at, and no other is due.
    pub(super) fn puts_off(&self) -> bool {
        let now = clock::wall();
        let next =
            |(id, driver): (&SubmissionId, &SubmissionDriver)| Some(driver.next(&self.submission(*id)?, now));
        self.drivers.iter().filter_map(next).any(|step| self.is_put_off(&step))
    }

    async fn take_step(&mut self, id: SubmissionId, step: SubmissionAction) -> Result<(), SubmitterEnd> {
        let Some(submission) = self.submission(id) else { return Ok(()) };
        match step {
            SubmissionAction::FindFile => {
                let found = self.api.find_file(&self.file_name(id), submission.bytes).await;
                self.update(id, |driver, submission, now| match found {
                    Ok(Some(file)) => driver.uploaded(submission, &file.id, now),
                    Ok(None) => driver.file_not_found(),
                    Err(failure) => driver.failed(failure.delay, now),
                })
                .await
            }
            SubmissionAction::Upload => {
                self.pass("upload", Side::Before)?;
                let uploaded = self.api.upload(&path_of(&self.context.folder, id), &self.file_name(id)).await;
                self.pass("upload", Side::After)?;
                if let Err(failure) = &uploaded
                    && matches!(failure.class.policy(), Policy::Stop | Policy::Reject)
                {
                    return self.refused(failure.clone());
                }
                self.update(id, |driver, submission, now| match uploaded {
                    Ok(file) => driver.uploaded(submission, &file.id, now),
                    Err(_) => driver.upload_failed(true, now),
                })
                .await
            }
            SubmissionAction::Create => self.create(id, submission).await,
            SubmissionAction::Look => {
                self.pass("batch-look", Side::Before)?;
                let found = self.look_for(&submission).await;
                self.pass("batch-look", Side::After)?;
                // Whoever does not see the file does not see the batch either.
                let sees_file = match (&found, &submission.file) {
                    (Ok(found), Some(file)) if found.is_empty() => self.api.has_file(file).await,
                    _ => Ok(true),
                };
                if matches!(sees_file, Ok(false)) {
                    let rows = counted(submission.lines, "row");
                    let text = format!(
                        "provider {} shows neither the batch of {rows} nor their file: was its key or its address changed? The rows are not asked again",
                        self.name
                    );
                    self.io.voice.say(&Event::Notice(&text));
                    return self.update(id, |driver, _, now| driver.looked_elsewhere(now)).await;
                }
                self.update(id, |driver, submission, now| {
                    match found.and_then(|found| sees_file.map(|_| found)) {
                        Ok(found) => driver.looked(submission, &found, now),
                        Err(failure) => driver.failed(failure.delay, now),
                    }
                })
                .await
            }
            SubmissionAction::Cancel(remote) => {
                let cancelled = self.api.cancel(&remote).await;
                self.update(id, |driver, submission, now| match cancelled {
                    Err(failure) if failure.class.policy() != Policy::Reject => {
                        driver.failed(failure.delay, now);
                    }
                    // A provider that refuses has nothing to cancel.
                    _ => driver.cancelled(submission, &remote, now),
                })
                .await
            }
            SubmissionAction::Collect => self.collect(submission).await,
            SubmissionAction::Poll | SubmissionAction::Wait(_) | SubmissionAction::Nothing => Ok(()),
        }
    }

    pub(super) fn file_name(&self, id: SubmissionId) -> String {
        format!("{NAME}-{}-{id}.jsonl", self.context.app_id)
    }

    /// Changes a submission through its driver, and saves it.
    async fn update(
        &mut self,
        id: SubmissionId,
        change: impl FnOnce(&mut SubmissionDriver, &mut Submission, DateTime<Utc>),
    ) -> Result<(), SubmitterEnd> {
        let Some(driver) = self.drivers.get_mut(&id) else { return Ok(()) };
        let saved = self.context.submissions.change(|list| {
            let submission = list.get_mut(id)?;
            let before = submission.clone();
            change(driver, submission, clock::wall());
            Some((before, submission.clone()))
        });
        if let Some((before, after)) = saved.await? {
            self.report_batches(&before, &after);
        }
        Ok(())
    }

    /// Makes the batch of a submission.
    async fn create(&mut self, id: SubmissionId, submission: Submission) -> Result<(), SubmitterEnd> {
        let Some(file) = submission.file.clone() else { return Ok(()) };
        let guard = Arc::clone(&self.context.guard);
        let allowed = match guard.copy_journals().await {
            Ok(()) => guard.confirm_held().await,
            failed => failed,
        };
        if let Err(error) = allowed {
            return self.hold_back(id, "no batch is made", &error).await;
        }
        self.update(id, SubmissionDriver::creating).await?;
        let metadata = [
            ("enrich", id.to_string()),
            ("enrich_app", self.context.app_id.to_string()),
            ("enrich_target", self.context.target_id.clone()),
            ("enrich_lineage", submission.lineage.to_string()),
        ];
        let request = BatchRequest {
            input_file_id: &file,
            endpoint: &submission.endpoint,
            completion_window: &self.settings.window,
            metadata: &metadata.into_iter().collect(),
        };
        self.pass("batch-create", Side::Before)?;
        let late = TimeDelta::from_std(self.settings.recreate_after / 2).unwrap_or_default();
        if self.submission(id).is_some_and(|creating| clock::wall() - creating.since > late) {
            // This process hung: another machine may have the job, and make the batch soon.
            return Ok(());
        }
        let creation = self.api.create(&request, &id.to_string()).await;
        self.pass("batch-create", Side::After)?;
        if let BatchCreation::Unclear(failure) = &creation {
            let rows = counted(submission.lines, "row");
            let text = format!(
                "the answer to the creation of the batch of {rows} at {} was lost: {failure}; it is looked for",
                self.name
            );
            self.io.voice.say(&Event::Notice(&text));
        }
        if let BatchCreation::Refused(BatchCreationRefusal {
            subject: RefusalSubject::EnqueuedTokens, ..
        }) = &creation
        {
            return self.take_back(&submission).await;
        }
        let result = match &creation {
            BatchCreation::Made(batch) => CreationResult::Made(batch),
            BatchCreation::Refused(refusal) => CreationResult::Refused {
                again_after: refusal.failure.delay,
                is_about_file: refusal.subject == RefusalSubject::File,
            },
            BatchCreation::Unclear(_) => CreationResult::Unclear,
        };
        self.update(id, |driver, submission, now| driver.created(submission, &result, now)).await?;
        match creation {
            BatchCreation::Refused(refusal)
                if refusal.subject != RefusalSubject::File
                    && matches!(refusal.failure.class.policy(), Policy::Stop | Policy::Reject) =>
            {
                self.refused(refusal.failure)
            }
            _ => Ok(()),
        }
    }

    /// Puts a step off that other machines must be able to follow, and says so.
    async fn hold_back(
        &mut self,
        id: SubmissionId,
        what: &str,
        error: &GuardError,
    ) -> Result<(), SubmitterEnd> {
        self.io.voice.say(&Event::Notice(&format!("{what} for now: {error}")));
        self.update(id, |driver, _, now| driver.failed(None, now)).await
    }

    /// The provider refuses what every further file would meet, too.
    pub(super) fn refused(&mut self, failure: Failure) -> Result<(), SubmitterEnd> {
        let provider = self.io.provider;
        let _ = self.context.news.send(SubmitterNews::Stop { provider, failure });
        self.io.capacity_freed.notify_one();
        Ok(())
    }

    /// Looks for the batches of a submission in the list.
    async fn look_for(&self, submission: &Submission) -> Result<Vec<RemoteBatch>, Failure> {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let page = self.api.list(after.as_deref()).await?;
            let own = page.items.into_iter().filter(|batch| belongs(batch, submission));
            found.extend(own);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(found)
    }

    /// Asks for the states of batches, with one request where the provider's list shows them all.
    async fn poll(&mut self, ids: &[SubmissionId]) -> Result<(), SubmitterEnd> {
        self.turn = self.turn.wrapping_add(1);
        let polled = match self.next_alone(ids) {
            Some((id, batch)) => self.poll_one(ids, id, &batch).await,
            None => self.poll_all(ids).await?,
        };
        let now = clock::wall();
        for PolledSubmission { submission, states, failure } in polled {
            let id = submission.id;
            let missing: Vec<String> =
                states.iter().filter(|(_, found)| found.is_none()).map(|(id, _)| id.clone()).collect();
            let is_told =
                self.drivers.get_mut(&id).is_none_or(|driver| driver.tell_missing(!missing.is_empty()));
            for remote in missing.into_iter().filter(|_| !is_told) {
                let text = format!(
                    "provider {} does not know {remote}: was its key changed? The rows of the batch are not asked again",
                    self.name
                );
                self.io.voice.say(&Event::Notice(&text));
            }
            self.update(id, |driver, submission, _| match failure {
                Some(failure) => driver.failed(failure.delay, now),
                None => driver.polled(submission, &states, now),
            })
            .await?;
            self.follow_validation(&submission, &states).await?;
        }
        Ok(())
    }

    /// Follows what a poll has shown of the validation of a submission's batches; `before` is the submission before it.
    async fn follow_validation(
        &mut self,
        before: &Submission,
        asked: &[(String, Option<RemoteBatch>)],
    ) -> Result<(), SubmitterEnd> {
        let Some(submission) = self.submission(before.id) else { return Ok(()) };
        if is_validated(&submission) && !is_validated(before) {
            // The file is needed no longer.
            let _ = std::fs::remove_file(path_of(&self.context.folder, before.id));
            self.learn_validated(&submission).await?;
        }
        for batch in asked.iter().filter_map(|(_, found)| found.as_ref()) {
            let is_news = before.remote.iter().all(|copy| copy.id != batch.id || !copy.has_ended);
            // At Together and Mistral a batch may fail later, too: one that names a file is collected.
            let has_files = self.settings.shape != BatchShape::Openai
                && (batch.output_file_id.is_some() || batch.error_file_id.is_some());
            if batch.status == BatchStatus::Failed && !has_files && is_news {
                self.handle_invalid(&submission, batch).await?;
            }
        }
        Ok(())
    }

    /// Asks for the states of batches by the provider's list, and of those that are not in it by themselves.
    async fn poll_all(&mut self, ids: &[SubmissionId]) -> Result<Vec<PolledSubmission>, SubmitterEnd> {
        let listed = match self.api.list(None).await {
            Ok(page) => page.items,
            Err(failure) => {
                // They stay due together.
                let now = clock::wall();
                for id in ids {
                    self.update(*id, |driver, _, _| driver.failed(failure.delay, now)).await?;
                }
                return Ok(Vec::new());
            }
        };
        self.note_late_duplicates(&listed).await?;
        let mut polled = Vec::new();
        for id in ids {
            let Some(submission) = self.submission(*id) else { continue };
            let own = listed.iter().filter(|batch| belongs(batch, &submission));
            let mut asked: Vec<(String, Option<RemoteBatch>)> =
                own.map(|batch| (batch.id.clone(), Some(batch.clone()))).collect();
            let mut failed = None;
            for copy in &submission.remote {
                if copy.has_ended || asked.iter().any(|(id, _)| *id == copy.id) {
                    continue;
                }
                match self.api.get(&copy.id).await {
                    Ok(found) => asked.push((copy.id.clone(), found)),
                    Err(failure) => failed = Some(failure),
                }
            }
            polled.push(PolledSubmission { submission, states: asked, failure: failed });
        }
        Ok(polled)
    }

    /// The batch that is asked for by itself at this poll, instead of a list; usually `None`. Batches that have not ended
    /// have their turn one after the other: there are servers whose list shows a batch as it was when it was asked for
    /// last.
    fn next_alone(&self, ids: &[SubmissionId]) -> Option<(SubmissionId, String)> {
        if !self.turn.is_multiple_of(POLLS_PER_SINGLE) {
            return None;
        }
        let own = ids.iter().filter_map(|id| self.submission(*id));
        let copies = own.flat_map(|own| own.remote.into_iter().map(move |copy| (own.id, copy)));
        let open: Vec<(SubmissionId, String)> =
            copies.filter(|(_, copy)| !copy.has_ended).map(|(id, copy)| (id, copy.id)).collect();
        let at = (self.turn / POLLS_PER_SINGLE).checked_rem(open.len())?;
        open.into_iter().nth(at)
    }

    /// Asks for the state of one batch. Of the others nothing new is known.
    async fn poll_one(&self, ids: &[SubmissionId], of: SubmissionId, batch: &str) -> Vec<PolledSubmission> {
        let found = self.api.get(batch).await;
        let polled = |submission: Submission| {
            let (states, failure) = match &found {
                Ok(found) if submission.id == of => (vec![(batch.to_owned(), found.clone())], None),
                Err(failure) if submission.id == of => (Vec::new(), Some(failure.clone())),
                _ => (Vec::new(), None),
            };
            PolledSubmission { submission, states, failure }
        };
        ids.iter().filter_map(|id| self.submission(*id)).map(polled).collect()
    }

    /// Brings the answers of a submission into the journals.
    async fn collect(&mut self, submission: Submission) -> Result<(), SubmitterEnd> {
        let id = submission.id;
        let folder = &self.context.folder;
        store::create_private_folder(folder).map_err(|source| self.spool_error("make room for", source))?;
        let (mut files, mut gone) = (Vec::new(), Vec::new());
        for (batch, copy) in submission.remote.iter().enumerate() {
            for remote in copy.output.iter().chain(&copy.errors) {
                let path = download_path(&self.context.folder, id, remote);
                self.pass("download", Side::Before)?;
                if !path.exists()
                    && let Err(failure) = self.api.download(remote, &path).await
                {
                    // With another key the batch is not found either.
                    if failure.class.policy() == Policy::Reject
                        && self.is_gone_for_good(&submission)
                        && matches!(self.api.get(&copy.id).await, Ok(Some(_)))
                    {
                        gone.push(remote.clone());
                        continue;
                    }
                    let text = format!(
                        "the answers of {} at {} cannot be had for now: {failure}",
                        copy.id, self.name
                    );
                    self.io.voice.say(&Event::Notice(&text));
                    self.update(id, |driver, _, now| driver.failed(failure.delay, now)).await?;
                    return Ok(());
                }
                self.pass("download", Side::After)?;
                files.push(Download { path, batch });
            }
        }
        self.pass("collect", Side::Before)?;
        let collected = self.gather(&submission, &files)?;
        self.pass("collect", Side::After)?;
        if let Err(error) = Arc::clone(&self.context.guard).copy_journals().await {
            return self.hold_back(id, "the answers of a batch stay on this machine", &error).await;
        }
        // Nobody knows what the answers cost that are in no file any more.
        let took = if gone.is_empty() { collected.took } else { submission.worst };
        if !gone.is_empty() {
            let text = format!(
                "{} has {} no more: the rows whose answers were there go again, and the batch counts at the most that it can have cost",
                self.name,
                gone.join(" and ")
            );
            self.io.voice.say(&Event::Notice(&text));
        }
        let saved = self.context.submissions.change(|list| {
            if let Some(submission) = list.get_mut(id) {
                // Rows that were not asked keep the number of batches that they may be in.
                let state = match &collected.stop {
                    Some(_) if collected.answered + collected.refused == 0 && took == Spend::default() => {
                        SubmissionState::Dropped
                    }
                    _ => SubmissionState::Collected,
                };
                (submission.state, submission.since) = (state, clock::wall());
                submission.took = Some(took);
            }
        });
        saved.await?;
        let _ = std::fs::remove_file(path_of(&self.context.folder, id));
        for Download { path, .. } in files.into_iter().filter(|_| !submission.without_rows) {
            // A download that stays is swept at the next start.
            let _ = std::fs::remove_file(path);
        }
        self.report_collected(&submission, &collected);
        self.drivers.remove(&id);
        if let Some(failure) = collected.stop {
            self.refused(failure)?;
        }
        self.context.submissions.unjudged().add(submission.all_batches());
        self.tell_returned(&submission);
        Ok(())
    }

    /// Whether a file that the provider does not find has had its time to appear.
    fn is_gone_for_good(&self, submission: &Submission) -> bool {
        let patience = TimeDelta::from_std(self.settings.poll.saturating_mul(GONE_AFTER));
        clock::wall() - submission.since > patience.unwrap_or(TimeDelta::MAX)
    }

    /// Has the batches read again whose rows wait for a submission.
    pub(super) fn tell_returned(&self, submission: &Submission) {
        let batches = submission.all_batches().into_iter().collect();
        let _ = self.context.news.send(SubmitterNews::Collected { batches });
        self.io.capacity_freed.notify_one();
    }

    /// Brings the answers of a submission into the journals, or keeps them for the rows that turn out to be theirs.
    fn gather(
        &mut self,
        submission: &Submission,
        files: &[Download],
    ) -> Result<CollectionReport, CollectError> {
        let collector = self.collector(submission);
        if !submission.without_rows {
            return collector.collect(files);
        }
        let (answers, report) = UnclaimedAnswers::read(&collector, submission, files)?;
        self.unclaimed.push(answers);
        Ok(report)
    }

    pub(super) fn collector<'a>(&'a self, submission: &'a Submission) -> AnswerCollector<'a> {
        AnswerCollector {
            submission,
            journals: &self.context.journals,
            api: &self.api,
            billing: &self.billing,
            worst: Spend { requests: 1, ..submission.worst_request },
        }
    }
}

/// Whether a batch at the provider was made of a submission.
pub(super) fn belongs(batch: &RemoteBatch, submission: &Submission) -> bool {
    let id = batch.metadata.as_ref().and_then(|metadata| metadata.get("enrich"));
    match id {
        Some(id) => *id == submission.id.to_string(),
        None => batch.input_file_id.is_some() && batch.input_file_id == submission.file,
    }
}

/// Where a file of a submission is downloaded to. Ids of gateways may hold characters that a name cannot.
fn download_path(folder: &Path, id: SubmissionId, remote: &str) -> PathBuf {
    let name: String = remote.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    folder.join(format!("{id}-{name}.answers"))
}

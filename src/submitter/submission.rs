//! What is to be done next for a submission, as a pure state machine: the caller brings the time and the provider's
//! answers, and saves the submission before it acts where [`SubmissionAction`] says so.
//!
//! The one danger is a second batch of the same requests, which is paid for. A batch is made by one request, after the
//! submission was saved as [`SubmissionState::Creating`]. If the answer to that request is lost, the batch is looked for,
//! and made again only once the provider's list has not shown it for a while.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::checkpoint::{RemoteCopy, Submission, SubmissionState};
use crate::wire::{BatchStatus, RemoteBatch};

/// Times after the loss of an answer at which the batch is looked for, as one in so many parts of the time after which it
/// may be made again: of a quarter of an hour 5, 15, 60 and 180 seconds.
const LOOKS: [u32; 4] = [180, 60, 15, 5];
/// Number of looks that must not have shown a batch before it is made again.
const FEWEST_LOOKS: u32 = 3;
/// First and longest time to wait after a call that failed.
const FIRST_BACKOFF: Duration = Duration::from_secs(2);
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);
/// Time after its upload for which a provider may not find a file yet.
const FILE_LAG: Duration = Duration::from_secs(60);
/// Time that a cancelled batch has to end.
const CANCELLATION: Duration = Duration::from_secs(3600);

/// The settings that decide about submissions.
#[derive(Clone, Copy, Debug)]
pub struct SubmissionPolicy {
    /// Time after a lost answer for which the list must not have shown the batch before it is made again.
    pub recreate_after: Duration,
    /// Whether the provider recognises a creation that is made again.
    pub is_idempotent: bool,
    /// Time between two looks at the state of a batch.
    pub poll: Duration,
    /// Time after its creation at which a batch is cancelled.
    pub deadline: Duration,
}

/// What is to be done next for a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmissionAction {
    /// Look whether its file is at the provider.
    FindFile,
    /// Upload its file.
    Upload,
    /// Make its batch: call [`SubmissionDriver::creating`] and save it first.
    Create,
    /// Look for its batch in the list.
    Look,
    /// Ask for the state of its batches.
    Poll,
    /// Cancel this batch.
    Cancel(String),
    /// Collect its answers.
    Collect,
    /// Nothing before this time.
    Wait(DateTime<Utc>),
    /// Nothing at all.
    Nothing,
}

/// What became of the creation of a batch.
#[derive(Debug)]
pub enum CreationResult<'a> {
    /// This batch.
    Made(&'a RemoteBatch),
    /// Nothing was made, and it may be tried again.
    Refused {
        /// Time that must pass first; `None` if the provider states none.
        again_after: Option<Duration>,
        /// Whether the provider did not find the file.
        is_about_file: bool,
    },
    /// The answer was lost.
    Unclear,
}

/// Drives one submission. Its own fields are of this run only.
#[derive(Clone, Debug)]
pub struct SubmissionDriver {
    policy: SubmissionPolicy,
    /// Whether the file may have been uploaded without our knowledge.
    may_be_uploaded: bool,
    /// Number of calls in a row that failed.
    failures: u32,
    not_before: Option<DateTime<Utc>>,
    /// Whether the run has told that the provider does not find a batch of it.
    has_told_missing: bool,
}

impl SubmissionDriver {
    /// Creates the driver of a submission. `is_new` states that this run has made it.
    pub fn new(policy: SubmissionPolicy, is_new: bool) -> Self {
        SubmissionDriver {
            policy,
            may_be_uploaded: !is_new,
            failures: 0,
            not_before: None,
            has_told_missing: false,
        }
    }

    /// What is to be done at `now`.
    pub fn next(&self, submission: &Submission, now: DateTime<Utc>) -> SubmissionAction {
        if let Some(until) = self.not_before.filter(|until| *until > now) {
            return SubmissionAction::Wait(until);
        }
        match submission.state {
            SubmissionState::Sealed if self.may_be_uploaded => SubmissionAction::FindFile,
            SubmissionState::Sealed => SubmissionAction::Upload,
            SubmissionState::Uploaded => SubmissionAction::Create,
            // This run makes it now, or an earlier one ended while it did.
            SubmissionState::Creating | SubmissionState::Unclear => self.next_look(submission, now),
            SubmissionState::Created => self.next_for_batches(submission, now),
            SubmissionState::Ended => SubmissionAction::Collect,
            SubmissionState::Collected | SubmissionState::GivenUp | SubmissionState::Dropped => {
                SubmissionAction::Nothing
            }
        }
    }

    /// Whether its batches are to be asked for at `now`, or, unless a call about them has failed, by `soon`.
    pub fn polls_by(&self, submission: &Submission, now: DateTime<Utc>, soon: DateTime<Utc>) -> bool {
        let polls_at = |at| self.next(submission, at) == SubmissionAction::Poll;
        polls_at(now) || (self.failures == 0 && polls_at(soon))
    }

    fn next_look(&self, submission: &Submission, now: DateTime<Utc>) -> SubmissionAction {
        let part = LOOKS.get(submission.looks as usize).copied();
        let due = match part {
            Some(part) => submission.since + self.policy.recreate_after / part,
            // The last look is the one after which the batch may be made again.
            None => (submission.since + self.policy.recreate_after).max(now),
        };
        if due <= now { SubmissionAction::Look } else { SubmissionAction::Wait(due) }
    }

    fn next_for_batches(&self, submission: &Submission, now: DateTime<Utc>) -> SubmissionAction {
        let running = || submission.remote.iter().filter(|copy| !copy.has_ended);
        let late = |copy: &&RemoteCopy| {
            let made = copy.created_at.unwrap_or(submission.since);
            copy.cancelled_at.is_none() && copy.missing_since.is_none() && made + self.policy.deadline <= now
        };
        if let Some(copy) = running().find(late) {
            return SubmissionAction::Cancel(copy.id.clone());
        }
        // Of several batches of the same requests one goes on: the one that has come farthest.
        if running().filter(|copy| copy.cancelled_at.is_none()).count() > 1 || has_whole(submission) {
            let done = |copy: &&RemoteCopy| copy.counts.map_or(0, |counts| counts.completed);
            let mut open: Vec<&RemoteCopy> = running().filter(|copy| copy.cancelled_at.is_none()).collect();
            open.sort_by_key(done);
            if let Some(least) = open.first() {
                return SubmissionAction::Cancel(least.id.clone());
            }
        }
        SubmissionAction::Poll
    }

    /// Records that its file is at the provider.
    pub fn uploaded(&mut self, submission: &mut Submission, file: &str, now: DateTime<Utc>) {
        submission.file = Some(file.to_owned());
        submission.uploaded_at = Some(now);
        self.enter(submission, SubmissionState::Uploaded, now);
    }

    /// Records that its file is not at the provider.
    pub fn file_not_found(&mut self) {
        self.may_be_uploaded = false;
        self.succeeded();
    }

    /// Records that an upload failed; `is_lost` if the file may be there all the same.
    pub fn upload_failed(&mut self, is_lost: bool, now: DateTime<Utc>) {
        self.may_be_uploaded = is_lost;
        self.failed(None, now);
    }

    /// Records that its batch is about to be made. To be saved before the request is sent.
    pub fn creating(&mut self, submission: &mut Submission, now: DateTime<Utc>) {
        submission.looks = 0;
        self.enter(submission, SubmissionState::Creating, now);
    }

    /// Records what became of the creation of its batch.
    pub fn created(&mut self, submission: &mut Submission, result: &CreationResult<'_>, now: DateTime<Utc>) {
        match result {
            CreationResult::Made(batch) => {
                note(submission, batch, now);
                self.enter(submission, SubmissionState::Created, now);
            }
            CreationResult::Refused { again_after, is_about_file } => {
                let is_lag = submission.uploaded_at.is_some_and(|uploaded| now - uploaded < delta(FILE_LAG));
                if *is_about_file && !is_lag {
                    // The file is gone from the provider.
                    self.may_be_uploaded = false;
                    self.enter(submission, SubmissionState::Sealed, now);
                } else {
                    self.enter(submission, SubmissionState::Uploaded, now);
                }
                self.failures += 1;
                self.wait(*again_after, now);
            }
            CreationResult::Unclear => self.enter(submission, SubmissionState::Unclear, now),
        }
    }

    /// Records which batches of it a whole look at the list has shown.
    pub fn looked(&mut self, submission: &mut Submission, found: &[RemoteBatch], now: DateTime<Utc>) {
        self.succeeded();
        if !found.is_empty() {
            found.iter().for_each(|batch| note(submission, batch, now));
            self.enter(submission, SubmissionState::Created, now);
            return;
        }
        submission.looks += 1;
        let is_over = now - submission.since >= delta(self.policy.recreate_after);
        if self.policy.is_idempotent || (is_over && submission.looks >= FEWEST_LOOKS) {
            submission.made_again += u32::from(!self.policy.is_idempotent);
            self.enter(submission, SubmissionState::Uploaded, now);
        } else if submission.looks as usize >= LOOKS.len() {
            let until = (submission.since + self.policy.recreate_after).max(now + self.policy.poll);
            self.not_before = Some(until);
        }
    }

    /// Records that a look has shown no batch of it, and cannot have shown one.
    pub fn looked_elsewhere(&mut self, now: DateTime<Utc>) {
        self.succeeded();
        self.not_before = Some(now + LONGEST_BACKOFF);
    }

    /// Notes whether the provider does not find a batch of it. Returns whether that was told before.
    pub fn tell_missing(&mut self, is_missing: bool) -> bool {
        std::mem::replace(&mut self.has_told_missing, is_missing)
    }

    /// Records the states of its batches that were asked for, each with what the provider found, and batches of it that a
    /// list has shown.
    pub fn polled(
        &mut self,
        submission: &mut Submission,
        asked: &[(String, Option<RemoteBatch>)],
        now: DateTime<Utc>,
    ) {
        self.succeeded();
        for (id, found) in asked {
            match found {
                Some(batch) => note(submission, batch, now),
                None => {
                    if let Some(copy) = submission.remote.iter_mut().find(|copy| copy.id == *id) {
                        copy.missing_since.get_or_insert(now);
                    }
                }
            }
        }
        let is_over = |copy: &RemoteCopy| {
            let late = copy.cancelled_at.or(copy.ended_at);
            (copy.has_ended && !lacks_files(copy))
                // A batch that does not end although it was cancelled, or does not name its files.
                || late.is_some_and(|late| now - late >= delta(CANCELLATION))
        };
        if !submission.remote.is_empty() && submission.remote.iter().all(is_over) {
            self.enter(submission, SubmissionState::Ended, now);
        } else {
            self.not_before = Some(now + self.policy.poll);
        }
    }

    /// Records that a batch was asked to be cancelled.
    pub fn cancelled(&mut self, submission: &mut Submission, id: &str, now: DateTime<Utc>) {
        self.succeeded();
        if let Some(copy) = submission.remote.iter_mut().find(|copy| copy.id == id) {
            copy.cancelled_at = Some(now);
        }
    }

    /// Records that a call failed that may be made again.
    pub fn failed(&mut self, again_after: Option<Duration>, now: DateTime<Utc>) {
        self.failures += 1;
        self.wait(again_after, now);
    }

    fn wait(&mut self, stated: Option<Duration>, now: DateTime<Utc>) {
        let doubled = FIRST_BACKOFF.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        self.not_before = Some(now + stated.unwrap_or_default().max(doubled.min(LONGEST_BACKOFF)));
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    fn enter(&mut self, submission: &mut Submission, state: SubmissionState, now: DateTime<Utc>) {
        if !matches!(state, SubmissionState::Uploaded | SubmissionState::Sealed) {
            self.failures = 0;
        }
        self.not_before = None;
        submission.state = state;
        submission.since = now;
    }
}

/// Whether one of several batches has answered everything, so that the others need not go on.
fn has_whole(submission: &Submission) -> bool {
    let is_whole = |copy: &RemoteCopy| copy.has_ended && copy.status == BatchStatus::Completed.name();
    submission.remote.len() > 1 && submission.remote.iter().any(is_whole)
}

/// Whether a batch has ended with answers, and does not name their file yet.
fn lacks_files(copy: &RemoteCopy) -> bool {
    copy.output.is_none()
        && match copy.counts {
            Some(counts) => counts.completed > 0,
            None => copy.errors.is_none() && copy.status == BatchStatus::Completed.name(),
        }
}

/// Writes down what the provider says of a batch.
pub(super) fn note(submission: &mut Submission, batch: &RemoteBatch, now: DateTime<Utc>) {
    let at = submission.remote.iter().position(|copy| copy.id == batch.id);
    let copy = match at {
        Some(at) => &mut submission.remote[at],
        None => {
            submission.remote.push(RemoteCopy {
                id: batch.id.clone(),
                status: String::new(),
                created_at: None,
                expires_at: None,
                counts: None,
                usage: None,
                output: None,
                errors: None,
                cancelled_at: None,
                has_ended: false,
                ended_at: None,
                missing_since: None,
            });
            submission.remote.last_mut().expect("it was pushed")
        }
    };
    // A provider may show a batch as running once more after it has ended.
    if batch.status.is_end() || !copy.has_ended {
        copy.status = batch.status.name().to_owned();
    }
    copy.has_ended |= batch.status.is_end();
    if copy.has_ended {
        copy.ended_at.get_or_insert(now);
    }
    copy.created_at = batch.created_at.or(copy.created_at);
    copy.expires_at = batch.expires_at.or(copy.expires_at);
    copy.counts = batch.request_counts.or(copy.counts);
    copy.usage = batch.usage.or(copy.usage);
    copy.output = batch.output_file_id.clone().or_else(|| copy.output.take());
    copy.errors = batch.error_file_id.clone().or_else(|| copy.errors.take());
    copy.missing_since = None;
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

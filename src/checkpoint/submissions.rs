//! The list of submissions: what a job has handed to providers' Batch APIs, and what that may cost.
//!
//! It stands beside the checkpoint and outlives it: a checkpoint that is lost is rebuilt from the target, and a job that
//! starts over has spent what it has spent. No batch is made at a provider before the list says, durably, that it is
//! about to be made; so a run that begins knows of every batch that may exist.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::checksummed_file::{ChecksummedFile, ChecksummedFileKind};
use super::error::CheckpointError;
use super::machine::MachineId;
use super::plan::PlannedBatch;
use crate::ident::{AppId, BatchId, Fingerprint, Lineage, RunId, Spend, SubmissionId, SubmittedSpend};
use crate::store::{Folder, Location};
use crate::wire::{BatchUsage, RequestCounts};

const KIND: ChecksummedFileKind = ChecksummedFileKind {
    what: "list of submissions",
    name: "submissions.json",
    aside: "submissions.damaged",
    key: "submissions",
    format: 1,
    action: "submission-save",
};

/// All submissions of a job that are not done with, and the sum of those that are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submissions {
    /// Name of the job.
    pub app_id: AppId,
    /// The submissions that are done with.
    #[serde(default)]
    pub closed: ClosedSubmissions,
    /// The others, oldest first.
    pub open: Vec<Submission>,
    /// Batches whose rows all had outcomes or waited for submissions when the last run ended.
    #[serde(default)]
    pub unloaded: BTreeMap<BatchId, UnloadedBatch>,
    /// What is known of the providers' Batch APIs, by name.
    #[serde(default)]
    pub limits: BTreeMap<String, BatchApiLimits>,
}

/// A batch that need not be read before a submission comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadedBatch {
    /// Digest of its content.
    pub plan: String,
    /// Fingerprint of what the job's steps ask.
    pub steps: String,
    /// The submissions that its rows wait for.
    pub submissions: BTreeSet<SubmissionId>,
}

/// What was learned of a provider's Batch API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchApiLimits {
    /// Number of prompt tokens that may be in its batches at the same time; `None` if no batch has failed for too many.
    #[serde(default)]
    pub enqueued_tokens: Option<u64>,
    /// Number of batches in a row that failed for too many tokens.
    #[serde(default)]
    pub refusals: u32,
    /// When the next batch may be made.
    #[serde(default)]
    pub not_before: Option<DateTime<Utc>>,
    /// Number of batches in a row that failed in their validation and whose requests were submitted again.
    #[serde(default)]
    pub failures: u32,
    /// The models and interfaces of which a batch has come through the validation.
    #[serde(default)]
    pub validated: BTreeSet<String>,
}

/// Submissions that are done with, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedSubmissions {
    /// The highest of their numbers.
    pub submissions: u64,
    /// Number of requests in them.
    pub lines: u64,
    /// What they cost.
    pub took: Spend,
}

/// Requests that go to a provider's Batch API in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Its id, which the provider's batch carries in its metadata.
    pub id: SubmissionId,
    /// Its number in the job, counted from 1, for people.
    pub number: u64,
    /// Lineage of the checkpoint that planned its batches.
    pub lineage: Lineage,
    /// The machine that has its file.
    pub machine: MachineId,
    /// The run that made it.
    pub run: RunId,
    /// Name of the provider.
    pub provider: String,
    /// The model that its requests name.
    pub model: String,
    /// Address of the provider's interface, without anything secret.
    pub address: String,
    /// Path of the interface that answers its requests.
    pub endpoint: String,
    /// The output columns of its requests' steps, in the order to which the requests' ids refer.
    pub steps: Vec<String>,
    /// Files of the source that its requests' rows are in.
    pub files: Vec<String>,
    /// Number of its requests by the batch of their rows.
    pub batches: BTreeMap<BatchId, u64>,
    /// The batches with rows that take the answer to one of its requests.
    #[serde(default)]
    pub follower_batches: BTreeSet<BatchId>,
    /// Whether no journal names its rows any more.
    #[serde(default)]
    pub without_rows: bool,
    /// Number of its requests.
    pub lines: u64,
    /// Size of its file.
    pub bytes: u64,
    /// Tokens of its prompts, estimated.
    pub prompt_tokens: u64,
    /// What it may cost at most.
    pub worst: Spend,
    /// The most that one of its requests may cost, separately for money and tokens.
    #[serde(default)]
    pub worst_request: Spend,
    /// How far it has come.
    pub state: SubmissionState,
    /// When it came to this state.
    pub since: DateTime<Utc>,
    /// Id of its file at the provider.
    #[serde(default)]
    pub file: Option<String>,
    /// When its file was uploaded; `None` if it is not at the provider.
    #[serde(default)]
    pub uploaded_at: Option<DateTime<Utc>>,
    /// Ids of its batches at the provider: more than one only if the answer to a creation was lost.
    #[serde(default)]
    pub remote: Vec<RemoteCopy>,
    /// Number of times that its batch was looked for since its creation, with an answer.
    #[serde(default)]
    pub looks: u32,
    /// Number of times that its batch was made again after a lost answer: each may have left a batch that no list showed.
    #[serde(default)]
    pub made_again: u32,
    /// What it cost, once its answers are collected.
    #[serde(default)]
    pub took: Option<Spend>,
    /// The batches in which its answers are in the figures of a run that has ended, and were judged there.
    #[serde(default)]
    pub counted: BTreeSet<BatchId>,
}

/// A batch at the provider that was made of a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteCopy {
    /// Its id.
    pub id: String,
    /// Its state, as it was seen last.
    pub status: String,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<DateTime<Utc>>,
    /// When it expires.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Numbers of its requests.
    #[serde(default)]
    pub counts: Option<RequestCounts>,
    /// What all of its answers used, if the provider states it.
    #[serde(default)]
    pub usage: Option<BatchUsage>,
    /// Id of the file of its answers.
    #[serde(default)]
    pub output: Option<String>,
    /// Id of the file of its failed requests.
    #[serde(default)]
    pub errors: Option<String>,
    /// When it was asked to be cancelled.
    #[serde(default)]
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Whether it has ended.
    #[serde(default)]
    pub has_ended: bool,
    /// When it was first seen as ended.
    #[serde(default)]
    pub ended_at: Option<DateTime<Utc>>,
    /// Since when the provider does not find it.
    #[serde(default)]
    pub missing_since: Option<DateTime<Utc>>,
}

/// How far a submission has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubmissionState {
    /// Its file is complete on the disk of its machine, and perhaps at the provider.
    Sealed,
    /// Its file is at the provider.
    Uploaded,
    /// Its batch is about to be made, and may exist.
    Creating,
    /// The answer to the creation of its batch was lost: it may exist.
    Unclear,
    /// Its batch exists.
    Created,
    /// Its batch has ended; the answers are to be collected.
    Ended,
    /// The answers are in the journals of its batches.
    Collected,
    /// A person gave it up: what it cost at most counts as spent.
    GivenUp,
    /// It was never made: its rows are asked again.
    Dropped,
}

impl SubmissionState {
    /// Whether a batch of the submission may be at the provider and may bring answers. Its rows are not asked elsewhere.
    #[must_use]
    pub fn may_bring_answers(self) -> bool {
        matches!(
            self,
            SubmissionState::Creating
                | SubmissionState::Unclear
                | SubmissionState::Created
                | SubmissionState::Ended
        )
    }

    /// Whether its rows wait for it, in this run or on this machine.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, SubmissionState::Collected | SubmissionState::GivenUp | SubmissionState::Dropped)
    }

    /// Returns the name that people read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SubmissionState::Sealed => "sealed",
            SubmissionState::Uploaded => "uploaded",
            SubmissionState::Creating => "creating",
            SubmissionState::Unclear => "unclear",
            SubmissionState::Created => "created",
            SubmissionState::Ended => "ended",
            SubmissionState::Collected => "collected",
            SubmissionState::GivenUp => "given up",
            SubmissionState::Dropped => "dropped",
        }
    }
}

impl Submission {
    /// Whether rows of a batch wait for it.
    #[must_use]
    pub fn has_rows_of(&self, batch: BatchId) -> bool {
        self.batches.contains_key(&batch) || self.follower_batches.contains(&batch)
    }

    /// The batches with rows that wait for it.
    #[must_use]
    pub fn all_batches(&self) -> BTreeSet<BatchId> {
        self.batches.keys().chain(&self.follower_batches).copied().collect()
    }

    /// Whether the provider may have a batch of it that is not known.
    #[must_use]
    pub fn may_have_unknown_batch(&self) -> bool {
        self.made_again > 0 && self.remote.len() <= self.made_again as usize
    }

    /// What counts as spent for it: what it cost, or may cost at most while that is not known.
    #[must_use]
    pub fn counts_as(&self) -> Spend {
        match self.state {
            SubmissionState::Dropped => Spend::default(),
            SubmissionState::Collected => self.took.unwrap_or(self.worst),
            _ => self.worst,
        }
    }
}

impl Submissions {
    /// Creates an empty list.
    #[must_use]
    pub fn new(app_id: AppId) -> Self {
        Submissions {
            app_id,
            closed: ClosedSubmissions::default(),
            open: Vec::new(),
            unloaded: BTreeMap::new(),
            limits: BTreeMap::new(),
        }
    }

    /// Returns the submission with this id.
    #[must_use]
    pub fn get(&self, id: SubmissionId) -> Option<&Submission> {
        self.open.iter().find(|submission| submission.id == id)
    }

    /// Returns the submission with this id, to be changed.
    pub fn get_mut(&mut self, id: SubmissionId) -> Option<&mut Submission> {
        self.open.iter_mut().find(|submission| submission.id == id)
    }

    /// The submissions that a batch waits for.
    #[must_use]
    pub fn awaited_by(&self, batch: BatchId) -> BTreeSet<SubmissionId> {
        let is_awaited = |own: &&Submission| own.state.may_bring_answers() && own.has_rows_of(batch);
        self.open.iter().filter(is_awaited).map(|submission| submission.id).collect()
    }

    /// The batches, of those planned, that need not be read: nothing that they wait for has come back since a run with
    /// the same `steps` left them.
    #[must_use]
    pub fn still_unloaded(&self, planned: &[PlannedBatch], steps: Fingerprint) -> BTreeSet<BatchId> {
        let waits = |plan: &&PlannedBatch| {
            self.unloaded.get(&plan.id).is_some_and(|left| {
                left.plan == plan.digest().to_string()
                    && left.steps == steps.to_string()
                    && !left.submissions.is_empty()
                    && left.submissions == self.awaited_by(plan.id)
            })
        };
        planned.iter().filter(waits).map(|plan| plan.id).collect()
    }

    /// The number of the next submission.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        let newest = self.open.iter().map(|submission| submission.number).max().unwrap_or_default();
        newest.max(self.closed.submissions) + 1
    }

    /// What the submissions took that have come back or were given up, and what the others may take.
    #[must_use]
    pub fn spend(&self) -> SubmittedSpend {
        let all = SubmittedSpend { settled: self.closed.took, open: Spend::default() };
        self.open.iter().fold(all, add)
    }

    /// The same for the submissions that a run made.
    #[must_use]
    pub fn spend_of(&self, run: RunId) -> SubmittedSpend {
        let own = self.open.iter().filter(|submission| submission.run == run);
        own.fold(SubmittedSpend::default(), add)
    }

    /// Lets go of submissions of which no journal names the rows: every row is in the table.
    pub fn close_unclaimed(&mut self) {
        let own = self.open.iter_mut().filter(|submission| !submission.state.is_open());
        own.for_each(|submission| submission.without_rows = false);
    }

    /// Removes submissions to a provider whose answers are collected or that were given up, and whose batches
    /// `is_committed`; what they cost stays counted. One of which the provider may have another batch stays while it is not
    /// older than `since`. Returns those whose files are needed no longer.
    pub fn close(
        &mut self,
        provider: &str,
        since: DateTime<Utc>,
        is_committed: impl Fn(Lineage, BatchId) -> bool,
    ) -> Vec<Submission> {
        let is_done = |submission: &Submission| {
            let lineage = submission.lineage;
            submission.provider == provider
                && !submission.state.is_open()
                && !submission.without_rows
                && submission.all_batches().iter().all(|batch| is_committed(lineage, *batch))
        };
        let stays =
            |submission: &Submission| submission.may_have_unknown_batch() && submission.since >= since;
        let done: Vec<Submission> = self.open.extract_if(.., |own| is_done(own) && !stays(own)).collect();
        for submission in &done {
            self.closed.submissions = self.closed.submissions.max(submission.number);
            self.closed.lines += submission.lines;
            self.closed.took = self.closed.took + submission.counts_as();
        }
        let staying = self.open.iter_mut().filter(|own| is_done(own) && own.uploaded_at.is_some());
        let staying = staying.map(|own| Submission { uploaded_at: own.uploaded_at.take(), ..own.clone() });
        staying.chain(done).collect()
    }
}

fn add(mut sum: SubmittedSpend, submission: &Submission) -> SubmittedSpend {
    let part = if submission.state.is_open() { &mut sum.open } else { &mut sum.settled };
    *part = *part + submission.counts_as();
    sum
}

/// The file of a job's submissions, on a disk or in an object store.
#[derive(Clone, Debug)]
pub struct SubmissionsFile(ChecksummedFile);

impl SubmissionsFile {
    /// Returns the file in the folder of a checkpoint, without reading it.
    #[must_use]
    pub fn in_folder(folder: &Folder) -> Self {
        SubmissionsFile(ChecksummedFile::in_folder(folder, KIND))
    }

    /// Returns the location of the file.
    #[must_use]
    pub fn at(&self) -> Location {
        self.0.at()
    }

    /// Reads the list; `None` if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or has a later format.
    pub async fn load(&self) -> Result<Option<Submissions>, CheckpointError> {
        self.0.load().await
    }

    /// Moves a list that cannot be read aside, and returns its new location.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub async fn put_aside(&self) -> Result<Location, CheckpointError> {
        self.0.put_aside().await
    }

    /// Replaces the list. When this returns, the new one is durable on the disk or in the store.
    ///
    /// # Errors
    /// When the file cannot be written, which leaves the old one in place, or another run has changed it.
    pub async fn save(&self, submissions: &Submissions) -> Result<(), CheckpointError> {
        self.0.save(submissions).await
    }
}

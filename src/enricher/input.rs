//! The input of an enricher: the journals that it starts with, and the rows of each batch.

use std::path::PathBuf;
use std::sync::Arc;

use super::learned_file::LearnedFile;
use crate::budget::Account;
use crate::cache::Store;
use crate::checkpoint::{MachineId, PlannedBatch};
use crate::ident::{AppId, BatchId, Lineage, RunId};
use crate::journal::{EpochJournals, JournalFolder, StrayAnswers};
use crate::rows::Chunk;
use crate::rows::UnchangedStep;
use crate::submitter::{SharedSubmissions, SubmissionGuard};

/// The journals of a lineage, and other state that outlives a run.
#[derive(Debug)]
pub struct Journals {
    /// The lineage of the batches.
    pub lineage: Lineage,
    /// The folder of the journals.
    pub folder: JournalFolder,
    /// Paid answers that belong to none of the batches.
    pub stray_answers: StrayAnswers,
    /// Journals of the epochs of a job that is served; `None` if each batch has a journal of its own.
    pub epochs: Option<EpochJournals>,
    /// What former runs learned about providers.
    pub learned: LearnedFile,
    /// What the job may spend and has spent.
    pub account: Account,
    /// Answers across runs and jobs, or `None` without a cache.
    pub cache: Option<Store>,
    /// Journals of the planned, uncommitted batches.
    pub open: Vec<PathBuf>,
    /// The submissions to providers' Batch APIs; `None` if every request is sent by itself.
    pub submissions: Option<JobSubmissions>,
}

/// The submissions of a job, and what submitters need besides.
#[derive(Clone, Debug)]
pub struct JobSubmissions {
    /// Name of the job.
    pub app_id: AppId,
    /// Id of the target table.
    pub target_id: String,
    /// The run.
    pub run: RunId,
    /// The machine, whose disk has the files of requests.
    pub machine: MachineId,
    /// The list of submissions.
    pub list: SharedSubmissions,
    /// Folder of the files of requests and of the downloads.
    pub folder: PathBuf,
    /// The first batch that is not committed.
    pub first_uncommitted: BatchId,
    /// What must hold on other machines before a batch is made.
    pub guard: Arc<dyn SubmissionGuard>,
}

/// A batch with its rows.
#[derive(Debug)]
pub struct LoadedBatch {
    /// The plan of the batch.
    pub plan: PlannedBatch,
    /// The epoch in whose journal its answers are; `None` if it has a journal of its own.
    pub epoch: Option<u64>,
    /// Its rows, in order.
    pub chunks: Vec<Chunk>,
    /// Number of rows decoded for it.
    pub decoded: u64,
    /// Number of rows of its plan that are deleted in the source.
    pub deleted: u64,
    /// Outcomes in the target that stay, and for which no request is sent, by step. Empty if the target has none.
    pub kept: Vec<UnchangedStep>,
}

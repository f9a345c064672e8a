//! What an enricher is given: the journals to begin with, and the rows of each batch.

use std::path::PathBuf;

use super::learned_file::LearnedFile;
use crate::budget::Account;
use crate::cache::Store;
use crate::checkpoint::PlannedBatch;
use crate::ident::Lineage;
use crate::journal::{JournalFolder, StrayAnswers};
use crate::rows::Chunk;
use crate::rows::UnchangedStep;

/// The journals of a lineage.
#[derive(Debug)]
pub struct Journals {
    /// The lineage.
    pub lineage: Lineage,
    /// Where they are.
    pub folder: JournalFolder,
    /// Answers that belong to none of its batches.
    pub stray_answers: StrayAnswers,
    /// What was learned about providers.
    pub learned: LearnedFile,
    /// What may be spent.
    pub account: Account,
    /// Answers across runs and jobs, where they are kept.
    pub cache: Option<Store>,
    /// Journals of batches that are to be asked about.
    pub open: Vec<PathBuf>,
}

/// A batch with its rows.
#[derive(Debug)]
pub struct LoadedBatch {
    /// Its plan.
    pub plan: PlannedBatch,
    /// Its rows, in order.
    pub chunks: Vec<Chunk>,
    /// Rows decoded for it.
    pub decoded: u64,
    /// Rows of its plan that are deleted in the source.
    pub deleted: u64,
    /// By step: outcomes of the target that stay, and for which nothing is asked. Empty where the target has none.
    pub kept: Vec<UnchangedStep>,
}

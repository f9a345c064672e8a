//! What submitters share with each other and with the enricher.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};

use super::error::SubmitterError;
use super::shared::SharedSubmissions;
use crate::checkpoint::MachineId;
use crate::fault::Failure;
use crate::ident::{AppId, BatchId, Lineage, RunId};
use crate::journal::JournalFolder;

/// What the submitters of a run have in common.
#[derive(Clone, Debug)]
pub struct SubmitterContext {
    /// Name of the job.
    pub app_id: AppId,
    /// Lineage of the batches.
    pub lineage: Lineage,
    /// The run.
    pub run: RunId,
    /// The machine, whose disk has the files of requests.
    pub machine: MachineId,
    /// The list of submissions.
    pub submissions: SharedSubmissions,
    /// Folder of the files of requests and of the downloads.
    pub folder: PathBuf,
    /// The first batch that was not committed when the run began.
    pub first_uncommitted: BatchId,
    /// The journals of the lineage.
    pub journals: JournalFolder,
    /// Receives what is to be known outside.
    pub news: mpsc::UnboundedSender<SubmitterNews>,
    /// Asks for files that are not full to be handed in, with each new number: nothing more is to come for now.
    pub drain: watch::Receiver<u64>,
}

/// What a submitter tells the enricher.
#[derive(Debug)]
pub enum SubmitterNews {
    /// A submission came back: these batches are to be read again.
    Collected {
        /// The batches.
        batches: Vec<BatchId>,
    },
    /// The provider refuses what every further request would meet, too.
    Stop {
        /// Index of the provider.
        provider: usize,
        /// The refusal.
        failure: Failure,
    },
    /// The list of submissions or a journal cannot be written.
    Broken(SubmitterError),
}

/// Whether a submitter has nothing to do for a while. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SubmitterStatus {
    /// One more than the number of the last request to hand in that it has followed; 0 while it is busy.
    drained: Arc<AtomicU64>,
    is_full: Arc<AtomicBool>,
}

impl SubmitterStatus {
    /// Whether it has nothing to do for a while, and has handed in what there was at the request of this number.
    #[must_use]
    pub fn is_at_rest(&self, drained: u64) -> bool {
        self.drained.load(Ordering::Acquire) > drained
    }

    /// Whether it takes no more rows before a submission comes back.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Sets the number of the last request that it has followed, or `None` while it is busy, and whether it is full.
    /// Returns whether that is new.
    pub(super) fn set(&self, drained: Option<u64>, is_full: bool) -> bool {
        let state = drained.map_or(0, |drained| drained + 1);
        let is_new = self.is_full.swap(is_full, Ordering::AcqRel) != is_full;
        (self.drained.swap(state, Ordering::AcqRel) != state) | is_new
    }
}

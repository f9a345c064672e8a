//! What submitters share with each other and with the enricher.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};

use super::error::SubmitterError;
use super::shared::SharedSubmissions;
use crate::checkpoint::MachineId;
use crate::fault::Failure;
use crate::ident::{AppId, BatchId, Lineage, RunId};
use crate::journal::JournalFolder;

/// Why a submitter may not do what it is about to do.
pub type GuardError = Box<dyn std::error::Error + Send + Sync>;

/// What must hold on other machines before a submitter goes on.
pub trait SubmissionGuard: fmt::Debug + Send + Sync {
    /// Checks, before a batch is made, that the job is still this run's.
    fn confirm_held(&self) -> Pin<Box<dyn Future<Output = Result<(), GuardError>> + Send + '_>>;

    /// Copies the journals to where the checkpoint is, so that this machine is not the only one that knows them.
    fn copy_journals(&self) -> Pin<Box<dyn Future<Output = Result<(), GuardError>> + Send + '_>>;
}

/// What the submitters of a run have in common.
#[derive(Clone, Debug)]
pub struct SubmitterContext {
    /// Name of the job.
    pub app_id: AppId,
    /// Id of the target table, which tells jobs of the same name apart.
    pub target_id: String,
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
    /// The first batch that is not committed.
    pub first_uncommitted: Arc<AtomicU64>,
    /// What must hold on other machines.
    pub guard: Arc<dyn SubmissionGuard>,
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
    /// Whether it has collected what was ready when the run began.
    has_begun: Arc<AtomicBool>,
    /// One more than the number of the last request to hand in that it has followed; 0 while it is busy.
    drained: Arc<AtomicU64>,
    is_full: Arc<AtomicBool>,
    /// Whether it takes no rows before batches are back of which it is not known which rows they hold.
    awaits_lost: Arc<AtomicBool>,
    /// Whether it holds a row for which the budget leaves too little before something comes back.
    holds_row: Arc<AtomicBool>,
    /// Whether all that it could do next is to make batches, which waits until answers are looked at.
    puts_off: Arc<AtomicBool>,
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

    /// Whether it has collected what was ready when the run began. Before that no row should be handed out: it may be
    /// answered already.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Whether it takes no rows before batches are back of which it is not known which rows they hold.
    #[must_use]
    pub fn awaits_lost(&self) -> bool {
        self.awaits_lost.load(Ordering::Acquire)
    }

    /// Whether all that it could do next, besides taking rows, is to make batches, which waits until the answers that
    /// have come back are looked at.
    #[must_use]
    pub fn puts_off(&self) -> bool {
        self.puts_off.load(Ordering::Acquire)
    }

    /// Sets whether it waits for answers to be looked at. Returns whether it does only now.
    pub(super) fn set_puts_off(&self, puts_off: bool) -> bool {
        !self.puts_off.swap(puts_off, Ordering::AcqRel) && puts_off
    }

    pub(super) fn set_awaits_lost(&self, awaits_lost: bool) {
        self.awaits_lost.store(awaits_lost, Ordering::Release);
    }

    /// Number of rows that it holds because the budget leaves too little for them.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.holds_row.load(Ordering::Acquire).into()
    }

    pub(super) fn set_begun(&self) {
        self.has_begun.store(true, Ordering::Release);
    }

    /// Sets whether it holds a row.
    pub(super) fn set_holding(&self, holds_row: bool) {
        self.holds_row.store(holds_row, Ordering::Release);
    }

    /// Sets the number of the last request that it has followed, or `None` while it is busy, and whether it is full.
    /// Returns whether that is new.
    pub(super) fn set(&self, drained: Option<u64>, is_full: bool) -> bool {
        let state = drained.map_or(0, |drained| drained + 1);
        let is_new = self.is_full.swap(is_full, Ordering::AcqRel) != is_full;
        (self.drained.swap(state, Ordering::AcqRel) != state) | is_new
    }
}

//! What stands at the two ends of the engine: where batches come from and where they go.

use std::future::Future;

use super::error::EngineError;
use crate::checkpoint::PlannedBatch;
use crate::event::{Event, Voice};
use crate::ident::{BatchId, Lineage};
use crate::metrics::{Keeper, MetricsError};
use crate::sink::{Committed, FilledBatch, RetryCommit, Sink, Turned, UnchangedStep};
use crate::source::Chunk;

/// A batch with its rows.
#[derive(Debug)]
pub struct Loaded {
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

/// Where batches come from; used by one task at a time.
pub(super) trait Feed: Send + 'static {
    /// Plans the next batch, makes the plan durable, and reads its rows; none at the end. Batches up to
    /// `done` are committed and leave the checkpoint.
    fn plan(
        &mut self,
        done: Option<BatchId>,
    ) -> impl Future<Output = Result<Option<Loaded>, EngineError>> + Send;

    /// Reads the rows of a planned batch.
    fn load(&mut self, plan: PlannedBatch) -> impl Future<Output = Result<Loaded, EngineError>> + Send;

    /// The plan of a batch that is not committed.
    fn planned(&self, id: BatchId) -> Option<PlannedBatch>;

    /// Ends a run: batches up to `done` are committed; `complete` says that nothing is left.
    fn close(
        &mut self,
        done: Option<BatchId>,
        complete: bool,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Keeps later runs from paying for more of the same, where they come again by themselves; says whether it does.
    fn pause(&mut self, _why: String) -> impl Future<Output = Result<bool, EngineError>> + Send {
        async { Ok(false) }
    }

    /// Whether planning ends where there is nothing more, and not at a limit of this run.
    fn reaches_end(&self) -> bool;

    /// Whether every row that could use an answer of an earlier plan is among those planned.
    fn covers_all(&self) -> bool;
}

/// Where batches go, in their order; used by one task at a time.
pub(super) trait Drain: Send + 'static {
    /// Turns outcomes that the target does not take as it is now into errors; gives what was turned by step.
    fn judge(
        &mut self,
        _batch: &mut FilledBatch,
    ) -> impl Future<Output = Result<Vec<Turned>, EngineError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Commits a batch that was judged, unless the log has it; `None` where the target takes other rows since then.
    fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> impl Future<Output = Result<Option<Committed>, EngineError>> + Send;

    /// Ends a run, after its last commit.
    fn close(&mut self) -> impl Future<Output = Result<(), EngineError>> + Send {
        async { Ok(()) }
    }
}

impl Drain for Sink {
    async fn judge(&mut self, batch: &mut FilledBatch) -> Result<Vec<Turned>, EngineError> {
        Ok(Sink::judge(self, batch).await?)
    }

    async fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> Result<Option<Committed>, EngineError> {
        Ok(Sink::commit(self, batch, lineage).await?)
    }
}

impl Drain for RetryCommit {
    async fn judge(&mut self, batch: &mut FilledBatch) -> Result<Vec<Turned>, EngineError> {
        Ok(RetryCommit::judge(self, batch).await?)
    }

    async fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> Result<Option<Committed>, EngineError> {
        Ok(RetryCommit::commit(self, batch, lineage).await?)
    }
}

/// Keeps the figures of the batches that go somewhere.
#[derive(Debug)]
pub(super) struct Metered<D> {
    inner: D,
    keeper: Option<Keeper>,
    voice: Voice,
    /// Whether it was told that the table of figures cannot be written.
    is_told: bool,
}

impl<D> Metered<D> {
    pub(super) fn new(inner: D, keeper: Option<Keeper>, voice: Voice) -> Self {
        Metered { inner, keeper, voice, is_told: false }
    }

    /// Figures wait for their table to be writable again: the data does not.
    fn passed(&mut self, kept: Result<(), MetricsError>) {
        if let Err(error) = kept
            && !self.is_told
        {
            self.is_told = true;
            self.voice.say(&Event::Notice(&figures_wait(&error)));
        }
    }
}

/// What is said of figures whose table cannot be written.
pub(super) fn figures_wait(error: &MetricsError) -> String {
    format!(
        "figures of batches wait beside the checkpoint, since their table cannot be written: {error}; see to it, name \
         another place with metrics.path, or set metrics.enabled = false"
    )
}

impl<D: Drain + Sync> Drain for Metered<D> {
    async fn judge(&mut self, batch: &mut FilledBatch) -> Result<Vec<Turned>, EngineError> {
        self.inner.judge(batch).await
    }

    async fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> Result<Option<Committed>, EngineError> {
        if let Some(keeper) = &mut self.keeper {
            keeper.note(batch).await?;
        }
        let committed = self.inner.commit(batch, lineage).await?;
        if let Some(keeper) = &mut self.keeper
            && committed.is_some()
        {
            let kept = keeper.committed().await;
            self.passed(kept);
        }
        Ok(committed)
    }

    async fn close(&mut self) -> Result<(), EngineError> {
        if let Some(keeper) = &mut self.keeper {
            let kept = keeper.flush().await;
            self.passed(kept);
        }
        Ok(())
    }
}

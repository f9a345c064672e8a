//! The two ends of a run: a feed, where batches come from, and a drain, where they go.

use std::future::Future;

use tokio::sync::mpsc;

use super::error::RunError;
use crate::checkpoint::PlannedBatch;
use crate::enricher::LoadedBatch;
use crate::event::{Event, Voice};
use crate::ident::{BatchId, Lineage};
use crate::metrics::{MetricsError, MetricsWriter};
use crate::rows::{ConstraintErrors, FilledBatch};
use crate::sink::{Committed, RetryCommit, Sink};

/// The origin of batches, used by one task at a time.
pub(crate) trait Feed: Send + 'static {
    /// Plans the next batch, makes the plan durable, and reads its rows. Returns `None` if nothing is left to plan.
    /// Batches up to `done` are committed; their plans are dropped from the checkpoint.
    fn plan(
        &mut self,
        done: Option<BatchId>,
    ) -> impl Future<Output = Result<Option<LoadedBatch>, RunError>> + Send;

    /// Reads the rows of a planned batch.
    fn load(&mut self, plan: PlannedBatch) -> impl Future<Output = Result<LoadedBatch, RunError>> + Send;

    /// Returns the plan of a batch that is not committed, or `None` if there is no such batch.
    fn planned(&self, id: BatchId) -> Option<PlannedBatch>;

    /// Ends a run. Batches up to `done` are committed; `complete` states that no row is left to plan or to commit.
    fn close(
        &mut self,
        done: Option<BatchId>,
        complete: bool,
    ) -> impl Future<Output = Result<(), RunError>> + Send;

    /// Pauses the job, so that later runs do not pay for more of the same outcomes. Returns whether it is paused. A
    /// feed whose rows no later run sends by itself does nothing.
    fn pause(&mut self, _why: String) -> impl Future<Output = Result<bool, RunError>> + Send {
        async { Ok(false) }
    }

    /// Returns where the batches come from that nobody waits for any more, or `None` if every batch is wanted to its end.
    fn withdrawals(&mut self) -> Option<mpsc::Receiver<BatchId>> {
        None
    }

    /// Whether planning ends at the end of the rows, and not at a limit of this run.
    fn reaches_end(&self) -> bool;

    /// Whether the planned rows include every row that could use an answer from the journal of an earlier plan.
    fn covers_all(&self) -> bool;
}

/// The destination of batches, which arrive in order; used by one task at a time.
pub(crate) trait Drain: Send + 'static {
    /// Turns outcomes that break the target's present constraints into errors. Returns these by step.
    fn apply_constraints(
        &mut self,
        _batch: &mut FilledBatch,
    ) -> impl Future<Output = Result<Vec<ConstraintErrors>, RunError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Commits a batch after [`Drain::apply_constraints`], unless the target's log has it. Returns `None`, without a
    /// commit, if the target's columns or constraints have changed in between.
    fn commit(
        &mut self,
        batch: &FilledBatch,
        lineage: Lineage,
    ) -> impl Future<Output = Result<Option<Delivery>, RunError>> + Send;

    /// Ends a run after its last commit.
    fn close(&mut self) -> impl Future<Output = Result<(), RunError>> + Send {
        async { Ok(()) }
    }
}

/// How a drain took in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The batch was committed to a table, as this version.
    Committed(u64),
    /// The table already had the batch.
    CommittedBefore,
    /// The batch was handed over to memory, not to a table.
    HandedOver,
}

impl From<Committed> for Delivery {
    fn from(committed: Committed) -> Self {
        match committed {
            Committed::Now(version) => Delivery::Committed(version),
            Committed::Before => Delivery::CommittedBefore,
        }
    }
}

/// A target whose log shows which batches it holds.
pub(crate) trait CommitLog: Sync {
    /// Returns the newest batch of a lineage that the target holds, or `None` if it holds none.
    fn newest_of(&self, lineage: Lineage) -> impl Future<Output = Result<Option<BatchId>, RunError>> + Send;
}

impl CommitLog for Sink {
    async fn newest_of(&self, lineage: Lineage) -> Result<Option<BatchId>, RunError> {
        Ok(self.committed(lineage).await?.lineage)
    }
}

impl CommitLog for RetryCommit {
    async fn newest_of(&self, lineage: Lineage) -> Result<Option<BatchId>, RunError> {
        Ok(self.committed(lineage).await?.lineage)
    }
}

impl Drain for Sink {
    async fn apply_constraints(
        &mut self,
        batch: &mut FilledBatch,
    ) -> Result<Vec<ConstraintErrors>, RunError> {
        Ok(Sink::apply_constraints(self, batch).await?)
    }

    async fn commit(&mut self, batch: &FilledBatch, lineage: Lineage) -> Result<Option<Delivery>, RunError> {
        Ok(Sink::commit(self, batch, lineage).await?.map(Delivery::from))
    }
}

impl Drain for RetryCommit {
    async fn apply_constraints(
        &mut self,
        batch: &mut FilledBatch,
    ) -> Result<Vec<ConstraintErrors>, RunError> {
        Ok(RetryCommit::apply_constraints(self, batch).await?)
    }

    async fn commit(&mut self, batch: &FilledBatch, lineage: Lineage) -> Result<Option<Delivery>, RunError> {
        Ok(RetryCommit::commit(self, batch, lineage).await?.map(Delivery::from))
    }
}

/// A drain that writes the metrics of the batches it commits, if the job has a metrics table.
#[derive(Debug)]
pub(crate) struct Metered<D> {
    inner: D,
    writer: Option<MetricsWriter>,
    voice: Voice,
    /// Whether it was reported that the metrics table cannot be written.
    has_reported: bool,
}

impl<D> Metered<D> {
    pub(crate) fn new(inner: D, writer: Option<MetricsWriter>, voice: Voice) -> Self {
        Metered { inner, writer, voice, has_reported: false }
    }

    /// Reports the first failure to write the metrics table. Metrics stay pending until the table can be written;
    /// commits to the target do not wait for it.
    fn passed(&mut self, kept: Result<(), MetricsError>) {
        if let Err(error) = kept
            && !self.has_reported
        {
            self.has_reported = true;
            self.voice.say(&Event::Notice(&figures_wait(&error)));
        }
    }
}

/// Returns the message about metrics whose table cannot be written.
pub(crate) fn figures_wait(error: &MetricsError) -> String {
    format!(
        "figures of batches wait beside the checkpoint, since their table cannot be written: {error}; see to it, name \
         another place with metrics.path, or set metrics.enabled = false"
    )
}

impl<D: Drain + Sync> Drain for Metered<D> {
    async fn apply_constraints(
        &mut self,
        batch: &mut FilledBatch,
    ) -> Result<Vec<ConstraintErrors>, RunError> {
        self.inner.apply_constraints(batch).await
    }

    async fn commit(&mut self, batch: &FilledBatch, lineage: Lineage) -> Result<Option<Delivery>, RunError> {
        if let Some(writer) = &mut self.writer {
            writer.note(batch).await?;
        }
        let committed = self.inner.commit(batch, lineage).await?;
        if let Some(writer) = &mut self.writer
            && committed.is_some()
        {
            let kept = writer.committed().await;
            self.passed(kept);
        }
        Ok(committed)
    }

    async fn close(&mut self) -> Result<(), RunError> {
        if let Some(writer) = &mut self.writer {
            let kept = writer.flush().await;
            self.passed(kept);
        }
        Ok(())
    }
}

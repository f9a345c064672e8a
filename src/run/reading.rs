//! Planning and reading: the part of a run that walks the source forward.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::error::RunError;
use super::feed::Feed;
use super::pause::Cause;
use crate::checkpoint::{Checkpoint, CheckpointFile, FileRange, PlannedBatch};
use crate::enricher::LoadedBatch;
use crate::event::{Event, Voice};
use crate::ident::BatchId;
use crate::passed::PassedOver;
use crate::plan::Planner;
use crate::query::QueryResults;
use crate::rows::Chunk;
use crate::sink::Constraints;
use crate::source::{RowMask, RowReader, SourceError};

/// Number of files of a batch that are read at the same time.
const FILES_AT_ONCE: usize = 16;

/// The planner, the reader and the checkpoint of a run, used by one task at a time.
#[derive(Debug)]
pub(crate) struct SourceFeed {
    pub(crate) planner: Planner,
    pub(crate) reader: RowReader,
    pub(crate) file: CheckpointFile,
    pub(crate) checkpoint: Checkpoint,
    /// Rows that earlier runs passed over; `None` if that is not known.
    pub(crate) passed_before: Option<PassedOver>,
    /// Whether rows that the target lacked are sent first.
    pub(crate) refills: bool,
    pub(crate) constraints: watch::Receiver<Arc<Constraints>>,
    pub(crate) cause: Cause,
    /// The results of the query that the source is; `None` for a table or files.
    pub(crate) results: Option<QueryResults>,
    pub(crate) voice: Voice,
}

impl Feed for SourceFeed {
    async fn plan(&mut self, done: Option<BatchId>) -> Result<Option<LoadedBatch>, RunError> {
        let Some(plan) = self.planner.next(self.checkpoint.next_batch).await? else {
            self.save_end_position().await?;
            for path in self.planner.source().unfinished() {
                let text = format!(
                    "{path} is no whole file (cut off, or still being written?): it is left for the next run"
                );
                self.voice.say(&Event::Notice(&text));
            }
            return Ok(None);
        };
        // A batch that the target would reject fails here, unplanned: a changed job may then leave its rows out.
        let loaded = self.load(plan).await?;
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.planned.retain(|batch| done.is_none_or(|done| batch.id > done));
        checkpoint.planned.push(loaded.plan.clone());
        checkpoint.next_batch = loaded.plan.id.next();
        checkpoint.position = loaded.plan.next.clone();
        checkpoint.passed = self.passed(self.planner.passed());
        self.save(checkpoint).await?;
        Ok(Some(loaded))
    }

    async fn load(&mut self, plan: PlannedBatch) -> Result<LoadedBatch, RunError> {
        let mut kept = Vec::with_capacity(plan.parts.len());
        for part in &plan.parts {
            kept.push(self.planner.source_mut().kept(part, plan.condition.as_deref()).await?);
        }
        let parts = plan.parts.iter().cloned().zip(kept);
        let parts: Vec<(FileRange, RowMask)> = parts.collect();
        let deleted: u64 = parts.iter().map(|(part, kept)| kept.deleted(part.rows())).sum();
        // Each file with a reader of its own: the first with that of the last batch, which may have the file open.
        let files: Vec<_> = parts.chunk_by(|(a, _), (b, _)| a.file == b.file).map(<[_]>::to_vec).collect();
        let another = self.planner.source().reader();
        let readers = std::iter::once(std::mem::replace(&mut self.reader, another));
        let source = self.planner.source();
        let readers = readers.chain(std::iter::repeat_with(|| source.reader()));
        let reads = files.into_iter().zip(readers).map(|(parts, mut reader)| {
            let task = tokio::task::spawn_blocking(move || {
                let before = reader.decoded();
                let chunks = parts.iter().map(|(part, kept)| reader.read(part, kept));
                let chunks: Vec<Vec<Chunk>> = chunks.collect::<Result<_, _>>()?;
                let decoded = reader.decoded() - before;
                Ok::<_, SourceError>((reader, chunks, decoded))
            });
            async { task.await.map_err(|error| RunError::Task(error.to_string())) }
        });
        let mut reads = stream::iter(reads).buffered(FILES_AT_ONCE);
        let (mut chunks, mut decoded) = (Vec::new(), 0);
        while let Some(read) = reads.try_next().await? {
            let (reader, of_file, rows) = read?;
            chunks.extend(of_file.into_iter().flatten());
            decoded += rows;
            self.reader = reader;
        }
        let constraints = Arc::clone(&self.constraints.borrow());
        chunks.iter().try_for_each(|chunk| constraints.admit(chunk))?;
        Ok(LoadedBatch { plan, epoch: None, chunks, decoded, deleted, kept: Vec::new() })
    }

    fn planned(&self, id: BatchId) -> Option<PlannedBatch> {
        self.checkpoint.planned.iter().find(|batch| batch.id == id).cloned()
    }

    async fn close(&mut self, done: Option<BatchId>, complete: bool) -> Result<(), RunError> {
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.planned.retain(|batch| done.is_none_or(|done| batch.id > done));
        if complete && !self.cause.has_paused(&checkpoint) {
            // The pause had another cause, and the job as it is now has reached its end.
            checkpoint.paused = None;
        }
        if complete {
            checkpoint.asks_all_since = None;
            if let Some(restored) = checkpoint.restored.as_mut().filter(|_| self.refills) {
                restored.is_refilled = true;
            }
        }
        if checkpoint != self.checkpoint {
            self.save(checkpoint).await?;
        }
        let Checkpoint { position, planned, .. } = &self.checkpoint;
        self.planner.source().remove_staged(position, planned);
        if let Some(results) = &self.results {
            // If that fails, the next run does it.
            let _ = results.remove_unneeded(position, planned).await;
        }
        Ok(())
    }

    async fn pause(&mut self, why: String) -> Result<bool, RunError> {
        let paused = Some(self.cause.pause(why));
        self.save(Checkpoint { paused, ..self.checkpoint.clone() }).await?;
        Ok(true)
    }

    fn reaches_end(&self) -> bool {
        self.planner.rows_left() != Some(0)
    }

    fn covers_all(&self) -> bool {
        self.reaches_end()
    }
}

impl SourceFeed {
    /// Moves the position for good past what has no rows: files in which no row meets the condition, and versions of a
    /// table, whose log may be cleaned at any time.
    async fn save_end_position(&mut self) -> Result<(), RunError> {
        let is_limited = self.planner.rows_left() == Some(0);
        let end = self.planner.source().end().filter(|_| !is_limited);
        let position = end.unwrap_or_else(|| self.planner.position().clone());
        if position == self.checkpoint.position {
            return Ok(());
        }
        let mut passed = self.planner.passed();
        if !is_limited {
            passed += self.planner.passed_at_end();
        }
        let passed = self.passed(passed);
        let checkpoint = Checkpoint { position, passed, ..self.checkpoint.clone() };
        self.save(checkpoint).await
    }

    /// Returns the rows passed over before and in this run, or `None` if the former are not known.
    fn passed(&self, now: PassedOver) -> Option<PassedOver> {
        self.passed_before.map(|mut passed| {
            passed += now;
            passed
        })
    }

    /// Saves the checkpoint, then replaces the one in memory.
    async fn save(&mut self, checkpoint: Checkpoint) -> Result<(), RunError> {
        self.file.save(&checkpoint).await?;
        if let Some(passed) = checkpoint.passed.filter(|passed| Some(*passed) != self.checkpoint.passed) {
            self.voice.say(&Event::PassedOver(passed));
        }
        self.checkpoint = checkpoint;
        Ok(())
    }
}

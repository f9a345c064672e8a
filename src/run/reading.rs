//! Planning and reading: the part of a run that walks the source forward.

use std::sync::Arc;

use arrow::datatypes::Schema;

use super::error::RunError;
use super::feed::Feed;
use super::pause::Cause;
use crate::checkpoint::{Checkpoint, CheckpointFile, PlannedBatch};
use crate::enricher::LoadedBatch;
use crate::event::{Event, Voice};
use crate::ident::BatchId;
use crate::passed::PassedOver;
use crate::plan::Planner;
use crate::rows::Chunk;
use crate::sink::Constraints;
use crate::source::RowReader;
use crate::store::Location;
use tokio::sync::watch;

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
        let before = self.reader.decoded();
        let mut kept = Vec::with_capacity(plan.parts.len());
        for part in &plan.parts {
            kept.push(self.planner.source_mut().kept(part, plan.condition.as_deref()).await?);
        }
        let empty = Arc::new(Schema::empty());
        let idle = RowReader::new(Location::local(""), Arc::clone(&empty), empty);
        let mut reader = std::mem::replace(&mut self.reader, idle);
        let task = tokio::task::spawn_blocking(move || {
            let parts = plan.parts.iter().zip(&kept);
            let deleted: u64 = parts.clone().map(|(part, kept)| kept.deleted(part.rows())).sum();
            let chunks: Result<Vec<Vec<Chunk>>, _> =
                parts.map(|(part, kept)| reader.read(part, kept)).collect();
            (reader, plan, chunks, deleted)
        });
        let (reader, plan, chunks, deleted) =
            task.await.map_err(|error| RunError::Task(error.to_string()))?;
        self.reader = reader;
        let chunks: Vec<Chunk> = chunks?.into_iter().flatten().collect();
        let constraints = Arc::clone(&self.constraints.borrow());
        chunks.iter().try_for_each(|chunk| constraints.admit(chunk))?;
        let decoded = self.reader.decoded() - before;
        Ok(LoadedBatch { plan, chunks, decoded, deleted, kept: Vec::new() })
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
        if checkpoint == self.checkpoint { Ok(()) } else { self.save(checkpoint).await }
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

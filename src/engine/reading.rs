//! Planning and reading: the part of a run that walks the source forward.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::checkpoint::{Checkpoint, CheckpointFile, PlannedBatch};
use crate::engine::EngineError;
use crate::ident::BatchId;
use crate::plan::Planner;
use crate::source::{Chunk, RowReader};

/// The planner, the reader and the checkpoint; used by one task at a time.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) planner: Planner,
    pub(super) reader: RowReader,
    pub(super) file: CheckpointFile,
    pub(super) checkpoint: Checkpoint,
}

/// A batch with its rows.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) plan: PlannedBatch,
    pub(super) chunks: Vec<Chunk>,
    /// Rows decoded for it.
    pub(super) decoded: u64,
}

impl Reading {
    /// Plans the next batch, makes the plan durable, and reads its rows; none at the end of the source.
    /// Batches up to `done` are committed and leave the checkpoint.
    pub(super) async fn plan(&mut self, done: Option<BatchId>) -> Result<Option<Loaded>, EngineError> {
        let Some(plan) = self.planner.next(self.checkpoint.next_batch).await? else {
            self.note_end().await?;
            return Ok(None);
        };
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.planned.retain(|batch| done.is_none_or(|done| batch.id > done));
        checkpoint.planned.push(plan.clone());
        checkpoint.next_batch = plan.id.next();
        checkpoint.position = plan.next.clone();
        self.save(checkpoint).await?;
        self.load(plan).await.map(Some)
    }

    /// Passes for good over versions of the source that bring no rows: their log may be cleaned any day.
    async fn note_end(&mut self) -> Result<(), EngineError> {
        let is_limited = self.planner.rows_left() == Some(0);
        match self.planner.source().end() {
            Some(end) if !is_limited && end != self.checkpoint.position => {
                let checkpoint = Checkpoint { position: end, ..self.checkpoint.clone() };
                self.save(checkpoint).await
            }
            _ => Ok(()),
        }
    }

    /// Reads the rows of a planned batch.
    pub(super) async fn load(&mut self, plan: PlannedBatch) -> Result<Loaded, EngineError> {
        let before = self.reader.decoded();
        let idle = RowReader::new(PathBuf::new(), Arc::new(Schema::empty()));
        let mut reader = std::mem::replace(&mut self.reader, idle);
        let task = tokio::task::spawn_blocking(move || {
            let chunks: Result<Vec<Vec<Chunk>>, _> =
                plan.parts.iter().map(|part| reader.read(part)).collect();
            (reader, plan, chunks)
        });
        let (reader, plan, chunks) = task.await.map_err(|error| EngineError::Task(error.to_string()))?;
        self.reader = reader;
        let chunks = chunks?.into_iter().flatten().collect();
        Ok(Loaded { plan, chunks, decoded: self.reader.decoded() - before })
    }

    /// Replaces the checkpoint on the disk, then here.
    pub(super) async fn save(&mut self, checkpoint: Checkpoint) -> Result<(), EngineError> {
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || file.save(&checkpoint).map(|()| checkpoint));
        self.checkpoint = task.await.map_err(|error| EngineError::Task(error.to_string()))??;
        Ok(())
    }

    /// Takes committed batches out of the checkpoint, if it has any.
    pub(super) async fn prune(&mut self, done: Option<BatchId>) -> Result<(), EngineError> {
        let Some(done) = done else { return Ok(()) };
        if self.checkpoint.planned.iter().any(|batch| batch.id <= done) {
            let mut checkpoint = self.checkpoint.clone();
            checkpoint.planned.retain(|batch| batch.id > done);
            self.save(checkpoint).await?;
        }
        Ok(())
    }
}

//! The feed of a service: batches as they are posted.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::columns::PostedRows;
use super::register::{BatchName, Register};
use crate::checkpoint::{FileRange, PlannedBatch, Position};
use crate::enricher::LoadedBatch;
use crate::executor::Mode;
use crate::ident::BatchId;
use crate::journal::epoch_file;
use crate::rows::Chunk;
use crate::run::{Feed, RunError};

/// The batches that are posted, in the order in which they came.
pub(super) struct ServedFeed {
    pub(super) register: Arc<Register>,
    pub(super) inbox: mpsc::Receiver<BatchName>,
    pub(super) withdrawals: Option<mpsc::Receiver<BatchId>>,
    pub(super) mode: watch::Receiver<Mode>,
    /// Number of the next batch.
    pub(super) next: BatchId,
}

impl Feed for ServedFeed {
    async fn plan(&mut self, _: Option<BatchId>) -> Result<Option<LoadedBatch>, RunError> {
        loop {
            let stops = async {
                if self.mode.wait_for(|mode| *mode != Mode::Running).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let name = tokio::select! {
                biased;
                () = stops => None,
                name = self.inbox.recv() => name,
            };
            let Some(name) = name else { return Ok(None) };
            if let Some(posted) = self.register.take_up(&name, self.next) {
                let id = self.next;
                self.next = id.next();
                return Ok(Some(loaded(id, &name, posted)));
            }
        }
    }

    async fn load(&mut self, plan: PlannedBatch) -> Result<LoadedBatch, RunError> {
        // Rows that were posted stay in memory until they have their outcomes.
        Err(RunError::Task(format!("batch {} is not read again", plan.id)))
    }

    fn planned(&self, _: BatchId) -> Option<PlannedBatch> {
        None
    }

    async fn close(&mut self, _: Option<BatchId>, _: bool) -> Result<(), RunError> {
        Ok(())
    }

    fn withdrawals(&mut self) -> Option<mpsc::Receiver<BatchId>> {
        self.withdrawals.take()
    }

    fn reaches_end(&self) -> bool {
        false
    }

    fn covers_all(&self) -> bool {
        false
    }
}

fn loaded(id: BatchId, name: &BatchName, posted: PostedRows) -> LoadedBatch {
    let file = epoch_file(name.epoch);
    let rows = posted.rows.num_rows() as u64;
    let part = FileRange {
        file: format!("{file}/{}", name.name),
        size: 0,
        version: None,
        start: 0,
        end: rows,
        partition: BTreeMap::new(),
    };
    let chunk = Chunk { file, physical: posted.keys, rows: posted.rows };
    let plan = PlannedBatch {
        id,
        parts: vec![part],
        bytes: chunk.bytes(),
        next: Position::Start,
        condition: None,
        kept: None,
    };
    LoadedBatch {
        plan,
        epoch: Some(name.epoch),
        chunks: vec![chunk],
        decoded: rows,
        deleted: 0,
        kept: Vec::new(),
    }
}

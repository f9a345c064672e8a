//! Compares a checkpoint with the target's Delta log. Pure: it reads and writes nothing.

use super::file::Checkpoint;
use super::plan::PlannedBatch;
use crate::ident::{AppId, BatchId};

/// The newest committed batch of an application id and of its lineage, according to the target's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewestCommitted {
    /// Newest batch under the `app_id`, of any lineage.
    pub app: Option<BatchId>,
    /// Newest batch under the `app_id` and this checkpoint's lineage.
    pub lineage: Option<BatchId>,
}

/// How a run continues from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Continue: these planned batches are not committed and are run exactly as planned.
    Continue(Vec<PlannedBatch>),
    /// The checkpoint is older than the table, perhaps because it was restored from a backup. Its position is not used
    /// and is determined anew, as if the checkpoint were lost.
    Behind {
        /// The newest committed batch.
        committed: BatchId,
    },
}

/// Why a run must not continue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryRefusal {
    /// Another checkpoint writes under this `app_id`.
    #[error(
        "another checkpoint writes to this target under the same app_id: batch {batch} of app_id {app_id:?} was committed, but not by this checkpoint"
    )]
    Foreign {
        /// Newest batch under the `app_id`.
        batch: BatchId,
        /// The name of the job.
        app_id: AppId,
    },
    /// The table lacks a batch that this checkpoint saw committed.
    #[error(
        "the target lacks batch {missing}, which was committed before: it was restored to an earlier version or replaced"
    )]
    TableBehind {
        /// The first batch that is missing.
        missing: BatchId,
    },
}

/// Compares a checkpoint with the target's log.
///
/// # Errors
/// [`RecoveryRefusal`] when another checkpoint has written under the same `app_id`, or when the table lacks a batch
/// that this checkpoint saw committed.
pub fn recover<P>(
    checkpoint: &Checkpoint<P>,
    committed: NewestCommitted,
) -> Result<Recovery, RecoveryRefusal> {
    if committed.app != committed.lineage {
        let batch = committed.app.or(committed.lineage).unwrap_or(BatchId::FIRST);
        return Err(RecoveryRefusal::Foreign { batch, app_id: checkpoint.app_id.clone() });
    }
    let expected = committed.lineage.map_or(BatchId::FIRST, BatchId::next);
    if expected > checkpoint.next_batch {
        return Ok(Recovery::Behind { committed: committed.lineage.unwrap_or(BatchId::FIRST) });
    }
    let left: Vec<PlannedBatch> =
        checkpoint.planned.iter().filter(|batch| batch.id >= expected).cloned().collect();
    if left.first().map_or(checkpoint.next_batch, |batch| batch.id) != expected {
        return Err(RecoveryRefusal::TableBehind { missing: expected });
    }
    Ok(Recovery::Continue(left))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::plan::{Position, SourceId};
    use super::*;
    use crate::ident::Lineage;

    fn checkpoint(planned: &[u64], next: u64) -> Checkpoint {
        let batch = |id: &u64| PlannedBatch {
            id: BatchId::new(*id),
            parts: Vec::new(),
            bytes: 0,
            next: Position::Start,
            condition: None,
            kept: None,
        };
        Checkpoint {
            app_id: "job".into(),
            lineage: Lineage::random(),
            source: SourceId::Delta { table_id: "t".into() },
            target_id: "u".into(),
            next_batch: BatchId::new(next),
            position: Position::Start,
            passed: None,
            planned: planned.iter().map(batch).collect(),
            adopted: None,
            steps: BTreeMap::new(),
            clears_target: false,
            asks_all_since: None,
            target_seen: None,
            restored: None,
            paused: None,
        }
    }

    fn log(app: Option<u64>, lineage: Option<u64>) -> NewestCommitted {
        NewestCommitted { app: app.map(BatchId::new), lineage: lineage.map(BatchId::new) }
    }

    fn left(recovery: Recovery) -> Vec<u64> {
        match recovery {
            Recovery::Continue(left) => left.iter().map(|batch| batch.id.get()).collect(),
            Recovery::Behind { .. } => panic!("the checkpoint is not behind"),
        }
    }

    #[test]
    fn planned_batches_that_the_log_has_are_done() {
        assert_eq!(left(recover(&checkpoint(&[3, 4, 5], 6), log(Some(4), Some(4))).unwrap()), [5]);
        assert_eq!(left(recover(&checkpoint(&[0, 1], 2), log(None, None)).unwrap()), [0, 1]);
    }

    #[test]
    fn a_commit_of_another_lineage_is_refused() {
        assert!(recover(&checkpoint(&[0], 1), log(Some(0), None)).is_err());
        assert!(recover(&checkpoint(&[5], 6), log(Some(7), Some(4))).is_err());
    }

    #[test]
    fn a_table_that_lost_a_commit_is_refused() {
        let refused = recover(&checkpoint(&[4], 5), log(Some(2), Some(2))).unwrap_err();
        assert_eq!(refused, RecoveryRefusal::TableBehind { missing: BatchId::new(3) });
        assert!(recover(&checkpoint(&[], 5), log(None, None)).is_err());
    }

    #[test]
    fn a_checkpoint_older_than_the_table_is_found_out() {
        let recovery = recover(&checkpoint(&[1], 2), log(Some(9), Some(9))).unwrap();
        assert_eq!(recovery, Recovery::Behind { committed: BatchId::new(9) });
    }
}

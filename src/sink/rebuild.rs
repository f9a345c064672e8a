//! Recovers a job's progress from its target when the checkpoint is lost.
//!
//! As long as the log still holds the job's newest commit, that commit states the source and the position after it.
//! Once the log was cleaned, the keys of the rows show what was read.

use serde::Deserialize;

use super::logged::RESTART;
use crate::checkpoint::{Position, SourceId};
use crate::ident::{AppId, BatchId};
use crate::table::{Table, TableError};

/// Progress of a job as its target records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The job has committed nothing.
    None,
    /// The log holds the job's newest commit, which states its batch and source.
    Commit {
        /// The batch of that commit.
        batch: BatchId,
        /// The source that was read.
        source: SourceId,
        /// Position of the source after the batch, or `None` if it must be found from the keys of the rows.
        position: Option<Position>,
    },
    /// The target was emptied for a restart after the job's newest commit.
    Restarted {
        /// The newest batch before the restart.
        batch: BatchId,
    },
    /// The log no longer holds the job's newest commit.
    Txn {
        /// The newest batch, by the `txn` action.
        batch: BatchId,
    },
}

#[derive(Deserialize)]
struct Info {
    app_id: AppId,
    batch_id: BatchId,
    source: SourceId,
    position: Option<Position>,
}

impl Progress {
    /// Reads the progress from a table's log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn read(table: &Table, app_id: &AppId) -> Result<Self, TableError> {
        let Some(newest) = table.txn_version(app_id).await?.and_then(BatchId::from_txn_version) else {
            return Ok(Progress::None);
        };
        for version in (0..=table.version()).rev() {
            let Some(mut entry) = table.log_entry(version, None).await? else { break };
            let restart = entry.info.get(RESTART).and_then(|info| info.get("app_id"));
            if restart.and_then(serde_json::Value::as_str) == Some(app_id) {
                return Ok(Progress::Restarted { batch: newest });
            }
            let info = entry.info.remove("enrich").and_then(|info| serde_json::from_value::<Info>(info).ok());
            if let Some(info) = info.filter(|info| info.app_id == *app_id) {
                if info.batch_id != newest {
                    break;
                }
                return Ok(Progress::Commit {
                    batch: info.batch_id,
                    source: info.source,
                    position: info.position,
                });
            }
        }
        Ok(Progress::Txn { batch: newest })
    }
}

/// Whether the log shows that every row of a table came with a commit of this job, or after the table was emptied for
/// a restart. A log that was cleaned shows neither.
pub(super) async fn holds_only_own_rows(table: &Table, app_id: &AppId) -> Result<bool, TableError> {
    for version in (0..=table.version()).rev() {
        let Some(entry) = table.log_entry(version, None).await? else { return Ok(false) };
        let by = |key: &str| entry.info.get(key).and_then(|info| info.get("app_id")?.as_str());
        if by(RESTART).is_some() {
            return Ok(true);
        }
        if !entry.added.is_empty() && by("enrich") != Some(app_id) {
            return Ok(false);
        }
    }
    Ok(true)
}

//! Recovers a job's progress from its target when the checkpoint is lost.
//!
//! As long as the log still holds the job's newest commit, that commit states the source and the position after it.
//! Once the log was cleaned, the keys of the rows show what was read.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use serde::Deserialize;

use super::failed::{name, text};
use super::logged::RESTART;
use super::target::{APP_ID, SOURCE_FILE, SOURCE_ROW};
use crate::checkpoint::{Position, SourceId};
use crate::ident::BatchId;
use crate::source::{HeldFile, HeldRows};
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
    app_id: String,
    batch_id: BatchId,
    source: SourceId,
    position: Option<Position>,
}

impl Progress {
    /// Reads the progress from a table's log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn read(table: &Table, app_id: &str) -> Result<Self, TableError> {
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
            if let Some(info) = info.filter(|info| info.app_id == app_id) {
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
pub(super) async fn holds_only_own_rows(table: &Table, app_id: &str) -> Result<bool, TableError> {
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

impl super::Sink {
    /// Returns the commit that restored the target to an earlier version; see [`restored`](super::restored()).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn restored(&self, seen: Option<u64>) -> Result<Option<u64>, TableError> {
        super::restored(self.table(), self.app_id(), seen).await
    }

    /// Returns the source rows that the target holds, or `None` if its rows do not name them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn held_rows(&self) -> Result<Option<HeldRows>, TableError> {
        let Some(metadata) = self.metadata() else { return Ok(None) };
        let field = |field: &str| format!("{}['{field}']", name(metadata));
        let sql = format!(
            "SELECT CAST({} AS VARCHAR), {} FROM target WHERE {} = {}",
            field(SOURCE_FILE),
            field(SOURCE_ROW),
            field(APP_ID),
            text(self.app_id())
        );
        let mut held = HeldRows::default();
        let read = self.table().query(&sql, |batch| {
            let files = cast(batch.column(0), &DataType::Utf8).map_err(|error| self.failed_reading(error))?;
            let rows = batch.column(1).as_primitive::<Int64Type>();
            for (file, row) in files.as_string::<i32>().iter().zip(rows) {
                if let (Some(file), Some(row)) = (file, row) {
                    held.insert(file, row.cast_unsigned());
                }
            }
            Ok::<(), TableError>(())
        });
        read.await?;
        Ok(Some(held))
    }

    /// Returns the rows that the target holds of each source file, or `None` if its rows do not name them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn held_files(&self) -> Result<Option<Vec<HeldFile>>, TableError> {
        let Some(metadata) = self.metadata() else { return Ok(None) };
        let metadata = format!("\"{}\"", metadata.replace('"', "\"\""));
        let app_id = self.app_id().replace('\'', "''");
        let sql = format!(
            "SELECT CAST({metadata}['{SOURCE_FILE}'] AS VARCHAR) AS file, \
                    COUNT(DISTINCT {metadata}['{SOURCE_ROW}']) AS rows, \
                    MAX({metadata}['{SOURCE_ROW}']) + 1 AS row_end \
             FROM target WHERE {metadata}['{APP_ID}'] = '{app_id}' GROUP BY 1 ORDER BY 1"
        );
        let mut held = Vec::new();
        self.table()
            .query(&sql, |batch| {
                let strings =
                    cast(batch.column(0), &DataType::Utf8).map_err(|error| self.failed_reading(error))?;
                let files = strings.as_string::<i32>();
                let rows = batch.column(1).as_primitive::<Int64Type>();
                let ends = batch.column(2).as_primitive::<Int64Type>();
                for at in 0..batch.num_rows() {
                    held.push(HeldFile {
                        file: files.value(at).to_owned(),
                        rows: rows.value(at).cast_unsigned(),
                        end: ends.value(at).cast_unsigned(),
                    });
                }
                Ok::<(), TableError>(())
            })
            .await?;
        Ok(Some(held))
    }
}

//! Metrics rows that are not in their table yet, in a file of JSON lines beside the checkpoint.
//!
//! All lines together hold the pending rows. On a local disk each batch appends a line; in an object store the file is
//! replaced by one line of all rows. The file is not flushed to the disk with each batch, since journal and checkpoint
//! would wait for that: a power failure may lose the metrics of the last batches.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::row::{Load, MetricsRow};
use crate::ident::{BatchId, Lineage};
use crate::store::{self, Folder, StoreError};

const NAME: &str = "metrics.jsonl";
const VERSION: u32 = 2;

/// Metrics rows that are not in their table yet.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingMetrics {
    pub(super) rows: Vec<MetricsRow>,
    pub(super) reported: ReportedLoads,
    /// Number of rows that the file has; `None` if the file must be replaced.
    saved: Option<usize>,
}

/// A line of the file: rows that follow those of the lines before it, and the loads that are reported up to them.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    version: u32,
    rows: Cow<'a, [MetricsRow]>,
    #[serde(rename = "told")]
    reported: Cow<'a, ReportedLoads>,
}

/// Loads that rows, pending or in the table, already report, by id of the counters and by name of the provider. Each
/// machine has counters of its own.
pub(super) type ReportedLoads = BTreeMap<u64, BTreeMap<String, Load>>;

impl PendingMetrics {
    /// Reads the file up to the first damaged line. Returns `None` if the file does not exist or its first line is
    /// damaged.
    pub(super) async fn read(home: &Folder) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = home.get(NAME).await? else { return Ok(None) };
        // A last line without a line break was cut off by a kill: its batch was not committed.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or_default();
        let mut pending = None;
        for line in bytes[..whole].split(|byte| *byte == b'\n') {
            let line = serde_json::from_slice(line).ok().filter(|line: &Line<'_>| line.version == VERSION);
            let Some(Line { rows, reported, .. }) = line else {
                tracing::warn!(%home, "{NAME} is damaged: figures of the last batches are lost");
                break;
            };
            let PendingMetrics { rows: all_rows, reported: all_reported, .. } =
                pending.get_or_insert_with(PendingMetrics::default);
            all_rows.extend(rows.into_owned());
            all_reported.extend(reported.into_owned());
        }
        Ok(pending)
    }

    /// Writes the rows that are not in the file yet.
    pub(super) async fn save(&mut self, home: &Folder) -> Result<(), StoreError> {
        // If the write fails, the file may have part of a line and must be replaced.
        let appended = match (self.saved.take(), home.path()) {
            (Some(saved), Some(folder)) => store::append_unflushed(&folder.join(NAME), &self.line(saved))?,
            _ => false,
        };
        if !appended {
            home.put_unflushed(NAME, Bytes::from(self.line(0))).await?;
        }
        self.saved = Some(self.rows.len());
        Ok(())
    }

    /// Returns the rows from index `from` on as a line.
    fn line(&self, from: usize) -> Vec<u8> {
        let (rows, reported) = (Cow::Borrowed(&self.rows[from..]), Cow::Borrowed(&self.reported));
        let line = serde_json::to_vec(&Line { version: VERSION, rows, reported });
        let mut line = line.expect("figures become JSON");
        line.push(b'\n');
        line
    }

    /// Drops the rows of a lineage's batches after `committed`, or of all its batches if that is `None`. They are not
    /// committed; later rows report their loads.
    pub(super) fn drop_beyond(&mut self, lineage: Lineage, committed: Option<BatchId>) {
        let is_beyond = |row: &MetricsRow| {
            row.lineage == lineage && committed.is_none_or(|committed| row.batch_id > committed)
        };
        let dropped: Vec<MetricsRow> = self.rows.extract_if(.., |row| is_beyond(row)).collect();
        self.forget(&dropped);
    }

    /// Drops the oldest rows beyond `most`. Returns the number of rows dropped.
    pub(super) fn drop_oldest(&mut self, most: usize) -> usize {
        let excess = self.rows.len().saturating_sub(most);
        if excess > 0 {
            self.rows.drain(..excess);
            self.saved = None;
        }
        excess
    }

    /// Drops all but the first `rows` rows; later rows report their loads.
    pub(super) fn truncate(&mut self, rows: usize) {
        let dropped: Vec<MetricsRow> = self.rows.drain(rows.min(self.rows.len())..).collect();
        self.forget(&dropped);
    }

    /// Subtracts the loads of dropped rows from the reported loads, so that later rows report them.
    fn forget(&mut self, dropped: &[MetricsRow]) {
        if !dropped.is_empty() {
            self.saved = None;
        }
        for row in dropped {
            let reported = self.reported.get_mut(&row.counters);
            if let Some(reported) =
                reported.zip(row.provider.as_ref()).and_then(|(reported, name)| reported.get_mut(name))
            {
                *reported = reported.since(&row.load);
            }
        }
    }

    /// Drops the rows of a lineage's batches up to `reported`, which are in the table.
    pub(super) fn drop_up_to(&mut self, lineage: Lineage, reported: BatchId) {
        let before = self.rows.len();
        self.rows.retain(|row| row.lineage != lineage || row.batch_id > reported);
        if self.rows.len() != before {
            self.saved = None;
        }
    }
}

/// Returns the newest batch of each lineage among the rows.
pub(super) fn newest(rows: &[MetricsRow]) -> BTreeMap<Lineage, BatchId> {
    let mut newest = BTreeMap::new();
    for row in rows {
        let batch = newest.entry(row.lineage).or_insert(row.batch_id);
        *batch = row.batch_id.max(*batch);
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::ident::RunId;
    use crate::metrics::row::{BatchIdentity, RunKind};

    fn row(batch: u64) -> MetricsRow {
        let (lineage, run_id, committed_at) = (Lineage::random(), RunId::random(), clock::wall());
        let owner = BatchIdentity { app_id: "test", lineage, kind: RunKind::Run, run_id, committed_at };
        owner.empty((BatchId::new(batch), committed_at), "answer", None)
    }

    #[tokio::test]
    async fn each_batch_is_a_line_and_one_that_was_cut_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let home = Folder::Local(folder.path().to_owned());
        let path = folder.path().join(NAME);
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        let read = || async {
            let pending = PendingMetrics::read(&home).await.unwrap()?;
            Some(pending.rows.iter().map(|row| row.batch_id.get()).collect::<Vec<u64>>())
        };
        assert_eq!(read().await, None);
        let mut pending = PendingMetrics::default();
        pending.save(&home).await.unwrap();
        for batch in 0..3 {
            pending.rows.push(row(batch));
            pending.save(&home).await.unwrap();
        }
        assert_eq!((read().await, lines()), (Some(vec![0, 1, 2]), 4));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read().await, Some(vec![0, 1]), "its commit did not come about");
        // Rows that were written are dropped: the file is replaced.
        pending.truncate(2);
        pending.rows.push(row(7));
        pending.save(&home).await.unwrap();
        assert_eq!((read().await, lines()), (Some(vec![0, 1, 7]), 1));
        assert_eq!(pending.drop_oldest(2), 1);
        pending.save(&home).await.unwrap();
        assert_eq!((read().await, lines()), (Some(vec![1, 7]), 1));
        // After a cut line, or rows that were appended to the table or never committed, the rest is kept.
        let reported = pending.rows[0].lineage;
        pending.drop_up_to(reported, BatchId::new(1));
        pending.rows.push(row(8));
        pending.save(&home).await.unwrap();
        pending.rows.push(row(9));
        pending.save(&home).await.unwrap();
        assert_eq!((read().await, lines()), (Some(vec![7, 8, 9]), 2));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let mut next = PendingMetrics::read(&home).await.unwrap().unwrap();
        next.drop_beyond(next.rows[1].lineage, None);
        next.rows.push(row(10));
        next.save(&home).await.unwrap();
        assert_eq!((read().await, lines()), (Some(vec![7, 10]), 1));
        // A file that was removed is created again, with all pending rows.
        std::fs::remove_file(&path).unwrap();
        next.rows.push(row(11));
        next.save(&home).await.unwrap();
        assert_eq!(read().await, Some(vec![7, 10, 11]));
        next.rows.push(row(12));
        next.save(&home).await.unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("garbage\n");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read().await, Some(vec![7, 10, 11, 12]), "what is before it is whole");
        std::fs::write(&path, "garbage\n").unwrap();
        assert_eq!(read().await, None);
    }
}

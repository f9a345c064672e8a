//! Figures that are not in their table yet, in a file beside the checkpoint: lines of JSON, which all together are what is
//! pending. On a local disk a batch's line is appended, in a store the file is replaced by one line of all of it. It is
//! not flushed to the disk with each batch, for which the journal and the checkpoint would wait: a power failure may cost
//! the figures of the last batches.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::figures::{Figures, Load};
use crate::ident::{BatchId, Lineage};
use crate::store::{self, Folder, StoreError};

const NAME: &str = "metrics.jsonl";
const VERSION: u32 = 2;

/// Figures that are not in their table yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    pub(super) rows: Vec<Figures>,
    pub(super) told: Told,
    /// Rows that the file has; none where it must be replaced.
    saved: Option<usize>,
}

/// A line of the file: rows that come after those of the lines before it, and how far counts are told with them.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    version: u32,
    rows: Cow<'a, [Figures]>,
    told: Cow<'a, Told>,
}

/// How far counts of providers are told, in rows that are pending or in the table: of each machine by itself.
pub(super) type Told = BTreeMap<u64, BTreeMap<String, Load>>;

impl Pending {
    /// Reads the file; none where there is none, or where it cannot be understood.
    pub(super) async fn read(home: &Folder) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = home.get(NAME).await? else { return Ok(None) };
        let pending = Self::parse(&bytes);
        if pending.is_none() {
            tracing::warn!(%home, "{NAME} is damaged: figures of the last batches are lost");
        }
        Ok(pending)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut pending = Pending::default();
        // What comes after the last line's end is of a batch that was not committed.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n')?;
        for line in bytes[..whole].split(|byte| *byte == b'\n') {
            let Line { version, rows, told } = serde_json::from_slice(line).ok()?;
            if version != VERSION {
                return None;
            }
            pending.rows.extend(rows.into_owned());
            pending.told.extend(told.into_owned());
        }
        Some(pending)
    }

    /// Writes down what is not in the file.
    pub(super) async fn save(&mut self, home: &Folder) -> Result<(), StoreError> {
        let saved = self.saved.take();
        let rows = Cow::Borrowed(&self.rows[saved.unwrap_or_default()..]);
        let line = Line { version: VERSION, rows, told: Cow::Borrowed(&self.told) };
        let mut bytes = serde_json::to_vec(&line).expect("figures become JSON");
        bytes.push(b'\n');
        match home.path().filter(|_| saved.is_some()) {
            Some(path) => store::append_unflushed(&path.join(NAME), &bytes)?,
            None => home.put_unflushed(NAME, Bytes::from(bytes)).await?,
        }
        // In a store each line holds all of it.
        self.saved = home.path().map(|_| self.rows.len());
        Ok(())
    }

    /// Drops the rows of batches that are not committed; what providers did then is told again.
    pub(super) fn drop_beyond(&mut self, lineage: Lineage, committed: Option<BatchId>) {
        let is_beyond = |row: &Figures| {
            row.lineage == lineage && committed.is_none_or(|committed| row.batch_id > committed)
        };
        let dropped: Vec<Figures> = self.rows.extract_if(.., |row| is_beyond(row)).collect();
        self.forget(&dropped);
    }

    /// Drops the oldest rows beyond so many; says how many.
    pub(super) fn shed(&mut self, most: usize) -> usize {
        let excess = self.rows.len().saturating_sub(most);
        if excess > 0 {
            self.rows.drain(..excess);
            self.saved = None;
        }
        excess
    }

    /// Drops the rows after so many.
    pub(super) fn truncate(&mut self, rows: usize) {
        let dropped: Vec<Figures> = self.rows.drain(rows.min(self.rows.len())..).collect();
        self.forget(&dropped);
    }

    /// What providers did is told again with other rows than these.
    fn forget(&mut self, dropped: &[Figures]) {
        if !dropped.is_empty() {
            self.saved = None;
        }
        for row in dropped {
            let told = self.told.get_mut(&row.counters);
            if let Some(told) = told.zip(row.provider.as_ref()).and_then(|(told, name)| told.get_mut(name)) {
                *told = told.since(&row.load);
            }
        }
    }

    /// Drops the rows of batches that are in the table.
    pub(super) fn drop_up_to(&mut self, lineage: Lineage, told: BatchId) {
        let before = self.rows.len();
        self.rows.retain(|row| row.lineage != lineage || row.batch_id > told);
        if self.rows.len() != before {
            self.saved = None;
        }
    }
}

/// The newest batch of each lineage.
pub(super) fn newest(rows: &[Figures]) -> BTreeMap<Lineage, BatchId> {
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
    use crate::ident::{RunId, Tokens};
    use crate::metrics::figures::Kind;

    fn row(batch: u64) -> Figures {
        Figures {
            app_id: "test".to_owned(),
            lineage: Lineage::random(),
            kind: Kind::Run,
            run_id: RunId::random(),
            batch_id: BatchId::new(batch),
            step: "answer".to_owned(),
            provider: None,
            started_at: clock::wall(),
            committed_at: clock::wall(),
            rows: 1,
            answers: 0,
            shared: 0,
            skipped: 1,
            errors: BTreeMap::new(),
            tokens: Tokens::default(),
            cost: None,
            latency: None,
            attempts: 0,
            load: Load::default(),
            counters: 0,
        }
    }

    #[tokio::test]
    async fn each_batch_is_a_line_and_one_that_was_cut_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let home = Folder::Local(folder.path().to_owned());
        let path = folder.path().join(NAME);
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        let read = || async {
            let pending = Pending::read(&home).await.unwrap()?;
            Some(pending.rows.iter().map(|row| row.batch_id.get()).collect::<Vec<u64>>())
        };
        assert_eq!(read().await, None);
        let mut pending = Pending::default();
        pending.save(&home).await.unwrap();
        for batch in 0..3 {
            pending.rows.push(row(batch));
            pending.save(&home).await.unwrap();
        }
        assert_eq!((read().await, lines()), (Some(vec![0, 1, 2]), 4));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read().await, Some(vec![0, 1]), "its commit did not come about");
        // What was written is taken back: the file is written anew.
        pending.truncate(2);
        pending.rows.push(row(7));
        pending.save(&home).await.unwrap();
        assert_eq!((read().await, lines()), (Some(vec![0, 1, 7]), 1));
        assert_eq!(pending.shed(2), 1);
        pending.save(&home).await.unwrap();
        assert_eq!((read().await, lines()), (Some(vec![1, 7]), 1));
        std::fs::write(&path, "garbage\n").unwrap();
        assert_eq!(read().await, None);
    }
}

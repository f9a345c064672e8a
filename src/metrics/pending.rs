//! Figures that are not in their table yet, in a file beside the checkpoint that is replaced as a whole. It is not
//! flushed to the disk with each batch, for which the journal and the checkpoint would wait: a power failure may cost the
//! figures of the last batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::figures::{Figures, Load};
use crate::ident::{BatchId, Lineage};
use crate::store::{Folder, StoreError};

const NAME: &str = "metrics.json";
const VERSION: u32 = 1;

/// Figures that are not in their table yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    version: u32,
    pub(super) rows: Vec<Figures>,
    pub(super) told: Told,
}

/// How far counts of providers are told, in rows that are pending or in the table: of each machine by itself.
pub(super) type Told = BTreeMap<u64, BTreeMap<String, Load>>;

impl Pending {
    /// Reads the file; none where there is none, or where it cannot be understood.
    pub(super) async fn read(home: &Folder) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = home.get(NAME).await? else { return Ok(None) };
        let pending: Option<Pending> = serde_json::from_slice(&bytes).ok();
        let pending = pending.filter(|pending| pending.version == VERSION);
        if pending.is_none() {
            tracing::warn!(%home, "{NAME} is damaged: figures of the last batches are lost");
        }
        Ok(pending)
    }

    pub(super) async fn save(&mut self, home: &Folder) -> Result<(), StoreError> {
        self.version = VERSION;
        let bytes = serde_json::to_vec(self).expect("figures become JSON");
        home.put_unflushed(NAME, Bytes::from(bytes)).await
    }

    /// Drops the rows of batches that are not committed; what providers did then is told again.
    pub(super) fn drop_beyond(&mut self, lineage: Lineage, committed: Option<BatchId>) {
        let is_beyond = |row: &Figures| {
            row.lineage == lineage && committed.is_none_or(|committed| row.batch_id > committed)
        };
        let dropped: Vec<Figures> = self.rows.extract_if(.., |row| is_beyond(row)).collect();
        dropped.iter().for_each(|row| self.untell(row));
    }

    /// Drops the oldest rows beyond so many; says how many.
    pub(super) fn shed(&mut self, most: usize) -> usize {
        let excess = self.rows.len().saturating_sub(most);
        self.rows.drain(..excess);
        excess
    }

    /// Drops the rows after so many.
    pub(super) fn truncate(&mut self, rows: usize) {
        let dropped: Vec<Figures> = self.rows.drain(rows.min(self.rows.len())..).collect();
        dropped.iter().for_each(|row| self.untell(row));
    }

    fn untell(&mut self, row: &Figures) {
        let told = self.told.get_mut(&row.counters);
        if let Some(told) = told.zip(row.provider.as_ref()).and_then(|(told, name)| told.get_mut(name)) {
            *told = told.since(&row.load);
        }
    }

    /// Drops the rows of batches that are in the table.
    pub(super) fn drop_up_to(&mut self, lineage: Lineage, told: BatchId) {
        self.rows.retain(|row| row.lineage != lineage || row.batch_id > told);
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

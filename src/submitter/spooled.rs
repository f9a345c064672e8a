//! The rows in files of requests that are being written. Until a file is complete, no journal names its rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ident::{BatchId, Fingerprint, RowKey, SubmissionId};
use crate::journal::SubmittedGroup;

type GroupsByBatch = BTreeMap<BatchId, Vec<SubmittedGroup>>;

/// The rows in files that are being written, by file and batch. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SpooledRows(Arc<Mutex<HashMap<SubmissionId, GroupsByBatch>>>);

impl SpooledRows {
    fn files(&self) -> MutexGuard<'_, HashMap<SubmissionId, GroupsByBatch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rows of a batch.
    #[must_use]
    pub fn of_batch(&self, batch: BatchId) -> Vec<SubmittedGroup> {
        self.files().values().filter_map(|batches| batches.get(&batch)).flatten().cloned().collect()
    }

    /// Adds a row to a file.
    pub(super) fn add(
        &self,
        file: SubmissionId,
        batch: BatchId,
        key: &RowKey,
        step: &Arc<str>,
        fingerprint: Fingerprint,
    ) {
        let mut files = self.files();
        let groups = files.entry(file).or_default().entry(batch).or_default();
        let is_same = |group: &SubmittedGroup| group.file == key.file && group.step == *step;
        match groups.iter_mut().find(|group| is_same(group)) {
            Some(group) => group.rows.push((key.row, fingerprint)),
            None => groups.push(SubmittedGroup {
                file: Arc::clone(&key.file),
                step: Arc::clone(step),
                rows: vec![(key.row, fingerprint)],
            }),
        }
    }

    /// Returns the rows of a file.
    pub(super) fn of_file(&self, file: SubmissionId) -> GroupsByBatch {
        self.files().get(&file).cloned().unwrap_or_default()
    }

    /// Removes a file: the journals and the list of submissions name its rows, or it is given up.
    pub(super) fn remove(&self, file: SubmissionId) {
        self.files().remove(&file);
    }
}

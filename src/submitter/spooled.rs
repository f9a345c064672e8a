//! The rows in files of requests that are being written. Until a file is complete, no journal names its rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ident::{BatchId, Fingerprint, RowKey, SubmissionId};
use crate::journal::SubmittedGroup;

type GroupsByBatch = BTreeMap<BatchId, Vec<SubmittedGroup>>;

/// The rows of a file that is being written, by batch.
#[derive(Clone, Debug, Default)]
pub(super) struct FileRows {
    /// Those with a line.
    pub(super) lines: GroupsByBatch,
    /// Those that take the answer to another row's line.
    pub(super) followers: GroupsByBatch,
}

/// The rows in files that are being written. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SpooledRows(Arc<Mutex<HashMap<SubmissionId, FileRows>>>);

impl SpooledRows {
    fn files(&self) -> MutexGuard<'_, HashMap<SubmissionId, FileRows>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rows of a batch.
    #[must_use]
    pub fn of_batch(&self, batch: BatchId) -> Vec<SubmittedGroup> {
        let files = self.files();
        let groups = files.values().flat_map(|rows| [rows.lines.get(&batch), rows.followers.get(&batch)]);
        groups.flatten().flatten().cloned().collect()
    }

    /// Adds rows to a file.
    pub(super) fn change(&self, file: SubmissionId, change: impl FnOnce(&mut FileRows)) {
        change(self.files().entry(file).or_default());
    }

    /// Returns the rows of a file.
    pub(super) fn of_file(&self, file: SubmissionId) -> FileRows {
        self.files().get(&file).cloned().unwrap_or_default()
    }

    /// Removes a file: the journals and the list of submissions name its rows, or it is given up.
    pub(super) fn remove(&self, file: SubmissionId) {
        self.files().remove(&file);
    }
}

/// Adds a row to groups of rows with the same file and step.
pub(super) fn push_row(
    groups: &mut Vec<SubmittedGroup>,
    key: &RowKey,
    step: &Arc<str>,
    fingerprint: Fingerprint,
) {
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

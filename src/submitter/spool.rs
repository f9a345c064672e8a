//! The file of requests that is being written: it becomes a submission when it is full, or nothing more is to come.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::line_id::LineId;
use crate::executor::Request;
use crate::ident::{BatchId, Spend, SubmissionId};
use crate::journal::{Journal, JournalError, SubmittedGroup, SubmittedRows};
use crate::store;
use crate::wire::RequestLine;

const ENDING: &str = "jsonl";
const BUFFER: usize = 1 << 20;

/// A file of requests that is being written.
#[derive(Debug)]
pub(super) struct Spool {
    pub(super) id: SubmissionId,
    path: PathBuf,
    file: BufWriter<File>,
    /// Path of the interface that answers the requests.
    pub(super) endpoint: &'static str,
    pub(super) lines: u64,
    pub(super) bytes: u64,
    /// Bytes of the prompts.
    pub(super) prompt_bytes: u64,
    pub(super) worst: Spend,
    /// Output columns of the steps, in the order to which the ids of the lines refer.
    pub(super) steps: Vec<Arc<str>>,
    pub(super) files: BTreeSet<Arc<str>>,
    batches: BTreeMap<BatchId, SpooledBatch>,
}

/// Rows of one batch in a spool, and the journal of the batch.
#[derive(Debug)]
struct SpooledBatch {
    journal: Journal,
    groups: Vec<SubmittedGroup>,
}

/// Returns the path of a submission's file of requests in a folder.
pub(super) fn path_of(folder: &Path, id: SubmissionId) -> PathBuf {
    folder.join(format!("{id}.{ENDING}"))
}

impl Spool {
    /// Begins a file in a folder, which is created if it is missing.
    pub(super) fn create(folder: &Path, endpoint: &'static str) -> io::Result<Self> {
        store::create_private_folder(folder)?;
        let id = SubmissionId::random();
        let path = path_of(folder, id);
        let file = BufWriter::with_capacity(BUFFER, store::private_file().open(&path)?);
        Ok(Spool {
            id,
            path,
            file,
            endpoint,
            lines: 0,
            bytes: 0,
            prompt_bytes: 0,
            worst: Spend::default(),
            steps: Vec::new(),
            files: BTreeSet::new(),
            batches: BTreeMap::new(),
        })
    }

    /// Writes the line of a request with this body.
    pub(super) fn add(&mut self, request: &Request, body: Vec<u8>, worst: Spend) -> io::Result<()> {
        let (key, step) = (&request.receipt.key, &request.receipt.step);
        let step_number = self.steps.iter().position(|known| known == step).unwrap_or_else(|| {
            self.steps.push(Arc::clone(step));
            self.steps.len() - 1
        });
        let fingerprint = request.question.fingerprint();
        let id = LineId {
            file: LineId::file_number(&key.file),
            row: key.row,
            step: u16::try_from(step_number).map_err(io::Error::other)?,
            fingerprint,
        };
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        let body = RawValue::from_string(escaped(body))?;
        let custom_id = id.to_string();
        let line = RequestLine { custom_id: &custom_id, method: "POST", url: self.endpoint, body: &body };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.lines += 1;
        self.bytes += text.len() as u64;
        self.prompt_bytes += request.question.bytes() as u64;
        self.worst = self.worst + worst;
        self.files.insert(Arc::clone(&key.file));
        let batch = self
            .batches
            .entry(request.cell.batch)
            .or_insert_with(|| SpooledBatch { journal: request.receipt.journal.clone(), groups: Vec::new() });
        let is_same = |group: &SubmittedGroup| group.file == key.file && group.step == *step;
        match batch.groups.iter_mut().find(|group| is_same(group)) {
            Some(group) => group.rows.push((key.row, fingerprint)),
            None => batch.groups.push(SubmittedGroup {
                file: Arc::clone(&key.file),
                step: Arc::clone(step),
                rows: vec![(key.row, fingerprint)],
            }),
        }
        Ok(())
    }

    /// Completes the file on the disk.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Writes into the journals of the batches which of their rows are in the file, and flushes them.
    pub(super) fn record(&self, provider: &Arc<str>, model: &Arc<str>) -> Result<(), JournalError> {
        for batch in self.batches.values() {
            batch.journal.append_submitted(&SubmittedRows {
                submission: self.id,
                provider: Arc::clone(provider),
                model: Arc::clone(model),
                follows: false,
                groups: batch.groups.clone(),
            })?;
            batch.journal.sync()?;
        }
        Ok(())
    }

    /// Number of rows by batch.
    pub(super) fn rows_by_batch(&self) -> BTreeMap<BatchId, u64> {
        let rows = |batch: &SpooledBatch| batch.groups.iter().map(|group| group.rows.len() as u64).sum();
        self.batches.iter().map(|(id, batch)| (*id, rows(batch))).collect()
    }

    /// Removes the file.
    pub(super) fn discard(self) {
        // A file that stays is swept at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Escapes characters that readers of lines take for the end of one.
fn escaped(json: String) -> String {
    // Within JSON they occur in strings alone.
    if !json.contains(['\u{2028}', '\u{2029}', '\u{85}']) {
        return json;
    }
    json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").replace('\u{85}', "\\u0085")
}

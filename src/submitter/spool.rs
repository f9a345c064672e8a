//! The file of requests that is being written: it becomes a submission when it is full, or nothing more is to come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::line_id::LineId;
use super::spooled::{FileRows, SpooledRows, push_row};
use crate::checkpoint::{Submission, Submissions};
use crate::config::BatchShape;
use crate::executor::Request;
use crate::ident::{BatchId, Fingerprint, RowKey, Spend, SubmissionId};
use crate::journal::{Journal, JournalError, SubmittedGroup, SubmittedRows};
use crate::store;

const ENDING: &str = "jsonl";
const BUFFER: usize = 1 << 20;
/// Bytes per token, where an estimate is enough.
pub(super) const BYTES_PER_TOKEN: u64 = 4;

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
    /// The most that one request may cost, separately for money and tokens.
    pub(super) worst_request: Spend,
    /// Output columns of the steps, in the order to which the ids of the lines refer.
    pub(super) steps: Vec<Arc<str>>,
    pub(super) files: BTreeSet<Arc<str>>,
    /// Journals of the batches whose rows are in it.
    journals: HashMap<BatchId, Journal>,
    rows: SpooledRows,
}

/// A row whose request is a line of a file.
#[derive(Clone, Debug)]
pub(super) struct SpooledRow {
    pub(super) batch: BatchId,
    /// The journal of the batch.
    pub(super) journal: Journal,
    pub(super) key: RowKey,
    pub(super) step: Arc<str>,
    pub(super) fingerprint: Fingerprint,
}

/// Returns the path of a submission's file of requests in a folder.
pub(super) fn path_of(folder: &Path, id: SubmissionId) -> PathBuf {
    folder.join(format!("{id}.{ENDING}"))
}

/// Removes what submissions left behind in their folder that wait for nothing any more.
pub fn sweep(folder: &Path, list: &Submissions) {
    let Ok(found) = std::fs::read_dir(folder) else { return };
    for path in found.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_open = |submission: &&Submission| {
            (submission.state.may_bring_answers() || submission.without_rows)
                && name.starts_with(&submission.id.to_string())
        };
        if !list.open.iter().any(|submission| is_open(&submission)) {
            // A file that stays costs room on the disk, and nothing else.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Spool {
    /// Begins a file in a folder, which is created if it is missing. Its rows are in `rows` until it is dropped.
    pub(super) fn create(folder: &Path, endpoint: &'static str, rows: SpooledRows) -> io::Result<Self> {
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
            worst_request: Spend::default(),
            steps: Vec::new(),
            files: BTreeSet::new(),
            journals: HashMap::new(),
            rows,
        })
    }

    /// Writes the line of a request with this body.
    pub(super) fn add(
        &mut self,
        request: &Request,
        body: Vec<u8>,
        worst: Spend,
        shape: BatchShape,
    ) -> io::Result<()> {
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
        let body = shape.line_body(String::from_utf8(body).map_err(io::Error::other)?)?;
        let body = RawValue::from_string(escaped(body))?;
        let text = serde_json::to_vec(&shape.line(&id.to_string(), self.endpoint, &body))?;
        self.prompt_bytes += request.question.bytes() as u64;
        let row = SpooledRow {
            batch: request.cell.batch,
            journal: request.receipt.journal.clone(),
            key: key.clone(),
            step: Arc::clone(step),
            fingerprint,
        };
        self.add_line(&row, &text, worst)
    }

    /// Writes a line that is complete but for its end.
    pub(super) fn add_line(&mut self, row: &SpooledRow, line: &[u8], worst: Spend) -> io::Result<()> {
        self.file.write_all(line)?;
        self.file.write_all(b"\n")?;
        self.lines += 1;
        self.bytes += line.len() as u64 + 1;
        self.worst = self.worst + worst;
        let most = self.worst_request;
        self.worst_request = Spend {
            money: most.money.max(worst.money),
            tokens: most.tokens.max(worst.tokens),
            requests: worst.requests,
        };
        let SpooledRow { batch, journal, key, step, fingerprint } = row;
        self.files.insert(Arc::clone(&key.file));
        self.journals.entry(*batch).or_insert_with(|| journal.clone());
        self.rows.change(self.id, |rows| {
            push_row(rows.lines.entry(*batch).or_default(), key, step, *fingerprint);
        });
        Ok(())
    }

    /// Adds a row that takes the answer to a line of the file.
    pub(super) fn follow(&mut self, request: &Request) {
        let (receipt, batch) = (&request.receipt, request.cell.batch);
        self.journals.entry(batch).or_insert_with(|| receipt.journal.clone());
        self.rows.change(self.id, |rows| {
            let groups = rows.followers.entry(batch).or_default();
            push_row(groups, &receipt.key, &receipt.step, request.question.fingerprint());
        });
    }

    /// Completes the file on the disk.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Writes into the journals of the batches which of their rows are in the file, and flushes them.
    pub(super) fn record(&self, provider: &Arc<str>, model: &Arc<str>) -> Result<(), JournalError> {
        let FileRows { lines, followers } = self.rows.of_file(self.id);
        let all =
            lines.into_iter().map(|own| (own, false)).chain(followers.into_iter().map(|own| (own, true)));
        for ((batch, groups), follows) in all {
            let Some(journal) = self.journals.get(&batch) else { continue };
            journal.append_submitted(&SubmittedRows {
                submission: self.id,
                provider: Arc::clone(provider),
                model: Arc::clone(model),
                follows,
                groups,
            })?;
            journal.sync()?;
        }
        Ok(())
    }

    /// What the lines ask, with their steps.
    pub(super) fn questions(&self) -> Vec<(Arc<str>, Fingerprint)> {
        let mut questions = Vec::new();
        for group in self.rows.of_file(self.id).lines.into_values().flatten() {
            questions.extend(group.rows.iter().map(|(_, question)| (Arc::clone(&group.step), *question)));
        }
        questions
    }

    /// Number of lines by batch, and the batches whose rows follow lines.
    pub(super) fn rows_by_batch(&self) -> (BTreeMap<BatchId, u64>, BTreeSet<BatchId>) {
        let FileRows { lines, followers } = self.rows.of_file(self.id);
        let rows =
            |groups: Vec<SubmittedGroup>| groups.iter().map(|group| group.rows.len() as u64).sum::<u64>();
        (lines.into_iter().map(|(id, groups)| (id, rows(groups))).collect(), followers.into_keys().collect())
    }

    /// Removes the file.
    pub(super) fn discard(self) {
        // A file that stays is swept at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.rows.remove(self.id);
    }
}

/// Returns the number of tokens in a prompt of so many bytes, estimated.
pub(super) fn tokens_in(bytes: u64) -> u64 {
    bytes / BYTES_PER_TOKEN
}

/// Escapes characters that readers of lines take for the end of one.
fn escaped(json: String) -> String {
    // Within JSON they occur in strings alone.
    if !json.contains(['\u{2028}', '\u{2029}', '\u{85}']) {
        return json;
    }
    json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").replace('\u{85}', "\\u0085")
}

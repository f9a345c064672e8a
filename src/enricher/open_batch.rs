//! A batch whose rows are in memory, with the outcomes so far and the answers that its journal held.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::ArrayRef;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::counted_cells::CountedCells;
use super::input::LoadedBatch;
use crate::checkpoint::PlannedBatch;
use crate::clock;
use crate::ident::{Cell, Fingerprint, RowKey, SubmissionId};
use crate::journal::{self, Journal, JournalError, Record, SubmittedGroup, SubmittedRows};
use crate::prompt::Rows;
use crate::rows::Chunk;
use crate::rows::{FilledBatch, Outcome, RowResult, UnchangedStep};
use crate::spill::{SpillFile, Spilled};

/// A batch whose rows are in memory.
#[derive(Debug)]
pub(super) struct OpenBatch {
    plan: PlannedBatch,
    opened_at: DateTime<Utc>,
    chunks: Vec<(u32, Chunk, Rows)>,
    outcomes: Vec<Vec<Option<RowResult>>>,
    /// Outcomes in the target that stay, by step; empty if the target has none.
    kept: Vec<UnchangedStep>,
    pub(super) journal: Journal,
    /// Records that its journal held when it was opened.
    recovered: RecoveredAnswers,
    /// Requests that were in submissions when it was opened.
    submitted: SubmittedCells,
    /// Outcomes that count in the figures of the run.
    pub(super) counted: CountedCells,
}

/// Numbers of submissions by provider.
type SubmissionCounts = Vec<(Arc<str>, u32)>;

/// What the journal of a batch said of submissions when the batch was opened.
#[derive(Debug, Default)]
pub(super) struct SubmittedCells {
    /// Requests in submissions that have not come back.
    open: HashSet<(RowKey, Arc<str>, Fingerprint)>,
    /// Numbers of submissions that came back, by request.
    collected: HashMap<(RowKey, Arc<str>, Fingerprint), SubmissionCounts>,
    /// Submissions whose answers count as this run's: no earlier one has counted them.
    new: BTreeSet<SubmissionId>,
}

impl SubmittedCells {
    /// Has the answers of these submissions count as this run's.
    pub(super) fn count_as_new(&mut self, new: BTreeSet<SubmissionId>) {
        self.new = new;
    }

    /// Takes in the rows of a submission that has not come back.
    pub(super) fn push_open(&mut self, groups: Vec<SubmittedGroup>) {
        for group in groups {
            let key = |row| RowKey { file: Arc::clone(&group.file), row };
            let own = group.rows.iter();
            self.open.extend(own.map(|(row, print)| (key(*row), Arc::clone(&group.step), *print)));
        }
    }

    /// Takes in the rows of a submission that has come back.
    pub(super) fn push_collected(&mut self, rows: SubmittedRows) {
        for group in rows.groups {
            for (row, fingerprint) in group.rows {
                let key = RowKey { file: Arc::clone(&group.file), row };
                let counts = self.collected.entry((key, Arc::clone(&group.step), fingerprint)).or_default();
                match counts.iter_mut().find(|(provider, _)| *provider == rows.provider) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((Arc::clone(&rows.provider), 1)),
                }
            }
        }
    }
}

/// Records that a journal held. Large answers beyond a number of bytes are spilled to a file.
#[derive(Debug)]
pub(super) struct RecoveredAnswers {
    records: HashMap<RowKey, Vec<(Record, Option<Spilled>)>>,
    len: u64,
    folder: PathBuf,
    file: Option<SpillFile>,
    /// Bytes of answers that may still be kept in memory.
    capacity: u64,
    /// Bytes of answers that are in memory.
    kept: u64,
}

impl RecoveredAnswers {
    /// Creates it without records. Answers beyond `capacity` bytes go to a file in `folder`.
    pub(super) fn new(folder: &Path, capacity: u64) -> Self {
        RecoveredAnswers {
            records: HashMap::new(),
            len: 0,
            folder: folder.to_owned(),
            file: None,
            capacity,
            kept: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of answers that are in memory.
    pub(super) fn bytes_kept(&self) -> u64 {
        self.kept
    }

    pub(super) fn push(&mut self, mut record: Record) {
        self.len += 1;
        let mut spilled = None;
        if let journal::RecordedOutcome::Response(body) = &mut record.outcome
            && body.len() >= SPILLED_FROM
        {
            let bytes = body.len() as u64;
            match self.capacity.checked_sub(bytes) {
                Some(left) => self.capacity = left,
                // An answer that cannot be spilled stays in memory.
                None => spilled = spill(&mut self.file, &self.folder, |file| file.write(body)),
            }
            match spilled {
                Some(_) => *body = Bytes::new(),
                None => self.kept += bytes,
            }
        }
        self.records.entry(record.key.clone()).or_default().push((record, spilled));
    }

    /// Takes the newest record of a row that `fits`. A spilled answer is not in the record when it is tested.
    fn claim(
        &mut self,
        key: &RowKey,
        fits: impl Fn(&Record) -> bool,
    ) -> Result<Option<Record>, JournalError> {
        let Some(records) = self.records.get_mut(key) else { return Ok(None) };
        let Some(at) = records.iter().rposition(|(record, _)| fits(record)) else { return Ok(None) };
        let (mut record, spilled) = records.swap_remove(at);
        if records.is_empty() {
            self.records.remove(key);
        }
        if let Some(spilled) = spilled {
            let path = self.folder.clone();
            let body = spilled.read();
            let body = body.map_err(|source| JournalError::Io { action: "read back", path, source })?;
            record.outcome = journal::RecordedOutcome::Response(body.into());
        }
        Ok(Some(record))
    }
}

/// Size from which an answer may be spilled, in bytes.
pub(super) const SPILLED_FROM: usize = 512;

/// Writes something to the spill file, which is created in `folder` when first needed. Returns `None` if that fails.
fn spill<T>(
    file: &mut Option<SpillFile>,
    folder: &Path,
    write: impl FnOnce(&SpillFile) -> io::Result<T>,
) -> Option<T> {
    if file.is_none() {
        *file = SpillFile::create_in(folder).ok();
    }
    write(file.as_ref()?).ok()
}

impl OpenBatch {
    pub(super) fn new(
        loaded: LoadedBatch,
        steps: usize,
        journal: Journal,
        recovered: RecoveredAnswers,
        submitted: SubmittedCells,
        counted: Option<CountedCells>,
    ) -> Self {
        let LoadedBatch { plan, chunks, kept, .. } = loaded;
        let mut first = 0;
        let chunks: Vec<(u32, Chunk, Rows)> = chunks
            .into_iter()
            .map(|chunk| {
                let start = first;
                first += u32::try_from(chunk.rows.num_rows()).expect("a batch has fewer than 2^32 rows");
                let rows = Rows::new(chunk.rows.clone());
                (start, chunk, rows)
            })
            .collect();
        let outcomes = vec![vec![None; first as usize]; steps];
        let counted = counted.filter(|counted| counted.rows() == first);
        let counted = counted.unwrap_or_else(|| CountedCells::new(first, steps));
        let opened_at = clock::wall();
        OpenBatch { plan, opened_at, chunks, outcomes, kept, journal, recovered, submitted, counted }
    }

    /// The digest of the batch's content.
    pub(super) fn digest(&self) -> Fingerprint {
        self.plan.digest()
    }

    pub(super) fn rows(&self) -> u32 {
        self.chunks.last().map_or(0, |(start, chunk, _)| {
            start + u32::try_from(chunk.rows.num_rows()).expect("a batch has fewer than 2^32 rows")
        })
    }

    /// Returns the record batch that holds a row, and the row's index in it.
    pub(super) fn locate(&self, row: u32) -> (&Rows, usize) {
        let (start, _, rows) = &self.chunks[self.chunk_of(row)];
        (rows, (row - start) as usize)
    }

    pub(super) fn key(&self, row: u32) -> RowKey {
        let (start, chunk, _) = &self.chunks[self.chunk_of(row)];
        RowKey { file: Arc::clone(&chunk.file), row: chunk.physical[(row - start) as usize] }
    }

    fn chunk_of(&self, row: u32) -> usize {
        self.chunks.partition_point(|(start, ..)| *start <= row) - 1
    }

    /// Whether the target's outcome of a row and step stays.
    pub(super) fn keeps(&self, cell: Cell) -> bool {
        self.kept.get(cell.step.index()).is_some_and(|step| step.unchanged[cell.row as usize])
    }

    /// Returns the outputs of a step in the target, which are valid for rows whose outcome stays.
    pub(super) fn held(&self, step: usize) -> Option<&ArrayRef> {
        self.kept.get(step)?.values.as_ref()
    }

    /// Returns the outcome of a step for a row, or `None` if there is none yet.
    pub(super) fn outcome(&self, step: usize, row: u32) -> Option<&RowResult> {
        self.outcomes[step][row as usize].as_ref()
    }

    /// Whether a step failed for a row, in this run or before.
    pub(super) fn has_failed(&self, step: usize, row: u32) -> bool {
        match self.outcome(step, row).map(|settled| &settled.outcome) {
            Some(Outcome::Failed(_)) => true,
            Some(Outcome::Unchanged) => self.kept.get(step).is_some_and(|step| step.failed[row as usize]),
            Some(Outcome::Answer(_) | Outcome::Skipped) | None => false,
        }
    }

    /// Whether a request of a row was in a submission that had not come back when the batch was opened.
    pub(super) fn is_submitted(&self, key: &RowKey, step: &Arc<str>, fingerprint: Fingerprint) -> bool {
        !self.submitted.open.is_empty()
            && self.submitted.open.contains(&(key.clone(), Arc::clone(step), fingerprint))
    }

    /// Number of submissions to a provider that came back with a request of a row. If the journal has no answer to the
    /// request, none of them brought one.
    pub(super) fn collected(
        &self,
        key: &RowKey,
        step: &Arc<str>,
        fingerprint: Fingerprint,
        provider: &Arc<str>,
    ) -> u32 {
        if self.submitted.collected.is_empty() {
            return 0;
        }
        let counts = self.submitted.collected.get(&(key.clone(), Arc::clone(step), fingerprint));
        let own = counts.and_then(|counts| counts.iter().find(|(name, _)| name == provider));
        own.map_or(0, |(_, count)| *count)
    }

    /// Whether the answers that a submission brought count as this run's.
    pub(super) fn is_new(&self, submission: SubmissionId) -> bool {
        self.submitted.new.contains(&submission)
    }

    pub(super) fn has_recovered(&self) -> bool {
        !self.recovered.records.is_empty()
    }

    /// Takes the newest record of a row that `fits`, which may not look at the answer.
    ///
    /// # Errors
    /// When the answer was spilled and cannot be read back.
    pub(super) fn claim(
        &mut self,
        key: &RowKey,
        fits: impl Fn(&Record) -> bool,
    ) -> Result<Option<Record>, JournalError> {
        self.recovered.claim(key, fits)
    }

    /// Spills an answer. If that fails it stays in memory.
    pub(super) fn spill(&mut self, settled: &mut RowResult) {
        let RecoveredAnswers { file, folder, .. } = &mut self.recovered;
        spill(file, folder, |file| settled.spill(file));
    }

    pub(super) fn settle(&mut self, cell: Cell, settled: RowResult) {
        let place = &mut self.outcomes[cell.step.index()][cell.row as usize];
        debug_assert!(place.is_none(), "{cell} is settled once");
        *place = Some(settled);
    }

    /// Returns the batch with its outcomes, which every row must have.
    pub(super) fn fill(self) -> FilledBatch {
        let outcomes = self
            .outcomes
            .into_iter()
            .map(|step| {
                let filled =
                    step.into_iter().map(|settled| settled.expect("the ledger says that every row is done"));
                filled.collect()
            })
            .collect();
        let chunks = self.chunks.into_iter().map(|(_, chunk, _)| chunk).collect();
        FilledBatch { plan: self.plan, opened_at: self.opened_at, chunks, outcomes }
    }
}

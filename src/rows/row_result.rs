//! Outcomes of rows, and batches of rows with all their outcomes, as the enricher passes them to the sink.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::chunk::Chunk;
use crate::checkpoint::PlannedBatch;
use crate::decode::Content;
use crate::fault::Failure;
use crate::ident::{Fingerprint, Money, Tokens};
use crate::spill::SpillFile;

/// Outcome of one step for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The model's answer.
    Answer(Content),
    /// No request was sent: the row does not meet the step's condition, or all its inputs are null.
    Skipped,
    /// The row failed.
    Failed(Failure),
    /// The outcome in the target is kept; only in a retry.
    Unchanged,
}

/// An outcome and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct RowResult {
    /// The outcome.
    pub outcome: Outcome,
    /// Name of the provider that the request was sent to.
    pub provider: Option<Arc<str>>,
    /// The model that the request was sent to.
    pub model: Option<Arc<str>>,
    /// Number of attempts; 0 if no request was sent.
    pub attempts: u32,
    /// Number of these that were lines of submissions to a Batch API.
    pub lines: u32,
    /// Why the model stopped, as the provider states it.
    pub finish_reason: Option<Arc<str>>,
    /// Tokens that the request used.
    pub tokens: Option<Tokens>,
    /// Cost as the provider states it, else computed from the tokens and the job's prices.
    pub cost: Option<Money>,
    /// Time that the answer took, in milliseconds; `None` if it came with a submission.
    pub latency_ms: Option<u64>,
    /// Whether the answer was taken from another row, run or job, at no cost.
    pub shared: bool,
    /// Fingerprint of the request.
    pub fingerprint: Option<Fingerprint>,
    /// Fingerprint of the step's templates and parameters, as text.
    pub template: Option<Arc<str>>,
    /// The raw text of a typed answer, if the step keeps it.
    pub raw_text: Option<Content>,
}

impl RowResult {
    /// Returns an outcome for which no request was sent.
    #[must_use]
    pub fn without_request(outcome: Outcome) -> Self {
        RowResult {
            outcome,
            provider: None,
            model: None,
            attempts: 0,
            lines: 0,
            finish_reason: None,
            tokens: None,
            cost: None,
            latency_ms: None,
            shared: false,
            fingerprint: None,
            template: None,
            raw_text: None,
        }
    }
}

impl RowResult {
    fn contents(&self) -> impl Iterator<Item = &Content> {
        let answer = match &self.outcome {
            Outcome::Answer(content) => Some(content),
            Outcome::Skipped | Outcome::Failed(_) | Outcome::Unchanged => None,
        };
        answer.into_iter().chain(&self.raw_text)
    }

    /// Returns the size of the answer and its raw text in bytes, whether or not they are in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.contents().map(Content::bytes).sum()
    }

    /// Moves the answer and its raw text out of memory into a file.
    ///
    /// # Errors
    /// When they cannot be written; what was not written stays in memory.
    pub fn spill(&mut self, file: &SpillFile) -> io::Result<()> {
        if let Outcome::Answer(content) = &mut self.outcome {
            content.spill(file)?;
        }
        self.raw_text.as_mut().map_or(Ok(()), |raw_text| raw_text.spill(file))
    }

    /// Whether the answer and its raw text are in memory.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.contents().all(Content::is_loaded)
    }

    /// Returns the result with its answer and raw text in memory.
    ///
    /// # Errors
    /// When they cannot be read back.
    pub fn load(&self) -> io::Result<Cow<'_, RowResult>> {
        if self.is_loaded() {
            return Ok(Cow::Borrowed(self));
        }
        let mut loaded = self.clone();
        if let Outcome::Answer(content) = &mut loaded.outcome {
            *content = content.load()?.into_owned();
        }
        if let Some(raw_text) = &mut loaded.raw_text {
            *raw_text = raw_text.load()?.into_owned();
        }
        Ok(Cow::Owned(loaded))
    }
}

/// Outcomes of some rows by step, with their answers in memory.
pub(crate) type LoadedOutcomes<'a> = Vec<Cow<'a, [RowResult]>>;

/// Maximum size in bytes of the answers that become columns together, except for a single larger row. An Arrow string
/// array holds at most 2 GiB.
pub(crate) const PIECE_BYTES: usize = 4 << 20;

/// A batch whose rows all have outcomes.
#[derive(Debug)]
pub struct FilledBatch {
    /// Plan of the batch.
    pub plan: PlannedBatch,
    /// Time at which the rows were read.
    pub opened_at: DateTime<Utc>,
    /// The rows, in order.
    pub chunks: Vec<Chunk>,
    /// Outcomes by step, then by row.
    pub outcomes: Vec<Vec<RowResult>>,
}

impl FilledBatch {
    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.rows.num_rows()).sum()
    }

    /// Splits the rows into pieces whose answers take at most [`PIECE_BYTES`], unless one row takes more. Each piece is
    /// within one chunk. Returns for each piece the index of its first row in the batch, and its rows.
    pub(crate) fn pieces(&self) -> Vec<(usize, Chunk)> {
        let mut pieces = Vec::new();
        let mut first = 0;
        for chunk in &self.chunks {
            let (mut begin, mut bytes) = (0, 0);
            let rows = chunk.physical.len();
            for row in 0..rows {
                let of_row: usize = self.outcomes.iter().map(|step| step[first + row].bytes()).sum();
                if bytes + of_row > PIECE_BYTES && row > begin {
                    pieces.push((first + begin, chunk.slice(begin..row)));
                    (begin, bytes) = (row, 0);
                }
                bytes += of_row;
            }
            pieces.push((first + begin, chunk.slice(begin..rows)));
            first += rows;
        }
        pieces
    }

    /// Returns the outcomes of some rows by step, with their answers in memory.
    ///
    /// # Errors
    /// When they cannot be read back.
    pub(crate) fn load(&self, rows: Range<usize>) -> io::Result<LoadedOutcomes<'_>> {
        self.outcomes.iter().map(|step| load_all(&step[rows.clone()])).collect()
    }

    /// Counts the errors of each row, in order.
    pub(crate) fn error_counts(&self) -> Vec<i32> {
        let mut counts = vec![0; self.rows()];
        for step in &self.outcomes {
            for (count, settled) in counts.iter_mut().zip(step) {
                *count += i32::from(matches!(settled.outcome, Outcome::Failed(_)));
            }
        }
        counts
    }
}

fn load_all(step: &[RowResult]) -> io::Result<Cow<'_, [RowResult]>> {
    if step.iter().all(RowResult::is_loaded) {
        return Ok(Cow::Borrowed(step));
    }
    let loaded = step.iter().map(|settled| settled.load().map(Cow::into_owned));
    Ok(Cow::Owned(loaded.collect::<io::Result<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::record_batch::RecordBatch;

    use super::*;
    use crate::checkpoint::Position;
    use crate::clock;
    use crate::ident::BatchId;

    #[test]
    fn a_batch_becomes_columns_in_pieces_of_some_megabytes_and_keeps_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = SpillFile::create_in(folder.path()).unwrap();
        let chunk = |rows: Range<u64>| {
            let ids = Int64Array::from_iter_values(rows.clone().map(u64::cast_signed));
            let rows_of = RecordBatch::try_from_iter([("id", Arc::new(ids) as _)]).unwrap();
            Chunk { file: "a".into(), physical: rows.collect(), rows: rows_of }
        };
        // 19 rows of 1 MiB, one of 10 MiB, and many small ones.
        let size = |row: usize| match row {
            3 => 10 << 20,
            0..20 => 1 << 20,
            _ => 10,
        };
        let answers = (0..5_000).map(|row| {
            let mut settled =
                RowResult::without_request(Outcome::Answer(Content::Text("x".repeat(size(row)))));
            if row % 2 == 0 {
                settled.spill(&file).unwrap();
            }
            settled
        });
        let plan = PlannedBatch {
            id: BatchId::FIRST,
            parts: Vec::new(),
            bytes: 0,
            next: Position::Start,
            condition: None,
            kept: None,
        };
        let chunks = vec![chunk(0..7), chunk(7..5_000)];
        let batch = FilledBatch { plan, opened_at: clock::wall(), chunks, outcomes: vec![answers.collect()] };
        let mut next = 0;
        for (first, piece) in batch.pieces() {
            assert_eq!(first, next);
            assert_eq!(piece.rows.num_rows(), piece.physical.len());
            next += piece.physical.len();
            let loaded = batch.load(first..next).unwrap();
            let bytes: usize = loaded[0].iter().map(RowResult::bytes).sum();
            assert!(bytes <= PIECE_BYTES || piece.physical.len() == 1, "{bytes}");
            assert!(loaded[0].iter().all(RowResult::is_loaded));
        }
        assert_eq!(next, 5_000);
        assert!(batch.pieces().len() < 12, "{}", batch.pieces().len());
    }
}

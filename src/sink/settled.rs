//! Rows with their outcomes, as the engine hands them over.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::checkpoint::PlannedBatch;
use crate::decode::Content;
use crate::fault::Failure;
use crate::ident::{Fingerprint, Money, Tokens};
use crate::source::Chunk;
use crate::spill::SpillFile;

/// What became of a row of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The model's answer.
    Answer(Content),
    /// Nothing was asked.
    Skipped,
    /// An error.
    Failed(Failure),
    /// What the target holds stays; only where failed rows are repaired.
    Kept,
}

/// An outcome and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// What became of the row.
    pub outcome: Outcome,
    /// Name of the provider that was asked.
    pub provider: Option<Arc<str>>,
    /// The model that was asked.
    pub model: Option<Arc<str>>,
    /// Attempts; 0 if nothing was asked.
    pub attempts: u32,
    /// Why the answer ends.
    pub finish_reason: Option<Arc<str>>,
    /// What the answer used.
    pub tokens: Option<Tokens>,
    /// What it cost: what the provider says, else its tokens at the job's prices.
    pub cost: Option<Money>,
    /// Time that the answer took.
    pub latency_ms: Option<u64>,
    /// Whether the answer was somebody else's first, and nothing was paid for it here.
    pub shared: bool,
    /// Fingerprint of the request.
    pub fingerprint: Option<Fingerprint>,
    /// Fingerprint of the step's templates and parameters, as text.
    pub template: Option<Arc<str>>,
    /// The text of the answer, where it is kept beside what it means.
    pub said: Option<Content>,
}

impl Settled {
    /// An outcome that nobody was asked for.
    #[must_use]
    pub fn unasked(outcome: Outcome) -> Self {
        Settled {
            outcome,
            provider: None,
            model: None,
            attempts: 0,
            finish_reason: None,
            tokens: None,
            cost: None,
            latency_ms: None,
            shared: false,
            fingerprint: None,
            template: None,
            said: None,
        }
    }
}

impl Settled {
    fn contents(&self) -> impl Iterator<Item = &Content> {
        let answer = match &self.outcome {
            Outcome::Answer(content) => Some(content),
            Outcome::Skipped | Outcome::Failed(_) | Outcome::Kept => None,
        };
        answer.into_iter().chain(&self.said)
    }

    /// What the answer and its text take, in memory or once they are read back, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.contents().map(Content::bytes).sum()
    }

    /// Moves the answer and its text out of memory.
    ///
    /// # Errors
    /// When they cannot be written; what was not stays in memory.
    pub fn spill(&mut self, file: &SpillFile) -> io::Result<()> {
        if let Outcome::Answer(content) = &mut self.outcome {
            content.spill(file)?;
        }
        self.said.as_mut().map_or(Ok(()), |said| said.spill(file))
    }

    /// Whether the answer and its text are in memory.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.contents().all(Content::is_loaded)
    }

    /// The same with the answer and its text in memory.
    ///
    /// # Errors
    /// When they cannot be read back.
    pub fn load(&self) -> io::Result<Cow<'_, Settled>> {
        if self.is_loaded() {
            return Ok(Cow::Borrowed(self));
        }
        let mut loaded = self.clone();
        if let Outcome::Answer(content) = &mut loaded.outcome {
            *content = content.load()?.into_owned();
        }
        if let Some(said) = &mut loaded.said {
            *said = said.load()?.into_owned();
        }
        Ok(Cow::Owned(loaded))
    }
}

/// Outcomes of some rows by step, with their answers in memory.
pub(super) type Loaded<'a> = Vec<Cow<'a, [Settled]>>;

/// Answers that become columns at once, in bytes; of one row there may be more. An Arrow array of texts holds 2 GiB.
const PIECE_BYTES: usize = 16 << 20;

/// A batch whose rows all have outcomes.
#[derive(Debug)]
pub struct FilledBatch {
    /// Its plan.
    pub plan: PlannedBatch,
    /// When its rows were read.
    pub opened_at: DateTime<Utc>,
    /// Its rows, in order.
    pub chunks: Vec<Chunk>,
    /// Outcomes by step, then by row.
    pub outcomes: Vec<Vec<Settled>>,
}

impl FilledBatch {
    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.rows.num_rows()).sum()
    }

    /// The rows in pieces whose answers take some megabytes, each within a chunk: the place of its first row in the
    /// batch, and the rows.
    pub(super) fn pieces(&self) -> Vec<(usize, Chunk)> {
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

    /// The outcomes of some rows, by step, with their answers in memory.
    ///
    /// # Errors
    /// When they cannot be read back.
    pub(super) fn load(&self, rows: Range<usize>) -> io::Result<Loaded<'_>> {
        self.outcomes.iter().map(|step| load_all(&step[rows.clone()])).collect()
    }

    /// Errors of each row, in order.
    pub(super) fn error_counts(&self) -> Vec<i32> {
        let mut counts = vec![0; self.rows()];
        for step in &self.outcomes {
            for (count, settled) in counts.iter_mut().zip(step) {
                *count += i32::from(matches!(settled.outcome, Outcome::Failed(_)));
            }
        }
        counts
    }
}

fn load_all(step: &[Settled]) -> io::Result<Cow<'_, [Settled]>> {
    if step.iter().all(Settled::is_loaded) {
        return Ok(Cow::Borrowed(step));
    }
    let loaded = step.iter().map(|settled| settled.load().map(Cow::into_owned));
    Ok(Cow::Owned(loaded.collect::<io::Result<Vec<_>>>()?))
}

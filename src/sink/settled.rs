//! Rows with their outcomes, as the engine hands them over.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::checkpoint::PlannedBatch;
use crate::decode::Content;
use crate::fault::Failure;
use crate::ident::{Fingerprint, Money, Tokens};
use crate::source::Chunk;

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
    pub said: Option<Box<str>>,
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

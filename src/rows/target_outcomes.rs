//! Outcomes that a target already holds, and counts of outcomes that it does not accept.

use arrow::array::ArrayRef;

use crate::fault::Failure;

/// Outcomes of a step in the target, by row.
#[derive(Clone, Debug, Default)]
pub struct UnchangedStep {
    /// Whether the outcome is kept.
    pub unchanged: Vec<bool>,
    /// Whether the outcome is an error.
    pub failed: Vec<bool>,
    /// The outputs, or `None` if no other step needs them.
    pub values: Option<ArrayRef>,
}

/// Counts of a step's outcomes that became errors because they break a constraint of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConstraintErrors {
    /// Answers that became errors.
    pub answers: u64,
    /// Skipped rows that became errors.
    pub skipped: u64,
    /// One of the errors, as an example.
    pub example: Option<Failure>,
}

impl std::ops::AddAssign for ConstraintErrors {
    fn add_assign(&mut self, other: ConstraintErrors) {
        self.answers += other.answers;
        self.skipped += other.skipped;
        self.example = self.example.take().or(other.example);
    }
}

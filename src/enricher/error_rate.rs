//! The share of errors among the newest outcomes of a step. A run in which too many rows fail is stopped.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::fault::{Class, Failure};

/// Number of outcomes over which the share is computed. Fewer show too little: a source may begin with its worst rows.
const REACH: usize = 1_000;

/// More errors than the job allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyErrors {
    /// Output of the step.
    pub step: String,
    /// Number of errors among the newest outcomes.
    pub failed: usize,
    /// Number of newest outcomes that were counted.
    pub of: usize,
    /// The most frequent class of error.
    pub class: Class,
    /// Number of errors of this class.
    pub in_class: usize,
    /// Detail of one of these errors.
    pub example: String,
}

impl fmt::Display for TooManyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooManyErrors { step, failed, of, class, in_class, example } = self;
        write!(f, "{failed} of the last {of} rows of step {step:?} failed, {in_class} of them with {class}")?;
        if example.is_empty() { Ok(()) } else { write!(f, "; for example: {example}") }
    }
}

/// The newest outcomes of one step.
#[derive(Debug)]
pub(super) struct ErrorRate {
    step: String,
    most: f64,
    reach: usize,
    /// Class of each outcome, `None` if it is no error; the newest last.
    newest: VecDeque<Option<Class>>,
    failed: usize,
    classes: BTreeMap<Class, Errors>,
}

#[derive(Debug, Default)]
struct Errors {
    count: usize,
    example: String,
}

impl ErrorRate {
    /// Creates a window that allows errors up to a share of `most`; 1 allows any number.
    pub(super) fn new(step: impl Into<String>, most: f64) -> Self {
        ErrorRate {
            step: step.into(),
            most,
            reach: REACH,
            newest: VecDeque::new(),
            failed: 0,
            classes: BTreeMap::new(),
        }
    }

    /// Counts an outcome. Returns the errors if they are too many.
    pub(super) fn note(&mut self, failure: Option<&Failure>) -> Option<TooManyErrors> {
        if self.most >= 1.0 {
            return None;
        }
        if self.newest.len() == self.reach
            && let Some(class) = self.newest.pop_front().flatten()
        {
            self.failed -= 1;
            let errors = self.classes.get_mut(&class).expect("a class is counted when it comes in");
            errors.count -= 1;
            if errors.count == 0 {
                self.classes.remove(&class);
            }
        }
        self.newest.push_back(failure.map(|failure| failure.class));
        let failure = failure?;
        self.failed += 1;
        let errors = self.classes.entry(failure.class).or_default();
        if errors.count == 0 {
            errors.example.clone_from(&failure.detail);
        }
        errors.count += 1;
        self.exceeded()
    }

    /// Counts outcomes as errors that were counted as none before. Which ones is not known: the newest are taken.
    pub(super) fn turn(&mut self, outcomes: u64, failure: &Failure) -> Option<TooManyErrors> {
        let most = usize::try_from(outcomes).unwrap_or(usize::MAX);
        let mut turned = 0;
        for class in self.newest.iter_mut().rev().filter(|class| class.is_none()).take(most) {
            *class = Some(failure.class);
            turned += 1;
        }
        if turned == 0 {
            return None;
        }
        self.failed += turned;
        let errors = self.classes.entry(failure.class).or_default();
        if errors.count == 0 {
            errors.example.clone_from(&failure.detail);
        }
        errors.count += turned;
        self.exceeded()
    }

    fn exceeded(&self) -> Option<TooManyErrors> {
        #[expect(clippy::cast_precision_loss, reason = "a thousand is exact")]
        let is_too_many = self.failed as f64 > self.most * self.reach as f64;
        if self.newest.len() < self.reach || !is_too_many {
            return None;
        }
        let (class, errors) = self.classes.iter().max_by_key(|(_, errors)| errors.count)?;
        Some(TooManyErrors {
            step: self.step.clone(),
            failed: self.failed,
            of: self.reach,
            class: *class,
            in_class: errors.count,
            example: errors.example.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(most: f64, reach: usize) -> ErrorRate {
        ErrorRate { reach, ..ErrorRate::new("answer", most) }
    }

    fn failure(class: Class, detail: &str) -> Failure {
        Failure::new(class, detail)
    }

    #[test]
    fn more_than_the_share_of_the_newest_is_too_many_and_the_dominant_class_is_named() {
        let mut rate = rate(0.5, 10);
        let (bad, late) = (failure(Class::BadRequest, "no"), failure(Class::Timeout, "late"));
        let outcomes = [&bad, &late, &bad, &bad, &bad];
        for failure in outcomes {
            assert_eq!(rate.note(Some(failure)), None);
            assert_eq!(rate.note(None), None);
        }
        // Half of them is still allowed. The next error replaces an error, the one after it an answer.
        assert_eq!(rate.note(Some(&bad)), None);
        let trouble = rate.note(Some(&bad)).unwrap();
        assert_eq!(
            (trouble.failed, trouble.of, trouble.class, trouble.in_class),
            (6, 10, Class::BadRequest, 5)
        );
        assert_eq!(
            trouble.to_string(),
            "6 of the last 10 rows of step \"answer\" failed, 5 of them with bad_request; for example: no"
        );
    }

    #[test]
    fn nothing_is_judged_before_there_are_enough() {
        let mut rate = rate(0.1, 10);
        let no = failure(Class::Length, "");
        assert!((0..9).all(|_| rate.note(Some(&no)).is_none()));
        assert!(rate.note(Some(&no)).is_some());
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let mut rate = rate(0.5, 10);
        let no = failure(Class::Length, "");
        assert!((0..5).all(|_| rate.note(Some(&no)).is_none()));
        assert!((0..10).all(|_| rate.note(None).is_none()));
        assert_eq!((rate.failed, rate.classes.len(), rate.newest.len()), (0, 0, 10));
        assert!((0..5).all(|_| rate.note(Some(&no)).is_none()));
        assert!(rate.note(Some(&no)).is_some());
    }

    #[test]
    fn a_share_of_one_allows_everything() {
        let mut rate = rate(1.0, 10);
        assert!((0..100).all(|_| rate.note(Some(&failure(Class::Length, ""))).is_none()));
    }
}

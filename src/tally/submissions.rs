//! Figures of the submissions to providers' Batch APIs, and their words.

use std::collections::BTreeMap;

use crate::event::{Event, LineOutcomes, OpenSubmissions};
use crate::ident::Money;
use crate::wording::counted;

/// What a run has to do with providers' Batch APIs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubmissionFigures {
    /// The submissions that have not come back, for each provider that is asked through its Batch API.
    pub open: BTreeMap<String, OpenSubmissions>,
    /// Lines of the submissions that this run has collected.
    pub lines: LineOutcomes,
    /// Number of batches at providers beyond the first of their submissions, found in this run.
    pub duplicates: u64,
}

impl SubmissionFigures {
    /// Records an event about submissions; ignores all others.
    pub(super) fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::Submitted { provider, open } => {
                self.open.insert((*provider).to_owned(), (*open).clone());
            }
            Event::SubmissionCollected { lines, .. } => self.lines += *lines,
            Event::DuplicateBatch { .. } => self.duplicates += 1,
            _ => {}
        }
    }

    /// Whether no provider is asked through its Batch API.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns the number of rows in submissions that have not come back.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.open.values().map(|open| open.rows).sum()
    }

    /// Returns the number of submissions that have not come back.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.open.values().map(OpenSubmissions::count).sum()
    }

    /// Returns what these cost at most, or `None` if that is unknown.
    #[must_use]
    pub fn worst(&self) -> Option<Money> {
        let mut own = self.open.values().filter(|open| open.rows > 0);
        own.try_fold(Money::ZERO, |sum, open| Some(sum + open.worst?))
    }

    /// Returns where rows are, such as `120,000 rows are at openai in 3 batches`, or `None` if they are nowhere.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        let open = self.open.iter().filter(|(_, open)| open.rows > 0);
        let places: Vec<String> = open
            .map(|(provider, open)| {
                let are = if open.rows == 1 { "is" } else { "are" };
                let batches = counted(open.count(), "batch");
                format!("{} {are} at {provider} in {batches}", counted(open.rows, "row"))
            })
            .collect();
        (!places.is_empty()).then(|| places.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_where_their_batches_are() {
        let mut figures = SubmissionFigures::default();
        assert_eq!((figures.in_words(), figures.is_empty()), (None, true));
        let dollars = Money::from_dollars(1.5).unwrap();
        for (provider, rows, count) in [("a", 1, 1), ("b", 2_000, 3), ("c", 0, 0), ("b", 1_000, 2)] {
            let by_state = vec![("sealed", 0), ("created", count)];
            let open =
                OpenSubmissions { rows, worst: (provider != "c").then_some(dollars), by_state, oldest: None };
            figures.note(&Event::Submitted { provider, open: &open });
        }
        assert_eq!(
            figures.in_words().unwrap(),
            "1 row is at a in 1 batch and 1,000 rows are at b in 2 batches"
        );
        assert_eq!((figures.rows(), figures.count()), (1_001, 3));
        assert_eq!(figures.worst(), Money::from_dollars(3.0));
        let second =
            Event::DuplicateBatch { provider: "b", first: "batch_1", second: "batch_2", worst: None };
        figures.note(&second);
        assert_eq!(figures.duplicates, 1);
    }
}

//! The figures of a run at one moment, as the display and the log show them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::moving_average::MovingAverage;
use crate::clock::Instant;
use crate::ident::Tokens;
use crate::tally::{Tally, Totals};

/// Progress of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct RunProgress {
    /// Number of rows that are through all their steps.
    pub(super) rows: u64,
    /// Number of rows that the run covers, if known.
    pub(super) of: Option<u64>,
    /// Rows per second, as a moving average; `None` in the first second.
    pub(super) per_second: Option<f64>,
    /// Time left at that rate.
    pub(super) left: Option<Duration>,
    pub(super) in_flight: u64,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) retries: u64,
    pub(super) throttled: u64,
    /// Number of rows in submissions that have not come back; `None` if there is no Batch API.
    pub(super) submitted: Option<u64>,
    pub(super) tokens: Tokens,
    /// Where rows are that were submitted, and the state of each provider's limits, in words.
    pub(super) providers: Vec<String>,
    /// What the run waits for, in words.
    pub(super) waiting: Option<String>,
}

impl RunProgress {
    fn new(totals: Totals, pace: Option<f64>, now: Instant) -> Self {
        let of = totals.planned();
        let todo = of.map(|of| of.saturating_sub(totals.rows));
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let left = match (todo, pace) {
            (Some(todo), Some(pace)) if pace > 0.0 => Duration::try_from_secs_f64(todo as f64 / pace).ok(),
            _ => None,
        };
        RunProgress {
            submitted: (!totals.submissions.is_empty()).then(|| totals.submissions.rows()),
            rows: totals.rows,
            of,
            per_second: pace,
            left,
            in_flight: totals.in_flight(),
            waiting: totals.waiting(now),
            providers: totals
                .submissions
                .in_words()
                .into_iter()
                .chain(totals.providers.iter().map(|(name, figures)| figures.in_words(name)))
                .collect(),
            errors: totals.errors,
            retries: totals.retries,
            throttled: totals.throttled,
            tokens: totals.tokens,
        }
    }

    /// Returns the classes of errors with their counts, the most frequent first.
    pub(super) fn errors_by_class(&self) -> Vec<String> {
        let mut errors: Vec<(&str, u64)> =
            self.errors.iter().map(|(class, count)| (*class, *count)).collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        errors.iter().map(|(class, count)| format!("{class} {count}")).collect()
    }

    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Reads a tally repeatedly and computes the rate.
#[derive(Debug)]
pub(super) struct ProgressGauge {
    tally: Tally,
    pace: MovingAverage,
}

impl ProgressGauge {
    pub(super) fn new(tally: Tally) -> Self {
        ProgressGauge { tally, pace: MovingAverage::default() }
    }

    /// Returns the figures at this moment, or `None` before the run has started.
    pub(super) fn read(&mut self, now: Instant) -> Option<RunProgress> {
        let totals = self.tally.totals();
        totals.run?;
        // Outcomes from the journal take no time and would distort the rate, and those of a submission come all at once.
        let pace = self.pace.note(now, totals.rows - totals.recovered_rows - totals.collected_rows);
        Some(RunProgress::new(totals, pace, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::event::{Ending, Event, Extent, Listener, Origin};
    use crate::fault::Class;
    use crate::ident::RunId;

    fn settled(origin: Origin, extent: Extent) -> Event<'static> {
        Event::Settled { ending: Ending::Answer, extent, origin }
    }

    #[test]
    fn a_row_counts_once_and_what_the_journal_held_is_no_pace() {
        let tally = Tally::default();
        let mut gauge = ProgressGauge::new(tally.clone());
        let start = clock::now();
        tally.on(&Event::Outstanding { rows: 100, row_limit: None });
        assert!(gauge.read(start).is_none());
        tally.on(&Event::Started { run: RunId::random() });
        assert_eq!(gauge.read(start).unwrap().per_second, None);
        for _ in 0..20 {
            tally.on(&settled(Origin::Journal, Extent::Step));
            tally.on(&settled(Origin::Journal, Extent::Row));
        }
        for _ in 0..10 {
            tally.on(&settled(Origin::Request, Extent::Step));
            tally.on(&settled(Origin::Request, Extent::Row));
        }
        let figures = gauge.read(start + Duration::from_secs(5)).unwrap();
        assert_eq!((figures.rows, figures.of, figures.per_second), (30, Some(100), Some(2.0)));
        assert_eq!(figures.left, Some(Duration::from_secs(35)));
        tally.on(&Event::Outstanding { rows: 100, row_limit: Some(40) });
        let figures = gauge.read(start + Duration::from_secs(5)).unwrap();
        assert_eq!(figures.of, Some(60), "twenty rows needed no request");
    }

    #[test]
    fn the_most_frequent_class_comes_first() {
        let errors = [(Class::BadRequest.name(), 2), (Class::Timeout.name(), 10)].into();
        let figures = RunProgress { errors, ..RunProgress::default() };
        assert_eq!(
            (figures.errors_by_class().join(", ").as_str(), figures.error_count()),
            ("timeout 10, bad_request 2", 12)
        );
    }
}

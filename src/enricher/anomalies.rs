//! Watches the share of unusual outcomes among the newest outcomes of each step. A run whose answers make little sense
//! is stopped, and samples of the answers are shown.

use std::collections::VecDeque;
use std::fmt;

use crate::config::{Anomalies, Form};
use crate::decode::{self, Content};
use crate::fault::Unusual;
use crate::ident::RowKey;
use crate::rows::{Outcome, RowResult};

/// Number of samples that are shown.
const SAMPLES: usize = 3;
/// Maximum number of characters of a sample's text.
const SAMPLE_CHARS: usize = 120;
/// Smallest number of outcomes that is judged at the end of a run whose window is not full.
const FEWEST: usize = 50;
/// Standard deviations of a one-sided interval of 95 %.
const Z: f64 = 1.645;

/// What is unusual about an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Empty,
    Refused,
    Invalid,
    Cut,
}

impl Sign {
    const ALL: [Sign; 4] = [Sign::Empty, Sign::Refused, Sign::Invalid, Sign::Cut];

    /// Returns what is unusual about an outcome. A cut answer counts as cut if it is free text, or if it failed for
    /// that; free text that was cut before it began counts as empty.
    fn of(settled: &RowResult, form: &Form) -> Option<Sign> {
        match &settled.outcome {
            Outcome::Failed(failure) => match failure.class.unusual()? {
                Unusual::Cut if matches!(form, Form::Text) => Some(Sign::Empty),
                Unusual::Cut => Some(Sign::Cut),
                Unusual::Empty => Some(Sign::Empty),
                Unusual::Refused => Some(Sign::Refused),
                Unusual::Invalid => Some(Sign::Invalid),
            },
            Outcome::Answer(_) => {
                let is_cut = settled.finish_reason.as_deref().is_some_and(decode::is_cut);
                (is_cut && matches!(form, Form::Text)).then_some(Sign::Cut)
            }
            Outcome::Skipped | Outcome::Unchanged => None,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Sign::Empty => "came back without text",
            Sign::Refused => "were declined",
            Sign::Invalid => "came back in another form than was requested",
            Sign::Cut => "were cut off at max_tokens",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Sign::Empty => "max_empty_rate",
            Sign::Refused => "max_refusal_rate",
            Sign::Invalid => "max_invalid_rate",
            Sign::Cut => "max_cut_rate",
        }
    }

    fn most(self, bounds: &Anomalies) -> f64 {
        match self {
            Sign::Empty => bounds.empty,
            Sign::Refused => bounds.refused,
            Sign::Invalid => bounds.invalid,
            Sign::Cut => bounds.cut,
        }
    }
}

/// More unusual outcomes of one kind than the job allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    /// Output of the step.
    pub step: String,
    /// Number of outcomes of the kind among the newest.
    pub count: usize,
    /// Number of newest outcomes that were counted.
    pub of: usize,
    /// What happened to the rows, in words.
    pub what: &'static str,
    /// The key of the job file that sets the bound.
    pub key: &'static str,
    /// The bound, as a share.
    pub most: f64,
    /// The newest outcomes of the kind: the row, and the text of its answer or error.
    pub samples: Vec<(RowKey, String)>,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Anomaly { step, count, of, what, key, most, samples } = self;
        write!(f, "{count} of the last {of} rows of step {step:?} {what}; anomalies.{key} is {most}")?;
        for (at, (row, text)) in samples.iter().enumerate() {
            let before = if at == 0 { "; for example" } else { ";" };
            write!(f, "{before} row {} of {}: {text:?}", row.row, row.file)?;
        }
        Ok(())
    }
}

/// The newest outcomes of one step.
#[derive(Debug)]
pub(super) struct Watch {
    step: String,
    bounds: Anomalies,
    newest: VecDeque<Option<Sign>>,
    counts: [usize; Sign::ALL.len()],
    samples: [VecDeque<(RowKey, String)>; Sign::ALL.len()],
}

impl Watch {
    pub(super) fn new(step: impl Into<String>, bounds: Anomalies) -> Self {
        let (newest, counts, samples) = Default::default();
        Watch { step: step.into(), bounds, newest, counts, samples }
    }

    /// Counts the outcome of a row. Returns an anomaly if too many are of one kind.
    pub(super) fn note(&mut self, settled: &RowResult, form: &Form, row: &RowKey) -> Option<Anomaly> {
        let reach = self.bounds.rows as usize;
        if self.newest.len() == reach
            && let Some(sign) = self.newest.pop_front().flatten()
        {
            self.counts[sign as usize] -= 1;
        }
        let sign = Sign::of(settled, form);
        self.newest.push_back(sign);
        let sign = sign?;
        self.counts[sign as usize] += 1;
        let samples = &mut self.samples[sign as usize];
        samples.truncate(SAMPLES - 1);
        samples.push_front((row.clone(), text(settled)));
        #[expect(clippy::cast_precision_loss, reason = "a million is exact")]
        let is_too_many = self.counts[sign as usize] as f64 > sign.most(&self.bounds) * reach as f64;
        (self.newest.len() == reach && is_too_many).then(|| self.anomaly(sign))
    }

    /// Returns the anomaly of a run that ends before its window is full, if the share of a kind is too large to be
    /// chance.
    pub(super) fn at_the_end(&self) -> Option<Anomaly> {
        let of = self.newest.len();
        let is_short = (FEWEST..self.bounds.rows as usize).contains(&of);
        let is_too_many =
            |sign: &Sign| least_share(self.counts[*sign as usize], of) > sign.most(&self.bounds);
        Sign::ALL.into_iter().filter(|_| is_short).find(is_too_many).map(|sign| self.anomaly(sign))
    }

    fn anomaly(&self, sign: Sign) -> Anomaly {
        Anomaly {
            step: self.step.clone(),
            count: self.counts[sign as usize],
            of: self.newest.len(),
            what: sign.in_words(),
            key: sign.key(),
            most: sign.most(&self.bounds),
            samples: self.samples[sign as usize].iter().cloned().collect(),
        }
    }
}

/// Returns the lower bound of the share that `count` outcomes of `of` imply (E. B. Wilson, 1927).
#[expect(clippy::cast_precision_loss, reason = "a million is exact")]
fn least_share(count: usize, of: usize) -> f64 {
    let (share, n) = (count as f64 / of as f64, of as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    (middle - half) / (1.0 + Z * Z / n)
}

/// Returns the part of an outcome that is shown: the end of an answer, where it was cut off, or the beginning of an
/// error.
fn text(settled: &RowResult) -> String {
    match &settled.outcome {
        Outcome::Answer(Content::Text(text)) => {
            let left_out = text.chars().count().saturating_sub(SAMPLE_CHARS);
            let shown: String = text.chars().skip(left_out).collect();
            if left_out > 0 { format!("…{shown}") } else { shown }
        }
        Outcome::Failed(failure) => {
            let mut shown: String = failure.detail.chars().take(SAMPLE_CHARS).collect();
            if shown.len() < failure.detail.len() {
                shown.push('…');
            }
            shown
        }
        Outcome::Answer(_) | Outcome::Skipped | Outcome::Unchanged => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fault::Class;
    use crate::fault::Failure;

    fn row(row: u64) -> RowKey {
        RowKey { file: "a.parquet".into(), row }
    }

    fn failed(class: Class, detail: &str) -> RowResult {
        RowResult::without_request(Outcome::Failed(Failure::new(class, detail)))
    }

    fn answered(text: &str, finish_reason: &str) -> RowResult {
        let outcome = Outcome::Answer(Content::Text(text.to_owned()));
        RowResult { finish_reason: Some(Arc::from(finish_reason)), ..RowResult::without_request(outcome) }
    }

    #[test]
    fn a_share_above_its_bound_over_a_full_window_is_reported_with_the_newest_samples() {
        let bounds = Anomalies { rows: 20, empty: 0.2, refused: 0.3, invalid: 0.3, cut: 1.0 };
        let mut watch = Watch::new("answer", bounds);
        let mut note = |settled: &RowResult, at: u64| watch.note(settled, &Form::Text, &row(at));
        // A window that is not full reports nothing, and four of twenty are allowed.
        for at in 0..20 {
            let settled = if at < 4 { failed(Class::EmptyAnswer, "") } else { answered("yes", "stop") };
            assert_eq!(note(&settled, at), None);
        }
        // Each of these replaces one of the first four; a fifth in the window is too many.
        for at in 20..24 {
            assert_eq!(note(&failed(Class::EmptyAnswer, "no text"), at), None);
        }
        let anomaly = note(&failed(Class::Length, "cut before any text"), 24).unwrap();
        assert_eq!((anomaly.count, anomaly.of, anomaly.key), (5, 20, "max_empty_rate"));
        let shown: Vec<u64> = anomaly.samples.iter().map(|(row, _)| row.row).collect();
        assert_eq!(shown, [24, 23, 22]);
        assert_eq!(
            anomaly.to_string(),
            "5 of the last 20 rows of step \"answer\" came back without text; anomalies.max_empty_rate is 0.2; for \
             example row 24 of a.parquet: \"cut before any text\"; row 23 of a.parquet: \"no text\"; row 22 of \
             a.parquet: \"no text\""
        );
    }

    #[test]
    fn fewer_rows_are_judged_at_the_end_where_chance_is_no_excuse() {
        let bounds = Anomalies { rows: 1_000, empty: 0.2, refused: 0.3, invalid: 0.3, cut: 1.0 };
        let at_the_end = |empty: u64, of: u64| {
            let mut watch = Watch::new("answer", bounds);
            for at in 0..of {
                let settled =
                    if at < empty { failed(Class::EmptyAnswer, "") } else { answered("yes", "stop") };
                assert_eq!(watch.note(&settled, &Form::Text, &row(at)), None);
            }
            watch.at_the_end()
        };
        assert_eq!(at_the_end(49, 49), None, "too few to tell");
        assert_eq!(at_the_end(25, 100), None, "as chance has it");
        let anomaly = at_the_end(30, 100).unwrap();
        assert_eq!(
            (anomaly.count, anomaly.of, anomaly.key, anomaly.samples.len()),
            (30, 100, "max_empty_rate", 3)
        );
        assert_eq!(at_the_end(200, 999).map(|anomaly| anomaly.of), None);
        assert!((least_share(30, 100) - 0.231).abs() < 0.001, "{}", least_share(30, 100));
    }

    #[test]
    fn a_cut_answer_counts_where_it_is_free_text() {
        let cut = answered(&format!("{}the end", "so ".repeat(100)), "length");
        assert_eq!(Sign::of(&cut, &Form::Text), Some(Sign::Cut));
        assert_eq!(Sign::of(&cut, &Form::Classes(vec!["yes".into()])), None);
        assert_eq!(Sign::of(&answered("yes", "stop"), &Form::Text), None);
        assert!(text(&cut).starts_with('…') && text(&cut).ends_with("the end"));
    }
}

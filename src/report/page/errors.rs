//! Errors over time, and by their class.

use std::collections::BTreeMap;

use super::bars::{self, Bar};
use super::buckets::highest;
use super::curve::{Area, Curve};
use super::figure::Figure;
use super::number;
use super::palette::Hue;
use super::plot::{DrawingError, Plot};
use super::scale::Scale;
use super::text;
use super::work::Work;

const RATE: (&str, &str) = ("errors", "Errors over time");
const CLASSES: (&str, &str) = ("error-classes", "Errors by class");
const NONE: &str = "No row ended in an error.";

/// The chart of the share of rows that ended in an error.
pub(super) fn rate(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let (errors, ended) = (work.sum(|row| row.errors), work.sum(super::data::MetricsRow::ended));
    if errors == 0 {
        return Ok(Figure::empty(RATE, NONE));
    }
    let buckets = &work.buckets;
    let failed = buckets.sums_of(work.metrics, |row| row.errors);
    let ended_in = buckets.sums_of(work.metrics, super::data::MetricsRow::ended);
    let shares = failed.iter().zip(&ended_in).map(|(part, whole)| (*whole > 0.0).then(|| part / whole));
    let shares: Vec<Option<f64>> = shares.collect();
    let filled = shares.iter().map(|share| share.unwrap_or_default()).collect();
    let most = highest(shares.iter().copied().flatten());
    let plot = Plot {
        timeline: buckets.timeline(),
        scale: Scale::shares(most),
        areas: Area::stacked(buckets, &[(Hue::Vermilion, filled)], 0.16),
        curves: vec![Curve::stepped(Hue::Vermilion, buckets, &shares)],
    };
    let whole = number::ratio(errors, ended).map(number::percent).unwrap_or_default();
    let reading = match buckets.number() {
        1 => format!("{whole} of what was answered or failed."),
        _ => format!("{whole} over all, {} at the worst.", number::percent(most)),
    };
    Ok(Figure::new(RATE, "Share of a step’s rows that failed", plot.draw()?, reading))
}

/// The chart of errors by their class.
pub(super) fn classes(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    for (class, errors) in work.metrics.iter().flat_map(|row| &row.errors_by_class) {
        let sum = classes.entry(class).or_insert(0);
        *sum = sum.saturating_add(*errors);
    }
    classes.retain(|_, errors| *errors > 0);
    let Some((class, errors)) = classes.iter().max_by_key(|(_, errors)| **errors) else {
        return Ok(Figure::empty(CLASSES, NONE));
    };
    let all = classes.values().copied().fold(0, u64::saturating_add);
    let share = number::ratio(*errors, all).map(number::percent).unwrap_or_default();
    let reading = match classes.len() {
        1 => format!("All are of one class, {}.", text::in_line(class, 60)),
        _ => format!("{share} of all errors are of the class {}.", text::in_line(class, 60)),
    };
    let bars = classes
        .iter()
        .map(|(class, errors)| Bar { name: (*class).to_owned(), value: number::float(*errors) });
    let drawing = bars::draw(bars.collect(), number::short)?;
    Ok(Figure::new(CLASSES, "Rows of a step, each time they failed", drawing, reading))
}

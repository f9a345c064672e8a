//! Rows over time.

use super::batch::PageBatch;
use super::buckets::{highest, median};
use super::curve::{Area, Curve};
use super::figure::Figure;
use super::number;
use super::palette::Hue;
use super::plot::{DrawingError, Plot};
use super::scale::Scale;
use super::span::Per;
use super::work::Work;

const HEADING: (&str, &str) = ("throughput", "Throughput");

/// The chart of rows over time.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let buckets = &work.buckets;
    if work.is_instant() {
        return Ok(Figure::empty(HEADING, "The work took less time than the clock tells apart."));
    }
    let rows = buckets.sums(work.batches.iter().map(|batch| (batch.span(), number::float(batch.rows))));
    let per = Per::for_rate(highest(rows.iter().copied()) / buckets.seconds());
    let rates: Vec<f64> = rows.iter().map(|rows| rows / buckets.seconds() * per.seconds()).collect();
    let most = highest(rates.iter().copied());
    let middle = median(rates.iter().copied()).unwrap_or_default();
    let steps: Vec<Option<f64>> = rates.iter().copied().map(Some).collect();
    let plot = Plot {
        timeline: buckets.timeline(),
        scale: Scale::numbers(most),
        curves: vec![Curve::stepped(Hue::Blue, buckets, &steps)],
        areas: Area::stacked(buckets, &[(Hue::Blue, rates)], 0.16),
    };
    let reading = match buckets.number() {
        1 => format!("{} rows {} on average.", number::short(most), per.words()),
        _ => format!(
            "{} rows {} in the middle, {} at the most.",
            number::short(middle),
            per.words(),
            number::short(most)
        ),
    };
    Ok(Figure::new(HEADING, format!("Rows {}", per.words()), plot.draw()?, reading))
}

/// Rows of the table in all of these batches.
pub(super) fn rows<'a>(batches: impl IntoIterator<Item = &'a PageBatch<'a>>) -> u64 {
    batches.into_iter().map(|batch| batch.rows).fold(0, u64::saturating_add)
}

/// So many rows in so many seconds, in words; none when no time is known to have passed.
pub(super) fn rate(rows: u64, seconds: f64) -> Option<String> {
    if seconds <= 0.0 {
        return None;
    }
    let rate = number::float(rows) / seconds;
    let per = Per::for_rate(rate);
    Some(format!("{} {}", number::short(rate * per.seconds()), per.words()))
}

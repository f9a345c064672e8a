//! Latency over time.

use super::buckets::{highest, span};
use super::curve::Curve;
use super::figure::Figure;
use super::mixture::{BatchLatency, Mixture};
use super::number;
use super::palette::Hue;
use super::plot::{DrawingError, Plot};
use super::scale::Scale;
use super::span::millis;
use super::work::Work;

const HEADING: (&str, &str) = ("latency", "Latency");
const QUANTILES: [(Hue, &str, f64); 3] =
    [(Hue::Vermilion, "p99", 0.99), (Hue::Green, "p90", 0.9), (Hue::Blue, "p50", 0.5)];
/// Latencies further apart than this are drawn by their powers of ten, or the low ones could not be told from zero.
const FAR_APART: f64 = 15.0;

/// The chart of latency over time.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let mut mixtures = vec![Mixture::default(); work.buckets.number()];
    for row in work.metrics {
        let Some(latency) = BatchLatency::of(row) else {
            continue;
        };
        for (bucket, share) in work.buckets.shares(span(row)) {
            if let Some(mixture) = mixtures.get_mut(bucket) {
                mixture.add(share * number::float(row.asked().max(1)), latency);
            }
        }
    }
    let curves = QUANTILES.map(|(hue, name, share)| {
        let values: Vec<Option<f64>> = mixtures.iter().map(|mixture| mixture.quantile(share)).collect();
        (hue, name, values)
    });
    let all = || curves.iter().flat_map(|(_, _, values)| values).flatten().copied();
    let (Some(least), most) = (all().reduce(f64::min), highest(all())) else {
        return Ok(Figure::empty(HEADING, "Nobody was asked, so nothing is known of latency."));
    };
    let is_far_apart = most > least.max(1.0) * FAR_APART;
    let scale =
        if is_far_apart { Scale::log_durations(least.max(1.0), most) } else { Scale::durations(most) };
    let plot = Plot {
        timeline: work.buckets.timeline(),
        scale,
        areas: Vec::new(),
        curves: curves.iter().map(|(hue, _, values)| Curve::stepped(*hue, &work.buckets, values)).collect(),
    };
    let unit = if is_far_apart { "Time of an answer, by powers of ten" } else { "Time of an answer" };
    let figure = Figure::new(HEADING, unit, plot.draw()?, reading(work));
    Ok(figure.with_legend(curves.iter().rev().map(|(hue, name, _)| (*hue, *name))))
}

/// What the chart says, over all batches.
fn reading(work: &Work<'_>) -> String {
    let all = Mixture::of(work.metrics);
    let said = |share| all.quantile(share).map_or_else(|| "–".to_owned(), millis);
    let longest = all.longest().map_or_else(|| "–".to_owned(), millis);
    format!(
        "Half of all answers came within {}, nine of ten within {}, 99 of a hundred within {}; the slowest took {longest}.",
        said(0.5),
        said(0.9),
        said(0.99),
    )
}

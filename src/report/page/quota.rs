//! The share of quota that was used over time.

use super::buckets::{highest, span};
use super::curve::Curve;
use super::data::MetricsRow;
use super::figure::Figure;
use super::number;
use super::plot::{DrawingError, Plot};
use super::providers::Series;
use super::scale::Scale;
use super::text;
use super::work::Work;

const HEADING: (&str, &str) = ("quota", "Share of quota");

/// The share of the limit that is nearer; none without a limit.
pub(super) fn share(row: &MetricsRow) -> Option<f64> {
    let shares = [row.requests_share, row.tokens_share].into_iter().flatten();
    shares.filter(|share| share.is_finite() && *share >= 0.0).reduce(f64::max)
}

/// The chart of the share of quota used.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let series = work.providers.series().into_iter().map(|series| (series, shares(work, series)));
    let series: Vec<_> = series.filter(|(_, shares)| shares.iter().any(Option::is_some)).collect();
    let all =
        series.iter().flat_map(|(series, shares)| shares.iter().flatten().map(move |share| (series, share)));
    let Some((fullest, most)) = all.max_by(|a, b| a.1.total_cmp(b.1)) else {
        return Ok(Figure::empty(
            HEADING,
            "No limit is known. Set requests_per_minute or tokens_per_minute of a provider, or ask one that tells its limits.",
        ));
    };
    let plot = Plot {
        timeline: work.buckets.timeline(),
        scale: Scale::shares(highest([*most, 1.0])),
        areas: Vec::new(),
        curves: series
            .iter()
            .map(|(series, shares)| Curve::stepped(series.hue, &work.buckets, shares))
            .collect(),
    };
    let name = text::in_line(fullest.words(), 40);
    let reading = match work.buckets.number() {
        1 => format!("{name} used {} of its quota.", number::percent(*most)),
        _ => format!("{name} came closest, with {} of its quota.", number::percent(*most)),
    };
    let figure = Figure::new(
        HEADING,
        "Of requests or of tokens, whichever is nearer its limit",
        plot.draw()?,
        reading,
    );
    Ok(figure.with_legend(series.iter().map(|(series, _)| (series.hue, series.words()))))
}

/// The mean share in each bucket, batches weighed by the time that they have in it.
fn shares(work: &Work<'_>, series: Series<'_>) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0.0); work.buckets.number()];
    for row in work.metrics.iter().filter(|row| work.providers.has(series, row)) {
        let Some(used) = share(row) else { continue };
        // A batch that took no time counts as a millisecond.
        let (from, to) = span(row);
        let millis = number::float((to - from).num_milliseconds().max(1).unsigned_abs());
        for (bucket, part) in work.buckets.shares((from, to)) {
            if let Some((sum, weight)) = sums.get_mut(bucket) {
                *sum += used * part * millis;
                *weight += part * millis;
            }
        }
    }
    sums.into_iter().map(|(sum, weight)| (weight > 0.0).then(|| sum / weight)).collect()
}

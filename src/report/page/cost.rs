//! Cost over time.

use super::buckets::span;
use super::curve::Area;
use super::data::MetricsRow;
use super::figure::Figure;
use super::money::{self, PartialSum};
use super::number;
use super::plot::{DrawingError, Plot};
use super::providers::Series;
use super::scale::Scale;
use super::throughput;
use super::work::Work;

const HEADING: (&str, &str) = ("cost", "Cost");
const SET_PRICES: &str =
    "Set price_per_million_input and price_per_million_output of the provider to have it counted.";

/// What these rows of metrics cost.
pub(super) fn bill<'a>(rows: impl IntoIterator<Item = &'a MetricsRow>) -> PartialSum {
    let mut bill = PartialSum::default();
    for row in rows {
        bill.add(row.cost_microdollars, row.is_unpriced());
    }
    bill
}

/// The chart of what was paid by and by.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let bill = bill(work.metrics);
    let paid = match bill.known() {
        Some(paid) if paid > 0 => paid,
        _ if bill.is_partial() => {
            return Ok(Figure::empty(HEADING, format!("No price is known. {SET_PRICES}")));
        }
        _ => return Ok(Figure::empty(HEADING, "Nothing was paid.")),
    };
    let series = work.providers.series();
    let paid_to = |series: &Series<'_>| {
        let rows = work.metrics.iter().filter(|row| work.providers.has(*series, row));
        work.buckets.sums(rows.map(|row| (span(row), number::float(cost(row)) / 1e6)))
    };
    let layers = series.into_iter().map(|series| (series, paid_to(&series)));
    // Nobody looks for the colour of who took nothing.
    let layers = layers.filter(|(_, layer)| layer.iter().any(|dollars| *dollars > 0.0));
    let (series, layers): (Vec<Series<'_>>, Vec<_>) =
        layers.map(|(series, layer)| (series, (series.hue, layer))).unzip();
    let top = layers.iter().flat_map(|(_, layer)| layer).sum::<f64>();
    let plot = Plot {
        timeline: work.buckets.timeline(),
        scale: Scale::linear(top, money::dollars),
        areas: Area::growing(&work.buckets, &layers, 0.8),
        curves: Vec::new(),
    };
    let mut reading = format!("{} in all", money::money(paid));
    if let Some(each) = bill.per_thousand(throughput::rows(&work.batches)) {
        reading.push_str(&format!(", {each} for a thousand rows"));
    }
    reading.push('.');
    if bill.is_partial() {
        reading.push_str(&format!(" Not all prices are known. {SET_PRICES}"));
    }
    let figure = Figure::new(HEADING, "Paid so far, stacked", plot.draw()?, reading);
    Ok(figure.with_legend(series.iter().rev().map(|series| (series.hue, series.words()))))
}

/// Millionths of a dollar; what a price below zero would give back is not drawn.
fn cost(row: &MetricsRow) -> u64 {
    row.cost_microdollars.and_then(|cost| u64::try_from(cost).ok()).unwrap_or_default()
}

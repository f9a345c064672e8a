//! Requests over time, and those refused for coming too fast.

use super::buckets::highest;
use super::curve::{Area, Curve};
use super::figure::Figure;
use super::number;
use super::palette::Hue;
use super::plot::{DrawingError, Plot};
use super::scale::Scale;
use super::span::Per;
use super::work::Work;

const HEADING: (&str, &str) = ("requests", "Requests");

/// The chart of requests over time.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let buckets = &work.buckets;
    let (requests, throttled) = (work.sum(|row| row.requests), work.sum(|row| row.throttled));
    if requests == 0 {
        return Ok(Figure::empty(HEADING, "No request was sent."));
    }
    let share = number::ratio(throttled, requests).map(number::percent).unwrap_or_default();
    let count = number::count(requests);
    let reading = match throttled {
        0 => format!("{count} requests; none was refused for coming too fast."),
        _ => format!(
            "{count} requests, {} of them refused for coming too fast ({share}).",
            number::count(throttled)
        ),
    };
    if work.is_instant() {
        return Ok(Figure::empty(HEADING, reading));
    }
    let sent = buckets.sums_of(work.metrics, |row| row.requests);
    let refused = buckets.sums_of(work.metrics, |row| row.throttled);
    let per = Per::for_rate(highest(sent.iter().copied()) / buckets.seconds());
    let rates = |sums: &[f64]| -> Vec<f64> {
        sums.iter().map(|sum| sum / buckets.seconds() * per.seconds()).collect()
    };
    let (sent, refused) = (rates(&sent), rates(&refused));
    let stepped = |hue, rates: &[f64]| {
        Curve::stepped(hue, buckets, &rates.iter().copied().map(Some).collect::<Vec<_>>())
    };
    let plot = Plot {
        timeline: buckets.timeline(),
        scale: Scale::numbers(highest(sent.iter().chain(&refused).copied())),
        curves: vec![stepped(Hue::Blue, &sent), stepped(Hue::Vermilion, &refused)],
        areas: Area::stacked(buckets, &[(Hue::Vermilion, refused)], 0.3),
    };
    let figure = Figure::new(HEADING, format!("Requests {}", per.words()), plot.draw()?, reading);
    Ok(figure.with_legend([(Hue::Blue, "sent"), (Hue::Vermilion, "refused (429)")]))
}

//! Tokens over time.

use super::buckets::highest;
use super::curve::Area;
use super::figure::Figure;
use super::number;
use super::palette::Hue;
use super::plot::{DrawingError, Plot};
use super::scale::Scale;
use super::span::Per;
use super::work::Work;

const HEADING: (&str, &str) = ("tokens", "Tokens");

/// The chart of tokens over time.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let (prompt, cached) = (work.sum(|row| row.prompt_tokens), work.sum(|row| row.cached_tokens));
    let completion = work.sum(|row| row.completion_tokens);
    if prompt == 0 && completion == 0 {
        return Ok(Figure::empty(HEADING, "No tokens were counted."));
    }
    let share = number::ratio(cached, prompt).map(number::percent).unwrap_or_default();
    let reasoning = match work.sum(|row| row.reasoning_tokens) {
        0 => String::new(),
        tokens => format!(", {} of them reasoning", number::short_count(tokens)),
    };
    let reading = format!(
        "{} tokens in, {share} of them from the provider’s cache; {} out{reasoning}.",
        number::short_count(prompt),
        number::short_count(completion),
    );
    if work.is_instant() {
        return Ok(Figure::empty(HEADING, reading));
    }
    let buckets = &work.buckets;
    let layers = [
        (Hue::Green, buckets.sums_of(work.metrics, |row| row.cached_tokens)),
        (Hue::Blue, buckets.sums_of(work.metrics, |row| row.prompt_tokens.saturating_sub(row.cached_tokens))),
        (Hue::Vermilion, buckets.sums_of(work.metrics, |row| row.completion_tokens)),
    ];
    let whole = |index: usize| layers.iter().filter_map(|(_, layer)| layer.get(index)).sum::<f64>();
    let most = highest((0..buckets.number()).map(whole)) / buckets.seconds();
    let per = Per::for_rate(most);
    let factor = per.seconds() / buckets.seconds();
    let layers = layers.map(|(hue, layer)| (hue, layer.into_iter().map(|sum| sum * factor).collect()));
    let plot = Plot {
        timeline: buckets.timeline(),
        scale: Scale::numbers(most * per.seconds()),
        areas: Area::stacked(buckets, &layers, 0.8),
        curves: Vec::new(),
    };
    let figure = Figure::new(HEADING, format!("Tokens {}, stacked", per.words()), plot.draw()?, reading);
    Ok(figure.with_legend([(Hue::Vermilion, "out"), (Hue::Blue, "in"), (Hue::Green, "in, cached")]))
}

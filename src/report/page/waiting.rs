//! What requests waited for before they were sent.

use std::collections::BTreeMap;

use super::bars::{self, Bar};
use super::figure::Figure;
use super::number;
use super::plot::DrawingError;
use super::span;
use super::work::Work;

const HEADING: (&str, &str) = ("waiting", "Time waited");

/// The chart of time waited, by what for.
pub(super) fn figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, waited) in work.metrics.iter().flat_map(|row| &row.waited_ms) {
        let sum = kinds.entry(kind).or_insert(0);
        *sum = sum.saturating_add(*waited);
    }
    kinds.retain(|_, waited| *waited > 0);
    if kinds.is_empty() {
        return Ok(Figure::empty(HEADING, "No request waited before it was sent."));
    }
    let all = kinds.values().copied().fold(0, u64::saturating_add);
    let bars = kinds
        .iter()
        .map(|(kind, waited)| Bar { name: words(kind).to_owned(), value: number::float(*waited) });
    let drawing = bars::draw(bars.collect(), span::millis)?;
    let reading =
        format!("{} in all, added up over requests that waited side by side.", span::whole_millis(all));
    Ok(Figure::new(HEADING, "Before requests were sent", drawing, reading))
}

/// What a kind of waiting is, in words; one that is not known stands as it is.
fn words(kind: &str) -> &str {
    match kind {
        "requests_per_minute" => "the limit on requests a minute",
        "tokens_per_minute" => "the limit on tokens a minute",
        "pause" => "a pause that the provider asked for",
        "breaker" => "an open circuit breaker",
        "backoff" => "backoff after a failure",
        "budget" => "room in the budget",
        other => other,
    }
}

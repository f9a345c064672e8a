//! The charts over time: throughput, requests, tokens, latency, errors, waiting, quota and cost.
//!
//! Each function turns the page's data into one figure, or into an empty one that states why there is nothing to draw.

use std::collections::BTreeMap;

use super::figure::{self, Bar, Figure};
use super::format::{self, PartialSum, Per, millis};
use super::palette::Hue;
use super::plot::{Area, Curve, DrawingError, Plot, Scale};
use super::timeline::{bucket_span, highest, median};
use super::work::{BatchLatency, Mixture, PageBatch, Series, Work};
use crate::metrics::{MetricsRow, WAITS};

const THROUGHPUT_HEADING: (&str, &str) = ("throughput", "Throughput");

/// The chart of rows over time.
pub(super) fn throughput_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let buckets = &work.buckets;
    if work.is_instant() {
        return Ok(Figure::empty(THROUGHPUT_HEADING, "The work took less time than the clock can measure."));
    }
    let rows = buckets.sums(work.batches.iter().map(|batch| (batch.span(), format::float(batch.rows))));
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
        1 => format!("{} rows {} on average.", format::short(most), per.words()),
        _ => format!(
            "{} rows {} in the middle, {} at the most.",
            format::short(middle),
            per.words(),
            format::short(most)
        ),
    };
    Ok(Figure::new(THROUGHPUT_HEADING, format!("Rows {}", per.words()), plot.draw()?, reading))
}

/// Returns the number of rows of the table in these batches.
pub(super) fn rows<'a>(batches: impl IntoIterator<Item = &'a PageBatch>) -> u64 {
    batches.into_iter().map(|batch| batch.rows).fold(0, u64::saturating_add)
}

/// Formats a rate, or returns `None` if no time is known to have passed.
pub(super) fn throughput_rate(rows: u64, seconds: f64) -> Option<String> {
    if seconds <= 0.0 {
        return None;
    }
    let rate = format::float(rows) / seconds;
    let per = Per::for_rate(rate);
    Some(format!("{} {}", format::short(rate * per.seconds()), per.words()))
}

const REQUESTS_HEADING: (&str, &str) = ("requests", "Requests");

/// The chart of requests over time.
pub(super) fn requests_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let buckets = &work.buckets;
    let (requests, throttled) = (work.sum(MetricsRow::requests), work.sum(|row| row.load.throttled));
    if requests == 0 {
        return Ok(Figure::empty(REQUESTS_HEADING, "No request was sent."));
    }
    let share = format::ratio(throttled, requests).map(format::percent).unwrap_or_default();
    let count = format::count(requests);
    let reading = match throttled {
        0 => format!("{count} requests; none was refused for coming too fast."),
        _ => format!(
            "{count} requests, {} of them refused for coming too fast ({share}).",
            format::count(throttled)
        ),
    };
    if work.is_instant() {
        return Ok(Figure::empty(REQUESTS_HEADING, reading));
    }
    let sent = buckets.sums_of(work.metrics, MetricsRow::requests);
    let refused = buckets.sums_of(work.metrics, |row| row.load.throttled);
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
    let figure = Figure::new(REQUESTS_HEADING, format!("Requests {}", per.words()), plot.draw()?, reading);
    Ok(figure.with_legend([(Hue::Blue, "sent"), (Hue::Vermilion, "refused (429)")]))
}

const TOKENS_HEADING: (&str, &str) = ("tokens", "Tokens");

/// The chart of tokens over time.
pub(super) fn tokens_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let (prompt, cached) = (work.sum(|row| row.tokens.prompt), work.sum(|row| row.tokens.cached));
    let completion = work.sum(|row| row.tokens.completion);
    if prompt == 0 && completion == 0 {
        return Ok(Figure::empty(TOKENS_HEADING, "No tokens were counted."));
    }
    let share = format::ratio(cached, prompt).map(format::percent).unwrap_or_default();
    let reasoning = match work.sum(|row| row.tokens.reasoning) {
        0 => String::new(),
        tokens => format!(", {} of them reasoning", format::short_count(tokens)),
    };
    let reading = format!(
        "{} tokens in, {share} of them from the provider’s cache; {} out{reasoning}.",
        format::short_count(prompt),
        format::short_count(completion),
    );
    if work.is_instant() {
        return Ok(Figure::empty(TOKENS_HEADING, reading));
    }
    let buckets = &work.buckets;
    let layers = [
        (Hue::Green, buckets.sums_of(work.metrics, |row| row.tokens.cached)),
        (Hue::Blue, buckets.sums_of(work.metrics, |row| row.tokens.prompt.saturating_sub(row.tokens.cached))),
        (Hue::Vermilion, buckets.sums_of(work.metrics, |row| row.tokens.completion)),
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
    let figure =
        Figure::new(TOKENS_HEADING, format!("Tokens {}, stacked", per.words()), plot.draw()?, reading);
    Ok(figure.with_legend([(Hue::Vermilion, "out"), (Hue::Blue, "in"), (Hue::Green, "in, cached")]))
}

const LATENCY_HEADING: (&str, &str) = ("latency", "Latency");
const QUANTILES: [(Hue, &str, f64); 3] =
    [(Hue::Vermilion, "p99", 0.99), (Hue::Green, "p90", 0.9), (Hue::Blue, "p50", 0.5)];
/// Ratio of the highest to the lowest latency above which the scale is logarithmic: on a linear one the low latencies
/// would look like zero.
const FAR_APART: f64 = 15.0;

/// The chart of latency over time.
pub(super) fn latency_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let mut mixtures = vec![Mixture::default(); work.buckets.number()];
    for row in work.metrics {
        let Some(latency) = BatchLatency::of(row) else {
            continue;
        };
        for (bucket, share) in work.buckets.shares(bucket_span(row)) {
            if let Some(mixture) = mixtures.get_mut(bucket) {
                mixture.add(share * format::float(row.own_answers().max(1)), latency);
            }
        }
    }
    let curves = QUANTILES.map(|(hue, name, share)| {
        let values: Vec<Option<f64>> = mixtures.iter().map(|mixture| mixture.quantile(share)).collect();
        (hue, name, values)
    });
    let all = || curves.iter().flat_map(|(_, _, values)| values).flatten().copied();
    let (Some(least), most) = (all().reduce(f64::min), highest(all())) else {
        return Ok(Figure::empty(
            LATENCY_HEADING,
            "No request was sent by itself, so nothing is known of latency.",
        ));
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
    let figure = Figure::new(LATENCY_HEADING, unit, plot.draw()?, latency_reading(work));
    Ok(figure.with_legend(curves.iter().rev().map(|(hue, name, _)| (*hue, *name))))
}

/// Sums up the latencies of all batches in a sentence.
fn latency_reading(work: &Work<'_>) -> String {
    let all = Mixture::of(work.metrics);
    let quantile = |share| all.quantile(share).map_or_else(|| "–".to_owned(), millis);
    let longest = all.longest().map_or_else(|| "–".to_owned(), millis);
    format!(
        "Half of all answers came within {}, nine of ten within {}, 99 of a hundred within {}; the slowest took {longest}.",
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
    )
}

const ERROR_RATE_HEADING: (&str, &str) = ("errors", "Errors over time");
const ERROR_CLASSES_HEADING: (&str, &str) = ("error-classes", "Errors by class");
const NO_ERRORS: &str = "No row ended in an error.";

/// The chart of the share of rows that ended in an error.
pub(super) fn error_rate_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let (errors, ended) = (work.sum(MetricsRow::error_count), work.sum(MetricsRow::ended));
    if errors == 0 {
        return Ok(Figure::empty(ERROR_RATE_HEADING, NO_ERRORS));
    }
    let buckets = &work.buckets;
    let failed = buckets.sums_of(work.metrics, MetricsRow::error_count);
    let ended_in = buckets.sums_of(work.metrics, MetricsRow::ended);
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
    let whole = format::ratio(errors, ended).map(format::percent).unwrap_or_default();
    let reading = match buckets.number() {
        1 => format!("{whole} of what was answered or failed."),
        _ => format!("{whole} over all, {} at the worst.", format::percent(most)),
    };
    Ok(Figure::new(ERROR_RATE_HEADING, "Share of a step’s rows that failed", plot.draw()?, reading))
}

/// The chart of errors by class.
pub(super) fn error_classes_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    for (class, errors) in work.metrics.iter().flat_map(|row| &row.errors) {
        let sum = classes.entry(class).or_insert(0);
        *sum = sum.saturating_add(*errors);
    }
    classes.retain(|_, errors| *errors > 0);
    let Some((class, errors)) = classes.iter().max_by_key(|(_, errors)| **errors) else {
        return Ok(Figure::empty(ERROR_CLASSES_HEADING, NO_ERRORS));
    };
    let all = classes.values().copied().fold(0, u64::saturating_add);
    let share = format::ratio(*errors, all).map(format::percent).unwrap_or_default();
    let reading = match classes.len() {
        1 => format!("All are of one class, {}.", format::in_line(class, 60)),
        _ => format!("{share} of all errors are of the class {}.", format::in_line(class, 60)),
    };
    let bars = classes
        .iter()
        .map(|(class, errors)| Bar { name: (*class).to_owned(), value: format::float(*errors) });
    let drawing = figure::draw_bars(bars.collect(), format::short)?;
    Ok(Figure::new(ERROR_CLASSES_HEADING, "Rows of a step, each time they failed", drawing, reading))
}

const WAITING_HEADING: (&str, &str) = ("waiting", "Time waited");

/// The chart of time waited, by reason.
pub(super) fn waiting_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for ((_, kind), waited) in work.metrics.iter().flat_map(|row| WAITS.iter().zip(row.load.waited_ms)) {
        let sum = kinds.entry(kind).or_insert(0);
        *sum = sum.saturating_add(waited);
    }
    kinds.retain(|_, waited| *waited > 0);
    if kinds.is_empty() {
        return Ok(Figure::empty(WAITING_HEADING, "No request waited before it was sent."));
    }
    let all = kinds.values().copied().fold(0, u64::saturating_add);
    let bars = kinds
        .iter()
        .map(|(kind, waited)| Bar { name: waiting_words(kind).to_owned(), value: format::float(*waited) });
    let drawing = figure::draw_bars(bars.collect(), format::millis)?;
    let reading =
        format!("{} in all, added up over requests that waited side by side.", format::whole_millis(all));
    Ok(Figure::new(WAITING_HEADING, "Before requests were sent", drawing, reading))
}

/// Describes a kind of waiting; an unknown kind is shown as it is.
fn waiting_words(kind: &str) -> &str {
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

const QUOTA_HEADING: (&str, &str) = ("quota", "Share of quota");

/// Returns the used share of the limit on requests or of that on tokens, whichever is higher, or `None` without a
/// limit.
pub(super) fn quota_share(row: &MetricsRow) -> Option<f64> {
    let shares = [row.load.requests_share, row.load.tokens_share].into_iter().flatten();
    shares.filter(|share| share.is_finite() && *share >= 0.0).reduce(f64::max)
}

/// The chart of the share of quota used.
pub(super) fn quota_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let series = work.providers.series().into_iter().map(|series| (series, quota_shares(work, series)));
    let series: Vec<_> = series.filter(|(_, shares)| shares.iter().any(Option::is_some)).collect();
    let all =
        series.iter().flat_map(|(series, shares)| shares.iter().flatten().map(move |share| (series, share)));
    let Some((fullest, most)) = all.max_by(|a, b| a.1.total_cmp(b.1)) else {
        return Ok(Figure::empty(
            QUOTA_HEADING,
            "No limit is known. Set requests_per_minute or tokens_per_minute of a provider, or use one that states its limits.",
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
    let name = format::in_line(fullest.words(), 40);
    let reading = match work.buckets.number() {
        1 => format!("{name} used {} of its quota.", format::percent(*most)),
        _ => format!("{name} came closest, with {} of its quota.", format::percent(*most)),
    };
    let figure = Figure::new(
        QUOTA_HEADING,
        "Of requests or of tokens, whichever is nearer its limit",
        plot.draw()?,
        reading,
    );
    Ok(figure.with_legend(series.iter().map(|(series, _)| (series.hue, series.words()))))
}

/// Returns the mean share in each bucket, with batches weighted by the time that they have in it.
fn quota_shares(work: &Work<'_>, series: Series<'_>) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0.0); work.buckets.number()];
    for row in work.metrics.iter().filter(|row| work.providers.has(series, row)) {
        let Some(used) = quota_share(row) else { continue };
        // A batch that took no time counts as a millisecond.
        let (from, to) = bucket_span(row);
        let millis = format::float((to - from).num_milliseconds().max(1).unsigned_abs());
        for (bucket, part) in work.buckets.shares((from, to)) {
            if let Some((sum, weight)) = sums.get_mut(bucket) {
                *sum += used * part * millis;
                *weight += part * millis;
            }
        }
    }
    sums.into_iter().map(|(sum, weight)| (weight > 0.0).then(|| sum / weight)).collect()
}

const COST_HEADING: (&str, &str) = ("cost", "Cost");
const SET_PRICES: &str =
    "Set price_per_million_input and price_per_million_output of the provider to have it counted.";

/// Returns the cost of these rows of metrics.
pub(super) fn bill<'a>(rows: impl IntoIterator<Item = &'a MetricsRow>) -> PartialSum {
    let mut bill = PartialSum::default();
    for row in rows {
        bill.add(row.cost_microdollars(), row.is_unpriced());
    }
    bill
}

/// The chart of the cumulative cost.
pub(super) fn cost_figure(work: &Work<'_>) -> Result<Figure, DrawingError> {
    let bill = bill(work.metrics);
    let paid = match bill.known() {
        Some(paid) if paid > 0 => paid,
        _ if bill.is_partial() => {
            return Ok(Figure::empty(COST_HEADING, format!("No price is known. {SET_PRICES}")));
        }
        _ => return Ok(Figure::empty(COST_HEADING, "Nothing was paid.")),
    };
    let series = work.providers.series();
    let paid_to = |series: &Series<'_>| {
        let rows = work.metrics.iter().filter(|row| work.providers.has(*series, row));
        work.buckets.sums(rows.map(|row| (bucket_span(row), format::float(cost_of(row)) / 1e6)))
    };
    let layers = series.into_iter().map(|series| (series, paid_to(&series)));
    // A provider that was paid nothing needs no entry in the legend.
    let layers = layers.filter(|(_, layer)| layer.iter().any(|dollars| *dollars > 0.0));
    let (series, layers): (Vec<Series<'_>>, Vec<_>) =
        layers.map(|(series, layer)| (series, (series.hue, layer))).unzip();
    let top = layers.iter().flat_map(|(_, layer)| layer).sum::<f64>();
    let plot = Plot {
        timeline: work.buckets.timeline(),
        scale: Scale::linear(top, format::dollars),
        areas: Area::growing(&work.buckets, &layers, 0.8),
        curves: Vec::new(),
    };
    let mut reading = format!("{} in all", format::money(paid));
    if let Some(each) = bill.per_thousand(rows(&work.batches)) {
        reading.push_str(&format!(", {each} for a thousand rows"));
    }
    reading.push('.');
    if bill.is_partial() {
        reading.push_str(&format!(" Not all prices are known. {SET_PRICES}"));
    }
    let figure = Figure::new(COST_HEADING, "Paid so far, stacked", plot.draw()?, reading);
    Ok(figure.with_legend(series.iter().rev().map(|series| (series.hue, series.words()))))
}

/// Returns the cost in millionths of a dollar. A negative cost, from a price below zero, is not drawn.
fn cost_of(row: &MetricsRow) -> u64 {
    row.cost_microdollars().and_then(|cost| u64::try_from(cost).ok()).unwrap_or_default()
}

//! The table of steps and providers.

use std::collections::BTreeMap;

use super::buckets::highest;
use super::cost;
use super::data::MetricsRow;
use super::mixture::Mixture;
use super::number;
use super::quota;
use super::span;
use super::table::{Column, NOTHING, PageTable, seldom};
use super::text;
use super::work::Work;

const COLUMNS: [Column; 14] = [
    Column::names("Step"),
    Column::names("Provider"),
    Column::numbers("Rows"),
    Column::numbers("Answers"),
    Column::numbers("Shared"),
    Column::numbers("Skipped"),
    Column::numbers("Errors"),
    Column::numbers("p50"),
    Column::numbers("p99"),
    Column::numbers("Tokens in"),
    Column::numbers("Tokens out"),
    Column::numbers("Cost"),
    Column::numbers("Refused (429)"),
    Column::numbers("Quota, most"),
];

/// The table of steps and providers, steps in the order in which they come first.
pub(super) fn table(work: &Work<'_>) -> PageTable {
    let mut order: BTreeMap<&str, usize> = BTreeMap::new();
    let mut groups: BTreeMap<(usize, Option<&str>), Vec<&MetricsRow>> = BTreeMap::new();
    for row in work.metrics {
        let next = order.len();
        let step = *order.entry(&row.step).or_insert(next);
        groups.entry((step, row.provider.as_deref())).or_default().push(row);
    }
    // Rows about which nobody was asked come last in their step.
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|((step, provider), _)| (*step, provider.is_none()));
    PageTable {
        id: "steps",
        heading: "Steps and providers",
        note: "Shared answers were another row’s, or a cache’s, and cost nothing. Refusals and quota are a \
               provider’s and stand once for each batch."
            .to_owned(),
        columns: COLUMNS.to_vec(),
        rows: groups.into_iter().map(|((_, provider), rows)| cells(provider, &rows)).collect(),
    }
}

fn cells(provider: Option<&str>, rows: &[&MetricsRow]) -> Vec<String> {
    let sum =
        |figure: fn(&MetricsRow) -> u64| rows.iter().map(|row| figure(row)).fold(0, u64::saturating_add);
    let latency = Mixture::of(rows.iter().copied());
    let quantile = |share| latency.quantile(share).map_or_else(|| NOTHING.to_owned(), span::millis);
    let shares: Vec<f64> = rows.iter().filter_map(|row| quota::share(row)).collect();
    let quota = (!shares.is_empty()).then(|| number::percent(highest(shares)));
    let step = rows.first().map_or("", |row| row.step.as_str());
    vec![
        text::in_line(step, 48),
        provider.map_or_else(|| "nobody was asked".to_owned(), |provider| text::in_line(provider, 48)),
        number::count(sum(|row| row.rows)),
        number::count(sum(|row| row.answers)),
        seldom(sum(|row| row.shared)),
        seldom(sum(|row| row.skipped)),
        errors(sum(|row| row.errors), sum(MetricsRow::ended)),
        quantile(0.5),
        quantile(0.99),
        tokens(sum(|row| row.prompt_tokens), provider),
        tokens(sum(|row| row.completion_tokens), provider),
        cost::bill(rows.iter().copied()).words(),
        seldom(sum(|row| row.throttled)),
        quota.unwrap_or_else(|| NOTHING.to_owned()),
    ]
}

fn tokens(tokens: u64, provider: Option<&str>) -> String {
    if provider.is_none() && tokens == 0 { NOTHING.to_owned() } else { number::short_count(tokens) }
}

/// `312 (0.8%)`.
pub(super) fn errors(errors: u64, ended: u64) -> String {
    match number::ratio(errors, ended) {
        Some(share) if errors > 0 => {
            format!("{} ({})", number::count(errors), number::percent(share))
        }
        _ => NOTHING.to_owned(),
    }
}

//! The figures at the top of the page.

use serde::Serialize;

use super::cost;
use super::data::{BatchKind, MetricsRow};
use super::number;
use super::span;
use super::throughput;
use super::work::Work;

/// One figure with its name and a line about it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tile {
    name: &'static str,
    value: String,
    line: String,
}

/// The figures of all the work.
pub(super) fn tiles(work: &Work<'_>) -> Vec<Tile> {
    let of = |kind| work.batches.iter().filter(move |batch| batch.kind == kind);
    let (rows, again) = (throughput::rows(of(BatchKind::Run)), throughput::rows(of(BatchKind::Retry)));
    vec![
        rows_tile(work, rows, again),
        errors_tile(work),
        cost_tile(work, rows.saturating_add(again)),
        tokens_tile(work),
        throughput_tile(work, rows.saturating_add(again)),
        time_tile(work),
    ]
}

fn rows_tile(work: &Work<'_>, rows: u64, again: u64) -> Tile {
    let batches = u64::try_from(work.batches.len()).unwrap_or(u64::MAX);
    let line = match again {
        0 => counted(batches, "batch", "batches"),
        _ => format!("and {} once more", number::count(again)),
    };
    Tile { name: "Rows", value: number::count(rows), line }
}

fn errors_tile(work: &Work<'_>) -> Tile {
    let (errors, ended) = (work.sum(|row| row.errors), work.sum(MetricsRow::ended));
    let value = number::ratio(errors, ended).map_or_else(|| "–".to_owned(), number::percent);
    Tile { name: "Errors", value, line: format!("{} of {}", number::count(errors), number::count(ended)) }
}

fn cost_tile(work: &Work<'_>, rows: u64) -> Tile {
    let bill = cost::bill(work.metrics);
    let line = match bill.per_thousand(rows) {
        Some(each) => format!("{each} for 1,000 rows"),
        None if bill.is_partial() => "not all prices are set".to_owned(),
        None => "nothing was paid".to_owned(),
    };
    Tile { name: "Cost", value: bill.words(), line }
}

fn tokens_tile(work: &Work<'_>) -> Tile {
    let (prompt, completion) = (work.sum(|row| row.prompt_tokens), work.sum(|row| row.completion_tokens));
    Tile {
        name: "Tokens",
        value: number::short_count(prompt.saturating_add(completion)),
        line: format!("{} in, {} out", number::short_count(prompt), number::short_count(completion)),
    }
}

fn throughput_tile(work: &Work<'_>, rows: u64) -> Tile {
    let busy = work.buckets.timeline().busy_seconds();
    let rate = throughput::rate(rows, busy).unwrap_or_else(|| "–".to_owned());
    match rate.split_once(' ') {
        Some((value, per)) => {
            Tile { name: "Throughput", value: value.to_owned(), line: format!("rows {per}") }
        }
        None => Tile { name: "Throughput", value: rate, line: "too short to tell".to_owned() },
    }
}

fn time_tile(work: &Work<'_>) -> Tile {
    let timeline = work.buckets.timeline();
    let line = timeline.ends().map_or_else(String::new, |(begun, ended)| {
        let end = if begun.date_naive() == ended.date_naive() { "%H:%M" } else { "%-d %b %H:%M" };
        format!("{} – {}", begun.format("%-d %b %H:%M"), ended.format(end))
    });
    Tile { name: "Time at work", value: span::seconds(timeline.busy_seconds()), line }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", number::count(number), if number == 1 { one } else { many })
}

//! The tiles, tables and sample rows of the page.
//!
//! On a phone each row of a table becomes a card, so cells know the names of their columns.

use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::HashMap;

use super::charts;
use super::data::Sample;
use super::format::{self, PageText};
use super::timeline::{Timeline, highest};
use super::work::{Mixture, PageBatch, Work};
use crate::ident::RunId;
use crate::metrics::{MetricsRow, RunKind};

/// One figure with its name and a line of explanation.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tile {
    name: &'static str,
    value: String,
    line: String,
}

/// Returns the tiles with the figures of all runs together.
pub(super) fn tiles(work: &Work<'_>) -> Vec<Tile> {
    let of = |kind| work.batches.iter().filter(move |batch| batch.kind == kind);
    let (rows, again) = (charts::rows(of(RunKind::Run)), charts::rows(of(RunKind::Retry)));
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
        _ => format!("and {} once more", format::count(again)),
    };
    Tile { name: "Rows", value: format::count(rows), line }
}

fn errors_tile(work: &Work<'_>) -> Tile {
    let (errors, ended) = (work.sum(MetricsRow::error_count), work.sum(MetricsRow::ended));
    let value = format::ratio(errors, ended).map_or_else(|| "–".to_owned(), format::percent);
    Tile { name: "Errors", value, line: format!("{} of {}", format::count(errors), format::count(ended)) }
}

fn cost_tile(work: &Work<'_>, rows: u64) -> Tile {
    let bill = charts::bill(work.metrics);
    let line = match bill.per_thousand(rows) {
        Some(each) => format!("{each} for 1,000 rows"),
        None if bill.is_partial() => "not all prices are set".to_owned(),
        None => "nothing was paid".to_owned(),
    };
    Tile { name: "Cost", value: bill.words(), line }
}

fn tokens_tile(work: &Work<'_>) -> Tile {
    let (prompt, completion) = (work.sum(|row| row.tokens.prompt), work.sum(|row| row.tokens.completion));
    Tile {
        name: "Tokens",
        value: format::short_count(prompt.saturating_add(completion)),
        line: format!("{} in, {} out", format::short_count(prompt), format::short_count(completion)),
    }
}

fn throughput_tile(work: &Work<'_>, rows: u64) -> Tile {
    let busy = work.buckets.timeline().busy_seconds();
    let rate = charts::throughput_rate(rows, busy).unwrap_or_else(|| "–".to_owned());
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
    Tile { name: "Time at work", value: format::seconds(timeline.busy_seconds()), line }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", format::count(number), if number == 1 { one } else { many })
}

/// Maximum number of runs in the table; more would make the page long and add little.
const MAX_RUNS: usize = 60;

const RUN_COLUMNS: [Column; 11] = [
    Column::names("Begun"),
    Column::words("Kind"),
    Column::numbers("Took"),
    Column::numbers("Batches"),
    Column::numbers("Rows"),
    Column::numbers("Throughput"),
    Column::numbers("Answers"),
    Column::numbers("Errors"),
    Column::numbers("Tokens"),
    Column::numbers("Cost"),
    Column::words("Run"),
];

/// The batches and metrics of one run or retry.
#[derive(Default)]
struct Run<'a> {
    batches: Vec<&'a PageBatch>,
    metrics: Vec<&'a MetricsRow>,
}

/// Returns the table of runs, the latest first.
pub(super) fn runs_table(work: &Work<'_>) -> PageTable {
    let mut runs: HashMap<(RunKind, RunId), Run<'_>> = HashMap::new();
    for batch in &work.batches {
        runs.entry((batch.kind, batch.run_id)).or_default().batches.push(batch);
    }
    for row in work.metrics {
        runs.entry((row.kind, row.run_id)).or_default().metrics.push(row);
    }
    let mut runs: Vec<_> = runs.into_iter().collect();
    runs.sort_by_key(|((_, id), run)| {
        (std::cmp::Reverse(run.batches.iter().map(|batch| batch.started_at).min()), *id)
    });
    let number = runs.len();
    runs.truncate(MAX_RUNS);
    let note = match number {
        number if number > MAX_RUNS => {
            format!("The latest {MAX_RUNS} of {}. Times are UTC.", format::short(format::float_of(number)))
        }
        _ => "The latest first. Times are UTC.".to_owned(),
    };
    let rows = runs.into_iter().map(|((kind, id), run)| run_cells(kind, id, &run));
    PageTable { id: "runs", heading: "Runs", note, columns: RUN_COLUMNS.to_vec(), rows: rows.collect() }
}

fn run_cells(kind: RunKind, id: RunId, Run { batches, metrics: rows }: &Run<'_>) -> Vec<String> {
    let sum =
        |figure: fn(&MetricsRow) -> u64| rows.iter().map(|row| figure(row)).fold(0, u64::saturating_add);
    let timeline = Timeline::of(batches.iter().map(|batch| batch.span()));
    let busy = timeline.as_ref().map_or(0.0, Timeline::busy_seconds);
    let begun = timeline.as_ref().and_then(Timeline::ends).map(|(begun, _)| format::moment(begun));
    let table_rows = charts::rows(batches.iter().copied());
    vec![
        begun.unwrap_or_default(),
        match kind {
            RunKind::Run => "run".to_owned(),
            RunKind::Retry => "retry".to_owned(),
        },
        format::seconds(busy),
        format::count(u64::try_from(batches.len()).unwrap_or(u64::MAX)),
        format::count(table_rows),
        charts::throughput_rate(table_rows, busy).unwrap_or_else(|| NOTHING.to_owned()),
        format::count(sum(|row| row.answers)),
        step_errors(sum(MetricsRow::error_count), sum(MetricsRow::ended)),
        format::short_count(sum(MetricsRow::all_tokens)),
        charts::bill(rows.iter().copied()).words(),
        id.to_string(),
    ]
}

const STEP_COLUMNS: [Column; 14] = [
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

/// Returns the table of steps and providers; steps are in the order in which they first occur.
pub(super) fn steps_table(work: &Work<'_>) -> PageTable {
    let mut order: BTreeMap<&str, usize> = BTreeMap::new();
    let mut groups: BTreeMap<(usize, Option<&str>), Vec<&MetricsRow>> = BTreeMap::new();
    for row in work.metrics {
        let next = order.len();
        let step = *order.entry(&row.step).or_insert(next);
        groups.entry((step, row.provider.as_deref())).or_default().push(row);
    }
    // Rows that were not sent come last in their step.
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|((step, provider), _)| (*step, provider.is_none()));
    PageTable {
        id: "steps",
        heading: "Steps and providers",
        note: "Shared answers were another row’s, or a cache’s, and cost nothing. Refusals and quota are a \
               provider’s and stand once for each batch."
            .to_owned(),
        columns: STEP_COLUMNS.to_vec(),
        rows: groups.into_iter().map(|((_, provider), rows)| step_cells(provider, &rows)).collect(),
    }
}

fn step_cells(provider: Option<&str>, rows: &[&MetricsRow]) -> Vec<String> {
    let sum =
        |figure: fn(&MetricsRow) -> u64| rows.iter().map(|row| figure(row)).fold(0, u64::saturating_add);
    let latency = Mixture::of(rows.iter().copied());
    let quantile = |share| latency.quantile(share).map_or_else(|| NOTHING.to_owned(), format::millis);
    let shares: Vec<f64> = rows.iter().filter_map(|row| charts::quota_share(row)).collect();
    let quota = (!shares.is_empty()).then(|| format::percent(highest(shares)));
    let step = rows.first().map_or("", |row| row.step.as_str());
    vec![
        format::in_line(step, 48),
        provider.map_or_else(|| "no request".to_owned(), |provider| format::in_line(provider, 48)),
        format::count(sum(|row| row.rows)),
        format::count(sum(|row| row.answers)),
        seldom(sum(|row| row.shared)),
        seldom(sum(|row| row.skipped)),
        step_errors(sum(MetricsRow::error_count), sum(MetricsRow::ended)),
        quantile(0.5),
        quantile(0.99),
        step_tokens(sum(|row| row.tokens.prompt), provider),
        step_tokens(sum(|row| row.tokens.completion), provider),
        charts::bill(rows.iter().copied()).words(),
        seldom(sum(|row| row.load.throttled)),
        quota.unwrap_or_else(|| NOTHING.to_owned()),
    ]
}

fn step_tokens(tokens: u64, provider: Option<&str>) -> String {
    if provider.is_none() && tokens == 0 { NOTHING.to_owned() } else { format::short_count(tokens) }
}

/// Formats a number of errors with their share: `312 (0.8%)`.
pub(super) fn step_errors(errors: u64, ended: u64) -> String {
    match format::ratio(errors, ended) {
        Some(share) if errors > 0 => {
            format!("{} ({})", format::count(errors), format::percent(share))
        }
        _ => NOTHING.to_owned(),
    }
}

/// Maximum number of bytes of the page for the texts of all samples.
const ALL_BYTES: usize = 420_000;
const TEXT_BYTES: usize = 6_000;
const MOST_SAMPLES: usize = 25;
const MOST_INPUTS: usize = 12;

/// A section of samples.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Section {
    id: &'static str,
    heading: &'static str,
    note: String,
    cards: Vec<Card>,
}

/// A row with the outcome of one step.
#[derive(Clone, Debug, Serialize)]
struct Card {
    step: String,
    place: String,
    /// Figures with their names, first the one that orders the section.
    facts: Vec<(&'static str, String)>,
    inputs: Vec<(String, PageText)>,
    inputs_left_out: usize,
    answer: Option<PageText>,
    error: Option<PageText>,
}

/// Order of the samples in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleOrder {
    /// The longest latency first.
    Slowest,
    /// The highest cost first.
    Dearest,
    /// No order: a sample.
    Sampled,
}

impl Section {
    /// Creates a section of samples; `bytes` is the room for one text.
    pub(super) fn new(order: SampleOrder, samples: &[Sample], bytes: usize) -> Section {
        let (id, heading, empty) = match order {
            SampleOrder::Slowest => ("slowest", "Slowest rows", "No latency is known of any row."),
            SampleOrder::Dearest => ("dearest", "Dearest rows", "No cost is known of any row."),
            SampleOrder::Sampled => ("samples", "A sample of answers", "There is no answer yet."),
        };
        let cards = samples.iter().take(MOST_SAMPLES).map(|sample| card(order, sample, bytes)).collect();
        let note = if samples.is_empty() { empty.to_owned() } else { String::new() };
        Section { id, heading, note, cards }
    }
}

/// Returns the room for one text, in bytes, if all these samples are on the page.
pub(super) fn text_bytes(sections: [&[Sample]; 3]) -> usize {
    let samples = sections.into_iter().flat_map(|samples| samples.iter().take(MOST_SAMPLES));
    let texts = samples.map(|sample| sample.inputs.len().min(MOST_INPUTS) + 2).sum::<usize>();
    (ALL_BYTES / texts.max(1)).min(TEXT_BYTES)
}

fn card(order: SampleOrder, sample: &Sample, bytes: usize) -> Card {
    let latency = sample.latency_ms.map(|latency| ("took", format::whole_millis(latency)));
    let cost = sample.cost_microdollars.map(|cost| ("cost", format::money(cost)));
    let tokens = sample.tokens.map(|tokens| ("tokens", format::count(tokens)));
    let facts = match order {
        SampleOrder::Slowest => [latency, tokens, cost],
        SampleOrder::Dearest => [cost, tokens, latency],
        SampleOrder::Sampled => [latency, tokens, cost],
    };
    let inputs = sample.inputs.iter().take(MOST_INPUTS);
    Card {
        step: format::in_line(&sample.step, 48),
        place: format!("row {} of {}", sample.source_row, format::in_line(&sample.source_file, 120)),
        facts: facts.into_iter().flatten().collect(),
        inputs: inputs
            .map(|(column, value)| (format::in_line(column, 48), PageText::new(value, bytes)))
            .collect(),
        inputs_left_out: sample.inputs.len().saturating_sub(MOST_INPUTS),
        answer: sample.answer.as_ref().map(|answer| PageText::new(answer, bytes)),
        error: sample.error.as_ref().map(|error| PageText::new(error, bytes)),
    }
}

/// A table with its heading and a note.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PageTable {
    pub(super) id: &'static str,
    pub(super) heading: &'static str,
    pub(super) note: String,
    pub(super) columns: Vec<Column>,
    /// Rows of cells, one for each column.
    pub(super) rows: Vec<Vec<String>>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Column {
    name: &'static str,
    class: &'static str,
}

impl Column {
    /// Creates a column that names its rows.
    pub(super) const fn names(name: &'static str) -> Column {
        Column { name, class: "name" }
    }

    /// Creates a column of words.
    pub(super) const fn words(name: &'static str) -> Column {
        Column { name, class: "words" }
    }

    /// Creates a column of numbers.
    pub(super) const fn numbers(name: &'static str) -> Column {
        Column { name, class: "number" }
    }
}

/// Content of a cell without a value.
pub(super) const NOTHING: &str = "–";

/// Formats a number, but shows a dash for zero, so that other numbers stand out.
pub(super) fn seldom(number: u64) -> String {
    if number == 0 { NOTHING.to_owned() } else { format::count(number) }
}

//! The table of runs.

use std::collections::HashMap;

use super::batch::PageBatch;
use super::cost;
use super::data::{BatchKind, MetricsRow};
use super::number;
use super::span;
use super::steps;
use super::table::{Column, NOTHING, PageTable};
use super::text;
use super::throughput;
use super::timeline::Timeline;
use super::work::Work;

/// Runs beyond these would make the page long and say little.
const MOST: usize = 60;

const COLUMNS: [Column; 11] = [
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

/// What an invocation did.
#[derive(Default)]
struct Run<'a> {
    batches: Vec<&'a PageBatch<'a>>,
    metrics: Vec<&'a MetricsRow>,
}

/// The table of runs, the latest first.
pub(super) fn table(work: &Work<'_>) -> PageTable {
    let mut runs: HashMap<(BatchKind, &str), Run<'_>> = HashMap::new();
    for batch in &work.batches {
        runs.entry((batch.kind, batch.run_id)).or_default().batches.push(batch);
    }
    for row in work.metrics {
        runs.entry((row.kind, &row.run_id)).or_default().metrics.push(row);
    }
    let mut runs: Vec<_> = runs.into_iter().collect();
    runs.sort_by_key(|((_, id), run)| {
        (std::cmp::Reverse(run.batches.iter().map(|batch| batch.started_at).min()), *id)
    });
    let number = runs.len();
    runs.truncate(MOST);
    let note = match number {
        number if number > MOST => {
            format!("The latest {MOST} of {}. Times are UTC.", number::short(number::float_of(number)))
        }
        _ => "The latest first. Times are UTC.".to_owned(),
    };
    let rows = runs.into_iter().map(|((kind, id), run)| cells(kind, id, &run));
    PageTable { id: "runs", heading: "Runs", note, columns: COLUMNS.to_vec(), rows: rows.collect() }
}

fn cells(kind: BatchKind, id: &str, Run { batches, metrics: rows }: &Run<'_>) -> Vec<String> {
    let sum =
        |figure: fn(&MetricsRow) -> u64| rows.iter().map(|row| figure(row)).fold(0, u64::saturating_add);
    let timeline = Timeline::of(batches.iter().map(|batch| batch.span()));
    let busy = timeline.as_ref().map_or(0.0, Timeline::busy_seconds);
    let begun = timeline.as_ref().and_then(Timeline::ends).map(|(begun, _)| span::moment(begun));
    let table_rows = throughput::rows(batches.iter().copied());
    vec![
        begun.unwrap_or_default(),
        match kind {
            BatchKind::Run => "run".to_owned(),
            BatchKind::Retry => "retry".to_owned(),
        },
        span::seconds(busy),
        number::count(u64::try_from(batches.len()).unwrap_or(u64::MAX)),
        number::count(table_rows),
        throughput::rate(table_rows, busy).unwrap_or_else(|| NOTHING.to_owned()),
        number::count(sum(|row| row.answers)),
        steps::errors(sum(|row| row.errors), sum(MetricsRow::ended)),
        number::short_count(sum(MetricsRow::tokens)),
        cost::bill(rows.iter().copied()).words(),
        text::in_line(id, 40),
    ]
}

//! Batches, put together from the rows of metrics of their steps and providers.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};

use super::data::{BatchKind, MetricsRow};

type RowsOfSteps<'a> = BTreeMap<&'a str, u64>;

/// One batch.
#[derive(Clone, Debug)]
pub(super) struct PageBatch<'a> {
    /// What made it.
    pub(super) kind: BatchKind,
    /// The invocation that made it.
    pub(super) run_id: &'a str,
    /// When it was begun.
    pub(super) started_at: DateTime<Utc>,
    /// When it was committed.
    pub(super) committed_at: DateTime<Utc>,
    /// Rows of the table: those of the step that saw most of them. Every step sees them anew.
    pub(super) rows: u64,
}

impl PageBatch<'_> {
    /// The batches of these rows of metrics, in the order of their beginnings.
    pub(super) fn all(metrics: &[MetricsRow]) -> Vec<PageBatch<'_>> {
        let mut batches: HashMap<(BatchKind, &str, i64), (PageBatch<'_>, RowsOfSteps<'_>)> = HashMap::new();
        for row in metrics {
            let (batch, steps) =
                batches.entry((row.kind, row.run_id.as_str(), row.batch_id)).or_insert_with(|| {
                    let (started_at, committed_at) = (row.started_at, row.committed_at);
                    let (kind, run_id) = (row.kind, row.run_id.as_str());
                    (PageBatch { kind, run_id, started_at, committed_at, rows: 0 }, BTreeMap::new())
                });
            batch.started_at = batch.started_at.min(row.started_at);
            batch.committed_at = batch.committed_at.max(row.committed_at);
            let rows = steps.entry(row.step.as_str()).or_insert(0);
            *rows = rows.saturating_add(row.rows);
        }
        let batches = batches
            .into_values()
            .map(|(batch, steps)| PageBatch { rows: steps.into_values().max().unwrap_or_default(), ..batch });
        let mut batches: Vec<PageBatch<'_>> = batches.collect();
        batches.sort_by_key(|batch| (batch.started_at, batch.committed_at));
        batches
    }

    /// When it was worked on.
    pub(super) fn span(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        (self.started_at, self.committed_at)
    }
}

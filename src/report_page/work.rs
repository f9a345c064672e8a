//! The rows of the metrics table, grouped by batch, step and provider.
//!
//! Quantiles do not average. The quantiles of a batch are taken for a distribution that rises in straight lines between
//! them; the distributions are mixed by weight, and the quantile of the mixture is found by bisection. Charts show the
//! busiest providers by name and hue, and the others together.

use chrono::{DateTime, Utc};

use std::collections::{BTreeMap, HashMap};

use super::format;
use super::palette::Hue;
use super::timeline::{Buckets, Timeline};
use crate::ident::{BatchId, RunId};
use crate::metrics::{MetricsRow, RunKind};

/// Metrics, prepared for the charts.
#[derive(Clone, Debug)]
pub(super) struct Work<'a> {
    /// Rows of the metrics table.
    pub(super) metrics: &'a [MetricsRow],
    /// Their batches, ordered by start.
    pub(super) batches: Vec<PageBatch>,
    /// The time axis in buckets.
    pub(super) buckets: Buckets,
    /// The busiest providers.
    pub(super) providers: Providers<'a>,
}

impl<'a> Work<'a> {
    /// Prepares rows of the metrics table. Returns `None` if there are none.
    pub(super) fn of(metrics: &'a [MetricsRow]) -> Option<Work<'a>> {
        let batches = PageBatch::all(metrics);
        let timeline = Timeline::of(batches.iter().map(PageBatch::span))?;
        let buckets = Buckets::new(timeline, batches.len());
        Some(Work { metrics, batches, buckets, providers: Providers::of(metrics) })
    }

    /// Whether the work took no measurable time, so that there is no rate.
    pub(super) fn is_instant(&self) -> bool {
        self.buckets.timeline().busy_seconds() <= 0.0
    }

    /// Returns the sum of one figure over all rows of metrics.
    pub(super) fn sum(&self, figure: impl Fn(&MetricsRow) -> u64) -> u64 {
        self.metrics.iter().map(figure).fold(0, u64::saturating_add)
    }
}

type RowsOfSteps<'a> = BTreeMap<&'a str, u64>;

/// One batch, over all its steps and providers.
#[derive(Clone, Debug)]
pub(super) struct PageBatch {
    pub(super) kind: RunKind,
    /// Id of the run or retry that made the batch.
    pub(super) run_id: RunId,
    pub(super) started_at: DateTime<Utc>,
    pub(super) committed_at: DateTime<Utc>,
    /// Number of rows of the table: the highest number that a step saw, since every step sees the rows anew.
    pub(super) rows: u64,
}

impl PageBatch {
    /// Returns the batches of these rows of metrics, ordered by start.
    pub(super) fn all(metrics: &[MetricsRow]) -> Vec<PageBatch> {
        let mut batches: HashMap<(RunKind, RunId, BatchId), (PageBatch, RowsOfSteps<'_>)> = HashMap::new();
        for row in metrics {
            let (batch, steps) = batches.entry((row.kind, row.run_id, row.batch_id)).or_insert_with(|| {
                let (started_at, committed_at) = (row.started_at, row.committed_at);
                let (kind, run_id) = (row.kind, row.run_id);
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
        let mut batches: Vec<PageBatch> = batches.collect();
        batches.sort_by_key(|batch| (batch.started_at, batch.committed_at));
        batches
    }

    /// Returns the start and the end of the work on the batch.
    pub(super) fn span(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        (self.started_at, self.committed_at)
    }
}

/// The busiest providers, the busiest first.
#[derive(Clone, Debug)]
pub(super) struct Providers<'a> {
    named: Vec<&'a str>,
    has_others: bool,
}

/// One of the busiest providers, or all others together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series<'a> {
    /// Name of the provider, or `None` for all others.
    pub(super) name: Option<&'a str>,
    /// Colour of the series on every chart.
    pub(super) hue: Hue,
}

impl<'a> Providers<'a> {
    /// Returns the busiest providers in these rows of metrics.
    pub(super) fn of(metrics: &'a [MetricsRow]) -> Providers<'a> {
        let mut work: BTreeMap<&str, u64> = BTreeMap::new();
        for row in metrics {
            if let Some(provider) = &row.provider {
                let sum = work.entry(provider).or_insert(0);
                *sum = sum.saturating_add(row.ended());
            }
        }
        let mut named: Vec<(&str, u64)> = work.into_iter().collect();
        named.sort_by_key(|(_, work)| std::cmp::Reverse(*work));
        let has_others = named.len() > Hue::NAMED.len();
        named.truncate(Hue::NAMED.len());
        Providers { named: named.into_iter().map(|(name, _)| name).collect(), has_others }
    }

    /// Returns the series that a chart draws, in order.
    pub(super) fn series(&self) -> Vec<Series<'a>> {
        let named = self.named.iter().zip(Hue::NAMED).map(|(name, hue)| Series { name: Some(*name), hue });
        named.chain(self.has_others.then_some(Series { name: None, hue: Hue::Grey })).collect()
    }

    /// Whether a row of metrics belongs to a series.
    pub(super) fn has(&self, series: Series<'_>, row: &MetricsRow) -> bool {
        match (series.name, row.provider.as_deref()) {
            (_, None) => false,
            (Some(name), Some(provider)) => name == provider,
            (None, Some(provider)) => !self.named.contains(&provider),
        }
    }
}

impl Series<'_> {
    /// Returns the name of the series for people.
    pub(super) fn words(&self) -> &str {
        self.name.unwrap_or("others")
    }
}

/// Number of halvings: enough to distinguish milliseconds within hours.
const HALVINGS: usize = 24;

/// Latencies of batches, weighted by the number of answers that each stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Mixture {
    parts: Vec<(f64, BatchLatency)>,
}

/// Latencies of one batch, in milliseconds: p50, p90, p99 and the longest, each at least as high as the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLatency([f64; 4]);

const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

impl BatchLatency {
    /// Returns the latencies in a row of metrics, or `None` if it has none.
    pub(super) fn of(row: &MetricsRow) -> Option<BatchLatency> {
        let quantiles = row.latency.map(|latency| [latency.p50, latency.p90, latency.p99, latency.max])?;
        let mut least = 0.0;
        Some(BatchLatency(quantiles.map(|latency| {
            least = format::float(latency).max(least);
            least
        })))
    }

    /// Returns the share of answers that took no longer than this.
    fn share_within(self, millis: f64) -> f64 {
        let mut below = (0.0, 0.0);
        for above in self.0.into_iter().zip(SHARES) {
            if millis < above.0 {
                let along = (millis - below.0) / (above.0 - below.0);
                return below.1 + along * (above.1 - below.1);
            }
            below = above;
        }
        1.0
    }
}

impl Mixture {
    /// Mixes the latencies of rows of metrics.
    pub(super) fn of<'a>(rows: impl IntoIterator<Item = &'a MetricsRow>) -> Mixture {
        let mut mixture = Mixture::default();
        for row in rows {
            if let Some(latency) = BatchLatency::of(row) {
                mixture.add(format::float(row.own_answers().max(1)), latency);
            }
        }
        mixture
    }

    /// Adds the latencies of a batch; `weight` is the number of answers that had them.
    pub(super) fn add(&mut self, weight: f64, latency: BatchLatency) {
        if weight > 0.0 {
            self.parts.push((weight, latency));
        }
    }

    /// Returns the latency within which this share of answers came, in milliseconds, or `None` without answers.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let whole = self.parts.iter().map(|(weight, _)| weight).sum::<f64>();
        let (mut low, mut high) = (0.0, self.longest()?);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            let within = self.parts.iter().map(|(weight, part)| weight * part.share_within(middle));
            if within.sum::<f64>() < share * whole { low = middle } else { high = middle }
        }
        Some(high)
    }

    /// Returns the longest latency, in milliseconds.
    pub(super) fn longest(&self) -> Option<f64> {
        self.parts.iter().map(|(_, BatchLatency(quantiles))| quantiles[3]).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(parts: &[(f64, [f64; 4])]) -> Mixture {
        Mixture {
            parts: parts.iter().map(|(weight, quantiles)| (*weight, BatchLatency(*quantiles))).collect(),
        }
    }

    fn quantile(parts: &[(f64, [f64; 4])], share: f64) -> f64 {
        mixture(parts).quantile(share).unwrap().round()
    }

    #[test]
    fn one_batch_keeps_its_own_quantiles() {
        let one = [(20.0, [400.0, 900.0, 2_000.0, 2_500.0])];
        assert_eq!([0.5, 0.9, 0.99].map(|share| quantile(&one, share)), [400.0, 900.0, 2_000.0]);
        let flat = [(1.0, [300.0; 4])];
        assert_eq!([0.5, 0.9, 0.99].map(|share| quantile(&flat, share)), [300.0; 3]);
    }

    #[test]
    fn slow_answers_count_by_their_weight() {
        let (fast, slow) = ([100.0; 4], [9_000.0; 4]);
        assert_eq!(quantile(&[(99.0, fast), (1.0, slow)], 0.5), 100.0);
        assert!(quantile(&[(80.0, fast), (20.0, slow)], 0.9) > 4_000.0);
        assert_eq!(mixture(&[]).quantile(0.5), None);
    }
}

//! The work that the charts tell of.

use super::batch::PageBatch;
use super::buckets::Buckets;
use super::data::MetricsRow;
use super::providers::Providers;
use super::timeline::Timeline;

/// Metrics with what every chart needs of them.
#[derive(Clone, Debug)]
pub(super) struct Work<'a> {
    /// What was measured.
    pub(super) metrics: &'a [MetricsRow],
    /// The batches of it, in the order of their beginnings.
    pub(super) batches: Vec<PageBatch<'a>>,
    /// The time of it.
    pub(super) buckets: Buckets,
    /// Who did it.
    pub(super) providers: Providers<'a>,
}

impl<'a> Work<'a> {
    /// The work of these rows of metrics; none without any.
    pub(super) fn of(metrics: &'a [MetricsRow]) -> Option<Work<'a>> {
        let batches = PageBatch::all(metrics);
        let timeline = Timeline::of(batches.iter().map(PageBatch::span))?;
        let buckets = Buckets::new(timeline, batches.len());
        Some(Work { metrics, batches, buckets, providers: Providers::of(metrics) })
    }

    /// Whether it took no time that is known, so that there is no rate of anything.
    pub(super) fn is_instant(&self) -> bool {
        self.buckets.timeline().busy_seconds() <= 0.0
    }

    /// The sum of one figure over all rows of metrics.
    pub(super) fn sum(&self, figure: impl Fn(&MetricsRow) -> u64) -> u64 {
        self.metrics.iter().map(figure).fold(0, u64::saturating_add)
    }
}

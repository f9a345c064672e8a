//! The providers that a chart tells apart: the busiest by name and hue, the others together.

use std::collections::BTreeMap;

use super::data::MetricsRow;
use super::palette::Hue;

/// The busiest providers, the busiest first.
#[derive(Clone, Debug)]
pub(super) struct Providers<'a> {
    named: Vec<&'a str>,
    has_others: bool,
}

/// A provider of the busiest, or all the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series<'a> {
    /// The provider; none for all the others.
    pub(super) name: Option<&'a str>,
    /// The colour that it has on every chart.
    pub(super) hue: Hue,
}

impl<'a> Providers<'a> {
    /// The providers of these rows of metrics.
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

    /// What a chart draws, in this order.
    pub(super) fn series(&self) -> Vec<Series<'a>> {
        let named = self.named.iter().zip(Hue::NAMED).map(|(name, hue)| Series { name: Some(*name), hue });
        named.chain(self.has_others.then_some(Series { name: None, hue: Hue::Grey })).collect()
    }

    /// Whether what a row tells belongs to a series.
    pub(super) fn has(&self, series: Series<'_>, row: &MetricsRow) -> bool {
        match (series.name, row.provider.as_deref()) {
            (_, None) => false,
            (Some(name), Some(provider)) => name == provider,
            (None, Some(provider)) => !self.named.contains(&provider),
        }
    }
}

impl Series<'_> {
    /// In words.
    pub(super) fn words(&self) -> &str {
        self.name.unwrap_or("others")
    }
}

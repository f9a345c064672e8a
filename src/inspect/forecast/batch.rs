//! What goes through Batch APIs: at their prices, in files, and within the time that providers have for them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::figures::{BatchForecast, Estimate, PartForecast};
use super::reckon::{Reckoning, dollars, float, is_of, prices};
use crate::config::{BatchApiSettings, Provider, duration};

impl Reckoning<'_> {
    /// Forecasts for each provider with a Batch API what goes through it.
    pub(super) fn by_batch(&self) -> Vec<BatchForecast> {
        let mut forecasts = Vec::new();
        let parts = self.parts();
        for provider in &self.job.providers {
            let Some(settings) = &provider.batch else { continue };
            let own: Vec<&PartForecast> =
                parts.iter().filter(|part| part.provider == provider.name).collect();
            if own.is_empty() {
                continue;
            }
            let sum = |cost: &dyn Fn(&PartForecast) -> Option<Estimate>| {
                own.iter().try_fold(Estimate::NOTHING, |sum, part| Some(sum.plus(cost(part)?)))
            };
            let files = own.iter().map(|part| files(part.rows, settings));
            forecasts.push(BatchForecast {
                provider: provider.name.clone(),
                cost_usd: sum(&|part| part.cost_usd),
                online_cost_usd: sum(&|part| self.online_cost(part, provider)),
                files: files.fold(Estimate::NOTHING, Estimate::plus),
                steps: own.len() as u64,
                window: settings.window.clone(),
            });
        }
        forecasts
    }

    /// Estimates what a part would cost if each request were sent by itself.
    fn online_cost(&self, part: &PartForecast, provider: &Provider) -> Option<Estimate> {
        let online = Provider { batch: None, ..provider.clone() };
        if self.pilot.is_some() {
            let step = self.job.steps.iter().position(|step| step.output == part.step)?;
            return part.cost_usd.map(|_| {
                self.measured(&|nth, settled| {
                    if nth == step && is_of(settled, &online) {
                        dollars(settled, &online).unwrap_or_default()
                    } else {
                        0.0
                    }
                })
            });
        }
        let prices = prices(&online)?;
        let input = part.input_tokens.times(prices.input.dollars());
        Some(input.plus(part.output_tokens.times(prices.output.dollars())))
    }

    /// Returns a note on urgent rows, which a pilot does not tell from others.
    pub(super) fn urgent_note(&self) -> Option<String> {
        let mut steps = self.job.steps.iter();
        let has_urgent = self.pilot.is_some() && steps.any(|step| step.urgent_when.is_some());
        has_urgent.then(|| {
            "after a pilot rows that meet urgent_when are reckoned at the price of batches, too: without --pilot they are not"
                .to_owned()
        })
    }

    /// Returns the duration of a run and what decides it: the batches of its steps, one after the other, and what is sent
    /// by itself.
    pub(super) fn time_with_batches(&self) -> Option<(Estimate, String)> {
        let online = self.time();
        let batches = self.by_batch();
        let Some(first) = batches.first() else { return online };
        let is_batch = |name: &str| batches.iter().any(|batch| batch.provider == name);
        let has_online = self.parts().iter().any(|part| !is_batch(&part.provider));
        if has_online && online.is_none() {
            return None;
        }
        let waits = self.waits()?.as_secs_f64();
        let (low, high) = match &online {
            Some((online, _)) => (online.low, online.high.map(|high| high + waits)),
            None => (0.0, Some(waits)),
        };
        Some((Estimate { low, expected: None, high }, format!("the batches of {}", first.provider)))
    }

    /// Returns the longest time for which rows may be in batches, over all steps; `None` if a provider's time for a batch
    /// is not known.
    fn waits(&self) -> Option<Duration> {
        let mut by_step: BTreeMap<String, Duration> = BTreeMap::new();
        for part in self.parts() {
            let of = self.job.providers.iter().find(|provider| provider.name == part.provider);
            if let Some(settings) = of.and_then(|provider| provider.batch.as_ref()) {
                let longest = by_step.entry(part.step).or_default();
                *longest = duration(&settings.window).ok()?.max(*longest);
            }
        }
        Some(by_step.values().sum())
    }
}

/// Returns the number of files for so many requests.
fn files(requests: Estimate, settings: &BatchApiSettings) -> Estimate {
    let number = |requests: f64| (requests / float(settings.max_requests.into())).ceil();
    Estimate {
        low: number(requests.low),
        expected: requests.expected.map(number),
        high: requests.high.map(number),
    }
}

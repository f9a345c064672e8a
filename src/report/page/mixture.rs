//! Quantiles of many batches together, from the quantiles of each.
//!
//! Quantiles do not average. Each batch's quantiles are taken for a distribution that rises in straight lines between
//! them; the distributions are mixed by weight, and the mixture's quantile is found by halving.

use super::data::MetricsRow;
use super::number;

/// Enough to tell milliseconds apart in hours.
const HALVINGS: usize = 24;

/// Latencies of batches, mixed by how many answers each stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Mixture {
    parts: Vec<(f64, BatchLatency)>,
}

/// What is known of the latencies of one batch, in milliseconds: p50, p90, p99 and the longest, none below the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLatency([f64; 4]);

const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

impl BatchLatency {
    /// The latencies of a row of metrics; none when it tells of none.
    pub(super) fn of(row: &MetricsRow) -> Option<BatchLatency> {
        let told = [row.latency_ms_p50, row.latency_ms_p90, row.latency_ms_p99, row.latency_ms_max];
        let mut least = number::float(told.into_iter().flatten().next()?);
        Some(BatchLatency(told.map(|latency| {
            least = latency.map_or(least, number::float).max(least);
            least
        })))
    }

    /// The share of answers that took no longer.
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
    /// The latencies of these rows of metrics together.
    pub(super) fn of<'a>(rows: impl IntoIterator<Item = &'a MetricsRow>) -> Mixture {
        let mut mixture = Mixture::default();
        for row in rows {
            if let Some(latency) = BatchLatency::of(row) {
                mixture.add(number::float(row.asked().max(1)), latency);
            }
        }
        mixture
    }

    /// Adds latencies that so many answers had.
    pub(super) fn add(&mut self, weight: f64, latency: BatchLatency) {
        if weight > 0.0 {
            self.parts.push((weight, latency));
        }
    }

    /// The latency within which this share of answers came, in milliseconds; none without answers.
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

    /// The longest latency, in milliseconds.
    pub(super) fn longest(&self) -> Option<f64> {
        self.parts.iter().map(|(_, BatchLatency(told))| told[3]).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(parts: &[(f64, [f64; 4])]) -> Mixture {
        Mixture { parts: parts.iter().map(|(weight, told)| (*weight, BatchLatency(*told))).collect() }
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

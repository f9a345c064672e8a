//! The metrics of one batch, step and provider, as a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::Waiting;
use crate::ident::{AppId, BatchId, Lineage, Money, RunId, Tokens};
use crate::rows::{FilledBatch, Outcome, RowResult};

/// Reasons for which a provider's dispatcher waits, each with its name in the table's columns.
pub const WAITS: [(Waiting, &str); 6] = [
    (Waiting::RequestsPerMinute, "requests_per_minute"),
    (Waiting::TokensPerMinute, "tokens_per_minute"),
    (Waiting::Pause, "pause"),
    (Waiting::Breaker, "breaker"),
    (Waiting::Backoff, "backoff"),
    (Waiting::Budget, "budget"),
];

/// Whether rows were sent for the first time or again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Rows that `enrich run` sent.
    Run,
    /// Failed rows that `enrich retry` sent again.
    Retry,
}

impl RunKind {
    /// Returns the name in the table's column `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RunKind::Run => "run",
            RunKind::Retry => "retry",
        }
    }
}

/// Quantiles of the latency of answers, by nearest rank, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyQuantiles {
    /// Latency that half of the answers took at most.
    pub p50: u64,
    /// Latency that 90 % of the answers took at most.
    pub p90: u64,
    /// Latency that 99 % of the answers took at most.
    pub p99: u64,
    /// Latency of the slowest answer.
    pub max: u64,
}

impl LatencyQuantiles {
    fn of(mut all: Vec<u64>) -> Option<Self> {
        all.sort_unstable();
        let max = *all.last()?;
        let rank = |percent: usize| all[(all.len() * percent).div_ceil(100).max(1) - 1];
        Some(LatencyQuantiles { p50: rank(50), p90: rank(90), p99: rank(99), max })
    }
}

/// Requests and waiting of a provider over some time, for the rows of all batches and steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Number of requests that were sent.
    pub requests: u64,
    /// Number of requests among them that a rate limit refused.
    pub throttled: u64,
    /// Milliseconds waited while rows were ready, for each of [`WAITS`].
    pub waited_ms: [u64; WAITS.len()],
    /// Share of the provider's limit on requests that was used, 1 for all of it; `None` without a limit.
    pub requests_share: Option<f64>,
    /// Share of the provider's limit on tokens that was used, 1 for all of it; `None` without a limit.
    pub tokens_share: Option<f64>,
}

impl Load {
    /// Whether there was no request, refusal or wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests == 0 && self.throttled == 0 && self.waited_ms.iter().all(|waited| *waited == 0)
    }

    /// Returns the load since an `earlier` state of the same counts. The shares are those of `self`.
    #[must_use]
    pub fn since(&self, earlier: &Load) -> Load {
        let mut waited_ms = self.waited_ms;
        for (waited, before) in waited_ms.iter_mut().zip(earlier.waited_ms) {
            *waited = waited.saturating_sub(before);
        }
        Load {
            requests: self.requests.saturating_sub(earlier.requests),
            throttled: self.throttled.saturating_sub(earlier.throttled),
            waited_ms,
            ..*self
        }
    }
}

/// The metrics of one batch, step and provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricsRow {
    /// Name of the job.
    pub app_id: AppId,
    /// Lineage of the checkpoint that numbers the batch.
    pub lineage: Lineage,
    /// Whether rows were sent for the first time or again.
    pub kind: RunKind,
    /// Id of the run or retry that committed the batch.
    pub run_id: RunId,
    /// Number of the batch.
    pub batch_id: BatchId,
    /// Output of the step.
    pub step: String,
    /// Name of the provider; `None` for rows that were not sent.
    pub provider: Option<String>,
    /// When this run read the batch's rows.
    pub started_at: DateTime<Utc>,
    /// The time just before the batch's commit, when all of its rows had their outcomes.
    pub committed_at: DateTime<Utc>,
    /// Number of rows, without those whose outcome a retry left unchanged.
    pub rows: u64,
    /// Number of rows with an answer.
    pub answers: u64,
    /// Number of answers taken from another row or from a cache, at no cost here.
    pub shared: u64,
    /// Number of rows that needed no request.
    pub skipped: u64,
    /// Number of failed rows, by class of failure.
    pub errors: BTreeMap<String, u64>,
    /// Tokens of the answers, invalid answers included.
    pub tokens: Tokens,
    /// Cost of the answers in picodollars; `None` if neither the provider nor the job's prices give it.
    pub cost: Option<u64>,
    /// Latency of the answers that are not shared and came with no submission, invalid answers included; `None` if
    /// there are none.
    pub latency: Option<LatencyQuantiles>,
    /// Number of attempts at rows, without those that a rate limit refused.
    pub attempts: u64,
    /// Number of attempts that were lines of submissions. In the table they are among the requests.
    #[serde(default)]
    pub lines: u64,
    /// Load of the provider since the previous batch. Only one row of a batch and provider has it.
    pub load: Load,
    /// Id of the [`Counters`](super::Counters) that `load` is from; not in the table.
    #[serde(default)]
    pub counters: u64,
}

/// Values that all rows of a batch share.
#[derive(Clone, Debug)]
pub struct BatchIdentity<'a> {
    pub(super) app_id: &'a str,
    pub(super) lineage: Lineage,
    pub(super) kind: RunKind,
    pub(super) run_id: RunId,
    pub(super) committed_at: DateTime<Utc>,
}

impl BatchIdentity<'_> {
    /// Returns a metrics row without counts, for a batch whose rows were read at `started_at`.
    pub(super) fn empty(
        &self,
        (batch_id, started_at): (BatchId, DateTime<Utc>),
        step: &str,
        provider: Option<&str>,
    ) -> MetricsRow {
        MetricsRow {
            app_id: self.app_id.into(),
            lineage: self.lineage,
            kind: self.kind,
            run_id: self.run_id,
            batch_id,
            step: step.to_owned(),
            provider: provider.map(ToOwned::to_owned),
            started_at,
            committed_at: self.committed_at,
            rows: 0,
            answers: 0,
            shared: 0,
            skipped: 0,
            errors: BTreeMap::new(),
            tokens: Tokens::default(),
            cost: None,
            latency: None,
            attempts: 0,
            lines: 0,
            load: Load::default(),
            counters: 0,
        }
    }
}

/// Returns the metrics of a batch by step and provider, without the loads of providers. Outcomes that a retry left
/// unchanged are not counted.
#[must_use]
pub fn metrics_of_batch(
    batch: &BatchIdentity<'_>,
    filled: &FilledBatch,
    steps: &[Arc<str>],
) -> Vec<MetricsRow> {
    let mut all = Vec::new();
    for (step, outcomes) in steps.iter().zip(&filled.outcomes) {
        let mut groups: BTreeMap<Option<&str>, (MetricsRow, Vec<u64>, bool)> = BTreeMap::new();
        for settled in outcomes.iter().filter(|settled| settled.outcome != Outcome::Unchanged) {
            let provider = settled.provider.as_deref();
            let (figures, latencies, has_unpriced) = groups.entry(provider).or_insert_with(|| {
                (batch.empty((filled.plan.id, filled.opened_at), step, provider), Vec::new(), false)
            });
            figures.add(settled);
            *has_unpriced |=
                settled.cost.is_none() && settled.tokens.is_some_and(|tokens| tokens.total() > 0);
            latencies.extend(settled.latency_ms.filter(|_| !settled.shared));
        }
        all.extend(groups.into_values().map(|(figures, latencies, has_unpriced)| MetricsRow {
            // A cost of 0 is that of shared answers alone. If other answers have no known price, the cost is unknown.
            cost: figures.cost.filter(|cost| *cost > 0 || !has_unpriced),
            latency: LatencyQuantiles::of(latencies),
            ..figures
        }));
    }
    all
}

impl MetricsRow {
    fn add(&mut self, settled: &RowResult) {
        self.rows += 1;
        match &settled.outcome {
            Outcome::Answer(_) => self.answers += 1,
            Outcome::Skipped => self.skipped += 1,
            Outcome::Failed(failure) => {
                *self.errors.entry(failure.class.name().to_owned()).or_default() += 1;
            }
            Outcome::Unchanged => {}
        }
        self.shared += u64::from(settled.shared);
        self.attempts += u64::from(settled.attempts);
        self.lines += u64::from(settled.lines);
        if let Some(tokens) = settled.tokens {
            self.tokens += tokens;
        }
        if let Some(cost) = settled.cost {
            self.cost = Some(self.cost.unwrap_or_default().saturating_add(cost.get()));
        }
    }

    /// Returns the number of failed rows of all classes.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.errors.values().fold(0, |all, count| all.saturating_add(*count))
    }

    /// Returns the cost in millionths of a dollar, rounded; `None` if the price is not known.
    #[must_use]
    pub fn cost_microdollars(&self) -> Option<i64> {
        self.money().map(Money::microdollars)
    }

    /// Returns the number of answers to requests of their own.
    #[must_use]
    pub fn own_answers(&self) -> u64 {
        self.answers.saturating_sub(self.shared)
    }

    /// Returns the number of requests, lines of submissions included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.load.requests.saturating_add(self.lines)
    }

    /// Returns the number of rows with an answer or an error.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.answers.saturating_add(self.error_count())
    }

    /// Returns the tokens of prompts and answers together.
    #[must_use]
    pub fn all_tokens(&self) -> u64 {
        self.tokens.prompt.saturating_add(self.tokens.completion)
    }

    /// Whether requests were sent whose price is not known.
    #[must_use]
    pub fn is_unpriced(&self) -> bool {
        self.cost.is_none() && self.provider.is_some() && self.all_tokens() > 0
    }

    /// Returns the cost of the answers; `None` if it is not known.
    #[must_use]
    pub fn money(&self) -> Option<Money> {
        self.cost.map(Money::picodollars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let of = |all: &[u64]| LatencyQuantiles::of(all.to_vec());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some(LatencyQuantiles { p50: 7, p90: 7, p99: 7, max: 7 }));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Some(LatencyQuantiles { p50: 50, p90: 90, p99: 99, max: 100 }));
    }
}

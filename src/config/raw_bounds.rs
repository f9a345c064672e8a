//! The sections of a job file that bound a run or say where its figures go: `[budget]`, `[anomalies]`, `[metrics]`. The
//! doc comments are the reference of the keys, like those of [`super::raw`].

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    /// Maximum US dollars that all runs and retries of the job that have this section may spend together. Needs the
    /// prices of every provider, and `max_tokens` in every step. Default: no limit.
    #[schemars(range(min = 0))]
    pub(super) max_cost_usd: Option<f64>,
    /// Maximum number of tokens, of prompts and answers together, that all these runs may use. Needs `max_tokens` in
    /// every step. Default: no limit.
    #[schemars(range(min = 1))]
    pub(super) max_tokens: Option<u64>,
    /// Maximum number of requests that all these runs may send, without those that a provider refuses. Default: no
    /// limit.
    #[schemars(range(min = 1))]
    pub(super) max_requests: Option<u64>,
    /// The same limits for each single run or retry. Default: no limit.
    #[serde(default)]
    pub(super) run: RawRunBudget,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRunBudget {
    /// Maximum US dollars that one run may spend. Default: no limit.
    #[schemars(range(min = 0))]
    pub(super) max_cost_usd: Option<f64>,
    /// Maximum number of tokens that one run may use. Default: no limit.
    #[schemars(range(min = 1))]
    pub(super) max_tokens: Option<u64>,
    /// Maximum number of requests that one run may send. Default: no limit.
    #[schemars(range(min = 1))]
    pub(super) max_requests: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnomalies {
    /// Number of a step's newest answers and errors over which the shares below are computed, 20 to 1,000,000. A run
    /// with fewer is checked at its end, from 50 on, if chance does not explain the share. Default: 1000.
    #[schemars(range(min = 20, max = 1_000_000))]
    pub(super) rows: Option<u32>,
    /// Maximum share of answers without any text (class `empty_answer`, and `length` without `classes`, `fields` or
    /// `schema`); more than 0 and at most 1, which allows all. Default: 0.2.
    #[schemars(range(min = 0, max = 1))]
    pub(super) max_empty_rate: Option<f64>,
    /// Maximum share of rows that the model or the provider's filter declines (`refusal` and `content_filter`); more
    /// than 0 and at most 1, which allows all. Default: 0.3.
    #[schemars(range(min = 0, max = 1))]
    pub(super) max_refusal_rate: Option<f64>,
    /// Maximum share of answers that are still invalid after all repairs (`invalid_output`); more than 0 and at most
    /// 1, which allows all. Default: 0.3.
    #[schemars(range(min = 0, max = 1))]
    pub(super) max_invalid_rate: Option<f64>,
    /// Maximum share of answers that `max_tokens` cuts off (text with the `finish_reason` `length`, or errors of
    /// class `length` with `classes`, `fields` or `schema`); more than 0 and at most 1, which allows all. A step may
    /// want short answers, so the default allows all. Default: 1.
    #[schemars(range(min = 0, max = 1))]
    pub(super) max_cut_rate: Option<f64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    /// Whether to keep a row of figures for each batch, step and provider: rows, errors by class, tokens, cost,
    /// latency, reasons for waiting. `enrich report` is made from them. Default: true.
    pub(super) enabled: Option<bool>,
    /// Delta table for these rows, created if it is missing; several jobs may share one. A local path, relative to the
    /// job file, or a URL. Default: beside the target, its name with `_metrics` after it.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
}

//! Limits on unusual answers, above which a run stops. The doc comments are the reference of the keys, like those of
//! [`super::raw`].

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Checker;
use super::error::ConfigError;

const ROWS: u32 = 1_000;
const FEWEST_ROWS: u32 = 20;
const MOST_ROWS: u32 = 1_000_000;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnomalies {
    /// Number of a step's newest answers and errors over which the shares below are computed, 20 to 1,000,000. A run
    /// with fewer is checked at its end, from 50 on, if chance does not explain the share. Default: 1000.
    #[schemars(range(min = 20, max = 1_000_000))]
    rows: Option<u32>,
    /// Maximum share of answers without any text (class `empty_answer`, and `length` without `classes`, `fields` or
    /// `schema`); more than 0 and at most 1, which allows all. Default: 0.2.
    #[schemars(range(min = 0, max = 1))]
    max_empty_rate: Option<f64>,
    /// Maximum share of rows that the model or the provider's filter declines (`refusal` and `content_filter`); more
    /// than 0 and at most 1, which allows all. Default: 0.3.
    #[schemars(range(min = 0, max = 1))]
    max_refusal_rate: Option<f64>,
    /// Maximum share of answers that are still invalid after all repairs (`invalid_output`); more than 0 and at most
    /// 1, which allows all. Default: 0.3.
    #[schemars(range(min = 0, max = 1))]
    max_invalid_rate: Option<f64>,
    /// Maximum share of answers that `max_tokens` cuts off (text with the `finish_reason` `length`, or errors of
    /// class `length` with `classes`, `fields` or `schema`); more than 0 and at most 1, which allows all. A step may
    /// want short answers, so the default allows all. Default: 1.
    #[schemars(range(min = 0, max = 1))]
    max_cut_rate: Option<f64>,
}

/// Maximum shares of unusual outcomes among the newest outcomes of a step; 1 for no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anomalies {
    /// Number of outcomes over which the shares are computed.
    pub rows: u32,
    /// Share of answers without text.
    pub empty: f64,
    /// Share of declined rows.
    pub refused: f64,
    /// Share of invalid answers.
    pub invalid: f64,
    /// Share of answers that were cut off.
    pub cut: f64,
}

impl Checker<'_> {
    pub(super) fn anomalies(&self, raw: &RawAnomalies) -> Result<Anomalies, ConfigError> {
        let rows = raw.rows.unwrap_or(ROWS);
        if !(FEWEST_ROWS..=MOST_ROWS).contains(&rows) {
            return Err(
                self.wrong("anomalies.rows", format!("is {rows}; it must be {FEWEST_ROWS} to {MOST_ROWS}"))
            );
        }
        let rate = |name: &str, given: Option<f64>, default: f64| {
            let rate = given.unwrap_or(default);
            if rate > 0.0 && rate <= 1.0 {
                return Ok(rate);
            }
            let key = format!("anomalies.{name}");
            Err(self.wrong(
                &key,
                format!("is {rate}; it must be more than 0 and at most 1, which allows all of them"),
            ))
        };
        Ok(Anomalies {
            rows,
            empty: rate("max_empty_rate", raw.max_empty_rate, 0.2)?,
            refused: rate("max_refusal_rate", raw.max_refusal_rate, 0.3)?,
            invalid: rate("max_invalid_rate", raw.max_invalid_rate, 0.3)?,
            cut: rate("max_cut_rate", raw.max_cut_rate, 1.0)?,
        })
    }
}

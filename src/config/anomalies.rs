//! What of a run's answers is so unusual that it is stopped. The doc comments are the reference of the keys, like
//! those of [`super::raw`].

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
    /// Newest answers and errors of a step that the shares below are taken over, 20 to 1,000,000. A run of fewer is
    /// judged at its end, from 50 on, where chance does not explain the share. Default: 1000.
    #[schemars(range(min = 20, max = 1_000_000))]
    rows: Option<u32>,
    /// Share of them that may be without any text (classes `empty_answer` and `length`), more than 0 and at most 1,
    /// which allows them all. Default: 0.2.
    #[schemars(range(min = 0, max = 1))]
    max_empty_rate: Option<f64>,
    /// Share of them that the model or the provider's filter may decline (`refusal` and `content_filter`), in the same
    /// way. Default: 0.3.
    #[schemars(range(min = 0, max = 1))]
    max_refusal_rate: Option<f64>,
    /// Share of them that may be invalid after all repairs (`invalid_output`), in the same way. Default: 0.3.
    #[schemars(range(min = 0, max = 1))]
    max_invalid_rate: Option<f64>,
    /// Share of answers of text that `max_tokens` may cut off (`finish_reason` is `length`), in the same way. A step
    /// may want short answers, so none is too many by itself. Default: 1.
    #[schemars(range(min = 0, max = 1))]
    max_cut_rate: Option<f64>,
}

/// Shares of the newest outcomes of a step that may be of some kind; 1 for no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anomalies {
    /// Outcomes that they are taken over.
    pub rows: u32,
    /// Answers without text.
    pub empty: f64,
    /// Answers that were declined.
    pub refused: f64,
    /// Answers that were not what was asked for.
    pub invalid: f64,
    /// Answers that were cut off.
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

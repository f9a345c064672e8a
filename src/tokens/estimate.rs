//! Estimates the tokens that a request will take from what earlier requests took.
//!
//! An estimate only has to be right on average. Its error is settled when the answer has arrived.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ident::Tokens;

/// Bytes per token before the first answer, as in English text.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens of an answer without a limit, before the first answer.
const UNKNOWN_OUTPUT: f64 = 500.0;
/// Share of answers that are expected to be shorter than the estimate.
const QUANTILE: f64 = 0.7;
/// Weight of a new request against all earlier ones.
const NEWEST: f64 = 0.005;
/// Number of answers after which their lengths are trusted.
const ENOUGH: u32 = 20;
/// Lengths of answers are counted in classes. The lengths in each class are greater by this factor than those in the
/// class before.
const CLASS: f64 = 1.2;
const CLASSES: usize = 96;

/// Estimates the tokens of requests, separately for each step.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    steps: BTreeMap<Arc<str>, StepMeter>,
}

/// What was learned about the requests of a step, kept for the next run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTokens {
    /// Tokens per byte of prompt.
    pub per_byte: f64,
    /// Tokens of an answer, a quantile of those seen.
    pub output: f64,
}

#[derive(Clone, Debug)]
struct StepMeter {
    per_byte: f64,
    /// Tokens of an answer that a former run learned, if there was one.
    remembered: Option<f64>,
    answers_seen: u32,
    /// Weights of the answers seen, by class of length.
    lengths: Vec<f64>,
    /// The weight of the next answer.
    weight: f64,
    quantile: f64,
}

impl Meter {
    /// Starts a step with what a former run learned. Implausible values are ignored.
    pub fn remember(&mut self, step: &Arc<str>, tokens: StepTokens) {
        let mut meter = StepMeter::new();
        if tokens.per_byte > 0.0 && tokens.per_byte < 10.0 && tokens.output.is_finite() {
            meter.per_byte = tokens.per_byte;
            meter.remembered = Some(tokens.output.max(1.0));
        }
        self.steps.insert(Arc::clone(step), meter);
    }

    /// The expected tokens of a prompt of `bytes` bytes, and of its answer.
    #[must_use]
    pub fn expect(&self, step: &str, bytes: usize, max_tokens: Option<u32>) -> (f64, f64) {
        let most = max_tokens.map(f64::from);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = bytes as f64;
        match self.steps.get(step) {
            None => (bytes / BYTES_PER_TOKEN, most.unwrap_or(UNKNOWN_OUTPUT)),
            Some(meter) => {
                let learned =
                    if meter.answers_seen >= ENOUGH { Some(meter.quantile) } else { meter.remembered };
                let output = learned.or(most).unwrap_or(UNKNOWN_OUTPUT);
                (bytes * meter.per_byte, most.map_or(output, |most| output.min(most)))
            }
        }
    }

    /// Learns from a request with a prompt of `bytes` bytes that took these tokens.
    pub fn learn(&mut self, step: &Arc<str>, bytes: usize, tokens: Tokens) {
        if !self.steps.contains_key(step) {
            self.steps.insert(Arc::clone(step), StepMeter::new());
        }
        if let Some(meter) = self.steps.get_mut(step) {
            meter.learn(bytes, tokens);
        }
    }

    /// What was learned, by step.
    #[must_use]
    pub fn learned(&self) -> BTreeMap<String, StepTokens> {
        let known = self.steps.iter().filter_map(|(step, meter)| {
            let output = if meter.answers_seen >= ENOUGH { Some(meter.quantile) } else { meter.remembered };
            Some((step.to_string(), StepTokens { per_byte: meter.per_byte, output: output? }))
        });
        known.collect()
    }
}

impl StepMeter {
    fn new() -> Self {
        StepMeter {
            per_byte: 1.0 / BYTES_PER_TOKEN,
            remembered: None,
            answers_seen: 0,
            lengths: vec![0.0; CLASSES],
            weight: 1.0,
            quantile: 0.0,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    fn learn(&mut self, bytes: usize, tokens: Tokens) {
        self.answers_seen = self.answers_seen.saturating_add(1);
        if bytes > 0 && tokens.prompt > 0 {
            let seen = tokens.prompt as f64 / bytes as f64;
            let weight = NEWEST.max(1.0 / f64::from(self.answers_seen));
            self.per_byte += (seen - self.per_byte) * weight;
        }
        // Newer answers weigh more. A weight that grows from answer to answer has the effect of fading all earlier
        // ones.
        self.weight *= 1.0 + NEWEST;
        if self.weight > 1e12 {
            self.lengths.iter_mut().for_each(|weight| *weight /= self.weight);
            self.weight = 1.0;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let class = ((tokens.completion.max(1) as f64).ln() / CLASS.ln()) as usize;
        self.lengths[class.min(CLASSES - 1)] += self.weight;
        if self.answers_seen <= ENOUGH * 5 || self.answers_seen.is_multiple_of(16) {
            self.quantile = self.quantile();
        }
    }

    fn quantile(&self) -> f64 {
        let all: f64 = self.lengths.iter().sum();
        let mut left = all * QUANTILE;
        for (class, weight) in self.lengths.iter().enumerate() {
            if *weight >= left && *weight > 0.0 {
                let exponent = i32::try_from(class).unwrap_or(i32::MAX);
                return CLASS.powi(exponent) * CLASS.powf(left / weight);
            }
            left -= weight;
        }
        UNKNOWN_OUTPUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_learned_step_by_step() {
        let mut meter = Meter::default();
        let (short, long): (Arc<str>, Arc<str>) = ("short".into(), "long".into());
        assert_eq!(meter.expect("short", 400, Some(64)), (100.0, 64.0));
        for nth in 0..1_000 {
            let tokens = |completion| Tokens { prompt: 200, completion, ..Tokens::default() };
            meter.learn(&short, 400, tokens(10));
            meter.learn(&long, 400, tokens(100 + nth % 900));
        }
        let (input, output) = meter.expect("short", 800, Some(64));
        assert!((input - 400.0).abs() < 1.0, "{input}");
        assert!((8.0..13.0).contains(&output), "{output}");
        let (_, output) = meter.expect("long", 400, None);
        assert!((600.0..900.0).contains(&output), "{output}");
        assert_eq!(meter.expect("long", 400, Some(50)).1, 50.0);

        let mut next = Meter::default();
        next.remember(&short, meter.learned()["short"]);
        assert_eq!(next.expect("short", 800, None), meter.expect("short", 800, None));
    }
}

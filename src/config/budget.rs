//! Limits on a job's spending, and the prices of tokens. The doc comments are the reference of the keys, like those
//! of [`super::raw`].

use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

use super::check::Checker;
use super::error::ConfigError;
use super::job::Provider;
use super::raw::RawProvider;
use super::step::StepSpec;
use crate::ident::{Money, Tokens};

/// Fields of a request that change its cost beyond what its messages and `max_tokens` determine.
const UNBOUNDED: [&str; 13] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "messages",
    "model",
    "models",
    "service_tier",
    "prediction",
    "modalities",
    "plugins",
    "web_search_options",
];

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    /// Maximum US dollars that all runs and retries of the job that have this section may spend together. Needs the
    /// prices of every provider, and `max_tokens` in every step. Default: no limit.
    #[schemars(range(min = 0))]
    max_cost_usd: Option<f64>,
    /// Maximum number of tokens, of prompts and answers together, that all these runs may use. Needs `max_tokens` in
    /// every step. Default: no limit.
    #[schemars(range(min = 1))]
    max_tokens: Option<u64>,
    /// Maximum number of requests that all these runs may send, without those that a provider refuses. Default: no
    /// limit.
    #[schemars(range(min = 1))]
    max_requests: Option<u64>,
    /// The same limits for each single run or retry. Default: no limit.
    #[serde(default)]
    run: RawRunBudget,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRunBudget {
    /// Maximum US dollars that one run may spend. Default: no limit.
    #[schemars(range(min = 0))]
    max_cost_usd: Option<f64>,
    /// Maximum number of tokens that one run may use. Default: no limit.
    #[schemars(range(min = 1))]
    max_tokens: Option<u64>,
    /// Maximum number of requests that one run may send. Default: no limit.
    #[schemars(range(min = 1))]
    max_requests: Option<u64>,
}

/// Limits on spending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Limits for all runs and retries of the job together.
    pub job: Allowance,
    /// Limits for each single run or retry.
    pub run: Allowance,
}

/// Maximum spending; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Maximum cost.
    pub money: Option<Money>,
    /// Maximum number of tokens, of prompts and answers together.
    pub tokens: Option<u64>,
    /// Maximum number of requests.
    pub requests: Option<u64>,
}

impl Allowance {
    /// Whether there is no limit.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Allowance::default()
    }
}

/// Prices of a provider, each for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Price of a prompt token.
    pub input: Money,
    /// Price of a prompt token that the provider had in its cache.
    pub cached_input: Money,
    /// Price of an answer token.
    pub output: Money,
}

impl Prices {
    /// Returns the cost of a request that used these tokens.
    #[must_use]
    pub fn cost(&self, tokens: Tokens) -> Money {
        let cached = tokens.cached.min(tokens.prompt);
        self.input * (tokens.prompt - cached) + self.cached_input * cached + self.output * tokens.completion
    }
}

impl Checker<'_> {
    pub(super) fn budget(
        &self,
        raw: &RawBudget,
        providers: &[Provider],
        steps: &[Arc<StepSpec>],
    ) -> Result<Budget, ConfigError> {
        let RawBudget { max_cost_usd, max_tokens, max_requests, run } = raw;
        let budget = Budget {
            job: self.allowance("budget", *max_cost_usd, *max_tokens, *max_requests)?,
            run: self.allowance("budget.run", run.max_cost_usd, run.max_tokens, run.max_requests)?,
        };
        let scopes = [("budget", budget.job), ("budget.run", budget.run)];
        let with_money = scopes.iter().find(|(_, allowance)| allowance.money.is_some());
        let with_tokens = scopes.iter().find(|(_, allowance)| allowance.tokens.is_some());
        let key = match (with_money, with_tokens) {
            (Some((scope, _)), _) => format!("{scope}.max_cost_usd"),
            (None, Some((scope, _))) => format!("{scope}.max_tokens"),
            (None, None) => return Ok(budget),
        };
        for (position, step) in steps.iter().enumerate() {
            if step.params.max_tokens.is_none() && step.params.vectors.is_none() {
                return Err(self.wrong(
                    format!("step[{position}].max_tokens"),
                    format!(
                        "is missing, and {key} needs it: without it nobody can say what a request may take"
                    ),
                ));
            }
        }
        // Providers that no step names are checked too: a retry may use any of them.
        for provider in providers {
            if with_money.is_some() && provider.prices.is_none() {
                return Err(self.wrong(
                    format!("provider.{}.price_per_million_input", provider.name),
                    format!(
                        "is missing, and {key} needs it and price_per_million_output: the price of {:?} is not known",
                        provider.model
                    ),
                ));
            }
        }
        let of_providers =
            providers.iter().map(|provider| (format!("provider.{}", provider.name), &provider.extra_body));
        let of_steps =
            steps.iter().enumerate().map(|(at, step)| (format!("step[{at}]"), &step.params.extra_body));
        let limits: Vec<&str> = providers.iter().map(|provider| provider.max_tokens_field.as_str()).collect();
        for (place, body) in of_providers.chain(of_steps) {
            let field = body
                .keys()
                .find(|field| UNBOUNDED.contains(&field.as_str()) || limits.contains(&field.as_str()));
            if let Some(field) = field {
                return Err(self.wrong(
                    format!("{place}.extra_body"),
                    format!("has {field:?}, which {key} cannot reckon with; take it out, or the budget"),
                ));
            }
        }
        Ok(budget)
    }

    fn allowance(
        &self,
        scope: &str,
        cost: Option<f64>,
        tokens: Option<u64>,
        requests: Option<u64>,
    ) -> Result<Allowance, ConfigError> {
        let money = cost.map(|dollars| {
            let key = format!("{scope}.max_cost_usd");
            let wrong = || self.wrong(key, format!("is {dollars}; it is US dollars, 0 to 1,000,000"));
            Money::from_dollars(dollars).ok_or_else(wrong)
        });
        let money = money.transpose()?;
        Ok(Allowance {
            money,
            tokens: self.tokens(&format!("{scope}.max_tokens"), tokens)?,
            requests: self.tokens(&format!("{scope}.max_requests"), requests)?,
        })
    }

    pub(super) fn prices(&self, name: &str, raw: &RawProvider) -> Result<Option<Prices>, ConfigError> {
        let price = |key: &str, given: Option<f64>| match given {
            None => Ok(None),
            Some(dollars) => Money::per_million(dollars).map(Some).ok_or_else(|| {
                self.wrong(
                    format!("provider.{name}.{key}"),
                    format!("is {dollars}; it is US dollars for a million tokens, 0 to 1,000,000"),
                )
            }),
        };
        let input = price("price_per_million_input", raw.price_per_million_input)?;
        let cached = price("price_per_million_cached_input", raw.price_per_million_cached_input)?;
        let output = price("price_per_million_output", raw.price_per_million_output)?;
        match (input, output) {
            (Some(input), Some(output)) => {
                Ok(Some(Prices { input, cached_input: cached.unwrap_or(input), output }))
            }
            (None, None) if cached.is_none() => Ok(None),
            (input, _) => {
                let missing =
                    if input.is_none() { "price_per_million_input" } else { "price_per_million_output" };
                Err(self.wrong(
                    format!("provider.{name}.{missing}"),
                    "is missing; both prices are needed to know what a request costs",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_costs_what_its_tokens_cost() {
        let price = |dollars| Money::per_million(dollars).unwrap();
        let prices = Prices { input: price(0.15), cached_input: price(0.075), output: price(0.6) };
        let cost = prices.cost(Tokens { prompt: 1_000, cached: 400, completion: 100, reasoning: 0 });
        assert_eq!(cost, Money::from_dollars(0.000_09 + 0.000_03 + 0.000_06).unwrap());
    }
}

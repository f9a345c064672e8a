//! What a job may spend, and what its tokens cost. The doc comments are the reference of the keys, like those of
//! [`super::raw`].

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Checker;
use super::error::ConfigError;
use super::job::Provider;
use super::raw::RawProvider;
use super::step::StepSpec;
use crate::ident::{Money, Tokens};

/// Fields of a request that make it cost something else than its messages and `max_tokens` tell.
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
    /// Most US dollars that all runs and retries of the job that have this section may spend together. The
    /// price of each provider must be known then, and each step needs `max_tokens`.
    /// Default: no limit.
    #[schemars(range(min = 0))]
    max_cost_usd: Option<f64>,
    /// Most tokens, of prompts and answers together, that they may use. Each step needs `max_tokens` then.
    /// Default: no limit.
    #[schemars(range(min = 1))]
    max_tokens: Option<u64>,
    /// Most requests that they may send; those that a provider refuses are not counted. Default: no limit.
    #[schemars(range(min = 1))]
    max_requests: Option<u64>,
    /// The same for each run, or retry, by itself. Default: no limit.
    #[serde(default)]
    run: RawRunBudget,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRunBudget {
    /// Most US dollars that one run may spend. Default: no limit.
    #[schemars(range(min = 0))]
    max_cost_usd: Option<f64>,
    /// Most tokens that it may use. Default: no limit.
    #[schemars(range(min = 1))]
    max_tokens: Option<u64>,
    /// Most requests that it may send. Default: no limit.
    #[schemars(range(min = 1))]
    max_requests: Option<u64>,
}

/// What may be spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// By all runs and retries of the job.
    pub job: Allowance,
    /// By each of them.
    pub run: Allowance,
}

/// The most that may be spent; none for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Money.
    pub money: Option<Money>,
    /// Tokens of prompts and answers.
    pub tokens: Option<u64>,
    /// Requests.
    pub requests: Option<u64>,
}

impl Allowance {
    /// Whether there is no limit at all.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Allowance::default()
    }
}

/// What tokens cost, each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Of a prompt.
    pub input: Money,
    /// Of a prompt, where the provider had it in its cache.
    pub cached_input: Money,
    /// Of an answer.
    pub output: Money,
}

impl Prices {
    /// What a request cost that used so many.
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
        steps: &[StepSpec],
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
        // Also those that no step names: a retry may ask any of them.
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

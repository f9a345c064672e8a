//! The checks of budget, anomalies and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::anomalies::Anomalies;
use super::budget::{Allowance, Budget, PriceTable, Prices};
use super::check::Checker;
use super::error::ConfigError;
use super::job::{Provider, TargetSpec};
use super::raw::RawProvider;
use super::raw_bounds::{RawAnomalies, RawBudget, RawMetrics};
use super::source_spec::SourceSpec;
use super::step::StepSpec;
use crate::ident::Money;
use crate::store::Location;

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

const ROWS: u32 = 1_000;
const FEWEST_ROWS: u32 = 20;
const MOST_ROWS: u32 = 1_000_000;
const ENDING: &str = "_metrics";

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
                        "is missing, and {key} needs it: without it the most that a request may cost is unknown"
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

    pub(super) fn prices(
        &self,
        name: &str,
        raw: &RawProvider,
    ) -> Result<Option<Arc<PriceTable>>, ConfigError> {
        let price = |key: &str, dollars: f64| {
            Money::per_million(dollars).ok_or_else(|| {
                self.wrong(
                    format!("provider.{name}.{key}"),
                    format!("is {dollars}; it is US dollars for a million tokens, 0 to 1,000,000"),
                )
            })
        };
        let given = |key: &str, dollars: Option<f64>| dollars.map(|dollars| price(key, dollars)).transpose();
        let input = given("price_per_million_input", raw.price_per_million_input)?;
        let cached = given("price_per_million_cached_input", raw.price_per_million_cached_input)?;
        let output = given("price_per_million_output", raw.price_per_million_output)?;
        let standard = match (input, output) {
            (Some(input), Some(output)) => Prices { input, cached_input: cached.unwrap_or(input), output },
            (None, None) if cached.is_none() && raw.tier_prices.is_empty() => return Ok(None),
            (input, _) => {
                let missing =
                    if input.is_none() { "price_per_million_input" } else { "price_per_million_output" };
                return Err(self.wrong(
                    format!("provider.{name}.{missing}"),
                    "is missing; both prices are needed to know what a request costs",
                ));
            }
        };
        let mut tiers = BTreeMap::new();
        for (tier, raw) in &raw.tier_prices {
            let key = |field: &str| format!("tier_prices.{tier}.{field}");
            let input = price(&key("price_per_million_input"), raw.price_per_million_input)?;
            let cached = given(&key("price_per_million_cached_input"), raw.price_per_million_cached_input)?;
            let output = price(&key("price_per_million_output"), raw.price_per_million_output)?;
            tiers.insert(tier.clone(), Prices { input, cached_input: cached.unwrap_or(input), output });
        }
        Ok(Some(Arc::new(PriceTable::new(standard, tiers, raw.service_tier.clone()))))
    }
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

impl Checker<'_> {
    pub(super) fn metrics(
        &self,
        raw: &RawMetrics,
        source: &SourceSpec,
        target: &TargetSpec,
    ) -> Result<Option<Location>, ConfigError> {
        if raw.enabled == Some(false) {
            return match raw.path {
                Some(_) => Err(self.wrong(
                    "metrics.path",
                    "names a table that metrics.enabled = false leaves unused; keep one of the two",
                )),
                None => Ok(None),
            };
        }
        let Some(path) = &raw.path else { return Ok(beside(&target.location)) };
        let at = self.location("metrics.path", path)?;
        for (key, other) in [("source.path", &source.location), ("target.path", &target.location)] {
            if at.is_same_place(other) || at.is_inside(other) || other.is_inside(&at) {
                let message =
                    format!("and {key} lie one inside the other; give the figures a table of their own");
                return Err(self.wrong("metrics.path", message));
            }
        }
        Ok(Some(at))
    }
}

/// Returns the metrics table beside a target, or `None` if the target's location has no parent folder.
fn beside(target: &Location) -> Option<Location> {
    let (folder, name) = target.split()?;
    Some(folder.join(&format!("{name}{ENDING}")))
}

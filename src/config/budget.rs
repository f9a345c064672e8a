//! Limits on a job's spending, and the prices of tokens.

use crate::ident::{Money, Tokens};

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

//! Limits on a job's spending, and the prices of tokens.

use std::collections::BTreeMap;

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

/// Prices of a provider, by service tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTable {
    standard: Prices,
    tiers: BTreeMap<String, Prices>,
    requested: Option<String>,
}

/// Names of the standard tier in answers.
const STANDARD_TIERS: [&str; 3] = ["default", "standard", "standard_only"];
/// The tier of prices for a provider's Batch API, which answers no single request.
pub(crate) const BATCH_TIER: &str = "batch";

impl PriceTable {
    /// Creates the table of a provider whose requests ask for the tier `requested`; `None` leaves the tier to the
    /// provider. `tiers` are the prices that differ from `standard`.
    #[must_use]
    pub fn new(standard: Prices, tiers: BTreeMap<String, Prices>, requested: Option<String>) -> Self {
        PriceTable { standard, tiers, requested }
    }

    /// Returns the cost of a request that used these tokens. `answered` is the tier that the answer states. If it
    /// states none, the dearer of the requested tier and the standard one counts; if it states one without a price,
    /// the dearest of all.
    #[must_use]
    pub fn cost(&self, tokens: Tokens, answered: Option<&str>) -> Money {
        match answered {
            Some(tier) => match self.tiers.get(tier) {
                Some(prices) => prices.cost(tokens),
                None if STANDARD_TIERS.contains(&tier) => self.standard.cost(tokens),
                None => self.of_requests().map(|prices| prices.cost(tokens)).max().unwrap_or_default(),
            },
            None => self.standard.cost(tokens).max(self.expected().cost(tokens)),
        }
    }

    /// Returns the prices of the Batch API: those that are stated for it, else the standard ones.
    #[must_use]
    pub fn in_batch(&self) -> Prices {
        *self.tiers.get(BATCH_TIER).unwrap_or(&self.standard)
    }

    /// Returns the cost of a request of a batch.
    #[must_use]
    pub fn cost_in_batch(&self, tokens: Tokens) -> Money {
        self.in_batch().cost(tokens)
    }

    /// Whether prices of the Batch API are stated.
    #[must_use]
    pub fn states_batch_prices(&self) -> bool {
        self.tiers.contains_key(BATCH_TIER)
    }

    /// Returns the prices that the requested tier has.
    #[must_use]
    pub fn expected(&self) -> Prices {
        let requested = self.requested.as_ref().and_then(|tier| self.tiers.get(tier));
        *requested.unwrap_or(&self.standard)
    }

    /// Returns the highest price of each kind of token, over all tiers by which the provider may answer a request.
    #[must_use]
    pub fn highest(&self) -> Prices {
        self.of_requests().fold(self.standard, |highest, prices| Prices {
            input: highest.input.max(prices.input),
            cached_input: highest.cached_input.max(prices.cached_input),
            output: highest.output.max(prices.output),
        })
    }

    /// The prices of all tiers by which a request may be answered.
    fn of_requests(&self) -> impl Iterator<Item = Prices> + '_ {
        let tiers = self.tiers.iter().filter(|(tier, _)| *tier != BATCH_TIER).map(|(_, prices)| *prices);
        std::iter::once(self.standard).chain(tiers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_of_the_answer_decides_what_it_costs() {
        let prices = |dollars: f64| {
            let each = Money::per_million(dollars).unwrap();
            Prices { input: each, cached_input: each, output: each }
        };
        let tiers = [("flex", 1.0), ("priority", 4.0), ("batch", 9.0)];
        let tiers: BTreeMap<String, Prices> =
            tiers.into_iter().map(|(tier, dollars)| (tier.to_owned(), prices(dollars))).collect();
        let tokens = Tokens { prompt: 1_000_000, ..Tokens::default() };
        let table = |requested: Option<&str>| {
            PriceTable::new(prices(2.0), tiers.clone(), requested.map(ToOwned::to_owned))
        };
        let cost = |requested, answered| table(requested).cost(tokens, answered).dollars();
        for (requested, answered, dollars) in [
            (Some("flex"), Some("flex"), 1.0),
            (Some("flex"), Some("default"), 2.0),
            (Some("flex"), Some("priority"), 4.0),
            (Some("flex"), Some("unheard of"), 4.0),
            (Some("flex"), None, 2.0),
            (Some("priority"), None, 4.0),
            (Some("unpriced"), None, 2.0),
            (None, None, 2.0),
            (None, Some("priority"), 4.0),
        ] {
            assert!((cost(requested, answered) - dollars).abs() < 1e-9, "{requested:?} {answered:?}");
        }
        assert_eq!(table(Some("flex")).highest(), prices(4.0));
        assert_eq!(table(Some("flex")).expected(), prices(1.0));
        assert_eq!(table(None).expected(), prices(2.0));
    }

    #[test]
    fn a_request_costs_what_its_tokens_cost() {
        let price = |dollars| Money::per_million(dollars).unwrap();
        let prices = Prices { input: price(0.15), cached_input: price(0.075), output: price(0.6) };
        let cost = prices.cost(Tokens { prompt: 1_000, cached: 400, completion: 100, reasoning: 0 });
        assert_eq!(cost, Money::from_dollars(0.000_09 + 0.000_03 + 0.000_06).unwrap());
    }
}

//! The list prices that come with the program, for jobs that do not state what their tokens cost. They are used for
//! estimates alone: no budget is checked with them, and no cost computed from them is written to a table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::config::{BATCH_TIER, Prices};
use crate::ident::Money;

static LIST: LazyLock<List> =
    LazyLock::new(|| toml::from_str(include_str!("prices.toml")).expect("a test reads the list"));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    as_of: String,
    host: Vec<Host>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    name: String,
    /// What its Batch API costs, as a share of the standard prices.
    batch_share: Option<f64>,
    models: Vec<ListedModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedModel {
    model: String,
    input: f64,
    cached_input: Option<f64>,
    output: f64,
    /// Prices of the service tiers that have their own.
    #[serde(default)]
    tiers: BTreeMap<String, ListedPrices>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedPrices {
    input: f64,
    cached_input: Option<f64>,
    output: f64,
}

/// List prices of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    /// Price of each kind of token.
    pub prices: Prices,
    /// Month in which they were looked up, such as `2026-06`.
    pub as_of: &'static str,
}

/// Returns the list prices of a model at its maker's own endpoint, for requests that ask for a service tier; `None` if
/// the model is not in the list. Dated versions of a model (`gpt-4o-mini-2024-07-18`) cost what the model does, and a
/// tier without prices of its own what the standard tier does.
#[must_use]
pub fn listed(host: &str, model: &str, tier: Option<&str>) -> Option<Listed> {
    let list: &'static List = &LIST;
    let host = list.host.iter().find(|known| known.name == host)?;
    let is_version_of = |known: &ListedModel| {
        let rest = model.strip_prefix(known.model.as_str());
        rest.is_some_and(|rest| rest.is_empty() || is_date(rest))
    };
    let found = host.models.iter().find(|known| is_version_of(known))?;
    let batch_share = host.batch_share.filter(|_| tier == Some(BATCH_TIER));
    let (input, cached_input, output) = match (tier.and_then(|tier| found.tiers.get(tier)), batch_share) {
        (Some(tier), _) => (tier.input, tier.cached_input, tier.output),
        (None, Some(share)) => (found.input * share, None, found.output * share),
        (None, None) => (found.input, found.cached_input, found.output),
    };
    let (input, output) = (Money::per_million(input)?, Money::per_million(output)?);
    let cached_input = cached_input.map_or(Some(input), Money::per_million)?;
    Some(Listed { prices: Prices { input, cached_input, output }, as_of: &list.as_of })
}

/// Whether the rest of a name is a date: `-2024-07-18` or `-20251001`.
fn is_date(rest: &str) -> bool {
    let digits: String = rest.chars().filter(|c| *c != '-').collect();
    rest.starts_with('-') && digits.len() == 8 && digits.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_its_price_at_its_makers_endpoint_alone() {
        let mini = listed("api.openai.com", "gpt-4o-mini", None).unwrap();
        assert_eq!(mini.prices.input, Money::per_million(0.15).unwrap());
        assert_eq!(mini.prices.cached_input, Money::per_million(0.075).unwrap());
        assert_eq!(listed("api.openai.com", "gpt-4o-mini-2024-07-18", Some("flex")), Some(mini));
        assert_eq!(mini.as_of.len(), "2026-06".len());
        let input = |tier| listed("api.openai.com", "gpt-5-mini", tier).unwrap().prices.input;
        assert_eq!(input(Some("flex")), Money::per_million(0.125).unwrap());
        assert_eq!(input(Some("batch")), Money::per_million(0.125).unwrap());
        assert_eq!((input(None), input(Some("auto"))), (input(Some("default")), input(None)));
        for (host, model) in [
            ("openrouter.ai", "gpt-4o-mini"),
            ("api.openai.com", "gpt-4o-mini-tts"),
            ("api.openai.com", "gpt-4o-min"),
            ("api.openai.com", ""),
        ] {
            assert_eq!(listed(host, model, None), None, "{host} {model}");
        }
        let all =
            LIST.host.iter().flat_map(|host| host.models.iter().map(|model| (&host.name, &model.model)));
        for (host, model) in all {
            assert!(listed(host, model, None).is_some(), "{host} {model}");
        }
    }
}

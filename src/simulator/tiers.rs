//! Service tiers: which one answers a request, and at what price.

use super::answer::chance;
use super::api_kind::ApiKind;
use super::reply::{ErrorReply, invalid, refuse};
use super::state::ServerShared;
use crate::config::Prices;
use crate::ident::Money;

/// The standard tier, and the name of a request's wish to leave the choice to the server.
const STANDARD: &str = "default";
const ANY: &str = "auto";

/// The service tier by which a request is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnsweringTier<'a> {
    /// The name that the answer states; `None` if it states none.
    pub(super) stated: Option<&'a str>,
    /// US dollars for a million tokens of prompts and of answers; `None` for the standard tier.
    dollars: Option<(f64, f64)>,
}

impl<'a> AnsweringTier<'a> {
    /// Returns the tier for the `nth` request for a prompt, which asks for the tier `requested`, or an error response.
    /// A line of a batch has a price of its own and states no tier.
    pub(super) fn of(
        shared: &'a ServerShared,
        api: ApiKind<'_>,
        prompt: &str,
        nth: u32,
        requested: Option<&str>,
    ) -> Result<Self, ErrorReply> {
        if let (ApiKind::InBatch, Some(spec)) = (api, &shared.spec.batches) {
            let dollars = (spec.price_per_million_input, spec.price_per_million_output);
            return Ok(AnsweringTier { stated: None, dollars: Some(dollars) });
        }
        let tiers = &shared.spec.tiers;
        let standard = AnsweringTier { stated: (!tiers.is_empty()).then_some(STANDARD), dollars: None };
        let requested = match requested {
            Some(tier) if !tiers.is_empty() && tier != STANDARD && tier != ANY => tier,
            _ => return Ok(standard),
        };
        let Some((name, spec)) = tiers.get_key_value(requested).filter(|(_, spec)| !spec.forbidden) else {
            let message = format!("The service tier '{requested}' is not available for this project.");
            return Err(invalid("invalid_request_error", &message, Some("service_tier")));
        };
        let draw = |what: &str| chance(shared.spec.seed, &format!("{name} {what}"), prompt, nth.into());
        if draw("room") < spec.no_room {
            let message = "There is no room in this service tier at present. You are not charged.";
            return Err(Box::new(refuse(429, "resource_unavailable", message)));
        }
        if draw("standard") < spec.by_standard {
            return Ok(standard);
        }
        let dollars = (spec.price_per_million_input, spec.price_per_million_output);
        Ok(AnsweringTier { stated: Some(name.as_str()).filter(|_| !spec.silent), dollars: Some(dollars) })
    }

    /// Returns the prices of the tier.
    pub(super) fn prices(&self, standard: Prices) -> Prices {
        let Some((input, output)) = self.dollars else { return standard };
        let price = |dollars| Money::per_million(dollars).unwrap_or_default();
        Prices { input: price(input), cached_input: price(input), output: price(output) }
    }
}

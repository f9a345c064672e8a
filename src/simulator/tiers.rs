//! Service tiers: which one answers a request, and at what price.

use super::answer::chance;
use super::reply::{ErrorReply, invalid, refuse};
use super::state::ServerShared;
use crate::config::{Prices, TierSpec};
use crate::ident::Money;

/// The standard tier, and the name of a request's wish to leave the choice to the server.
const STANDARD: &str = "default";
const ANY: &str = "auto";

/// The service tier by which a request is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnsweringTier<'a> {
    /// The name that the answer states; `None` if it states none.
    pub(super) stated: Option<&'a str>,
    /// Settings of the tier; `None` for the standard one.
    spec: Option<&'a TierSpec>,
}

impl<'a> AnsweringTier<'a> {
    /// Returns the tier for the `nth` request for a prompt, which asks for the tier `requested`, or an error response.
    pub(super) fn of(
        shared: &'a ServerShared,
        prompt: &str,
        nth: u32,
        requested: Option<&str>,
    ) -> Result<Self, ErrorReply> {
        let tiers = &shared.spec.tiers;
        let standard = AnsweringTier { stated: (!tiers.is_empty()).then_some(STANDARD), spec: None };
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
        Ok(AnsweringTier { stated: Some(name.as_str()).filter(|_| !spec.silent), spec: Some(spec) })
    }

    /// Returns the prices of the tier.
    pub(super) fn prices(&self, standard: Prices) -> Prices {
        let Some(spec) = self.spec else { return standard };
        let price = |dollars| Money::per_million(dollars).unwrap_or_default();
        let input = price(spec.price_per_million_input);
        Prices { input, cached_input: input, output: price(spec.price_per_million_output) }
    }
}

//! What a run learned about a provider's limits, for the next run. Nothing depends on it: it may be lost.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::config::{Provider, TokenCharge};
use crate::ident::Fingerprint;

/// Time for which a provider is believed to be as healthy as it was.
const BELIEVED_FOR: TimeDelta = TimeDelta::hours(24);

/// The limits that were learned about one provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderLimits {
    /// Requests per minute that the provider allows.
    pub requests_per_minute: Option<f64>,
    /// Tokens per minute that the provider allows, of prompts and answers together.
    pub tokens_per_minute: Option<f64>,
    /// Requests in flight above which the provider became no faster.
    pub concurrency: Option<u32>,
    /// What an answer counts for against a limit on tokens.
    pub token_charge: Option<TokenCharge>,
    /// How many requests at once the provider answered without trouble, or `None` if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<Healthy>,
}

/// A number of requests that a provider answered at once, without trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthy {
    /// The most requests in flight.
    pub in_flight: u32,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// Hash of endpoint and model, from [`Healthy::identity`].
    pub identity: String,
}

impl Healthy {
    /// Records that this many requests are answered at once now.
    pub(super) fn now(in_flight: u32, identity: &str) -> Self {
        Healthy { in_flight, at: clock::wall(), identity: identity.to_owned() }
    }

    /// Hash of what a provider section must have in common with the one that was healthy.
    pub(super) fn identity(provider: &Provider) -> String {
        let address = provider.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
        Fingerprint::of([address.as_bytes(), provider.model.as_bytes()]).to_string()
    }

    /// Whether it is recent enough and about the same endpoint and model.
    pub(super) fn holds(&self, identity: &str) -> bool {
        let age = clock::wall() - self.at;
        self.identity == identity && age >= TimeDelta::zero() && age <= BELIEVED_FOR
    }
}

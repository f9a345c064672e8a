//! What a run learned about a provider's limits, for the next one. It may be lost.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::config::{Provider, TokenCharge};
use crate::ident::Fingerprint;

/// For so long it is believed that a provider is as healthy as it was.
const BELIEVED_FOR: TimeDelta = TimeDelta::hours(24);

/// What was learned about one provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderLimits {
    /// Requests a minute that it was found to allow.
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute, of prompts and answers together.
    pub tokens_per_minute: Option<f64>,
    /// Requests in flight beyond which it became no faster.
    pub concurrency: Option<u32>,
    /// What an answer counts for.
    pub token_charge: Option<TokenCharge>,
    /// How many requests at once it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<Healthy>,
}

/// Requests that a provider answered at once, without trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthy {
    /// Requests in flight.
    pub in_flight: u32,
    /// When that was.
    pub at: DateTime<Utc>,
    /// Which endpoint and model it was, as [`Healthy::identity`] makes it.
    pub identity: String,
}

impl Healthy {
    /// Requests that are answered at once now.
    pub(super) fn now(in_flight: u32, identity: &str) -> Self {
        Healthy { in_flight, at: clock::wall(), identity: identity.to_owned() }
    }

    /// A hash of what a provider section must have in common with the one that was healthy.
    pub(super) fn identity(provider: &Provider) -> String {
        let address = provider.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
        Fingerprint::of([address.as_bytes(), provider.model.as_bytes()]).to_string()
    }

    /// Whether it still tells something of a provider.
    pub(super) fn holds(&self, identity: &str) -> bool {
        let age = clock::wall() - self.at;
        self.identity == identity && age >= TimeDelta::zero() && age <= BELIEVED_FOR
    }
}

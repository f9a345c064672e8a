//! What a run learned about a provider's limits, for the next one. It may be lost.

use serde::{Deserialize, Serialize};

use crate::config::TokenCharge;

/// What was learned about one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// Requests a minute that it was found to allow.
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute, of prompts and answers together.
    pub tokens_per_minute: Option<f64>,
    /// Requests in flight beyond which it became no faster.
    pub concurrency: Option<u32>,
    /// What an answer counts for.
    pub token_charge: Option<TokenCharge>,
}

//! What a provider states about a response besides its text: the model, why it ended, tokens and cost.

use serde_json::Value;

use crate::config::PriceTable;
use crate::ident::{Money, Tokens};
use crate::wire::{ChatResponse, Usage};

/// Largest credible number of tokens of a prompt or an answer; no model takes or gives more.
const MAX_TOKENS: u64 = 100_000_000;

/// What the provider states about a response besides its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseMetadata {
    /// The model that answered, as the server names it.
    pub model: Option<String>,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// Tokens used, or `None` if the server does not state them.
    pub tokens: Option<Tokens>,
    /// Cost, or `None` if the server does not state it.
    pub cost: Option<Money>,
    /// The service tier by which the request was answered, or `None` if the server does not state it.
    pub service_tier: Option<String>,
}

impl ResponseMetadata {
    /// Returns what the response cost: as the server states it, else its tokens at these prices.
    #[must_use]
    pub fn cost_at(&self, prices: Option<&PriceTable>) -> Option<Money> {
        self.cost.or_else(|| Some(prices?.cost(self.tokens?, self.service_tier.as_deref())))
    }

    /// As [`ResponseMetadata::cost_at`], for the answer to a line of a batch.
    #[must_use]
    pub fn cost_in_batch(&self, prices: Option<&PriceTable>) -> Option<Money> {
        self.cost.or_else(|| Some(prices?.cost_in_batch(self.tokens?)))
    }
}

/// The metadata of a response.
#[must_use]
pub fn facts(response: &ChatResponse) -> ResponseMetadata {
    let usage = response.usage.as_ref();
    ResponseMetadata {
        model: response.model.clone(),
        finish_reason: response.choices.first().and_then(|choice| choice.finish_reason.clone()),
        tokens: usage.and_then(tokens),
        cost: usage.and_then(|usage| usage.cost.as_ref()).and_then(cost),
        service_tier: response.service_tier.clone(),
    }
}

/// The tokens used. What the total holds beyond the prompt is billed as answer, reasoning included.
fn tokens(usage: &Usage) -> Option<Tokens> {
    let prompt = usage.prompt_tokens?;
    let rest = usage.total_tokens.map(|total| total.saturating_sub(prompt));
    let completion = usage.completion_tokens.max(rest)?;
    if prompt.max(completion) > MAX_TOKENS {
        return None;
    }
    let cached = usage.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens);
    let reasoning = usage.completion_tokens_details.as_ref().and_then(|details| details.reasoning_tokens);
    Some(Tokens {
        prompt,
        cached: cached.unwrap_or_default().min(prompt),
        completion,
        reasoning: reasoning.unwrap_or_default().min(completion),
    })
}

fn cost(cost: &Value) -> Option<Money> {
    cost.as_f64().or_else(|| cost.get("total_cost")?.as_f64()).and_then(Money::from_dollars)
}

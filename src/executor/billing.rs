//! What requests to a provider cost: the worst case before a request, and what it took afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use crate::budget::{Reservation, worst_case};
use crate::config::{Params, PriceTable, Prices, Provider};
use crate::decode;
use crate::event::{Event, Voice};
use crate::ident::{Money, Spend, Tokens};
use crate::prompt::Question;
use crate::store::StoreError;
use crate::transport::Paid;
use crate::wire::ChatResponse;

/// Bytes around a schema, in whatever form it is sent.
const AROUND_SCHEMA: usize = 300;
/// A usage above both this multiple of the request's worst case and [`LEAST_IMPLAUSIBLE`] tokens is not believed.
const IMPLAUSIBLE: u64 = 20;
const LEAST_IMPLAUSIBLE: u64 = 1_000_000;

/// Books what requests to one provider cost. Clones share what was reported once.
#[derive(Clone, Debug)]
pub struct Billing {
    provider: Arc<str>,
    prices: Option<Arc<PriceTable>>,
    /// Bytes of the provider's own fields in each request.
    extra_bytes: usize,
    voice: Voice,
    /// The service tier that requests ask for.
    service_tier: Option<Arc<str>>,
    /// Whether it was reported that the usage of an answer could not be read.
    reported_unread_usage: Arc<AtomicBool>,
    /// Whether it was reported that an answer came by another service tier.
    reported_other_tier: Arc<AtomicBool>,
}

impl Billing {
    /// Creates the billing of a provider. `voice` receives what is unusual about a bill.
    #[must_use]
    pub fn new(provider: &Provider, voice: Voice) -> Self {
        Billing {
            provider: provider.name.as_str().into(),
            prices: provider.prices.clone(),
            extra_bytes: length_of(&provider.extra_body),
            voice,
            service_tier: provider.service_tier.as_deref().map(Into::into),
            reported_unread_usage: Arc::default(),
            reported_other_tier: Arc::default(),
        }
    }

    /// Returns the prices of the provider, if they are known.
    #[must_use]
    pub fn prices(&self) -> Option<&PriceTable> {
        self.prices.as_deref()
    }

    /// Returns the worst case of a request with these questions.
    #[must_use]
    pub fn worst_case<'a>(
        &self,
        questions: impl Iterator<Item = &'a Arc<Question>>,
        params: &Params,
    ) -> Spend {
        self.worst_case_at(self.prices.as_deref().map(PriceTable::highest), questions, params)
    }

    /// Returns the worst case of a request of a batch.
    #[must_use]
    pub fn worst_case_in_batch(&self, question: &Arc<Question>, params: &Params) -> Spend {
        let prices = self.prices.as_deref().map(PriceTable::in_batch);
        self.worst_case_at(prices, std::iter::once(question), params)
    }

    fn worst_case_at<'a>(
        &self,
        prices: Option<Prices>,
        questions: impl Iterator<Item = &'a Arc<Question>>,
        params: &Params,
    ) -> Spend {
        let (mut messages, mut bytes) = (0, 0);
        for question in questions {
            messages += question.messages().len();
            bytes += question.bytes();
        }
        // Tools and schemas are billed like a prompt.
        let schema = params.shape.as_ref().map_or(0, |shape| shape.text().len() + AROUND_SCHEMA);
        let bytes = bytes + self.extra_bytes + length_of(&params.extra_body) + schema;
        worst_case(prices, messages, bytes, params.max_tokens)
    }

    /// Reports once that the usage of an answer cannot be read; it counts as unknown.
    pub fn mention_unread_usage(&self, paid: &Paid) {
        if let Some(usage) = &paid.response.unread_usage
            && !self.reported_unread_usage.swap(true, Ordering::Relaxed)
        {
            let usage: String = usage.chars().take(200).collect();
            let text = format!(
                "{} sends a usage that cannot be read, the answers are kept and their tokens unknown: {usage}",
                self.provider
            );
            self.voice.say(&Event::Notice(&text));
        }
    }

    /// Counts an answer by another service tier than was requested, and reports the first. `params` are those of the
    /// request.
    pub fn count_other_tier(&self, paid: &Paid, params: &Params) {
        let (Some(requested), Some(answered)) = (&self.service_tier, &paid.response.service_tier) else {
            return;
        };
        // "auto" leaves the choice to the provider, and OpenAI answers "fast" as "priority".
        let is_requested = **requested == **answered
            || matches!((&**requested, answered.as_str()), ("auto", _) | ("fast", "priority"));
        if params.without_tier || is_requested {
            return;
        }
        self.voice.say(&Event::OtherTier { provider: &self.provider });
        if !self.reported_other_tier.swap(true, Ordering::Relaxed) {
            let text = format!(
                "{} answers by the service tier {answered:?}, and {requested:?} was requested: each answer is booked at the price of its own",
                self.provider
            );
            self.voice.say(&Event::Notice(&text));
        }
    }

    /// Records that a request is sent, just before it is.
    ///
    /// # Errors
    /// When the file of what was spent cannot be written; then the request must not be sent.
    pub fn record_sent(&self, reservation: &mut Reservation) -> Result<(), StoreError> {
        reservation.record()?;
        self.voice.say(&Event::Sent { provider: &self.provider });
        Ok(())
    }

    /// Notes what a request took. A failure that may have been billed counts at its worst case.
    pub fn book(&self, reservation: &mut Reservation, paid: Option<&Paid>, may_be_billed: bool) {
        let worst = reservation.worst();
        let took = match paid {
            Some(paid) => {
                let tier = paid.response.service_tier.as_deref();
                self.spend(&paid.response, worst, |prices, used| prices.cost(used, tier))
            }
            None if may_be_billed => worst,
            None => Spend::default(),
        };
        if reservation.took(took) {
            let text = format!(
                "{} billed {} and {} tokens for a request that should take {} and {} at most; the budget can be exceeded by what is in flight",
                self.provider, took.money, took.tokens, worst.money, worst.tokens
            );
            self.voice.say(&Event::Notice(&text));
        }
    }

    /// Returns the price of tokens that a batch used; zero if the job states none.
    #[must_use]
    pub fn price_in_batch(&self, tokens: Tokens) -> Money {
        self.prices.as_ref().map(|prices| prices.cost_in_batch(tokens)).unwrap_or_default()
    }

    /// Returns what an answer of a batch took.
    #[must_use]
    pub fn cost_in_batch(&self, response: &ChatResponse, worst: Spend) -> Spend {
        self.spend(response, worst, PriceTable::cost_in_batch)
    }

    /// Returns what an answer took: as the provider states it, else by the prices, else the worst case.
    fn spend(
        &self,
        response: &ChatResponse,
        worst: Spend,
        cost: impl Fn(&PriceTable, Tokens) -> Money,
    ) -> Spend {
        let facts = decode::facts(response);
        // A usage far above anything that the request can have used is an error of the provider.
        let most = worst.tokens.saturating_mul(IMPLAUSIBLE).max(LEAST_IMPLAUSIBLE);
        let used = facts.tokens.filter(|tokens| worst.tokens == 0 || tokens.total() <= most);
        let tokens = used.map_or(worst.tokens, Tokens::total);
        let listed = || Some(cost(self.prices.as_ref()?, used?));
        Spend { money: facts.cost.or_else(listed).unwrap_or(worst.money), tokens, requests: 1 }
    }
}

/// Returns the bytes of further fields of a request body.
fn length_of(fields: &Map<String, Value>) -> usize {
    if fields.is_empty() { 0 } else { Value::Object(fields.clone()).to_string().len() }
}

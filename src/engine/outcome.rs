//! From what came back, or was found in a journal, to the outcome of a row.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Prices;
use crate::decode;
use crate::dispatch::Request;
use crate::event;
use crate::fault::{Class, Failure, Policy};
use crate::ident::Fingerprint;
use crate::journal::{self, JournalError, Record};
use crate::sink::{Outcome, Settled};

/// What is known of a row before it is asked.
pub(super) enum Found {
    /// Nothing: it is asked.
    Nothing(Request),
    /// Its outcome, and where that came from.
    Settled(Box<Settled>, event::Origin),
    /// Its answer, which could not be kept.
    Lost(JournalError),
}

impl Found {
    pub(super) fn unasked(outcome: Outcome) -> Self {
        Found::Settled(Box::new(Settled::unasked(outcome)), event::Origin::Unasked)
    }

    pub(super) fn recorded(record: &Record, prices: Option<Prices>) -> Self {
        Found::Settled(Box::new(from_record(record, prices)), event::Origin::Journal)
    }
}

/// Whether another run would meet the same failure.
pub(super) fn is_terminal(class: Class) -> bool {
    class.policy() == Policy::Reject && class != Class::Deadline
}

fn from_record(record: &Record, prices: Option<Prices>) -> Settled {
    let origin = Origin {
        provider: &record.provider,
        model: &record.model,
        attempts: record.attempts,
        latency: Some(Duration::from_millis(record.latency_ms)),
        fingerprint: record.fingerprint,
        prices,
    };
    match &record.outcome {
        journal::Outcome::Response(body) => match decode::parse(body) {
            Ok(response) => origin.settled(decode::facts(&response), decode::text(response)),
            Err(failure) => origin.settled(decode::Facts::default(), Err(failure)),
        },
        journal::Outcome::Failure(failure) => {
            Origin { latency: None, ..origin }.settled(decode::Facts::default(), Err(failure.clone()))
        }
    }
}

/// Where an outcome came from.
pub(super) struct Origin<'a> {
    pub(super) provider: &'a Arc<str>,
    pub(super) model: &'a Arc<str>,
    pub(super) attempts: u32,
    pub(super) latency: Option<Duration>,
    pub(super) fingerprint: Fingerprint,
    /// What its tokens cost, where the provider does not say it.
    pub(super) prices: Option<Prices>,
}

impl Origin<'_> {
    pub(super) fn settled(self, facts: decode::Facts, text: Result<String, Failure>) -> Settled {
        let model = facts.model.filter(|named| **named != **self.model);
        Settled {
            outcome: match text {
                Ok(text) => Outcome::Answer(text),
                Err(failure) => Outcome::Failed(failure),
            },
            provider: Some(Arc::clone(self.provider)),
            model: Some(model.map_or_else(|| Arc::clone(self.model), Into::into)),
            attempts: self.attempts,
            finish_reason: facts.finish_reason.map(Into::into),
            tokens: facts.tokens,
            cost: facts.cost.or_else(|| Some(self.prices?.cost(facts.tokens?))),
            latency_ms: self.latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            fingerprint: Some(self.fingerprint),
            template: None,
        }
    }
}

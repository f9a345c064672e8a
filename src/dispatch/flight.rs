//! One attempt, from its sending to what came of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::ask::{Ask, harmless_question};
use super::request::Request;
use super::retry::Pending;
use crate::admission::Ticket;
use crate::clock;
use crate::config::{Params, Prices};
use crate::decode;
use crate::event::{Event, Voice};
use crate::fault::Failure;
use crate::ident::{Spend, Tokens};
use crate::journal::{JournalError, Outcome, Record};
use crate::meter::{Reservation, worst_case};
use crate::prompt::Question;
use crate::transport::{Paid, Sent};
use crate::wire::Limits;

/// Enough for the answer to a harmless question, also of a model that thinks first.
const HARMLESS_TOKENS: u32 = 256;
/// Longest time for the answer to a harmless question.
const HARMLESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is asked, and at what price.
pub(super) struct Desk<A> {
    pub(super) provider: Arc<str>,
    pub(super) endpoint: Arc<A>,
    pub(super) prices: Option<Prices>,
    pub(super) voice: Voice,
    /// Bytes of the further fields of its requests.
    pub(super) extra_bytes: usize,
}

impl<A> Clone for Desk<A> {
    fn clone(&self) -> Self {
        Desk {
            provider: Arc::clone(&self.provider),
            endpoint: Arc::clone(&self.endpoint),
            prices: self.prices,
            voice: self.voice.clone(),
            extra_bytes: self.extra_bytes,
        }
    }
}

impl<A: Ask> Desk<A> {
    /// Asks about a row.
    pub(super) async fn ask(self, pending: Pending, ticket: Ticket, mut reservation: Reservation) -> Flight {
        let started = clock::now();
        let flight = |landed, limits, pending| Flight {
            ticket,
            limits,
            took: clock::now() - started,
            landed,
            pending: Some(Box::new(pending)),
        };
        if let Err(error) = reservation.begin() {
            return flight(Landed::Unsent(error.into()), Limits::default(), pending);
        }
        let Request { question, params, .. } = &pending.request;
        let Sent { result, limits, may_be_billed } =
            self.endpoint.ask(question, params, pending.left()).await;
        let landed = match result {
            Ok(paid) => {
                let took = self.spend(&paid, reservation.worst());
                let landed = keep(&pending, &self.provider, self.endpoint.model(), paid);
                self.book(reservation, took);
                landed
            }
            Err(failure) => {
                close(reservation, may_be_billed);
                Landed::Failed(failure)
            }
        };
        flight(landed, limits, pending)
    }

    /// Asks what every provider can answer that works at all.
    pub(super) async fn ask_harmless(
        self,
        is_limited: bool,
        ticket: Ticket,
        mut reservation: Reservation,
    ) -> Flight {
        let started = clock::now();
        let flight =
            |landed, limits| Flight { ticket, limits, took: clock::now() - started, landed, pending: None };
        if let Err(error) = reservation.begin() {
            return flight(Landed::Unsent(error.into()), Limits::default());
        }
        let (question, params) = harmless_question();
        let params = Params { max_tokens: is_limited.then_some(HARMLESS_TOKENS), ..params };
        let Sent { result, limits, may_be_billed } =
            self.endpoint.ask(&question, &params, HARMLESS_TIMEOUT).await;
        let landed = match result {
            Ok(paid) => {
                let took = self.spend(&paid, reservation.worst());
                self.book(reservation, took);
                Landed::Paid(Box::new(paid))
            }
            Err(failure) => {
                close(reservation, may_be_billed);
                Landed::Failed(failure)
            }
        };
        flight(landed, limits)
    }

    /// The most that a question can take.
    pub(super) fn worst(&self, question: &Question, params: &Params) -> Spend {
        let messages = &question.messages;
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        // Tools and schemas are read like a prompt.
        let bytes = bytes + self.extra_bytes + length_of(&params.extra_body);
        worst_case(self.prices.as_ref(), messages.len(), bytes, params.max_tokens)
    }

    pub(super) fn worst_of_harmless(&self) -> Spend {
        let (question, params) = harmless_question();
        self.worst(&question, &Params { max_tokens: Some(HARMLESS_TOKENS), ..params })
    }

    fn book(&self, reservation: Reservation, took: Spend) {
        let worst = reservation.worst();
        if reservation.settle(took) {
            let text = format!(
                "{} billed {} and {} tokens for a request that should take {} and {} at most; the budget can be exceeded by what is in flight",
                self.provider, took.money, took.tokens, worst.money, worst.tokens
            );
            self.voice.say(&Event::Notice(&text));
        }
    }

    /// What an answer took; the worst where neither provider nor price list says.
    fn spend(&self, paid: &Paid, worst: Spend) -> Spend {
        let facts = decode::facts(&paid.response);
        let tokens = facts.tokens.map_or(worst.tokens, Tokens::total);
        let listed = || Some(self.prices?.cost(facts.tokens?));
        Spend { money: facts.cost.or_else(listed).unwrap_or(worst.money), tokens, requests: 1 }
    }
}

/// Bytes of further fields of a request.
pub(super) fn length_of(fields: &Map<String, Value>) -> usize {
    if fields.is_empty() { 0 } else { Value::Object(fields.clone()).to_string().len() }
}

/// A request failed: a reservation that may have been billed is dropped, and so counts at its worst.
fn close(reservation: Reservation, may_be_billed: bool) {
    if !may_be_billed {
        let _ = reservation.settle(Spend::default());
    }
}

/// An attempt that has ended.
pub(super) struct Flight {
    pub(super) ticket: Ticket,
    pub(super) limits: Limits,
    pub(super) took: Duration,
    pub(super) landed: Landed,
    /// None for a harmless question.
    pub(super) pending: Option<Box<Pending>>,
}

/// How an attempt ended.
pub(super) enum Landed {
    Paid(Box<Paid>),
    /// Answered, and the answer could not be kept.
    Lost(JournalError),
    /// That it is sent could not be written down, so it was not.
    Unsent(JournalError),
    Failed(Failure),
}

/// Puts an answer into the journal, still as part of its flight: a request is in flight until then.
fn keep(pending: &Pending, provider: &Arc<str>, model: &Arc<str>, paid: Paid) -> Landed {
    let Request { question, receipt, .. } = &pending.request;
    let record = Record {
        key: receipt.key.clone(),
        step: Arc::clone(&receipt.step),
        fingerprint: question.fingerprint,
        provider: Arc::clone(provider),
        model: Arc::clone(model),
        attempts: pending.attempts,
        latency_ms: u64::try_from(paid.latency.as_millis()).unwrap_or(u64::MAX),
        outcome: Outcome::Response(paid.body.clone()),
    };
    match receipt.journal.append([&record]) {
        Ok(()) => Landed::Paid(Box::new(paid)),
        Err(error) => Landed::Lost(error),
    }
}

//! One attempt, from its sending to what came of it.

use std::sync::Arc;
use std::time::Duration;

use super::ask::{Ask, harmless_question};
use super::request::Request;
use super::retry::Pending;
use crate::admission::Ticket;
use crate::clock;
use crate::config::{Params, Prices};
use crate::decode;
use crate::fault::Failure;
use crate::ident::{Spend, Tokens};
use crate::journal::{JournalError, Outcome, Record};
use crate::meter::Reservation;
use crate::transport::{Paid, Sent};
use crate::wire::Limits;

/// Longest time for the answer to a harmless question.
const HARMLESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is asked, and at what price.
pub(super) struct Desk<A> {
    pub(super) provider: Arc<str>,
    pub(super) endpoint: Arc<A>,
    pub(super) prices: Option<Prices>,
}

impl<A> Clone for Desk<A> {
    fn clone(&self) -> Self {
        Desk {
            provider: Arc::clone(&self.provider),
            endpoint: Arc::clone(&self.endpoint),
            prices: self.prices,
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
            return flight(Landed::Lost(error.into()), Limits::default(), pending);
        }
        let Request { question, params, .. } = &pending.request;
        let Sent { result, limits, may_be_billed } =
            self.endpoint.ask(question, params, pending.left()).await;
        let landed = match result {
            Ok(paid) => {
                let took = self.spend(&paid, reservation.worst());
                let landed = keep(&pending, self.provider, self.endpoint.model(), paid);
                reservation.settle(took);
                landed
            }
            Err(failure) => {
                release(reservation, may_be_billed);
                Landed::Failed(failure)
            }
        };
        flight(landed, limits, pending)
    }

    /// Asks what every provider can answer that works at all.
    pub(super) async fn ask_harmless(
        self,
        max_tokens: Option<u32>,
        ticket: Ticket,
        mut reservation: Reservation,
    ) -> Flight {
        let started = clock::now();
        let flight =
            |landed, limits| Flight { ticket, limits, took: clock::now() - started, landed, pending: None };
        if let Err(error) = reservation.begin() {
            return flight(Landed::Lost(error.into()), Limits::default());
        }
        let (question, params) = harmless_question();
        let params = Params { max_tokens, ..params };
        let Sent { result, limits, may_be_billed } =
            self.endpoint.ask(&question, &params, HARMLESS_TIMEOUT).await;
        let landed = match result {
            Ok(paid) => {
                let took = self.spend(&paid, reservation.worst());
                reservation.settle(took);
                Landed::Paid(Box::new(paid))
            }
            Err(failure) => {
                release(reservation, may_be_billed);
                Landed::Failed(failure)
            }
        };
        flight(landed, limits)
    }

    /// What an answer took; the worst where neither provider nor price list says.
    fn spend(&self, paid: &Paid, worst: Spend) -> Spend {
        let facts = decode::facts(&paid.response);
        let tokens = facts.tokens.map_or(worst.tokens, Tokens::total);
        let listed = || Some(self.prices?.cost(facts.tokens?));
        Spend { money: facts.cost.or_else(listed).unwrap_or(worst.money), tokens, requests: 1 }
    }
}

/// A request failed: what the provider may have billed is spent.
fn release(reservation: Reservation, may_be_billed: bool) {
    if !may_be_billed {
        reservation.settle(Spend::default());
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
    Lost(JournalError),
    Failed(Failure),
}

/// Puts an answer into the journal, still as part of its flight: a request is in flight until then.
fn keep(pending: &Pending, provider: Arc<str>, model: &Arc<str>, paid: Paid) -> Landed {
    let Request { question, receipt, .. } = &pending.request;
    let record = Record {
        key: receipt.key.clone(),
        step: Arc::clone(&receipt.step),
        fingerprint: question.fingerprint,
        provider,
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

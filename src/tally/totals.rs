//! [`Tally`] counts the events of a run; [`Totals`] are its counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::provider::ProviderFigures;
use super::submissions::SubmissionFigures;
use super::waits::Waits;
use crate::clock::{self, Instant};
use crate::event::{Ending, Event, Extent, Listener, Origin};
use crate::fault::Class;
use crate::ident::{Money, RunId, Tokens};
use crate::passed::PassedOver;

/// Counts events. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<Totals>>);

/// What has happened in a run so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Id of the run, once it has started.
    pub run: Option<RunId>,
    /// Number of rows that were not in the target when the run started, if known.
    pub outstanding: Option<u64>,
    /// Maximum number of rows that the run may send, if limited.
    pub row_limit: Option<u64>,
    /// Number of rows that are through all their steps.
    pub rows: u64,
    /// Number of these that were sent for their last step.
    pub sent_rows: u64,
    /// Number of these whose last outcome an earlier run had paid for.
    pub recovered_rows: u64,
    /// Number of these whose last outcome came with a submission to a provider's Batch API.
    pub collected_rows: u64,
    /// Number of outcomes, those from the journal included. Each step of a row counts.
    pub settled: u64,
    /// Number of answers among the outcomes.
    pub answers: u64,
    /// Number of skipped outcomes: no request was sent, since the row does not meet the step's condition or all its
    /// inputs are null.
    pub skipped: u64,
    /// Number of errors among the outcomes, by class.
    pub errors: BTreeMap<&'static str, u64>,
    /// Number of outcomes that an earlier run had paid for.
    pub recovered: u64,
    /// Number of outcomes that came with submissions which this run has collected.
    pub collected: u64,
    /// Number of rows decoded from Parquet.
    pub decoded: u64,
    /// Number of planned rows that are deleted in the source.
    pub deleted: u64,
    /// Rows of the source that no run sends to a model, in total so far; `None` if not counted.
    pub passed_over: Option<PassedOver>,
    /// Number of rows committed by this run.
    pub committed_rows: u64,
    /// Number of batches committed by this run.
    pub committed_batches: u64,
    /// Number of attempts that were repeated.
    pub retries: u64,
    /// Number of second requests sent beside requests that take far longer than others.
    pub hedged: u64,
    /// Number of answers by another service tier than was requested.
    pub other_tier: u64,
    /// Number of attempts refused by a rate limit.
    pub throttled: u64,
    /// Number of times that a provider asked for a pause or its circuit breaker opened.
    pub pauses: u64,
    /// Tokens that this run's answers used.
    pub tokens: Tokens,
    /// Cost of these answers, or `None` if no price is known.
    pub cost: Option<Money>,
    /// Figures of each provider, by name.
    pub providers: BTreeMap<String, ProviderFigures>,
    /// Submissions to providers' Batch APIs.
    pub submissions: SubmissionFigures,
    /// Requests in flight, and what the run waits for.
    waits: Waits,
}

impl Totals {
    /// Returns the number of requests in flight at all providers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.waits.in_flight()
    }

    /// Returns what the run waits for, in words, or `None` if nothing holds it back.
    #[must_use]
    pub fn waiting(&self, now: Instant) -> Option<String> {
        self.waits.in_words(now)
    }

    /// Returns the number of rows that the run covers, if known. Rows that need no request do not count against its
    /// limit.
    #[must_use]
    pub fn planned(&self) -> Option<u64> {
        let most = self.row_limit.map(|most| most.saturating_add(self.rows - self.sent_rows));
        self.outstanding.map(|rows| most.map_or(rows, |most| rows.min(most)))
    }

    fn provider(&mut self, name: &str) -> &mut ProviderFigures {
        if !self.providers.contains_key(name) {
            self.providers.insert(name.to_owned(), ProviderFigures::default());
        }
        self.providers.get_mut(name).expect("it is there now")
    }

    /// Returns the number of errors of all classes.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn paid(&mut self, tokens: Tokens, cost: Option<Money>) {
        self.tokens += tokens;
        if let Some(cost) = cost {
            self.cost = Some(self.cost.unwrap_or_default() + cost);
        }
    }
}

impl Tally {
    /// Returns the counts so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Listener for Tally {
    fn on(&self, event: &Event<'_>) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { run } => totals.run = Some(*run),
            Event::Outstanding { rows, row_limit } => {
                totals.outstanding = Some(*rows);
                totals.row_limit = *row_limit;
            }
            Event::PassedOver(passed) => totals.passed_over = Some(*passed),
            Event::Opened { decoded, deleted, .. } => {
                totals.decoded += decoded;
                totals.deleted += deleted;
            }
            Event::Paid { tokens, cost } => totals.paid(*tokens, *cost),
            Event::SubmissionCollected { tokens, cost, .. } => {
                totals.paid(*tokens, *cost);
                totals.submissions.note(event);
            }
            Event::Settled { ending, extent, origin } => {
                if *extent == Extent::Row {
                    totals.rows += 1;
                    totals.sent_rows += u64::from(*origin == Origin::Request);
                    totals.recovered_rows += u64::from(*origin == Origin::Journal);
                    totals.collected_rows += u64::from(*origin == Origin::Collected);
                }
                totals.settled += 1;
                totals.recovered += u64::from(*origin == Origin::Journal);
                totals.collected += u64::from(*origin == Origin::Collected);
                match ending {
                    Ending::Answer => totals.answers += 1,
                    Ending::Skipped => totals.skipped += 1,
                    Ending::Failed(class) => *totals.errors.entry(Class::name(*class)).or_default() += 1,
                }
            }
            Event::ConstraintsBroken { answers, skipped } => {
                totals.answers = totals.answers.saturating_sub(*answers);
                totals.skipped = totals.skipped.saturating_sub(*skipped);
                *totals.errors.entry(Class::Constraint.name()).or_default() += answers + skipped;
            }
            Event::Committed { rows, .. } => {
                totals.committed_rows += rows;
                totals.committed_batches += 1;
            }
            Event::Retried { provider, .. } => {
                totals.retries += 1;
                totals.provider(provider).retries += 1;
            }
            Event::Hedged { provider } => {
                totals.hedged += 1;
                totals.provider(provider).hedged += 1;
            }
            Event::OtherTier { .. } => totals.other_tier += 1,
            Event::Gauged { provider, gauge } => totals.provider(provider).gauge = (*gauge).clone(),
            Event::Throttled { .. } => totals.throttled += 1,
            Event::Paused { .. } => totals.pauses += 1,
            Event::Submitted { .. } | Event::DuplicateBatch { .. } => totals.submissions.note(event),
            Event::InFlight { .. } | Event::Waiting { .. } | Event::Held(_) => {
                totals.waits.note(event, clock::now());
            }
            Event::Planned { .. }
            | Event::SubmissionMade { .. }
            | Event::Sent { .. }
            | Event::AlreadyCommitted { .. }
            | Event::Notice(_)
            | Event::Stopping(_) => {}
        }
    }
}

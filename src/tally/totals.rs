//! Counts what happened in a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::provider::ProviderFigures;
use super::waits::Waits;
use crate::clock::{self, Instant};
use crate::event::{Ending, Event, Extent, Listener, Origin};
use crate::fault::Class;
use crate::ident::{Money, RunId, Tokens};
use crate::passed::PassedOver;

/// Counts events. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<Totals>>);

/// What happened in a run, as far as it has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// The run, once it has begun.
    pub run: Option<RunId>,
    /// Rows that were not in the target when the run began, where that is known.
    pub outstanding: Option<u64>,
    /// Rows that the run may ask about, where that is limited.
    pub most_asked: Option<u64>,
    /// Rows that are through all their steps.
    pub rows: u64,
    /// Those among them that were asked for their last step.
    pub asked_rows: u64,
    /// Those among them whose last outcome a former run had paid for.
    pub recovered_rows: u64,
    /// Outcomes of rows, those from the journal included; a row of two steps counts twice.
    pub settled: u64,
    /// Answers among them.
    pub answers: u64,
    /// Rows without input among them.
    pub skipped: u64,
    /// Errors among them, by class.
    pub errors: BTreeMap<&'static str, u64>,
    /// Outcomes that a former run had paid for.
    pub recovered: u64,
    /// Rows that were decoded from Parquet.
    pub decoded: u64,
    /// Planned rows that are deleted in the source.
    pub deleted: u64,
    /// Rows of the source that no run asks about, in all up to now; `None` where nobody counted them.
    pub passed_over: Option<PassedOver>,
    /// Rows committed by this run.
    pub committed_rows: u64,
    /// Batches committed by this run.
    pub committed_batches: u64,
    /// Attempts that were repeated.
    pub retries: u64,
    /// Second requests that were sent beside those that take far longer than others.
    pub hedged: u64,
    /// Attempts that came to nothing because a provider was asked too much.
    pub throttled: u64,
    /// Times that a provider had to be left alone for a while.
    pub pauses: u64,
    /// What this run's answers used.
    pub tokens: Tokens,
    /// What they cost; none where nobody says.
    pub cost: Option<Money>,
    /// What is known of each provider.
    pub providers: BTreeMap<String, ProviderFigures>,
    /// What is in flight and what is waited for.
    waits: Waits,
}

impl Totals {
    /// Requests in flight at all providers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.waits.in_flight()
    }

    /// What the run waits for, in words, or `None` if nothing holds it back.
    #[must_use]
    pub fn waiting(&self, now: Instant) -> Option<String> {
        self.waits.in_words(now)
    }

    /// Rows that the run is for, where that is known: those that need no asking are beyond its limit.
    #[must_use]
    pub fn planned(&self) -> Option<u64> {
        let most = self.most_asked.map(|most| most.saturating_add(self.rows - self.asked_rows));
        self.outstanding.map(|rows| most.map_or(rows, |most| rows.min(most)))
    }

    fn provider(&mut self, name: &str) -> &mut ProviderFigures {
        if !self.providers.contains_key(name) {
            self.providers.insert(name.to_owned(), ProviderFigures::default());
        }
        self.providers.get_mut(name).expect("it is there now")
    }

    /// All errors together.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Tally {
    /// What happened so far.
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
            Event::Outstanding { rows, most_asked } => {
                totals.outstanding = Some(*rows);
                totals.most_asked = *most_asked;
            }
            Event::PassedOver(passed) => totals.passed_over = Some(*passed),
            Event::Opened { decoded, deleted, .. } => {
                totals.decoded += decoded;
                totals.deleted += deleted;
            }
            Event::Paid { tokens, cost } => {
                totals.tokens += *tokens;
                if let Some(cost) = cost {
                    totals.cost = Some(totals.cost.unwrap_or_default() + *cost);
                }
            }
            Event::Settled { ending, extent, origin } => {
                if *extent == Extent::Row {
                    totals.rows += 1;
                    totals.asked_rows += u64::from(*origin == Origin::Asked);
                    totals.recovered_rows += u64::from(*origin == Origin::Journal);
                }
                totals.settled += 1;
                totals.recovered += u64::from(*origin == Origin::Journal);
                match ending {
                    Ending::Answer => totals.answers += 1,
                    Ending::Skipped => totals.skipped += 1,
                    Ending::Failed(class) => *totals.errors.entry(Class::name(*class)).or_default() += 1,
                }
            }
            Event::Refused { answers, skipped } => {
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
            Event::Gauged { provider, gauge } => totals.provider(provider).gauge = (*gauge).clone(),
            Event::Throttled { .. } => totals.throttled += 1,
            Event::Paused { .. } => totals.pauses += 1,
            Event::InFlight { .. } | Event::Waiting { .. } | Event::Held(_) => {
                totals.waits.note(event, clock::now());
            }
            Event::Planned { .. }
            | Event::Sent { .. }
            | Event::AlreadyCommitted { .. }
            | Event::Notice(_)
            | Event::Stopping(_) => {}
        }
    }
}

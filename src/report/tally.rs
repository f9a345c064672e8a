//! Counts what happened in a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{Ending, Event, Listener, Origin};
use crate::fault::Class;
use crate::ident::Tokens;

/// Counts events. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<Totals>>);

/// What happened in a run, as far as it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows that the run may ask about at most, where that is known.
    pub outstanding: Option<u64>,
    /// Rows with an outcome, those from the journal included; a row of two steps counts twice.
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
    /// Rows committed by this run.
    pub committed_rows: u64,
    /// Batches committed by this run.
    pub committed_batches: u64,
    /// Attempts that were repeated.
    pub retries: u64,
    /// Times that a provider had to be left alone for a while.
    pub pauses: u64,
    /// What this run's answers used.
    pub tokens: Tokens,
}

impl Totals {
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
            Event::Outstanding { rows } => totals.outstanding = Some(*rows),
            Event::Opened { decoded, .. } => totals.decoded += decoded,
            Event::Settled { ending, origin, tokens } => {
                totals.settled += 1;
                totals.recovered += u64::from(*origin == Origin::Journal);
                totals.tokens += *tokens;
                match ending {
                    Ending::Answer => totals.answers += 1,
                    Ending::Skipped => totals.skipped += 1,
                    Ending::Failed(class) => *totals.errors.entry(Class::name(*class)).or_default() += 1,
                }
            }
            Event::Committed { rows, .. } => {
                totals.committed_rows += rows;
                totals.committed_batches += 1;
            }
            Event::Retried { .. } => totals.retries += 1,
            Event::Paused { .. } => totals.pauses += 1,
            _ => {}
        }
    }
}

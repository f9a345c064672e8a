//! Why a run asks nothing new before its end.

use super::anomalies::Anomaly;
use super::error_rate::TooManyErrors;
use crate::config::BudgetLimit;
use crate::fault::Failure;
use crate::journal::JournalError;

/// Why nothing new is asked any more.
#[derive(Debug)]
pub enum Stop {
    /// The provider makes it useless.
    Provider {
        /// Its name.
        provider: String,
        /// Why.
        failure: Failure,
    },
    /// The budget is spent.
    Budget(BudgetLimit),
    /// Too many rows fail.
    Errors(TooManyErrors),
    /// Too many outcomes make little sense.
    Anomaly(Anomaly),
    /// An answer could not be kept.
    Journal(JournalError),
    /// As many rows as were wanted are asked.
    MaxRows,
    /// The caller asked for it.
    Asked,
}

impl Stop {
    /// The reason in words; none where those who asked for it know why.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Stop::Provider { provider, failure } => Some(format!("provider {provider}: {failure}")),
            Stop::Budget(limit) => Some(format!("the budget is spent: {limit}")),
            Stop::Errors(errors) => Some(format!("too many errors: {errors}")),
            Stop::Anomaly(anomaly) => Some(format!("something is wrong with the answers: {anomaly}")),
            Stop::Journal(error) => Some(error.to_string()),
            Stop::MaxRows | Stop::Asked => None,
        }
    }

    /// Why the job is paused, where this reason pauses it: another run would pay for more of the same.
    pub(crate) fn pauses(&self) -> Option<String> {
        match self {
            Stop::Anomaly(anomaly) => Some(anomaly.to_string()),
            Stop::Errors(errors) => Some(errors.to_string()),
            Stop::Provider { .. } | Stop::Budget(_) | Stop::Journal(_) | Stop::MaxRows | Stop::Asked => None,
        }
    }

    /// Whether this reason takes the place of one before it: the first counts, except that a lost answer
    /// must not hide behind it, nor what is wrong with answers behind there being few.
    pub(super) fn outranks(&self, before: Option<&Stop>) -> bool {
        match before {
            None | Some(Stop::MaxRows) => true,
            Some(Stop::Errors(_)) if matches!(self, Stop::Anomaly(_)) => true,
            Some(_) => matches!(self, Stop::Journal(_)),
        }
    }
}

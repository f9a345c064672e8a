//! Reasons why a run sends no new requests before its end.

use super::anomalies::Anomaly;
use super::error_rate::TooManyErrors;
use crate::config::BudgetLimit;
use crate::fault::Failure;
use crate::journal::JournalError;
use crate::submitter::SubmitterError;

/// Reason why no new requests are sent.
#[derive(Debug)]
pub enum Stop {
    /// A failure of a provider makes further requests useless.
    Provider {
        /// Name of the provider.
        provider: String,
        /// The failure.
        failure: Failure,
    },
    /// The budget leaves too little for the next request.
    Budget(BudgetLimit),
    /// Too many rows fail.
    Errors(TooManyErrors),
    /// Too many outcomes are unusual.
    Anomaly(Anomaly),
    /// The journal failed to keep or return an answer.
    Journal(JournalError),
    /// A file of requests, or the list of submissions, cannot be written.
    Submitter(SubmitterError),
    /// The row limit of the run is reached.
    MaxRows,
    /// Nothing is left to do before a submission comes back.
    Waiting,
    /// The caller requested it, or could not carry out a task.
    Requested,
}

impl Stop {
    /// Returns the reason in words, or `None` if the caller knows it.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Stop::Provider { provider, failure } => Some(format!("provider {provider}: {failure}")),
            Stop::Budget(limit) => Some(format!("the budget is spent: {limit}")),
            Stop::Errors(errors) => Some(format!("too many errors: {errors}")),
            Stop::Anomaly(anomaly) => Some(format!("something is wrong with the answers: {anomaly}")),
            Stop::Journal(error) => Some(error.to_string()),
            Stop::Submitter(error) => Some(error.to_string()),
            Stop::MaxRows | Stop::Waiting | Stop::Requested => None,
        }
    }

    /// Returns why the job is paused, if this reason pauses it: another run would pay for more of the same.
    pub(crate) fn pauses(&self) -> Option<String> {
        match self {
            Stop::Anomaly(anomaly) => Some(anomaly.to_string()),
            Stop::Errors(errors) => Some(errors.to_string()),
            Stop::Provider { .. }
            | Stop::Budget(_)
            | Stop::Journal(_)
            | Stop::Submitter(_)
            | Stop::MaxRows
            | Stop::Waiting
            | Stop::Requested => None,
        }
    }

    /// Whether this reason replaces an earlier one. The first counts, except that any replaces a row limit, a failed
    /// journal is never hidden, and an anomaly, which shows what is wrong, replaces too many errors.
    pub(super) fn outranks(&self, before: Option<&Stop>) -> bool {
        match before {
            None | Some(Stop::MaxRows | Stop::Waiting) => true,
            Some(Stop::Errors(_)) if matches!(self, Stop::Anomaly(_)) => true,
            Some(_) => matches!(self, Stop::Journal(_)),
        }
    }
}

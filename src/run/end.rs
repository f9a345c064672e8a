//! The ends that a run comes to.

use crate::config::BudgetLimit;
use crate::enricher::Anomaly;
use crate::enricher::TooManyErrors;
use crate::fault::{Class, Failure};

/// How a run ended without an error of its own.
#[derive(Debug)]
pub enum End {
    /// Everything that the source had when the run started is in the target.
    Complete,
    /// `max_rows` are asked.
    MaxRows,
    /// `max_duration` is over.
    MaxDuration,
    /// The caller asked for it.
    Stopped,
    /// The provider made it useless to go on.
    Provider {
        /// Name of the provider.
        provider: String,
        /// Why.
        failure: Failure,
    },
    /// A limit of the budget leaves too little for the next request.
    Budget(BudgetLimit),
    /// More rows failed than the job allows.
    Errors {
        /// How many, and of which class.
        errors: TooManyErrors,
        /// Whether later runs ask nothing until somebody has acted.
        pauses: bool,
    },
    /// More outcomes make little sense than the job allows.
    Anomaly {
        /// What they are.
        anomaly: Anomaly,
        /// Whether later runs ask nothing until somebody has acted.
        pauses: bool,
    },
}

/// What kind of end a run comes to; the exit status follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// Nothing is left to do.
    Complete,
    /// It did as much as it was to do.
    Limited,
    /// Somebody stopped it.
    Interrupted,
    /// The templates fail.
    Template,
    /// A provider makes it useless.
    Provider,
    /// The budget is spent.
    Budget,
    /// Too many errors, or an anomaly.
    Errors,
}

impl End {
    /// Returns the word for it in summaries and in the record of the last run.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            // A template that fails is nothing of the provider's.
            End::Provider { failure, .. } if failure.class == Class::Template => "error",
            End::Complete => "complete",
            End::MaxRows => "max_rows",
            End::MaxDuration => "max_duration",
            End::Stopped => "interrupted",
            End::Provider { .. } => "provider",
            End::Budget(_) => "budget",
            End::Errors { .. } => "error_rate",
            End::Anomaly { .. } => "anomaly",
        }
    }

    /// Returns what kind of end it is.
    #[must_use]
    pub fn kind(&self) -> EndKind {
        match self {
            End::Complete => EndKind::Complete,
            End::MaxRows | End::MaxDuration => EndKind::Limited,
            End::Stopped => EndKind::Interrupted,
            End::Provider { failure, .. } if failure.class == Class::Template => EndKind::Template,
            End::Provider { .. } => EndKind::Provider,
            End::Budget(_) => EndKind::Budget,
            End::Errors { .. } | End::Anomaly { .. } => EndKind::Errors,
        }
    }

    /// Why, where that needs saying.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        match self {
            End::Provider { failure, .. } if failure.class == Class::Template => {
                Some(format!("the templates fail for each of the first rows: {}", failure.detail))
            }
            End::Provider { provider, failure } => Some(format!("provider {provider}: {failure}")),
            End::Budget(limit) => Some(format!("the budget is spent: {limit}")),
            End::Errors { errors, .. } => Some(errors.to_string()),
            End::Anomaly { anomaly, .. } => Some(anomaly.to_string()),
            End::Complete | End::MaxRows | End::MaxDuration | End::Stopped => None,
        }
    }
}

//! The ways in which a run ends without an error: their words for summaries, their kinds and their messages.

use crate::config::BudgetLimit;
use crate::enricher::Anomaly;
use crate::enricher::TooManyErrors;
use crate::fault::{Class, Failure};

/// How a run ended that no [`RunError`](super::error::RunError) ended.
#[derive(Debug)]
pub enum End {
    /// Everything that the source had when the run started is in the target.
    Complete,
    /// Everything else is done, and rows are in submissions to a provider's Batch API: a later run goes on.
    Waiting,
    /// As many rows as `max_rows` allows were sent.
    MaxRows,
    /// The time `max_duration` has passed.
    MaxDuration,
    /// The caller stopped the run.
    Stopped,
    /// A failure of a provider, or of the templates, that further requests would meet too.
    Provider {
        /// Name of the provider.
        provider: String,
        /// The failure.
        failure: Failure,
    },
    /// A limit of the budget leaves too little for the next request.
    Budget(BudgetLimit),
    /// More rows failed than the job allows.
    Errors {
        /// Number of errors and their most frequent class.
        errors: TooManyErrors,
        /// Whether the job is paused: later runs send nothing until a person has acted.
        pauses: bool,
    },
    /// More outcomes of one unusual kind, such as empty or cut-off answers, than the job allows.
    Anomaly {
        /// The kind of outcome and its number.
        anomaly: Anomaly,
        /// Whether the job is paused: later runs send nothing until a person has acted.
        pauses: bool,
    },
}

/// Kind of a run's end; it determines the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// No row is left.
    Complete,
    /// The run reached a limit that its caller set.
    Limited,
    /// The caller stopped the run.
    Interrupted,
    /// The templates failed.
    Template,
    /// A provider failed in a way that further requests would meet too.
    Provider,
    /// The budget is spent.
    Budget,
    /// Too many rows failed, or outcomes were anomalous.
    Errors,
}

impl End {
    /// Returns the word for this end in summaries and in the record of the last run.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            // A failing template is no failure of the provider.
            End::Provider { failure, .. } if failure.class == Class::Template => "error",
            End::Complete => "complete",
            End::Waiting => "waiting",
            End::MaxRows => "max_rows",
            End::MaxDuration => "max_duration",
            End::Stopped => "interrupted",
            End::Provider { .. } => "provider",
            End::Budget(_) => "budget",
            End::Errors { .. } => "error_rate",
            End::Anomaly { .. } => "anomaly",
        }
    }

    /// Returns the kind of this end.
    #[must_use]
    pub fn kind(&self) -> EndKind {
        match self {
            End::Complete => EndKind::Complete,
            End::Waiting | End::MaxRows | End::MaxDuration => EndKind::Limited,
            End::Stopped => EndKind::Interrupted,
            End::Provider { failure, .. } if failure.class == Class::Template => EndKind::Template,
            End::Provider { .. } => EndKind::Provider,
            End::Budget(_) => EndKind::Budget,
            End::Errors { .. } | End::Anomaly { .. } => EndKind::Errors,
        }
    }

    /// Returns why the run ended, or `None` if the kind of end says it all.
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
            End::Complete | End::Waiting | End::MaxRows | End::MaxDuration | End::Stopped => None,
        }
    }
}

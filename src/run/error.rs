//! The errors that end a run, each with a hint for the user and a kind that determines the exit status.

use super::end::{End, EndKind};
use crate::budget::SpendingError;
use crate::cache::CacheError;
use crate::checkpoint::{CheckpointError, LeaseError, LockError, Paused, RecoveryRefusal};
use crate::clock;
use crate::config::BudgetLimit;
use crate::enricher::EnricherError;
use crate::fault::Failure;
use crate::journal::JournalError;
use crate::metrics::MetricsError;
use crate::prompt::PromptError;
use crate::sink::{FailedError, TargetError};
use crate::source::SourceError;
use crate::store::{self, Location, StoreError};
use crate::submitter::SubmitterError;
use crate::table::TableError;
use crate::transport::EndpointError;

/// An error that ends a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target does not fit or cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The failed rows cannot be listed.
    #[error(transparent)]
    Failed(#[from] FailedError),
    /// A template is wrong.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The submissions to a provider's Batch API cannot be gone on with.
    #[error(transparent)]
    Submitter(#[from] SubmitterError),
    /// What the job has spent cannot be determined.
    #[error(transparent)]
    Spending(#[from] SpendingError),
    /// The metrics of batches cannot be kept.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The budget leaves too little for the first request.
    #[error("the budget is spent: {0}")]
    Budget(BudgetLimit),
    /// A folder cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another run holds the job, or its lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The lease of the job was lost to another run or has expired.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// An endpoint cannot be created.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Checkpoint and target contradict each other.
    #[error("{refusal} (checkpoint {checkpoint})")]
    Refused {
        /// The contradiction.
        refusal: RecoveryRefusal,
        /// Location of the checkpoint.
        checkpoint: Location,
    },
    /// The checkpoint, the target or the command does not fit the job.
    #[error("{what}")]
    Mismatch {
        /// What does not fit.
        what: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// The target has the source's rows under another `app_id`, and the user has not confirmed that they may be added
    /// again.
    #[error("{what}")]
    DuplicateRows {
        /// The number of these rows and their `app_id`, as a sentence.
        what: String,
    },
    /// A provider did not answer a test request.
    #[error("provider {provider}: {failure}")]
    Provider {
        /// Name of the provider.
        provider: String,
        /// The failure of the request.
        failure: Failure,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A step's condition cannot be evaluated on the rows.
    #[error("step {step:?}: the condition {condition:?} is wrong: {message}")]
    When {
        /// Output of the step.
        step: String,
        /// The condition, as written in the job file.
        condition: String,
        /// What is wrong.
        message: String,
    },
    /// The job is paused because of an anomaly or of too many errors, and nobody has acted since.
    #[error("the job is paused since {}: {}", clock::format_time(.0.since), .0.why)]
    Paused(Paused),
    /// A pilot, or its preparation, was cut short.
    #[error("the rows that were to be sent first were not all answered{}", .0.message().map_or_else(String::new, |why| format!(": {why}")))]
    PilotEnded(Box<End>),
    /// A task of this program panicked or failed unexpectedly.
    #[error("a task of the engine died: {0}")]
    Task(String),
}

impl From<EnricherError> for RunError {
    fn from(error: EnricherError) -> Self {
        match error {
            EnricherError::Prompt(error) => RunError::Prompt(error),
            EnricherError::Endpoint(error) => RunError::Endpoint(error),
            EnricherError::When { step, condition, message } => RunError::When { step, condition, message },
            EnricherError::Mismatch { what, hint } => RunError::Mismatch { what, hint },
            EnricherError::Journal(error) => RunError::Journal(error),
            EnricherError::Spending(error) => RunError::Spending(error),
            EnricherError::Store(error) => RunError::Store(error),
            EnricherError::Task(message) => RunError::Task(message),
        }
    }
}

const STORE_HINT: &str =
    "see to the store, its credentials and the network and run again: what is answered is kept";

impl RunError {
    /// Whether the error is that of an operation in an object store.
    fn is_of_a_store(&self) -> bool {
        let at = match self {
            RunError::Store(StoreError { at, .. })
            | RunError::Checkpoint(CheckpointError::Store(StoreError { at, .. }))
            | RunError::Journal(JournalError::Store(StoreError { at, .. }))
            | RunError::Lock(LockError::Store(StoreError { at, .. }))
            | RunError::Metrics(
                MetricsError::Table(TableError { at, .. }) | MetricsError::Store(StoreError { at, .. }),
            )
            | RunError::Table(TableError { at, .. })
            | RunError::Failed(FailedError::Table(TableError { at, .. }))
            | RunError::Target(TargetError::Table(TableError { at, .. }))
            | RunError::Source(SourceError::Table(TableError { at, .. })) => at,
            _ => return false,
        };
        at.url().is_some()
    }

    /// Returns what the user can do about the error, or `None` if there is nothing to add to its message.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        if store::disk_trouble(self).is_some_and(store::is_full) {
            return Some("make room on that disk and run again: what is answered is kept");
        }
        if self.is_of_a_store() {
            return Some(STORE_HINT);
        }
        match self {
            RunError::Refused { refusal: RecoveryRefusal::Foreign { .. }, .. } => Some(
                "go on with the checkpoint that wrote there, or give this job an app_id or a target of its own",
            ),
            RunError::Refused { refusal: RecoveryRefusal::TableBehind { .. }, .. } => Some(
                "bring the table back to its newest version, or start over with another target or app_id",
            ),
            RunError::Mismatch { hint, .. } => Some(hint),
            RunError::DuplicateRows { .. } => {
                Some("take that app_id to go on there; say --yes if the rows are meant to be there twice")
            }
            RunError::Cache(error) => error.hint(),
            RunError::Checkpoint(CheckpointError::Damaged { .. }) => Some(
                "enrich check JOB --repair puts it aside; the next run rebuilds it from the target and the providers' lists of batches, and paid answers stay in the journal",
            ),
            RunError::Journal(JournalError::Damaged { .. }) => {
                Some("enrich check JOB --repair keeps the answers in it that are intact")
            }
            RunError::Checkpoint(CheckpointError::Changed { .. })
            | RunError::Lease(LeaseError::Lost { .. }) => {
                Some("let that run end; what was answered here is kept")
            }
            RunError::Lease(LeaseError::RunOut { .. }) => Some(STORE_HINT),
            RunError::Checkpoint(CheckpointError::Version { .. })
            | RunError::Journal(JournalError::Version { .. })
            | RunError::Spending(SpendingError::Version { .. }) => {
                Some("run it with the version of enrich that wrote it, or a later one")
            }
            RunError::PilotEnded(_) => Some("what was answered is kept, and is not paid for again"),
            RunError::Paused(_) => Some(
                "mend the prompt, the model or max_tokens, or raise the bound: a run goes on then (enrich plan JOB --pilot 20 shows the results); to go on as it is: enrich run JOB --unpause",
            ),
            RunError::Budget(_) => Some("raise it first; nothing was changed"),
            RunError::Spending(SpendingError::Damaged { .. }) => Some(
                "put that file aside to count from nothing, and take what was spent until now, as the provider bills it, off the budget",
            ),
            RunError::Journal(JournalError::Io { .. } | JournalError::Store(_))
            | RunError::Spending(SpendingError::Store(_))
            | RunError::Store(_)
            | RunError::Checkpoint(CheckpointError::Store(_))
            | RunError::Table(_)
            | RunError::Failed(FailedError::Table(_)) => {
                Some("see to the disk or the permissions and run again: what is answered is kept")
            }
            RunError::Submitter(_) => {
                Some("see to the disk or the permissions and run again: what was submitted is found again")
            }
            RunError::Lock(LockError::Held { .. }) => Some("wait for it to end; nothing was changed"),
            RunError::Lock(LockError::Store(_)) => {
                Some("see to the disk or the permissions and run again: nothing was changed")
            }
            RunError::Source(error) => error.hint(),
            RunError::Target(error) => error.hint(),
            RunError::Provider { .. } => {
                Some("check key, model and base_url of the provider in the job file")
            }
            // The message is all there is to say.
            RunError::Failed(
                FailedError::NoMetadata { .. }
                | FailedError::UnknownColumn { .. }
                | FailedError::UnknownStep { .. }
                | FailedError::Condition { .. },
            )
            | RunError::Prompt(_)
            | RunError::When { .. }
            | RunError::Metrics(_)
            | RunError::Endpoint(_)
            | RunError::Task(_) => None,
        }
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        let usage_if = |is_usage: bool| if is_usage { ErrorKind::Usage } else { ErrorKind::Environment };
        match self {
            RunError::Source(error) => usage_if(error.is_usage()),
            RunError::Target(error) => usage_if(error.is_usage()),
            RunError::Failed(error) => usage_if(error.is_usage()),
            RunError::Metrics(error) => match error {
                MetricsError::Mismatch { .. } => ErrorKind::Usage,
                MetricsError::Table(_) | MetricsError::Store(_) => ErrorKind::Environment,
            },
            RunError::Prompt(_)
            | RunError::When { .. }
            | RunError::Refused { .. }
            | RunError::Mismatch { .. }
            | RunError::DuplicateRows { .. }
            | RunError::Endpoint(_) => ErrorKind::Usage,
            RunError::Lock(error) => match error {
                LockError::Held { .. } => ErrorKind::Running,
                LockError::Store(_) => ErrorKind::Environment,
            },
            RunError::Lease(error) => match error {
                LeaseError::Lost { .. } => ErrorKind::Running,
                LeaseError::RunOut { .. } => ErrorKind::Environment,
            },
            RunError::Checkpoint(error) => match error {
                CheckpointError::Changed { .. } => ErrorKind::Running,
                CheckpointError::Store(_)
                | CheckpointError::Damaged { .. }
                | CheckpointError::Version { .. } => ErrorKind::Environment,
            },
            RunError::Provider { .. } => ErrorKind::Provider,
            RunError::Paused(_) => ErrorKind::Paused,
            RunError::Budget(_) => ErrorKind::Budget,
            RunError::PilotEnded(end) => ErrorKind::PilotEnded(end.kind()),
            RunError::Table(_)
            | RunError::Journal(_)
            | RunError::Submitter(_)
            | RunError::Spending(_)
            | RunError::Store(_)
            | RunError::Cache(_) => ErrorKind::Environment,
            RunError::Task(_) => ErrorKind::Internal,
        }
    }
}

/// Kind of an error; it determines the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The job, the command, the source or the target must be corrected.
    Usage,
    /// A task of this program panicked or failed unexpectedly.
    Internal,
    /// An operation of a disk, a store or a table failed.
    Environment,
    /// Another run holds the job.
    Running,
    /// A provider refuses requests or does not answer.
    Provider,
    /// The job is paused.
    Paused,
    /// The budget is spent.
    Budget,
    /// A pilot was cut short; the kind of its end.
    PilotEnded(EndKind),
}

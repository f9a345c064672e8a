//! Events of a run: the engine's only output.
//!
//! The engine prints and logs nothing. It sends events, and listeners turn them into a display, a log or a summary. A
//! listener must return quickly: it is called from the engine's own task.

use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::fault::{Class, Failure, Scarce};
use crate::ident::{BatchId, Money, RunId, Tokens};
use crate::passed::PassedOver;

/// Kind of outcome of a step for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model's answer.
    Answer,
    /// No request was sent: the inputs are null.
    Skipped,
    /// An error of this class.
    Failed(Class),
}

/// Whether an outcome completes its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The row is complete: this was its last step.
    Row,
    /// The row has further steps.
    Step,
}

/// Origin of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A request in this run.
    Request,
    /// The journal of an earlier run.
    Journal,
    /// A submission to a provider's Batch API, which this run has collected.
    Collected,
    /// No request was needed.
    NoRequest,
}

/// Reason why a provider's executor waits while rows are ready to be sent. The limit on requests in flight is not a
/// reason: waiting for answers is the normal state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The quota of requests per minute.
    RequestsPerMinute,
    /// The quota of tokens per minute.
    TokensPerMinute,
    /// The end of a pause that the provider asked for.
    Pause,
    /// The next test of a provider whose circuit breaker is open.
    Breaker,
    /// The delays before the next attempts of failed rows; no other row is ready.
    Backoff,
    /// The part of the budget that requests in flight may still use.
    Budget,
}

/// Reason why the next rows do not enter the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Rows of this batch, the oldest one, have no outcome yet.
    SlowRows(BatchId),
    /// The commit of this batch is not finished.
    Commit(BatchId),
}

/// State of a provider's limits at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitGauge {
    /// Number of requests sent in this run.
    pub requests: u64,
    /// Number of these that were refused by a rate limit.
    pub throttled: u64,
    /// Number of requests that may be in flight at once.
    pub concurrency: u32,
    /// Utilization of each known limit.
    pub shares: Vec<LimitShare>,
    /// Whether the provider's circuit breaker is open.
    pub is_open: bool,
}

/// Utilization of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitShare {
    /// The limited quantity.
    pub of: Scarce,
    /// The limit per minute, whether configured, stated by the provider or learned.
    pub per_minute: f64,
    /// Share of the limit used since the first request; 1 for all of it.
    pub used: f64,
}

/// Submissions to a provider's Batch API that have not come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenSubmissions {
    /// Number of rows in them.
    pub rows: u64,
    /// What they cost at most, or `None` if that is unknown.
    pub worst: Option<Money>,
    /// Number of submissions in each state that one may be in.
    pub by_state: Vec<(&'static str, u64)>,
    /// Since when the oldest of them has been on its way.
    pub oldest: Option<DateTime<Utc>>,
}

impl OpenSubmissions {
    /// Returns the number of submissions.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.by_state.iter().map(|(_, count)| count).sum()
    }
}

/// Numbers of requests in collected submissions, and of lines in their files, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineOutcomes {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were refused, as they would be again.
    pub refused: u64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Lines that belong to no request.
    pub foreign: u64,
    /// Further answers to a request.
    pub repeated: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
}

impl LineOutcomes {
    /// Returns the numbers with the names of their outcomes.
    #[must_use]
    pub fn by_name(&self) -> [(&'static str, u64); 6] {
        let LineOutcomes { answered, refused, unanswered, foreign, repeated, unreadable } = *self;
        [
            ("answered", answered),
            ("refused", refused),
            ("unanswered", unanswered),
            ("foreign", foreign),
            ("repeated", repeated),
            ("unreadable", unreadable),
        ]
    }
}

impl AddAssign for LineOutcomes {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.foreign += other.foreign;
        self.repeated += other.repeated;
        self.unreadable += other.unreadable;
    }
}

/// Something that happened in a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins: source, target and checkpoint fit.
    Started {
        /// Id of the run, as in the target.
        run: RunId,
    },
    /// Rows that are not in the target, as far as known when the run started.
    Outstanding {
        /// Number of rows in planned and in unread files together.
        rows: u64,
        /// Maximum number of rows that this run may send, if it is limited. Rows that need no request come on top.
        row_limit: Option<u64>,
    },
    /// Rows of the source that no run sends to a model, in total so far.
    PassedOver(PassedOver),
    /// A batch was planned and its plan is durable.
    Planned {
        /// The batch.
        batch: BatchId,
        /// Number of rows.
        rows: u64,
    },
    /// A batch's rows are in memory, with the outcomes that an earlier run left in the journal.
    Opened {
        /// The batch.
        batch: BatchId,
        /// Number of rows.
        rows: u64,
        /// Number of outcomes that came from the journal.
        recovered: u64,
        /// Number of rows decoded from Parquet for this batch, including those before it in its row group.
        decoded: u64,
        /// Number of rows of its plan that are deleted in the source; 0 if this run had read the batch before.
        deleted: u64,
    },
    /// An attempt failed and will be retried.
    Retried {
        /// Name of the provider.
        provider: &'a str,
        /// Why the attempt failed.
        failure: &'a Failure,
        /// Minimum delay before the retry.
        after: Duration,
    },
    /// An attempt was refused by a rate limit. It does not count against the row.
    Throttled {
        /// Name of the provider.
        provider: &'a str,
        /// The refusal.
        failure: &'a Failure,
    },
    /// A request is about to be sent.
    Sent {
        /// Name of the provider.
        provider: &'a str,
    },
    /// A request that takes far longer than others got a second one beside it.
    Hedged {
        /// Name of the provider.
        provider: &'a str,
    },
    /// An answer came by another service tier than was requested.
    OtherTier {
        /// Name of the provider.
        provider: &'a str,
    },
    /// The number of requests in flight changed.
    InFlight {
        /// Name of the provider.
        provider: &'a str,
        /// Number of requests in flight now.
        requests: u32,
    },
    /// State of a provider's limits; sent from time to time, and at the end.
    Gauged {
        /// Name of the provider.
        provider: &'a str,
        /// The state.
        gauge: &'a LimitGauge,
    },
    /// The reason why a provider's executor waits has changed.
    Waiting {
        /// Name of the provider.
        provider: &'a str,
        /// The reason, or `None` if the executor does not wait.
        waiting: Option<Waiting>,
        /// Expected length of the wait.
        left: Duration,
    },
    /// The reason why the next rows do not enter the window has changed; `None` if there is none any more.
    Held(Option<Hold>),
    /// A provider asked for a pause, or its circuit breaker opened.
    Paused {
        /// Name of the provider.
        provider: &'a str,
        /// The failure that caused it.
        failure: &'a Failure,
        /// Length of the pause.
        pause: Duration,
    },
    /// A submission was made: the provider has a batch of it.
    SubmissionMade {
        /// Name of the provider.
        provider: &'a str,
        /// Number of rows.
        rows: u64,
        /// Id of the batch at the provider.
        remote: &'a str,
        /// What it costs at most, or `None` if that is unknown.
        worst: Option<Money>,
    },
    /// A second batch of the same submission exists at the provider, since the answer to a creation was lost.
    DuplicateBatch {
        /// Name of the provider.
        provider: &'a str,
        /// Id of the first batch.
        first: &'a str,
        /// Id of the other one.
        second: &'a str,
        /// What the other one costs at most, or `None` if that is unknown.
        worst: Option<Money>,
    },
    /// The answers of a submission are in the journals. The outcomes of its rows follow, as [`Event::Settled`].
    SubmissionCollected {
        /// Name of the provider.
        provider: &'a str,
        /// Number of rows.
        rows: u64,
        /// Ids of its batches at the provider.
        remote: &'a str,
        /// What its lines were.
        lines: LineOutcomes,
        /// Tokens that the answers used.
        tokens: Tokens,
        /// Their cost, or `None` if unknown.
        cost: Option<Money>,
    },
    /// The submissions to a provider that have not come back are others than before, or in other states. Sent for each
    /// provider at the start, too.
    Submitted {
        /// Name of the provider.
        provider: &'a str,
        /// The submissions.
        open: &'a OpenSubmissions,
    },
    /// A step of a row has its outcome. Sent once in a run for each step of a row.
    Settled {
        /// Kind of the outcome.
        ending: Ending,
        /// Whether the row is complete.
        extent: Extent,
        /// Origin of the outcome.
        origin: Origin,
    },
    /// An answer was paid for, whatever the row's outcome. Answers of submissions are in [`Event::SubmissionCollected`].
    Paid {
        /// Tokens that it used.
        tokens: Tokens,
        /// Its cost, or `None` if unknown.
        cost: Option<Money>,
    },
    /// Rows of a batch break constraints of the target. Errors are written in place of their outcomes.
    ConstraintsBroken {
        /// Number of answers among them.
        answers: u64,
        /// Number of skipped rows among them.
        skipped: u64,
    },
    /// A batch was committed to the target.
    Committed {
        /// The batch.
        batch: BatchId,
        /// Number of rows.
        rows: u64,
        /// Version of the table that holds it.
        version: u64,
    },
    /// A batch was already in the target.
    AlreadyCommitted {
        /// The batch.
        batch: BatchId,
    },
    /// A message for a person; the run goes on.
    Notice(&'a str),
    /// The run starts no new rows and ends.
    Stopping(&'a str),
}

/// Receives events.
pub trait Listener: Send + Sync {
    /// Handles an event.
    fn on(&self, event: &Event<'_>);
}

/// Sends every event to every listener, in order.
#[derive(Clone, Default)]
pub struct Voice(Arc<[Box<dyn Listener>]>);

impl Voice {
    /// Creates a voice with these listeners.
    #[must_use]
    pub fn new(listeners: Vec<Box<dyn Listener>>) -> Self {
        Voice(listeners.into())
    }

    /// Returns a voice with one more listener.
    #[must_use]
    pub fn and(self, listener: Box<dyn Listener>) -> Self {
        Voice::new(vec![Box::new(self), listener])
    }

    /// Sends an event to every listener.
    pub fn say(&self, event: &Event<'_>) {
        self.0.iter().for_each(|listener| listener.on(event));
    }
}

impl Listener for Voice {
    fn on(&self, event: &Event<'_>) {
        self.say(event);
    }
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Voice({} listeners)", self.0.len())
    }
}

//! What the engine tells the world: its only voice.
//!
//! The engine prints nothing and logs nothing; it sends events, and listeners make of them a display,
//! a log or a summary. A listener must return quickly: it is called from the engine's own task.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Class, Failure, Scarce};
use crate::ident::{BatchId, Money, RunId, Tokens};
use crate::passed::PassedOver;

/// How a row of a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model's answer.
    Answer,
    /// Nothing was asked: the inputs are null.
    Skipped,
    /// An error of this class.
    Failed(Class),
}

/// What of a row has its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: this was its last step.
    Row,
    /// A step before the last.
    Step,
}

/// Where an outcome came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The provider was asked, in this run.
    Asked,
    /// The journal of a former run.
    Journal,
    /// Nobody had to be asked.
    Unasked,
}

/// What a provider's dispatcher waits for while rows are ready to be asked. A place among the requests in
/// flight is not in this list: a run that waits for answers is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The quota of requests per minute.
    RequestsPerMinute,
    /// The quota of tokens per minute.
    TokensPerMinute,
    /// The end of a pause that the provider asked for.
    Pause,
    /// The next try of a provider that failed too often.
    Breaker,
    /// The delays before the next attempts of rows that failed; nothing else is left to be asked.
    Backoff,
    /// What requests in flight leave of the budget.
    Budget,
}

/// What keeps rows that come next out of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Rows of this batch, the oldest one, that have no outcome yet.
    SlowRows(BatchId),
    /// The commit of this batch.
    Commit(BatchId),
}

/// How a provider's limits stand at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitGauge {
    /// Requests that were sent in this run.
    pub requests: u64,
    /// Those among them that were refused for being asked too much.
    pub throttled: u64,
    /// Requests that may be in flight at once.
    pub concurrency: u32,
    /// How much of each limit that is known is used.
    pub shares: Vec<LimitShare>,
    /// Whether its breaker is open.
    pub is_open: bool,
}

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitShare {
    /// What is limited.
    pub of: Scarce,
    /// The limit, configured, stated by the provider or learned, in a minute.
    pub per_minute: f64,
    /// What was taken of it since the first request, 1 for all of it.
    pub used: f64,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Source, target and checkpoint fit: the run begins.
    Started {
        /// Its id, as in the target.
        run: RunId,
    },
    /// Rows that are not in the target, as far as known when the run started.
    Outstanding {
        /// Rows of planned and of unread files together.
        rows: u64,
        /// Rows that this run may ask about, where that is limited; those that need no asking come on top.
        most_asked: Option<u64>,
    },
    /// Rows of the source that no run asks about, in all up to now.
    PassedOver(PassedOver),
    /// A batch was planned and its plan is durable.
    Planned {
        /// The batch.
        batch: BatchId,
        /// Rows in it.
        rows: u64,
    },
    /// A batch's rows are in memory; what a former run had already been answered is in place.
    Opened {
        /// The batch.
        batch: BatchId,
        /// Rows in it.
        rows: u64,
        /// Outcomes that came from the journal.
        recovered: u64,
        /// Rows decoded from Parquet for this batch, those before it in its row group included.
        decoded: u64,
        /// Rows of its plan that are deleted in the source.
        deleted: u64,
    },
    /// An attempt failed and the row will be tried again.
    Retried {
        /// Name of the provider.
        provider: &'a str,
        /// Why.
        failure: &'a Failure,
        /// When it is tried again at the earliest.
        after: Duration,
    },
    /// An attempt came to nothing because the provider is asked too much; the row loses nothing.
    Throttled {
        /// Name of the provider.
        provider: &'a str,
        /// What it said.
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
    /// The number of requests in flight changed.
    InFlight {
        /// Name of the provider.
        provider: &'a str,
        /// How many there are now.
        requests: u32,
    },
    /// How a provider's limits stand; told now and then, and at the end.
    Gauged {
        /// Name of the provider.
        provider: &'a str,
        /// The figures.
        gauge: &'a LimitGauge,
    },
    /// What a provider's dispatcher waits for changed.
    Waiting {
        /// Name of the provider.
        provider: &'a str,
        /// What it waits for; none if it sends what it can.
        waiting: Option<Waiting>,
        /// How long that takes, as far as is known now.
        left: Duration,
    },
    /// What keeps the next rows from being read and asked changed; none if nothing does.
    Held(Option<Hold>),
    /// A provider asked to wait, or failed so often that it is left alone for a while.
    Paused {
        /// Name of the provider.
        provider: &'a str,
        /// Why.
        failure: &'a Failure,
        /// For how long.
        pause: Duration,
    },
    /// A row of a step has its outcome.
    Settled {
        /// How it ended.
        ending: Ending,
        /// The row itself, or a step of it that others follow.
        extent: Extent,
        /// Where that came from.
        origin: Origin,
    },
    /// An answer was paid for, whatever becomes of its row.
    Paid {
        /// What it used.
        tokens: Tokens,
        /// What it cost; none if nobody says.
        cost: Option<Money>,
    },
    /// What a batch was to hold and the target does not take: it holds errors instead.
    Refused {
        /// Answers.
        answers: u64,
        /// Outcomes for which nothing was asked.
        skipped: u64,
    },
    /// A batch is in the target table.
    Committed {
        /// The batch.
        batch: BatchId,
        /// Rows in it.
        rows: u64,
        /// Version of the table that holds it.
        version: u64,
    },
    /// A batch turned out to be in the target table already.
    AlreadyCommitted {
        /// The batch.
        batch: BatchId,
    },
    /// Something a person may want to know; the run goes on.
    Notice(&'a str),
    /// The run takes no new rows any more and ends.
    Stopping(&'a str),
}

/// Receives events.
pub trait Listener: Send + Sync {
    /// Takes note of an event.
    fn on(&self, event: &Event<'_>);
}

/// The engine's end of the line: hands every event to every listener, in order.
#[derive(Clone, Default)]
pub struct Voice(Arc<[Box<dyn Listener>]>);

impl Voice {
    /// A voice that these listeners hear.
    #[must_use]
    pub fn new(listeners: Vec<Box<dyn Listener>>) -> Self {
        Voice(listeners.into())
    }

    /// A voice that one more hears.
    #[must_use]
    pub fn and(self, listener: Box<dyn Listener>) -> Self {
        Voice::new(vec![Box::new(self), listener])
    }

    /// Tells every listener.
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

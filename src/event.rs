//! What the engine tells the world: its only voice.
//!
//! The engine prints nothing and logs nothing; it sends events, and listeners make of them a display,
//! a log or a summary. A listener must return quickly: it is called from the engine's own task.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Class, Failure};
use crate::ident::{BatchId, Tokens};

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

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Rows that this run may ask about at most, as far as known when it started.
    Outstanding {
        /// Rows of planned and of unread files together.
        rows: u64,
    },
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
        /// Where that came from.
        origin: Origin,
        /// What the answer used; zero for an outcome that nothing was paid for in this run.
        tokens: Tokens,
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

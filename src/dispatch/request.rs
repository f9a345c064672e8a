//! What goes into a dispatcher and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{BudgetLimit, Params};
use crate::fault::Failure;
use crate::ident::{Cell, Fingerprint, Money, RowKey, Tokens};
use crate::journal::{Journal, JournalError};
use crate::prompt::Question;
use crate::transport::Paid;

/// A question to be asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The row and step that ask.
    pub cell: Cell,
    /// What is asked.
    pub question: Arc<Question>,
    /// With which parameters.
    pub params: Arc<Params>,
    /// Time over all attempts.
    pub deadline: Duration,
    /// Where the answer is kept.
    pub receipt: Receipt,
    /// Which of the step's lists of providers it goes by.
    pub route: usize,
    /// Providers that cannot take it, one bit each.
    pub excluded_providers: u64,
    /// Providers that could not answer it, one bit each.
    pub tried: u64,
    /// What was paid for the row and the step before, for answers that were not what was asked for.
    pub earlier: Earlier,
}

/// Answers of a row and a step that were not what was asked for, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// How many there were.
    pub answers: u32,
    /// After how many of them the row was asked to mend its answer.
    pub repairs: u32,
    /// Whether one of them was cut off by `max_tokens`, and the row was asked with more of them.
    pub was_longer: bool,
    /// Fingerprint of the first question.
    pub first: Option<Fingerprint>,
    /// Attempts that they took.
    pub attempts: u32,
    /// What they used.
    pub tokens: Option<Tokens>,
    /// What they cost.
    pub cost: Option<Money>,
    /// Time that they took.
    pub latency: Duration,
}

impl Request {
    /// The request for a row whose answer was not what was asked for: any provider may be asked again.
    #[must_use]
    pub fn again(self, question: Question, params: Arc<Params>, earlier: Earlier) -> Request {
        Request { question: Arc::new(question), params, earlier, tried: 0, ..self }
    }
}

/// Where the answer to a request is kept before anybody hears of it.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The journal of the row's batch.
    pub journal: Journal,
    /// The row.
    pub key: RowKey,
    /// Output of the step.
    pub step: Arc<str>,
}

/// What came of a request.
#[derive(Debug)]
pub struct Reply {
    /// What was asked.
    pub request: Request,
    /// Number of the dispatcher that asked.
    pub provider: usize,
    /// Attempts that it took there.
    pub attempts: u32,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a request.
#[derive(Debug)]
pub enum Verdict {
    /// An answer that was paid for, and is in the journal.
    Paid(Box<Paid>),
    /// An answer that was paid for could not be kept, or a request not be written down before it was sent.
    Lost(JournalError),
    /// A failure that ends the row, at this provider.
    Failed(Failure),
    /// A failure that ends the run; the row is as if it had not been asked.
    Stop(Failure),
    /// The budget leaves too little for the row, which ends the run; the row is as if it had not been asked.
    BudgetSpent(BudgetLimit),
    /// Nothing: the provider is left alone for a while and others could be asked.
    Elsewhere,
    /// Nothing: the run ends, and the row is as if it had not been asked.
    Unsent,
}

/// What the dispatcher may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Running,
    /// Wait for what is in flight, send nothing.
    Draining,
    /// Cut off what is in flight, hand over what has arrived, and end.
    Aborting,
}

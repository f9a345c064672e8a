//! The requests that an executor takes and the replies that it returns.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{BudgetLimit, Params};
use crate::fault::Failure;
use crate::ident::{Cell, Fingerprint, Money, RowKey, Tokens};
use crate::journal::{Journal, JournalError, Record, RecordedOutcome};
use crate::prompt::Question;
use crate::transport::Paid;

/// A question about a row, to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The row and step that it is for.
    pub cell: Cell,
    /// The messages to send, with their fingerprint.
    pub question: Arc<Question>,
    /// The parameters of the request.
    pub params: Arc<Params>,
    /// Time for all attempts together.
    pub deadline: Duration,
    /// Where the answer is recorded before it is reported.
    pub receipt: Receipt,
    /// Index of the provider list that it follows: 0 for the step's own list, n for that of its nth route.
    pub route: usize,
    /// Providers that cannot take it, one bit each.
    pub excluded_providers: u64,
    /// Providers that failed to answer it, one bit each.
    pub tried: u64,
    /// Whether it may take the answer to the same request for another row.
    pub shares: bool,
    /// The earlier answers for this row and step, which were paid for and not what the step asks for.
    pub earlier: Earlier,
}

/// Answers for a row and a step that were not what the step asks for, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Number of answers.
    pub answers: u32,
    /// Number of times that an invalid answer was sent back to the model for repair.
    pub repairs: u32,
    /// Whether one of them was cut off by `max_tokens` and the row was sent again with a higher limit.
    pub had_longer_retry: bool,
    /// Fingerprint of the first question, or `None` if there is no earlier answer.
    pub first: Option<Fingerprint>,
    /// Attempts that the answers took.
    pub attempts: u32,
    /// Number of these that were lines of submissions.
    pub lines: u32,
    /// Tokens that the answers used, or `None` if not known.
    pub tokens: Option<Tokens>,
    /// Cost of the answers, or `None` if not known.
    pub cost: Option<Money>,
    /// Time that the answers took, or `None` if all of them came with submissions.
    pub latency: Option<Duration>,
}

impl Request {
    /// Creates the request that follows an answer that is not what the step asks for. Any provider may be used again.
    #[must_use]
    pub fn again(self, question: Question, params: Arc<Params>, earlier: Earlier) -> Request {
        Request { question: Arc::new(question), params, earlier, tried: 0, ..self }
    }

    /// Creates the journal record of an outcome of this request.
    #[must_use]
    pub fn record(
        &self,
        provider: &Arc<str>,
        model: &Arc<str>,
        attempts: u32,
        latency: Duration,
        outcome: RecordedOutcome,
    ) -> Record {
        Record {
            key: self.receipt.key.clone(),
            step: Arc::clone(&self.receipt.step),
            fingerprint: self.question.fingerprint(),
            provider: Arc::clone(provider),
            model: Arc::clone(model),
            attempts,
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            shared: false,
            submission: None,
            outcome,
        }
    }
}

/// Where the answer to a request is recorded before it is reported.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The journal of the row's batch.
    pub journal: Journal,
    /// The key of the row.
    pub key: RowKey,
    /// The step, by the name of its output.
    pub step: Arc<str>,
}

/// A request that has come back, with its result.
#[derive(Debug)]
pub struct Reply {
    /// The request as it was handed in.
    pub request: Request,
    /// Index of the provider whose executor handled it.
    pub provider: usize,
    /// Number of attempts that were sent there.
    pub attempts: u32,
    /// Its result.
    pub verdict: Verdict,
}

/// The result of a request.
#[derive(Debug)]
pub enum Verdict {
    /// An answer that was paid for and is in the journal.
    Paid(Box<Paid>),
    /// A failure of the journal: a paid answer could not be kept, or a request not be recorded before it was sent.
    Lost(JournalError),
    /// A failure that ends the row at this provider.
    Failed(Failure),
    /// A failure that ends the run; the row counts as not sent.
    Stop(Failure),
    /// The budget leaves too little for the row, which ends the run; the row counts as not sent.
    BudgetSpent(BudgetLimit),
    /// No result: the provider is left alone for a while, and another one could take the row.
    Elsewhere,
    /// No result for now: the request is in a submission.
    Submitted,
    /// No result: the run ends, and the row counts as not sent.
    Unsent,
}

/// What an executor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Send and receive.
    Running,
    /// Send nothing, and wait for what is in flight.
    Draining,
    /// Cut off what is in flight, hand over what has arrived, and end.
    Aborting,
}

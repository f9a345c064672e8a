//! One attempt, from its sending to its result.

use std::sync::Arc;
use std::time::Duration;

use std::pin::pin;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinError;

use super::request_sender::{RequestSender, harmless_question};
use super::retry::PendingRequest;
use super::stragglers::Second;
use crate::admission::Ticket;
use crate::budget::Reservation;
use crate::clock;
use crate::config::Params;
use crate::decode;
use crate::executor::Billing;
use crate::fault::Failure;
use crate::ident::{Spend, Tokens};
use crate::journal::{Journal, JournalError, Record, RecordedOutcome};
use crate::prompt::Question;
use crate::transport::{Paid, SendResult};
use crate::wire::Limits;

/// Enough tokens for the answer to a harmless question, also from a model that thinks first.
const HARMLESS_TOKENS: u32 = 256;
/// Longest time for the answer to a harmless question.
const HARMLESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends attempts to one provider and books what they cost.
pub(super) struct ProviderClient<A> {
    pub(super) provider: Arc<str>,
    pub(super) endpoint: Arc<A>,
    pub(super) billing: Billing,
    /// Whether the provider is sent nothing but requests for vectors.
    pub(super) only_embeds: bool,
    /// How long a row may wait for room in the service tier before it is sent without one.
    pub(super) tier_fallback_after: Option<Duration>,
}

impl<A> Clone for ProviderClient<A> {
    fn clone(&self) -> Self {
        ProviderClient {
            provider: Arc::clone(&self.provider),
            endpoint: Arc::clone(&self.endpoint),
            billing: self.billing.clone(),
            only_embeds: self.only_embeds,
            tier_fallback_after: self.tier_fallback_after,
        }
    }
}

impl<A: RequestSender> ProviderClient<A> {
    /// Sends a request for a row or for several together, and a second one beside it if that is granted meanwhile.
    pub(super) async fn ask(
        self,
        mut rows: Vec<PendingRequest>,
        ticket: Ticket,
        mut reservation: Reservation,
        second: oneshot::Receiver<Second>,
    ) -> EndedAttempt {
        let started = clock::now();
        if let Err(error) = self.billing.record_sent(&mut reservation) {
            return EndedAttempt::unsent(rows, ticket, reservation, error.into());
        }
        let questions: Vec<Arc<Question>> =
            rows.iter().map(|pending| Arc::clone(&pending.request.question)).collect();
        let mut params = rows.first().map(|pending| Arc::clone(&pending.request.params)).unwrap_or_default();
        let falls_back = |after| rows.iter().any(|pending| pending.has_waited_for_room(after));
        if self.tier_fallback_after.is_some_and(falls_back) {
            params = Arc::new(Params { without_tier: true, ..Params::clone(&params) });
        }
        let left = rows.iter().map(PendingRequest::left).min().unwrap_or_default();
        let first = Attempt { ticket, reservation };
        let HedgedResult { sent, attempt: Attempt { ticket, reservation }, other, was_twice } =
            self.send_hedged(&questions, &params, left, first, second).await;
        if was_twice {
            rows.iter_mut().for_each(|pending| pending.second_attempts += 1);
        }
        let SendResult { result, limits, unread, .. } = sent;
        let (result, records) = match result {
            Ok(paid) => {
                self.billing.mention_unread_usage(&paid);
                self.billing.count_other_tier(&paid, &params);
                let bytes = questions.iter().map(|question| question.bytes()).sum();
                let tokens = decode::facts(&paid.response)
                    .tokens
                    .filter(|tokens| decode::is_plausible(*tokens, bytes, params.max_tokens));
                match shared(&rows, &params, paid) {
                    Ok(shares) => {
                        let records = self.records(&rows, &shares);
                        (AttemptResult::Paid { shares, tokens }, records)
                    }
                    Err(failure) => (AttemptResult::Failed(failure), Vec::new()),
                }
            }
            Err(failure) => {
                let records = self.record_of_unread(&rows, unread, clock::now() - started);
                (AttemptResult::Failed(failure), records.into_iter().collect())
            }
        };
        let took = clock::now() - started;
        EndedAttempt { ticket, limits, took, result, records, rows, reservation, other }
    }

    /// Sends a request, and a second one if that is granted before there is an answer. The first of them that is
    /// answered counts, and the other is cut off.
    async fn send_hedged(
        &self,
        questions: &[Arc<Question>],
        params: &Params,
        most: Duration,
        mut first: Attempt,
        mut granted: oneshot::Receiver<Second>,
    ) -> HedgedResult {
        let started = clock::now();
        let mut first_answer = pin!(self.endpoint.ask(questions, params, most));
        let mut second = tokio::select! {
            biased;
            sent = &mut first_answer => {
                self.billing.book(&mut first.reservation, sent.result.as_ref().ok(), sent.may_be_billed);
                // A second attempt that was granted too late is not sent.
                granted.close();
                let other = granted.try_recv().ok().map(Attempt::from);
                return HedgedResult { sent, attempt: first, other, was_twice: false };
            }
            Ok(second) = &mut granted => Attempt::from(second),
        };
        if self.billing.record_sent(&mut second.reservation).is_err() {
            // The next request that is sent will report the error; this one is under way.
            let sent = first_answer.await;
            self.billing.book(&mut first.reservation, sent.result.as_ref().ok(), sent.may_be_billed);
            return HedgedResult { sent, attempt: first, other: Some(second), was_twice: false };
        }
        let left = most.saturating_sub(clock::now() - started);
        // Boxed, since few requests have a second one and the future of each is moved as a whole.
        let mut second_answer = Box::pin(self.endpoint.ask(questions, params, left));
        let (mut sent, is_first) = tokio::select! {
            biased;
            sent = &mut first_answer => (sent, true),
            sent = &mut second_answer => (sent, false),
        };
        let (ended, open) = if is_first { (&mut first, &mut second) } else { (&mut second, &mut first) };
        self.billing.book(&mut ended.reservation, sent.result.as_ref().ok(), sent.may_be_billed);
        if sent.result.is_ok() {
            // A request that is cut off may be billed all the same.
            self.billing.book(&mut open.reservation, None, true);
            let (attempt, other) = if is_first { (first, second) } else { (second, first) };
            return HedgedResult { sent, attempt, other: Some(other), was_twice: true };
        }
        let unread = sent.unread.take();
        sent = if is_first { second_answer.await } else { first_answer.await };
        if sent.result.is_err() {
            sent.unread = sent.unread.or(unread);
        }
        self.billing.book(&mut open.reservation, sent.result.as_ref().ok(), sent.may_be_billed);
        let (attempt, other) = if is_first { (second, first) } else { (first, second) };
        HedgedResult { sent, attempt, other: Some(other), was_twice: true }
    }

    /// Sends a harmless question, which every working provider can answer.
    pub(super) async fn ask_harmless(
        self,
        is_limited: bool,
        ticket: Ticket,
        mut reservation: Reservation,
    ) -> EndedAttempt {
        let started = clock::now();
        if let Err(error) = self.billing.record_sent(&mut reservation) {
            return EndedAttempt::unsent(Vec::new(), ticket, reservation, error.into());
        }
        let (question, params) = harmless_question(self.only_embeds);
        let params = Params { max_tokens: is_limited.then_some(HARMLESS_TOKENS), ..params };
        let SendResult { result, limits, may_be_billed, .. } =
            self.endpoint.ask(&[question], &params, HARMLESS_TIMEOUT).await;
        self.billing.book(&mut reservation, result.as_ref().ok(), may_be_billed);
        let result = match result {
            Ok(_) => AttemptResult::Paid { shares: Vec::new(), tokens: None },
            Err(failure) => AttemptResult::Failed(failure),
        };
        let took = clock::now() - started;
        EndedAttempt {
            ticket,
            limits,
            took,
            result,
            records: Vec::new(),
            rows: Vec::new(),
            reservation,
            other: None,
        }
    }

    /// Returns the journal records of the answers, one for each row that got one.
    fn records(&self, rows: &[PendingRequest], shares: &[AnswerShare]) -> Vec<Record> {
        let record = |(pending, share): (&PendingRequest, &AnswerShare)| {
            let paid = share.as_ref()?;
            Some(self.record(pending, paid.body.clone(), paid.latency))
        };
        rows.iter().zip(shares).filter_map(record).collect()
    }

    /// Returns the journal record of a body that may have been paid for and cannot be read; a later version of this
    /// program may read it. Returns `None` for several rows, since it is not known whose it is.
    fn record_of_unread(
        &self,
        rows: &[PendingRequest],
        unread: Option<Bytes>,
        latency: Duration,
    ) -> Option<Record> {
        let ([pending], Some(body)) = (rows, unread) else { return None };
        Some(self.record(pending, body, latency))
    }

    fn record(&self, pending: &PendingRequest, body: Bytes, latency: Duration) -> Record {
        let outcome = RecordedOutcome::Response(body);
        pending.request.record(&self.provider, self.endpoint.model(), pending.sent(), latency, outcome)
    }

    pub(super) fn worst_of_harmless(&self) -> Spend {
        let (question, params) = harmless_question(self.only_embeds);
        self.billing
            .worst_case(std::iter::once(&question), &Params { max_tokens: Some(HARMLESS_TOKENS), ..params })
    }
}

/// The admission ticket and the budget reservation of a request that is sent.
pub(super) struct Attempt {
    pub(super) ticket: Ticket,
    /// Dropped by the dispatcher's task, which also reserves; the drop books what the attempt took.
    pub(super) reservation: Reservation,
}

impl From<Second> for Attempt {
    fn from(Second { ticket, reservation }: Second) -> Self {
        Attempt { ticket, reservation }
    }
}

/// The result of a request, and of the second one beside it if there was one.
struct HedgedResult {
    sent: SendResult,
    /// The attempt that gave the result.
    attempt: Attempt,
    other: Option<Attempt>,
    /// Whether both were sent.
    was_twice: bool,
}

/// An attempt that has ended.
pub(super) struct EndedAttempt {
    pub(super) ticket: Ticket,
    pub(super) limits: Limits,
    pub(super) took: Duration,
    pub(super) result: AttemptResult,
    /// Answers that are not in the journal yet. The request is in flight until they are.
    pub(super) records: Vec<Record>,
    /// Empty for a harmless question.
    pub(super) rows: Vec<PendingRequest>,
    /// Dropped by the dispatcher's task, which also reserves; the drop books what the attempt took.
    pub(super) reservation: Reservation,
    /// The second attempt of the same request, or the first if the second one counted.
    pub(super) other: Option<Attempt>,
}

impl EndedAttempt {
    /// An attempt that was not sent, because that could not be recorded first.
    fn unsent(
        rows: Vec<PendingRequest>,
        ticket: Ticket,
        reservation: Reservation,
        error: JournalError,
    ) -> Self {
        let (limits, took) = (Limits::default(), Duration::ZERO);
        EndedAttempt {
            ticket,
            limits,
            took,
            result: AttemptResult::Unsent(error),
            records: Vec::new(),
            rows,
            reservation,
            other: None,
        }
    }
}

/// How an attempt ended.
pub(super) enum AttemptResult {
    /// It was answered: the share of each row, and the tokens that all rows together used, or `None` if not known.
    Paid {
        shares: Vec<AnswerShare>,
        tokens: Option<Tokens>,
    },
    /// It was answered, and the answer could not be written to the journal.
    Lost(JournalError),
    /// As `Lost`, for a reason that another attempt reports.
    LostToo,
    /// It was not sent, because that could not be recorded first.
    Unsent(JournalError),
    Failed(Failure),
}

/// The part of an answer that is for one row, or `None` if there is none.
pub(super) type AnswerShare = Option<Box<Paid>>;

/// Splits an answer among its rows.
fn shared(rows: &[PendingRequest], params: &Params, paid: Paid) -> Result<Vec<AnswerShare>, Failure> {
    if params.vectors.is_none() {
        return Ok(vec![Some(Box::new(paid))]);
    }
    let bytes: Vec<usize> = rows.iter().map(|pending| pending.request.question.bytes()).collect();
    let own = |body: Option<Bytes>| {
        let Some(body) = body else { return Ok(None) };
        let response = decode::parse(&body)?;
        Ok(Some(Box::new(Paid { body, response, latency: paid.latency })))
    };
    decode::share(&paid.response, &bytes)?.into_iter().map(own).collect()
}

/// Writes the answers of attempts to their journals, those of one journal with one write. An attempt whose answers cannot
/// be written is lost.
pub(super) fn keep_answers(ended: &mut [EndedAttempt]) {
    let mut journals: Vec<(&Journal, Vec<&[Record]>)> = Vec::new();
    for attempt in ended.iter().filter(|attempt| !attempt.records.is_empty()) {
        // Rows that went together are of one batch.
        let Some(first) = attempt.rows.first() else { continue };
        let journal = &first.request.receipt.journal;
        match journals.iter_mut().find(|(known, _)| known.is_same(journal)) {
            Some((_, answers)) => answers.push(&attempt.records),
            None => journals.push((journal, vec![&attempt.records])),
        }
    }
    let append = |(journal, answers): (&Journal, Vec<&[Record]>)| {
        let error = journal.append_all(&answers).err()?;
        Some((journal.clone(), Some(error)))
    };
    let mut refused: Vec<(Journal, Option<JournalError>)> = journals.into_iter().filter_map(append).collect();
    for attempt in ended.iter_mut().filter(|attempt| !attempt.records.is_empty()) {
        let Some(first) = attempt.rows.first() else { continue };
        let journal = &first.request.receipt.journal;
        if let Some((_, error)) = refused.iter_mut().find(|(refused, _)| refused.is_same(journal)) {
            // One of them reports the error, which ends the run.
            attempt.result = error.take().map_or(AttemptResult::LostToo, AttemptResult::Lost);
        }
    }
}

/// Returns an attempt that has ended, or `None` if it was cut off because the run ends.
pub(super) fn joined(result: Result<EndedAttempt, JoinError>) -> Option<EndedAttempt> {
    match result {
        Ok(ended) => Some(ended),
        // The row would never come back: it is better that the run ends.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

//! The dispatcher's task.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::retry::{Due, Next, Pending};
use super::told::Told;
use crate::admission::{Admission, Admit, Blame};
use crate::clock::{self, Instant, Jitter};
use crate::config::{Params, Provider, RetryPolicy};
use crate::event::{Event, Voice, Waiting};
use crate::fault::{Failure, Policy};
use crate::ident::{Cell, RowKey};
use crate::journal::{Journal, JournalError, Outcome, Record};
use crate::prompt::Question;
use crate::transport::{Endpoint, Paid};

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
    /// The row and step that asked.
    pub cell: Cell,
    /// What was asked.
    pub question: Arc<Question>,
    /// Attempts that it took.
    pub attempts: u32,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a request.
#[derive(Debug)]
pub enum Verdict {
    /// An answer that was paid for, and is in the journal.
    Paid(Box<Paid>),
    /// An answer that was paid for and could not be kept.
    Lost(JournalError),
    /// A failure that ends the row.
    Failed(Failure),
    /// A failure that ends the run; the row is as if it had not been asked.
    Stop(Failure),
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

/// One provider's dispatcher.
pub struct Dispatcher {
    name: Arc<str>,
    endpoint: Arc<Endpoint>,
    policy: RetryPolicy,
    admission: Admission,
    jitter: Jitter,
    voice: Voice,
    inbox: mpsc::Receiver<Request>,
    outbox: mpsc::Sender<Reply>,
    mode: watch::Receiver<Mode>,
    hungry: Arc<Notify>,
    ready: VecDeque<Pending>,
    most_ready: usize,
    due: BinaryHeap<Due>,
    order: u64,
    told: Told,
    /// The pause that was told last.
    pause_told: u64,
    flights: JoinSet<(Pending, Duration, Landed)>,
}

impl Dispatcher {
    /// Makes the dispatcher of a provider. It takes requests from `inbox`, reports to `outbox` and calls
    /// on `hungry` when it could take more.
    #[must_use]
    pub fn new(
        provider: &Provider,
        endpoint: Arc<Endpoint>,
        inbox: mpsc::Receiver<Request>,
        outbox: mpsc::Sender<Reply>,
        mode: watch::Receiver<Mode>,
        hungry: Arc<Notify>,
        voice: Voice,
    ) -> Self {
        Dispatcher {
            name: provider.name.as_str().into(),
            endpoint,
            policy: provider.retry,
            admission: Admission::new(provider, clock::now(), Jitter::from_entropy()),
            jitter: Jitter::from_entropy(),
            voice,
            inbox,
            outbox,
            mode,
            hungry,
            ready: VecDeque::new(),
            most_ready: provider.max_concurrency as usize,
            due: BinaryHeap::new(),
            order: 0,
            told: Told::default(),
            pause_told: 0,
            flights: JoinSet::new(),
        }
    }

    /// Runs until the inbox is closed and everything has come back, or nobody listens any more.
    pub async fn run(mut self) {
        loop {
            let mode = *self.mode.borrow();
            if mode == Mode::Aborting {
                self.abort().await;
                return;
            }
            let draining = mode == Mode::Draining;
            let wake = if draining {
                if self.hand_back().await.is_err() {
                    return;
                }
                self.tell(clock::now(), None);
                None
            } else {
                self.send_ready()
            };
            let idle = self.ready.is_empty() && self.due.is_empty() && self.flights.is_empty();
            let has_space = draining || self.ready.len() < self.most_ready;
            let done = tokio::select! {
                biased;
                Some(landed) = self.flights.join_next(), if !self.flights.is_empty() => {
                    self.land(landed).await
                }
                request = self.inbox.recv(), if has_space => match request {
                    Some(request) => {
                        self.take(request);
                        Ok(())
                    }
                    None if idle => return,
                    // Closed: wait for what is under way.
                    None => self.wait_closed(wake).await,
                },
                changed = self.mode.changed() => if changed.is_err() { Err(Gone) } else { Ok(()) },
                () = sleep_until(wake.unwrap_or_else(clock::now)), if wake.is_some() => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// With a closed inbox: until a flight lands, a wake is due or the mode changes.
    async fn wait_closed(&mut self, wake: Option<Instant>) -> Result<(), Gone> {
        tokio::select! {
            Some(landed) = self.flights.join_next(), if !self.flights.is_empty() => self.land(landed).await,
            changed = self.mode.changed() => changed.map_err(|_| Gone),
            () = sleep_until(wake.unwrap_or_else(clock::now)), if wake.is_some() => Ok(()),
        }
    }

    fn take(&mut self, request: Request) {
        self.ready.push_back(Pending::new(request, &self.policy));
        while self.ready.len() < self.most_ready {
            let Ok(request) = self.inbox.try_recv() else { break };
            self.ready.push_back(Pending::new(request, &self.policy));
        }
        self.hungry.notify_one();
    }

    /// Sends what is ready as far as admission allows; says when to look again.
    fn send_ready(&mut self) -> Option<Instant> {
        let now = clock::now();
        while self.due.peek().is_some_and(|due| due.at <= now) {
            if let Some(due) = self.due.pop() {
                self.ready.push_front(due.pending);
            }
        }
        let next_due = self.due.peek().map(|due| due.at);
        let mut waiting = None;
        while !self.ready.is_empty() {
            match self.admission.admit(now) {
                Admit::Now => {
                    if let Some(pending) = self.ready.pop_front() {
                        self.send(pending);
                    }
                }
                Admit::At(at, why) => {
                    waiting = Some((why, at));
                    break;
                }
                Admit::WhenOneEnds => break,
            }
        }
        let is_idle = self.ready.is_empty() && self.flights.is_empty();
        let backoff = next_due.filter(|_| is_idle).map(|due| (Waiting::Backoff, due));
        self.tell(now, waiting.or(backoff));
        [next_due, waiting.map(|(_, at)| at)].into_iter().flatten().min()
    }

    fn tell(&mut self, now: Instant, waiting: Option<(Waiting, Instant)>) {
        let in_flight = u32::try_from(self.flights.len()).unwrap_or(u32::MAX);
        self.told.tell(&self.voice, &self.name, now, in_flight, waiting);
    }

    fn send(&mut self, mut pending: Pending) {
        pending.attempts += 1;
        pending.generation = self.admission.generation();
        let endpoint = Arc::clone(&self.endpoint);
        let provider = Arc::clone(&self.name);
        self.flights.spawn(async move {
            let started = clock::now();
            let Request { question, params, .. } = &pending.request;
            let landed = match endpoint.send(question, params, pending.left()).await {
                Ok(paid) => keep(&pending, provider, endpoint.model(), paid),
                Err(failure) => Landed::Failed(failure),
            };
            (pending, clock::now() - started, landed)
        });
    }

    async fn land(
        &mut self,
        landed: Result<(Pending, Duration, Landed), tokio::task::JoinError>,
    ) -> Result<(), Gone> {
        let (mut pending, took, result) = match landed {
            Ok(landed) => landed,
            // The row would never come back: better that the run ends.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                self.admission.abandoned();
                return Ok(());
            }
        };
        match result {
            Landed::Paid(paid) => {
                self.admission.answered(pending.generation);
                self.reply(pending, Verdict::Paid(paid)).await
            }
            Landed::Lost(error) => {
                self.admission.answered(pending.generation);
                self.reply(pending, Verdict::Lost(error)).await
            }
            Landed::Failed(failure) => match failure.class.policy() {
                Policy::Reject => {
                    self.admission.answered(pending.generation);
                    self.reply(pending, Verdict::Failed(failure)).await
                }
                Policy::Stop => {
                    self.admission.answered(pending.generation);
                    self.reply(pending, Verdict::Stop(failure)).await
                }
                Policy::Wait => {
                    pending.attempts -= 1;
                    self.voice.say(&Event::Throttled { provider: &self.name, failure: &failure });
                    let blame = self.admission.throttled(clock::now(), pending.generation, &failure);
                    self.excuse(pending, failure, blame).await
                }
                Policy::Retry => {
                    let is_last = pending.attempts >= self.policy.max_attempts;
                    let row = pending.request.cell;
                    let blame =
                        self.admission.failed(clock::now(), pending.generation, row, &failure, is_last);
                    if blame == Blame::Row {
                        pending.spent += took;
                        self.retry(pending, failure).await
                    } else {
                        pending.attempts -= 1;
                        self.excuse(pending, failure, blame).await
                    }
                }
            },
        }
    }

    /// A failure that the row does not pay for: it is asked again behind those that are ready, so that a
    /// row which the provider chokes on is not its only probe.
    async fn excuse(&mut self, pending: Pending, failure: Failure, blame: Blame) -> Result<(), Gone> {
        if let Blame::Run(failure) = blame {
            return self.reply(pending, Verdict::Stop(failure)).await;
        }
        if let Some(pause) =
            self.admission.pause_left(clock::now()).filter(|_| self.pause_told != self.admission.generation())
        {
            self.pause_told = self.admission.generation();
            self.voice.say(&Event::Paused { provider: &self.name, failure: &failure, pause });
        }
        if failure.class.policy() == Policy::Wait {
            self.ready.push_front(pending);
        } else {
            self.ready.push_back(pending);
        }
        Ok(())
    }

    async fn retry(&mut self, pending: Pending, failure: Failure) -> Result<(), Gone> {
        match pending.after(&failure, &mut self.jitter, self.policy.max_retry_after) {
            Next::GiveUp(pending, failure) => self.reply(pending, Verdict::Failed(failure)).await,
            Next::Again(pending, after) => {
                self.voice.say(&Event::Retried { provider: &self.name, failure: &failure, after });
                self.order += 1;
                self.due.push(Due { at: clock::now() + after, order: self.order, pending });
                Ok(())
            }
        }
    }

    /// Cuts off what is in flight; what has arrived whole is still handed over.
    async fn abort(&mut self) {
        self.flights.abort_all();
        while let Some(landed) = self.flights.join_next().await {
            if let Ok((pending, _, Landed::Paid(paid))) = landed
                && self.reply(pending, Verdict::Paid(paid)).await.is_err()
            {
                return;
            }
        }
    }

    /// Gives back everything that is not in flight.
    async fn hand_back(&mut self) -> Result<(), Gone> {
        while let Ok(request) = self.inbox.try_recv() {
            self.ready.push_back(Pending::new(request, &self.policy));
        }
        let due = std::mem::take(&mut self.due).into_iter().map(|due| due.pending);
        let unsent: Vec<Pending> = std::mem::take(&mut self.ready).into_iter().chain(due).collect();
        for pending in unsent {
            self.reply(pending, Verdict::Unsent).await?;
        }
        Ok(())
    }

    async fn reply(&self, pending: Pending, verdict: Verdict) -> Result<(), Gone> {
        let Pending { request, attempts, .. } = pending;
        let reply = Reply { cell: request.cell, question: request.question, attempts, verdict };
        self.outbox.send(reply).await.map_err(|_| Gone)
    }
}

/// How an attempt ended.
enum Landed {
    Paid(Box<Paid>),
    Lost(JournalError),
    Failed(Failure),
}

/// Puts an answer into the journal, still as part of its flight: a request is in flight until then.
fn keep(pending: &Pending, provider: Arc<str>, model: &Arc<str>, paid: Paid) -> Landed {
    let Request { question, receipt, .. } = &pending.request;
    let record = Record {
        key: receipt.key.clone(),
        step: Arc::clone(&receipt.step),
        fingerprint: question.fingerprint,
        provider,
        model: Arc::clone(model),
        attempts: pending.attempts,
        latency_ms: u64::try_from(paid.latency.as_millis()).unwrap_or(u64::MAX),
        outcome: Outcome::Response(paid.body.clone()),
    };
    match receipt.journal.append([&record]) {
        Ok(()) => Landed::Paid(Box::new(paid)),
        Err(error) => Landed::Lost(error),
    }
}

/// Nobody listens any more.
struct Gone;

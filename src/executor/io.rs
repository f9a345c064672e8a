//! The channels and shared state that connect an executor to the enricher.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};

use super::provider_health::ProviderHealth;
use super::request::{Mode, Reply, Request};
use crate::budget::Account;
use crate::clock::Jitter;
use crate::event::Voice;

/// The channels and shared state that connect an executor to the enricher.
#[derive(Debug)]
pub struct ExecutorIo {
    /// Index of the executor's provider, which its replies carry.
    pub provider: usize,
    /// Requests to send.
    pub inbox: mpsc::Receiver<Request>,
    /// Replies, one for each request, as many at once as are there.
    pub outbox: mpsc::Sender<Vec<Reply>>,
    /// What the executor may do.
    pub mode: watch::Receiver<Mode>,
    /// Notified when the executor can take more rows.
    pub capacity_freed: Arc<Notify>,
    /// Whether the provider takes rows, as reported to the enricher.
    pub health: ProviderHealth,
    /// Number of rows that the executor keeps ready.
    pub capacity: usize,
    /// Whether the provider is sent nothing but requests for vectors.
    pub only_embeds: bool,
    /// Whether each request limits the tokens of its answer, so that its worst case is known.
    pub limits_tokens: bool,
    /// Whether another provider can take its rows; then they are handed back while this one fails.
    pub has_fallback: bool,
    /// The account of the budget.
    pub account: Account,
    /// Random numbers for delays.
    pub jitter: Jitter,
    /// Receives the events.
    pub voice: Voice,
}

//! A step that is ready to ask, and the way to the provider that it asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Params;
use crate::dispatch::Request;
use crate::prompt::Prompt;

/// The way to a provider.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) name: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) inbox: mpsc::Sender<Request>,
}

/// A step, ready to ask.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) output: Arc<str>,
    /// Fingerprint of templates and parameters, as text.
    pub(super) template: Arc<str>,
    pub(super) prompt: Prompt,
    pub(super) params: Arc<Params>,
    pub(super) deadline: Duration,
    /// Position among the lanes.
    pub(super) lane: usize,
}

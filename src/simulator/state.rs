//! Settings and state that all requests to a simulator share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::counts::Counts;
use super::hold::Gate;
use super::model::SimulatedModel;
use crate::config::{Prices, SimulatorSpec};

/// Settings and state that all requests share.
#[derive(Debug)]
pub(super) struct ServerShared {
    pub(super) spec: SimulatorSpec,
    pub(super) prices: Prices,
    pub(super) state: Mutex<ServerState>,
    pub(super) gate: watch::Sender<Gate>,
}

/// Mutable part of the shared state.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) counts: Counts,
    pub(super) model: SimulatedModel,
    pub(super) next_in_script: usize,
    /// Requests that are processed even if their clients disconnect.
    pub(super) tasks: JoinSet<()>,
}

impl ServerShared {
    pub(super) fn lock(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

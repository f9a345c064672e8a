//! Settings and state that all requests to a simulator share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::answer::chance;
use super::counts::Counts;
use super::hold::Gate;
use super::model::SimulatedModel;
use super::stored::StoredBatches;
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
    pub(super) batches: StoredBatches,
    /// Number of draws for faults of files and batches.
    pub(super) batch_draws: u64,
    /// Requests that are processed even if their clients disconnect.
    pub(super) tasks: JoinSet<()>,
}

impl ServerShared {
    pub(super) fn lock(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws whether a fault applies to a request about files or batches.
    pub(super) fn draws_batch_fault(&self, purpose: &str, share: f64) -> bool {
        if share == 0.0 {
            return false;
        }
        let nth = {
            let mut state = self.lock();
            state.batch_draws += 1;
            state.batch_draws
        };
        chance(self.spec.seed, purpose, "", nth) < share
    }
}

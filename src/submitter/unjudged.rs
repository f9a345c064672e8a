//! Batches whose collected answers the enricher has not looked at yet. Until it has, nothing is sent to the provider that
//! costs money: the answers may show that the job should stop.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Instant};
use crate::ident::BatchId;

/// Longest time for which answers are waited for to be looked at; a batch may have no room in the window for long.
const LONGEST: Duration = Duration::from_secs(300);

/// Batches that are to be judged. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct UnjudgedBatches {
    batches: Arc<Mutex<(BTreeSet<BatchId>, Option<Instant>)>>,
    judged: Arc<Notify>,
}

impl UnjudgedBatches {
    fn batches(&self) -> MutexGuard<'_, (BTreeSet<BatchId>, Option<Instant>)> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds batches whose answers have come back.
    pub(super) fn add(&self, batches: impl IntoIterator<Item = BatchId>) {
        let mut own = self.batches();
        own.0.extend(batches);
        own.1 = Some(clock::now());
    }

    /// Notes of which batches the answers have been looked at.
    pub fn judge(&self, is_looked_at: impl Fn(BatchId) -> bool) {
        let mut own = self.batches();
        if !own.0.is_empty() {
            own.0.retain(|batch| !is_looked_at(*batch));
            if own.0.is_empty() {
                self.judged.notify_one();
            }
        }
    }

    /// Whether answers are to be looked at before anything else is paid for.
    pub(super) fn is_waited_for(&self) -> bool {
        let own = self.batches();
        !own.0.is_empty() && own.1.is_some_and(|since| clock::now() - since < LONGEST)
    }

    /// Waits until all batches have been looked at.
    pub(super) async fn judged(&self) {
        self.judged.notified().await;
    }
}

//! The bytes of journals that wait to be copied to the object store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The bytes that wait to be copied.
#[derive(Clone, Debug)]
pub(super) struct PendingCopies {
    pub(super) bytes: Arc<AtomicU64>,
    /// Number of waiting bytes at which the next round starts at once.
    pub(super) most: u64,
    pub(super) urgent: Arc<Notify>,
}

impl PendingCopies {
    pub(super) fn add(&self, bytes: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.most {
            self.urgent.notify_one();
        }
    }
}

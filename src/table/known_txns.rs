//! `txn` actions of a table's log ("Transaction Identifiers" in the Delta protocol), and those that were looked up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A `txn` action, which states that this application has committed up to this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Name of the application.
    pub app_id: String,
    /// Number that rises with every commit of the application.
    pub version: i64,
}

/// The newest `txn` actions of applications that were looked up, which saves searching the whole log after every
/// commit. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownTxns(Arc<Mutex<HashMap<String, KnownTxn>>>);

/// The newest `txn` action of an application as of a version of the table; `None` if there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownTxn {
    pub(super) as_of: u64,
    pub(super) newest: Option<i64>,
}

impl KnownTxns {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, KnownTxn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a commit of this process, which made a version with these `txn` actions and no others.
    pub(super) fn absorb_commit(&self, version: u64, txns: &[Txn]) {
        let mut all = self.lock();
        for (app_id, known) in all.iter_mut().filter(|(_, known)| known.as_of + 1 == version) {
            let own = txns.iter().find(|txn| txn.app_id == *app_id);
            known.newest = own.map(|txn| txn.version).or(known.newest);
            known.as_of = version;
        }
    }
}

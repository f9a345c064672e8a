//! The states of batches and rows, as a pure state machine.
//!
//! It knows no files, sockets or time: the caller takes tasks from it, carries them out and reports the results. A
//! seeded simulation ([`simulation`]) checks its guarantees after every step: rows keep their places, batches commit in
//! order and once, the window holds, and a slow row holds back nothing but its own batch's commit.

mod batch;
mod machine;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod withdrawals;

pub use batch::Urgency;
pub use machine::{CommitOrder, Ledger, LedgerTask, Window};

//! The states of batches and rows as a pure state machine.
//!
//! It knows neither files nor sockets nor time: the engine asks it for duties, carries them out and tells
//! it what came of them. What it guarantees is checked by a seeded simulation after every step
//! ([`simulation`]): rows keep their places, batches commit in order and once, the window holds, and a
//! slow row holds back nothing but its own batch's commit.

mod batch;
mod machine;
#[cfg(test)]
mod simulation;

pub use machine::{Ledger, LedgerTask, Window};

//! One dispatcher per provider: holds what is ready, fresh rows and due retries, and takes it through
//! admission into transport.
//!
//! It decides when and how often; what an answer means is for those it reports to. Every request that
//! enters comes back exactly once: paid, failed, or unsent.

mod dispatcher;
mod retry;

pub use dispatcher::{Dispatcher, Mode, Reply, Request, Verdict};

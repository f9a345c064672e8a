//! One dispatcher per provider: holds what is ready, fresh rows and due retries, and takes it through
//! admission into transport.
//!
//! It decides when and how often; what an answer means is for those it reports to. Every request that
//! enters comes back exactly once: paid and kept, failed, or unsent. A request is in flight until its
//! answer is in the journal, so that a kill costs no more answers than there were requests in flight.

mod dispatcher;
mod retry;
mod told;

pub use dispatcher::{Dispatcher, Mode, Receipt, Reply, Request, Verdict};

//! One dispatcher per provider: it takes what is ready, fresh rows and due retries, through admission into transport.
//!
//! It decides when and how often to send; what an answer means is for the receiver of its replies. Every request comes
//! back exactly once: paid and kept, failed, or unsent. A request is in flight until its answer is in the journal, so
//! that a kill costs no more answers than there were requests in flight.

mod ask;
mod attempt;
mod budget;
mod dispatcher;
mod learned_limits;
mod provider_health;
mod request;
mod request_batcher;
mod results;
mod retry;
mod state_reporter;
mod stragglers;

pub use ask::{RequestSender, harmless_question};
pub use dispatcher::{Dispatcher, DispatcherIo};
pub use learned_limits::{LearnedLimit, LearnedLimits};
pub use provider_health::ProviderHealth;
pub use request::{Earlier, Mode, Receipt, Reply, Request, Verdict};

//! One dispatcher per provider: it takes what is ready, fresh rows and due retries, through admission into transport.
//!
//! It decides when and how often to send; what an answer means is for the receiver of its replies. Every request comes
//! back exactly once: paid and kept, failed, or unsent. A request is in flight until its answer is in the journal, so
//! that a kill costs no more answers than there were requests in flight.

mod attempt;
mod dispatcher;
mod learned_limits;
mod request_batcher;
mod request_sender;
mod results;
mod retry;
mod retry_budget;
mod state_reporter;
mod stragglers;

pub use dispatcher::Dispatcher;
pub use learned_limits::{LearnedLimits, LearnedProvider};
pub use request_sender::{RequestSender, harmless_question};

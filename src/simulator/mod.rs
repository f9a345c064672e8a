//! An OpenAI-compatible server on loopback, with limits and faults, for first sight and for tests.
//!
//! It speaks real HTTP and answers every prompt with a text that depends on the prompt alone
//! ([`answer_to`]). It counts what it is asked and what it answered; what it does not know it refuses
//! loudly, and remembers.

mod answer;
mod counts;
mod limit;
mod model;
mod server;

pub use answer::{answer_to, choose};
pub use counts::Counts;
pub use model::{Model, Refusal};
pub use server::Simulator;

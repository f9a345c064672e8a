//! A job as a service: other programs post batches of rows and get their outcomes back.
//!
//! A [`Service`] is the session of a run with other ends. Its batches are posted one by one ([`feed`]), and the outcomes
//! go to whoever waits for them ([`drain`]); between the two, the register of posted batches says who waits for what
//! ([`register`]). Quota, budget, learned limits and journals are those of the one session. The answers of an epoch stay
//! in its journal until the poster says that its table has them, so that a batch which is posted again, by a task that
//! is tried again or to a service that was killed, costs nothing.

mod columns;
mod drain;
mod error;
mod feed;
mod keys;
mod register;
mod server;
mod sweeper;

pub use error::ServiceError;
pub use register::Posting;
pub use server::{Service, ServiceOptions, ServiceState};

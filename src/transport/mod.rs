//! One request to one endpoint: sent, bounded in time and size, and classified.
//!
//! The only module that names reqwest. It does not retry, wait or count: that is for those who call it.
//! Failures are told apart by status and typed fields of the body, never by searching its text.

mod classify;
mod endpoint;
mod forms;
mod key;

pub use classify::{ResponseHeaders, classify};
pub use endpoint::{Endpoint, EndpointError, Paid, SendResult};

//! One request to one endpoint: sent, bounded in time and size, and classified; and the files and batches of a provider.
//!
//! The only module that names reqwest. It does not retry failures, wait for limits or count; its callers do. It sends
//! a request again only in another schema form or with a renewed key. Failures are classified by status and typed
//! fields of the body; phrases of a message count only where servers have no code.

mod batch_api;
mod batch_shape;
mod classify;
mod connection;
mod endpoint;
mod error;
mod forms;
mod key;
mod request_body;

pub use batch_api::{BatchApi, BatchCreation, BatchCreationRefusal, RefusalSubject};
pub use classify::{ResponseHeaders, classify, classify_line};
pub use endpoint::{Endpoint, Paid, SendResult};
pub use error::EndpointError;

//! The HTTP interface of a [`Service`](crate::service::Service): record batches in, outcomes out, as Arrow IPC streams.
//!
//! ```text
//! GET  /v1/job                                   what is served
//! POST /v1/schema                                columns of rows → columns that they get
//! PUT  /v1/batches/ID?epoch=N&wait=SECONDS       rows → their outcomes, or 202 while they are not there
//! GET  /v1/batches/ID?epoch=N&wait=SECONDS       the same for a batch that was put before; 404 if it is not known
//! POST /v1/epochs/N/committed                    the outcomes of the epoch are where they are to stay
//! GET  /v1/status                                the state of the service
//! ```
//! An ID is 16 to 64 hexadecimal digits that stand for the content of a batch. Every request may be sent again. A full
//! window is 503 with `Retry-After`; a job that has ended is 409 with the reason and the exit status of `enrich serve`.

mod body;
mod interface;
mod listener;
mod reply;

pub use interface::{HttpSettings, serve};
pub use listener::{ServedListener, TlsError, tls};

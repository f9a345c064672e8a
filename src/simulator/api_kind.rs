//! How a request came to the simulator.

use axum::http::HeaderMap;

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub(super) enum ApiKind<'a> {
    /// By itself, with these headers.
    Synchronous(&'a HeaderMap),
    /// As a line of a batch, to which no limits apply and whose key was checked.
    InBatch,
}

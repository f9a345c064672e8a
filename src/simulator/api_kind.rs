//! The kind of interface by which a request reaches the simulator.

use axum::http::HeaderMap;

/// The interface of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum ApiKind<'a> {
    /// The synchronous interface: one HTTP request, with these headers.
    Synchronous(&'a HeaderMap),
    /// The Batch API: a line of a file. No rate limit applies to it, and the key of the batch was checked.
    InBatch,
}

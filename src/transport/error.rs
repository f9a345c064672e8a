//! Why an endpoint cannot be created: its HTTP client, its headers or its key.

/// Why an endpoint cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The HTTP client does not start.
    #[error("provider {provider:?}: cannot start the HTTP client: {message}")]
    Client {
        /// Name of the provider.
        provider: String,
        /// Cause, as the HTTP client states it.
        message: String,
    },
    /// A header has a name or a value that cannot be sent.
    #[error(
        "provider {provider:?}: the value of the header {header:?} holds characters that no header can carry"
    )]
    Header {
        /// Name of the provider.
        provider: String,
        /// Name of the header.
        header: String,
    },
}

//! Serves the figures of a run to Prometheus for as long as it goes on.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::prometheus::{CONTENT_TYPE, prometheus};
use crate::ident::AppId;
use crate::tally::Tally;

/// Starts to serve `/metrics` and returns the address; with port 0 the system picks the port. The server ends with the
/// set of tasks.
///
/// # Errors
/// When the address cannot be bound.
pub async fn scrape(
    address: SocketAddr,
    app_id: AppId,
    tally: Tally,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let figures = move || async move {
        match prometheus(&app_id, &tally.totals(), None) {
            Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    };
    let router = Router::new().route("/metrics", get(figures));
    tasks.spawn(async move {
        // The server runs until it is aborted.
        let _ = axum::serve(listener, router).await;
    });
    Ok(address)
}

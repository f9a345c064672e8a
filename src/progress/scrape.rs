//! Serves the figures of a run to whoever scrapes them, for as long as it goes on.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::prometheus::{CONTENT_TYPE, prometheus};
use crate::tally::Tally;

/// Begins to serve `/metrics`; the address may leave the port to the system, with 0. Gives the address; the server ends
/// with the set.
///
/// # Errors
/// When the address cannot be had.
pub async fn scrape(
    address: SocketAddr,
    app_id: String,
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
        // It serves until it is aborted.
        let _ = axum::serve(listener, router).await;
    });
    Ok(address)
}

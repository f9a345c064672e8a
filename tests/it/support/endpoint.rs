//! A server that notes what it is sent and answers as it is told.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::Value;
use tokio::task::JoinSet;

pub const ANSWER: &str =
    r#"{"model":"m-2026","choices":[{"message":{"content":"yes"},"finish_reason":"stop"}]}"#;

/// What the server was sent: path and query, headers, body.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<(String, HeaderMap, Value)>>>);

impl Seen {
    /// Everything since the last call.
    pub fn take(&self) -> Vec<(String, HeaderMap, Value)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub type Answer = fn(&HeaderMap) -> Response;

/// Starts the server; it ends with the tasks that are handed back.
pub async fn serve(answer: Answer) -> (String, Seen, JoinSet<()>) {
    let seen = Seen::default();
    let note = move |State(seen): State<Seen>, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let response = answer(&headers);
        let body = serde_json::from_slice(&body).unwrap();
        seen.0.lock().unwrap().push((uri.to_string(), headers, body));
        response
    };
    let router = Router::new().fallback(any(note)).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, seen, tasks)
}

/// The usual answer.
pub fn plain(_: &HeaderMap) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], ANSWER).into_response()
}

//! The routes of the interface.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::body;
use super::listener::ServedListener;
use super::reply::{self, StatusOf};
use crate::ident::Fingerprint;
use crate::service::{Posting, Service, ServiceError};

/// Number of this interface, for clients.
const INTERFACE: u32 = 1;
/// Longest wait for outcomes in one request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Usual wait.
const WAIT: u64 = 25;
/// Most bytes of a schema.
const MAX_SCHEMA_BYTES: usize = 16 << 20;
/// Longest time that a body may take to arrive.
const BODY: Duration = Duration::from_secs(60);
/// Bytes for which there is one permit to receive a body.
const BYTES_OF_PERMIT: u64 = 1_024;

/// Settings of the interface.
pub struct HttpSettings {
    /// What clients have to send as bearer token; `None` if anybody may ask.
    pub token: Option<String>,
    /// Returns the exit status that stands for an end, which clients are told.
    pub status_of: StatusOf,
}

struct HttpInterface {
    service: Arc<Service>,
    token: Option<Fingerprint>,
    status_of: StatusOf,
    /// Room for bodies that are being received.
    room: Arc<Semaphore>,
}

/// Serves a service until `shutdown` is done, then until the requests under way are answered.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    service: Arc<Service>,
    listener: ServedListener,
    settings: HttpSettings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let permits = permits(service.job().window.max_bytes);
    let interface = Arc::new(HttpInterface {
        service,
        token: settings.token.map(|token| Fingerprint::of([token.as_bytes()])),
        status_of: settings.status_of,
        room: Arc::new(Semaphore::new(permits as usize)),
    });
    let router = Router::new()
        .route("/v1/job", get(job))
        .route("/v1/schema", post(schema))
        .route("/v1/batches/{id}", put(put_batch).get(get_batch))
        .route("/v1/epochs/{epoch}/committed", post(committed))
        .route("/v1/status", get(status))
        .fallback(unknown)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&interface), authorize))
        .with_state(interface);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

fn permits(bytes: u64) -> u32 {
    let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
    u32::try_from(bytes.div_ceil(BYTES_OF_PERMIT)).unwrap_or(most).min(most)
}

/// Lets those pass who have the token.
async fn authorize(State(interface): State<Arc<HttpInterface>>, request: Request, next: Next) -> Response {
    if let Some(token) = interface.token {
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        // Hashes are compared, so that the time it takes says nothing of the token.
        if given.is_none_or(|given| Fingerprint::of([given.as_bytes()]) != token) {
            let text = "the bearer token is missing or wrong; it is what the file of --token-file holds";
            return reply::message(StatusCode::UNAUTHORIZED, text);
        }
    }
    next.run(request).await
}

async fn unknown() -> Response {
    reply::message(StatusCode::NOT_FOUND, "there is no such address; this is enrich serve")
}

async fn job(State(interface): State<Arc<HttpInterface>>) -> Response {
    let job = interface.service.job();
    let steps: Vec<&str> = job.steps.iter().map(|step| step.output.as_str()).collect();
    let window = json!({ "max_rows": job.window.max_rows, "max_bytes": job.window.max_bytes });
    Json(json!({
        "interface": INTERFACE,
        "version": env!("CARGO_PKG_VERSION"),
        "app_id": job.app_id,
        "steps": steps,
        "metadata_column": job.target.metadata_column,
        "window": window,
    }))
    .into_response()
}

async fn status(State(interface): State<Arc<HttpInterface>>) -> Response {
    Json(interface.service.state()).into_response()
}

async fn committed(State(interface): State<Arc<HttpInterface>>, Path(epoch): Path<u64>) -> Response {
    match interface.service.committed(epoch) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => reply::refused(&error, interface.status_of),
    }
}

async fn schema(State(interface): State<Arc<HttpInterface>>, body: Body) -> Response {
    let body = match to_bytes(body, MAX_SCHEMA_BYTES).await {
        Ok(body) => body,
        Err(error) => return reply::message(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let columns = match body::schema(body) {
        Ok(schema) => interface.service.schema(&schema),
        Err(error) => return reply::message(StatusCode::BAD_REQUEST, error),
    };
    match columns {
        Ok(columns) => encoded(body::stream(&columns, None)),
        Err(error) => reply::refused(&error, interface.status_of),
    }
}

fn encoded(bytes: Result<Vec<u8>, String>) -> Response {
    match bytes {
        Ok(bytes) => reply::arrow(bytes),
        Err(error) => reply::message(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    epoch: u64,
    wait: Option<u64>,
}

impl Wanted {
    fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.unwrap_or(WAIT)).min(LONGEST_WAIT)
    }
}

/// Whether a text may be the name of a batch.
fn is_id(id: &str) -> bool {
    (16..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn no_id() -> Response {
    let text = "the ID of a batch is 16 to 64 hexadecimal digits, of a hash of its content";
    reply::message(StatusCode::BAD_REQUEST, text)
}

async fn put_batch(
    State(interface): State<Arc<HttpInterface>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if !is_id(&id) {
        return no_id();
    }
    let (bytes, permit) = match interface.receive(&headers, body).await {
        Ok(received) => received,
        Err(refused) => return reply::refused(&refused, interface.status_of),
    };
    let rows = match body::rows(bytes) {
        Ok(rows) => rows,
        Err(error) => return reply::message(StatusCode::BAD_REQUEST, error),
    };
    if rows.num_rows() == 0 {
        return match interface.service.schema(&rows.schema()) {
            Ok(columns) => {
                encoded(body::stream(&columns, Some(&arrow::array::RecordBatch::new_empty(columns.clone()))))
            }
            Err(error) => reply::refused(&error, interface.status_of),
        };
    }
    let posting = interface.service.post(wanted.epoch, &id.to_ascii_lowercase(), &rows);
    drop((rows, permit));
    match posting {
        Ok(posting) => interface.answer(posting, wanted.wait()).await,
        Err(error) => reply::refused(&error, interface.status_of),
    }
}

async fn get_batch(
    State(interface): State<Arc<HttpInterface>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    if !is_id(&id) {
        return no_id();
    }
    match interface.service.find(wanted.epoch, &id.to_ascii_lowercase()) {
        Ok(Some(posting)) => interface.answer(posting, wanted.wait()).await,
        Ok(None) => {
            reply::message(StatusCode::NOT_FOUND, "the batch is not known, or not any more: put it again")
        }
        Err(error) => reply::refused(&error, interface.status_of),
    }
}

impl HttpInterface {
    /// Receives a body, for which there is to be room.
    async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, OwnedSemaphorePermit), ServiceError> {
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let Some(length) = length else {
            return Err(ServiceError::Rows("the request has no Content-Length".to_owned()));
        };
        let most = self.service.job().window.max_bytes;
        if length > most {
            return Err(ServiceError::TooLarge(format!(
                "a body of {length} bytes is larger than window.max_bytes = {most}; post smaller batches"
            )));
        }
        let permit = Arc::clone(&self.room).try_acquire_many_owned(permits(length));
        let permit = permit.map_err(|_| ServiceError::Full)?;
        let cut = |error: &dyn Display| ServiceError::Rows(format!("the body did not arrive whole: {error}"));
        let bytes = timeout(BODY, to_bytes(body, usize::try_from(length).unwrap_or(usize::MAX))).await;
        let bytes = bytes.map_err(|_| cut(&"it takes longer than a minute; post smaller batches"))?;
        Ok((bytes.map_err(|error| cut(&error))?, permit))
    }

    /// Waits for outcomes.
    async fn answer(&self, mut posting: Posting, wait: Duration) -> Response {
        match posting.outcomes(wait).await {
            Ok(Some(outcomes)) => encoded(body::stream(&outcomes.schema(), Some(&outcomes))),
            Ok(None) => StatusCode::ACCEPTED.into_response(),
            Err(error) => reply::refused(&error, self.status_of),
        }
    }
}

//! Batches: creation, lists, states and cancellation.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde_json::Value;

use super::answer::BYTES_OF_TOKEN;
use super::batch_shapes::{ReceivedBatch, check_route, created, read_creation};
use super::batch_work::work_off;
use super::files::{enter, enter_again};
use super::list_pages::list_page;
use super::reply::{ErrorReply, hang_up, invalid, refuse, respond, success};
use super::state::ServerShared;
use super::stored::{FileContent, SimulatedBatch, SimulatedBatchState};
use crate::clock::{self, Instant};
use crate::config::{BatchShape, BatchesSpec};

/// Maximum and usual length of a list of batches.
const LONGEST_LIST: usize = 100;
const USUAL_LIST: usize = 20;
const LATE_BY: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Interfaces whose requests can be lines.
pub(super) const ENDPOINTS: [&str; 2] = ["/v1/chat/completions", "/v1/embeddings"];

fn no_batch(id: &str) -> ErrorReply {
    Box::new(refuse(404, "not_found", &format!("No batch found with id '{id}'.")))
}

/// Whether a time has passed since something was made.
fn is_over(lag: Option<crate::config::Span>, made: Instant) -> bool {
    lag.is_none_or(|lag| clock::now() >= made + lag.0)
}

/// As [`enter_again`], for requests about batches.
fn enter_batches<'a>(
    shared: &'a ServerShared,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<(&'a BatchesSpec, String), ErrorReply> {
    let (spec, key) = enter_again(shared, headers)?;
    check_route(spec.shape, uri.path())?;
    Ok((spec, key))
}

pub(super) async fn create(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Response {
    respond(|| try_create(&shared, &headers, &uri, &body))
}

fn try_create(
    shared: &Arc<ServerShared>,
    headers: &HeaderMap,
    uri: &Uri,
    body: &[u8],
) -> Result<Response, ErrorReply> {
    let (spec, key) = enter(shared, headers)?;
    check_route(spec.shape, uri.path())?;
    let request = read_creation(shared, spec.shape, body)?;
    if !ENDPOINTS.contains(&request.endpoint.as_str()) {
        let message = format!("Invalid value: '{}' cannot be batched.", request.endpoint);
        return Err(invalid("invalid_value", &message, Some("endpoint")));
    }
    if request.completion_window.is_empty() {
        return Err(invalid("invalid_value", "Missing 'completion_window'.", Some("completion_window")));
    }
    if shared.draws_batch_fault("refused creation", spec.refused_creations) {
        return Err(Box::new(refuse(500, "server_error", "a configured fault")));
    }
    let idempotency_key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    if spec.honours_key && idempotency_key.is_some() {
        let mut state = shared.lock();
        let first = state.batches.batches.iter_mut().find(|batch| batch.idempotency_key == idempotency_key);
        if let Some(first) = first {
            return Ok(success(created(spec.shape, first.show(spec)).to_string()));
        }
    }
    let input = {
        let state = shared.lock();
        let file = state.batches.file(&request.input_file_id, &key, spec);
        let Some(file) = file.filter(|file| is_over(spec.file_lag, file.made)) else {
            let id = &request.input_file_id;
            let message = format!("Cannot find file {id}, or the project does not have access to it.");
            return Err(invalid("invalid_request_error", &message, Some("input_file_id")));
        };
        let waiting = state.batches.enqueued_tokens() + file.content.len / BYTES_OF_TOKEN;
        if let Some(most) = spec.enqueued_tokens.filter(|most| spec.refuses_enqueued && waiting > *most) {
            let message = format!("Enqueued token limit reached. Limit: {most} enqueued tokens.");
            return Err(invalid("token_limit_exceeded", &message, None));
        }
        file.content.clone()
    };
    let make = move |shared: &Arc<ServerShared>| make_batch(shared, request, input, key, idempotency_key);
    if shared.draws_batch_fault("late creation", spec.late_creations) {
        let late_by = spec.late_by.map_or(LATE_BY, |late_by| late_by.0);
        let later = Arc::clone(shared);
        shared.lock().tasks.spawn(async move {
            tokio::time::sleep(late_by).await;
            make(&later);
        });
        return Ok(hang_up());
    }
    let is_lost = shared.draws_batch_fault("lost creation", spec.lost_creations);
    let made = make(shared);
    Ok(if is_lost { hang_up() } else { success(created(spec.shape, made).to_string()) })
}

/// Makes a batch and starts to work on it. Returns how it is shown.
fn make_batch(
    shared: &Arc<ServerShared>,
    request: ReceivedBatch,
    input: FileContent,
    key: String,
    idempotency_key: Option<String>,
) -> Value {
    let Some(spec) = &shared.spec.batches else { return Value::Null };
    let (now, wall) = (clock::now(), clock::wall());
    let window = spec.window.map_or(WINDOW, |window| window.0);
    let mut state = shared.lock();
    let counts = &mut state.counts.batches;
    counts.created += 1;
    *counts.by_file.entry(request.input_file_id.clone()).or_default() += 1;
    let metadata = request.metadata.map_or(Value::Null, Value::Object);
    if let Some(id) = metadata["enrich"].as_str() {
        *counts.by_id.entry(id.to_owned()).or_default() += 1;
    }
    let mut batch = SimulatedBatch {
        id: format!("batch_{}", uuid::Uuid::new_v4().simple()),
        number: u32::try_from(state.batches.batches.len()).unwrap_or(u32::MAX),
        endpoint: request.endpoint,
        model: request.model,
        input,
        input_id: request.input_file_id,
        completion_window: request.completion_window,
        metadata,
        key,
        idempotency_key,
        state: SimulatedBatchState::Validating,
        made: now,
        created: wall,
        expires: now + window,
        expires_at: wall + window,
        enqueued_tokens: 0,
        total: 0,
        completed: 0,
        failed: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
        errors: None,
        output_file: None,
        error_file: None,
        ended: None,
        was_seen_ended: false,
        has_revived: false,
    };
    let shown = batch.show(spec);
    state.tasks.spawn(work_off(Arc::clone(shared), batch.id.clone()));
    state.batches.batches.push(batch);
    shown
}

pub(super) async fn list(State(shared): State<Arc<ServerShared>>, headers: HeaderMap, uri: Uri) -> Response {
    respond(|| {
        let (spec, key) = enter_batches(&shared, &headers, &uri)?;
        let mut state = shared.lock();
        state.counts.batches.lists += 1;
        let newest_first = state.batches.batches.iter_mut().rev();
        let seen =
            newest_first.filter(|batch| batch.is_seen_with(&key, spec) && is_over(spec.list_lag, batch.made));
        let shown: Vec<Value> = seen.map(|batch| batch.show(spec)).collect();
        let mut list = list_page(spec.shape, &shown, &uri, LONGEST_LIST, USUAL_LIST)?;
        Ok(success(match spec.shape {
            BatchShape::Openai | BatchShape::Mistral => list.to_string(),
            BatchShape::Together => list["data"].take().to_string(),
        }))
    })
}

pub(super) async fn get(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    uri: Uri,
) -> Response {
    respond(|| {
        let (spec, key) = enter_batches(&shared, &headers, &uri)?;
        let mut state = shared.lock();
        state.counts.batches.polls += 1;
        let batch = state.batches.batch(&id);
        let batch = batch.filter(|batch| batch.is_seen_with(&key, spec) && is_over(spec.get_lag, batch.made));
        Ok(success(batch.ok_or_else(|| no_batch(&id))?.show(spec).to_string()))
    })
}

pub(super) async fn cancel(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    uri: Uri,
) -> Response {
    respond(|| {
        let (spec, key) = enter_batches(&shared, &headers, &uri)?;
        let mut state = shared.lock();
        state.counts.batches.cancellations += 1;
        let batch = state.batches.batch(&id).filter(|batch| batch.is_seen_with(&key, spec));
        let batch = batch.ok_or_else(|| no_batch(&id))?;
        if batch.state.is_end() {
            let message = format!("Cannot cancel a batch with status '{}'.", batch.state.name());
            return Err(Box::new(refuse(409, "conflict", &message)));
        }
        batch.state = SimulatedBatchState::Cancelling;
        Ok(success(batch.show(spec).to_string()))
    })
}

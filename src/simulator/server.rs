//! The server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use super::answer::{answer_to, chance, tokens_of};
use super::counts::Counts;
use super::limit::Limiter;
use crate::clock;
use crate::config::{FaultSpec, SimulatorSpec};

const LARGEST_REQUEST: usize = 64 << 20;

/// A running simulator; it ends when it is dropped.
#[derive(Debug)]
pub struct Simulator {
    url: Url,
    shared: Arc<Shared>,
    server: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    spec: SimulatorSpec,
    state: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    counts: Counts,
    requests: Option<Limiter>,
    tokens: Option<Limiter>,
    next_in_script: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Simulator {
    /// Starts a simulator on a port of the loopback address; 0 takes any that is free.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start(spec: SimulatorSpec, port: u16) -> std::io::Result<Simulator> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|stream| {
            // Without it answers wait for acknowledgements.
            let _ = stream.set_nodelay(true);
        });
        let now = clock::now();
        let shared = Arc::new(Shared {
            state: Mutex::new(Inner {
                counts: Counts::default(),
                requests: spec.requests.as_ref().map(|limit| Limiter::new(limit, now)),
                tokens: spec.tokens.as_ref().map(|limit| Limiter::new(limit, now)),
                next_in_script: 0,
            }),
            spec,
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/v1/models", get(models))
            .route("/simulator/counts", get(counts))
            .fallback(unknown)
            .layer(axum::extract::DefaultBodyLimit::max(LARGEST_REQUEST))
            .with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move {
            // It serves until it is aborted.
            let _ = axum::serve(listener, router).await;
        });
        let url = Url::parse(&format!("http://{address}/v1")).map_err(std::io::Error::other)?;
        Ok(Simulator { url, shared, server })
    }

    /// What a job's `base_url` would be.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts.clone()
    }

    /// Serves until something goes wrong or the caller stops waiting.
    pub async fn serve(mut self) {
        self.server.join_next().await;
    }
}

#[derive(Deserialize)]
struct Asked {
    model: String,
    messages: Vec<Said>,
    #[serde(default)]
    max_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

/// Counts a request as in flight for as long as it lives, also when the client goes away.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.lock().counts.began();
        InFlight(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().counts.in_flight -= 1;
    }
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let _in_flight = InFlight::begin(&shared);
    let response = respond(&shared, &headers, &body).await;
    let status = if response.extensions().get::<HangUp>().is_some() { 0 } else { response.status().as_u16() };
    *shared.lock().counts.statuses.entry(status).or_default() += 1;
    response
}

async fn respond(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Response {
    let spec = &shared.spec;
    let asked: Asked = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => {
            shared.lock().counts.requests += 1;
            return refuse(
                400,
                "invalid_request_error",
                &format!("we could not parse the body: {error}"),
                None,
            );
        }
    };
    let prompt =
        asked.messages.iter().rfind(|said| said.role == "user").map_or("", |said| said.content.as_str());
    let nth = shared.lock().counts.asked(prompt);
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(key) = &spec.api_key
        && given != Some(&format!("Bearer {key}"))
    {
        return refuse(401, "invalid_api_key", "Incorrect API key provided.", None);
    }
    if spec.model.as_ref().is_some_and(|model| *model != asked.model) {
        let message = format!("The model `{}` does not exist", asked.model);
        return refuse(404, "model_not_found", &message, None);
    }
    let prompt_tokens: u64 = asked.messages.iter().map(|said| tokens_of(&said.content)).sum();
    if let Some(wait) = throttle(shared, prompt_tokens + asked.max_tokens.unwrap_or_default()) {
        let seconds = format!("{:.3}", wait.as_secs_f64());
        let message = format!("Rate limit reached. Please try again in {seconds}s.");
        return refuse(429, "rate_limit_exceeded", &message, Some(&seconds));
    }
    if let Some(latency) = spec.latency {
        tokio::time::sleep(spread(latency.0, spec, prompt, nth.into())).await;
    }
    let fault = match next_in_script(shared) {
        Some(Ok(scripted)) => Some(scripted),
        Some(Err(exhausted)) => return exhausted,
        None => fault_for(spec, prompt, nth),
    };
    if let Some(fault) = &fault {
        if let Some(delay) = fault.delay {
            tokio::time::sleep(delay.0).await;
        }
        if let Some(response) = go_wrong(fault) {
            return response;
        }
    }
    let answer = answer_to(prompt);
    let finish_reason = fault.as_ref().and_then(|fault| fault.finish_reason.clone());
    let content = if finish_reason.is_some() { Value::Null } else { Value::String(answer.clone()) };
    let completion_tokens = if finish_reason.is_some() { 0 } else { tokens_of(&answer) };
    shared.lock().counts.answered(prompt);
    let body = json!({
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "model": asked.model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": finish_reason.as_deref().unwrap_or("stop"),
        }],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    });
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn throttle(shared: &Shared, tokens: u64) -> Option<Duration> {
    let now = clock::now();
    let mut inner = shared.lock();
    #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    let tokens = tokens as f64;
    let requests = inner.requests.as_mut().and_then(|limiter| limiter.take(1.0, now).err());
    requests.or_else(|| inner.tokens.as_mut().and_then(|limiter| limiter.take(tokens, now).err()))
}

/// The median, or a log-normal latency around it (Box and Muller, 1958).
fn spread(median: Duration, spec: &SimulatorSpec, prompt: &str, nth: u64) -> Duration {
    if spec.latency_sigma == 0.0 {
        return median;
    }
    let (u, v) = (chance(spec.seed, "u", prompt, nth), chance(spec.seed, "v", prompt, nth));
    let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    median.mul_f64((spec.latency_sigma * normal).exp())
}

fn next_in_script(shared: &Shared) -> Option<Result<FaultSpec, Response>> {
    let script = &shared.spec.script;
    if script.is_empty() {
        return None;
    }
    let mut inner = shared.lock();
    let next = script.get(inner.next_in_script).cloned();
    inner.next_in_script += 1;
    Some(next.ok_or_else(|| {
        inner.counts.script_exhausted += 1;
        refuse(500, "script_exhausted", "the simulator's script has run out", None)
    }))
}

fn fault_for(spec: &SimulatorSpec, prompt: &str, nth: u32) -> Option<FaultSpec> {
    let matches = |(at, fault): &(usize, &FaultSpec)| {
        fault.contains.as_ref().is_none_or(|text| prompt.contains(text))
            && fault.times.is_none_or(|times| nth < times)
            && chance(spec.seed, &format!("fault {at}"), prompt, nth.into()) < fault.share
    };
    spec.faults.iter().enumerate().find(matches).map(|(_, fault)| fault.clone())
}

#[derive(Clone)]
struct HangUp;

/// The response of a fault; none for one that only changes the answer.
fn go_wrong(fault: &FaultSpec) -> Option<Response> {
    if fault.hang_up {
        let pieces: [Result<&'static str, std::io::Error>; 2] =
            [Ok("{\"choices\":[{\"message\":"), Err(std::io::ErrorKind::ConnectionReset.into())];
        let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
        response.extensions_mut().insert(HangUp);
        return Some(response);
    }
    let status = fault.status.unwrap_or(if fault.body.is_some() { 200 } else { 500 });
    let mut response = if let Some(body) = &fault.body {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        (status, [(header::CONTENT_TYPE, "application/json")], body.clone()).into_response()
    } else if fault.finish_reason.is_some() || (fault.status.is_none() && fault.delay.is_some()) {
        return None;
    } else {
        let code = fault.code.as_deref().unwrap_or("simulated_fault");
        refuse(status, code, fault.message.as_deref().unwrap_or("a fault that was asked for"), None)
    };
    if let Some(value) = fault.retry_after.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    Some(response)
}

fn refuse(status: u16, code: &str, message: &str, retry_after: Option<&str>) -> Response {
    let body = json!({"error": {"message": message, "type": code, "code": code, "param": null}});
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    if let Some(value) = retry_after.and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let id = shared.spec.model.as_deref().unwrap_or("simulated");
    let body = json!({"object": "list", "data": [{"id": id, "object": "model", "owned_by": "enrich"}]});
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn counts(State(shared): State<Arc<Shared>>) -> Response {
    let body = serde_json::to_string(&shared.lock().counts).unwrap_or_default();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn unknown(State(shared): State<Arc<Shared>>, method: Method, uri: Uri) -> Response {
    let route = format!("{method} {}", uri.path());
    shared.lock().counts.unknown_routes.push(route.clone());
    refuse(404, "unknown_route", &format!("the simulator has no {route}"), None)
}

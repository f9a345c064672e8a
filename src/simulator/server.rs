//! The server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use url::Url;

use super::answer::{answer_to, chance, choose, tokens_of};
use super::counts::Counts;
use super::model::{Model, Refusal};
use crate::clock;
use crate::config::{FaultSpec, Prices, SimulatorSpec};
use crate::ident::{Money, Tokens};

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
    prices: Prices,
    state: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    counts: Counts,
    model: Model,
    next_in_script: usize,
    /// Requests that are worked on whether or not their clients wait.
    tasks: JoinSet<()>,
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
        let shared = Arc::new(Shared {
            state: Mutex::new(Inner {
                counts: Counts::default(),
                model: Model::new(&spec, clock::now()),
                next_in_script: 0,
                tasks: JoinSet::new(),
            }),
            prices: prices(&spec),
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

fn prices(spec: &SimulatorSpec) -> Prices {
    let price = |dollars| Money::per_million(dollars).unwrap_or_default();
    let input = price(spec.price_per_million_input);
    Prices { input, cached_input: input, output: price(spec.price_per_million_output) }
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
    if !shared.spec.bills_the_gone {
        return work(shared, headers, body).await;
    }
    // Its task outlives the connection.
    let (sender, receiver) = oneshot::channel();
    let task = work(Arc::clone(&shared), headers, body);
    shared.lock().tasks.spawn(async move {
        // The client may have gone.
        let _ = sender.send(task.await);
    });
    receiver.await.unwrap_or_else(|_| refuse(500, "stopped", "the simulator stops"))
}

async fn work(shared: Arc<Shared>, headers: HeaderMap, body: Bytes) -> Response {
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
            return refuse(400, "invalid_request_error", &format!("we could not parse the body: {error}"));
        }
    };
    // A conversation goes on about its first question.
    let prompt =
        asked.messages.iter().find(|said| said.role == "user").map_or("", |said| said.content.as_str());
    let nth = shared.lock().counts.asked(prompt);
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(key) = &spec.api_key
        && given != Some(&format!("Bearer {key}"))
    {
        return refuse(401, "invalid_api_key", "Incorrect API key provided.");
    }
    if spec.model.as_ref().is_some_and(|model| *model != asked.model) {
        let message = format!("The model `{}` does not exist", asked.model);
        return refuse(404, "model_not_found", &message);
    }
    let prompt_tokens: u64 = asked.messages.iter().map(|said| tokens_of(&said.content)).sum();
    let takes = match admit(shared, prompt, nth.into(), prompt_tokens, asked.max_tokens) {
        Ok(done) => done.saturating_duration_since(clock::now()),
        Err(refused) => return *refused,
    };
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
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
    let answer = match (fault.as_ref().and_then(|fault| fault.text.clone()), spec.answers.len()) {
        (Some(text), _) => text,
        (None, 0) => answer_to(prompt),
        (None, _) => choose(&spec.answers, spec.seed, prompt),
    };
    let finish_reason = fault.as_ref().and_then(|fault| fault.finish_reason.clone());
    let content = if finish_reason.is_some() { Value::Null } else { Value::String(answer.clone()) };
    let (completion_tokens, cost, limits) = {
        let mut inner = shared.lock();
        let drawn = inner.model.completion_tokens(prompt, nth.into(), asked.max_tokens);
        let completion_tokens =
            if finish_reason.is_some() { 0 } else { drawn.unwrap_or_else(|| tokens_of(&answer)) };
        inner.model.answered(prompt_tokens + completion_tokens, clock::now());
        let tokens = Tokens { prompt: prompt_tokens, cached: 0, completion: completion_tokens };
        let cost = shared.prices.cost(tokens);
        inner.counts.answered(prompt, tokens, cost);
        (completion_tokens, cost, inner.model.headers(clock::now(), clock::wall()))
    };
    let mut usage = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    });
    if spec.tells_cost {
        usage["cost"] = cost.dollars().into();
    }
    let body = json!({
        "id": "chatcmpl-simulated",
        "object": "chat.completion",
        "model": asked.model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": finish_reason.as_deref().unwrap_or("stop"),
        }],
        "usage": usage,
    });
    let mut response =
        (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    add(&mut response, limits);
    response
}

/// Lets a request pass and says when it will be answered, or refuses it.
fn admit(
    shared: &Shared,
    prompt: &str,
    nth: u64,
    prompt_tokens: u64,
    max_tokens: Option<u64>,
) -> Result<clock::Instant, Box<Response>> {
    let (now, wall) = (clock::now(), clock::wall());
    let mut inner = shared.lock();
    let model = &mut inner.model;
    match model.arrive(prompt_tokens, max_tokens.unwrap_or_default(), now, wall) {
        Ok(()) => {
            let latency = model.latency(prompt, nth);
            Ok(model.work(latency, now))
        }
        Err(Refusal { status: 0, .. }) => Err(Box::new(hang_up())),
        Err(Refusal { status, kind, code, message, headers }) => {
            let mut response = refuse_as(status, kind, code, &message);
            let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value));
            add(&mut response, headers.chain(model.headers(now, wall)));
            Err(Box::new(response))
        }
    }
}

fn add(response: &mut Response, headers: impl IntoIterator<Item = (String, String)>) {
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
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
        refuse(500, "script_exhausted", "the simulator's script has run out")
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

/// A connection that breaks in the middle of the answer.
fn hang_up() -> Response {
    let pieces: [Result<&'static str, std::io::Error>; 2] =
        [Ok("{\"choices\":[{\"message\":"), Err(std::io::ErrorKind::ConnectionReset.into())];
    let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
    response.extensions_mut().insert(HangUp);
    response
}

/// The response of a fault; none for one that only changes the answer.
fn go_wrong(fault: &FaultSpec) -> Option<Response> {
    if fault.hang_up {
        return Some(hang_up());
    }
    let status = fault.status.unwrap_or(if fault.body.is_some() { 200 } else { 500 });
    let mut response = if let Some(body) = &fault.body {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        (status, [(header::CONTENT_TYPE, "application/json")], body.clone()).into_response()
    } else if fault.finish_reason.is_some()
        || fault.text.is_some()
        || (fault.status.is_none() && fault.delay.is_some())
    {
        return None;
    } else {
        let code = fault.code.as_deref().unwrap_or("simulated_fault");
        refuse(status, code, fault.message.as_deref().unwrap_or("a fault that was asked for"))
    };
    if let Some(value) = fault.retry_after.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    Some(response)
}

fn refuse(status: u16, code: &str, message: &str) -> Response {
    refuse_as(status, code, code, message)
}

fn refuse_as(status: u16, kind: &str, code: &str, message: &str) -> Response {
    let body = json!({"error": {"message": message, "type": kind, "code": code, "param": null}});
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
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
    refuse(404, "unknown_route", &format!("the simulator has no {route}"))
}

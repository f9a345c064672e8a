//! The stages that every request passes, for chat and embeddings alike: reading, key, model, limits, gate, latency,
//! faults and billing.

use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::answer::chance;
use super::api_kind::ApiKind;
use super::hold::Gate;
use super::model::ModelRefusal;
use super::reply::{ErrorReply, add, fault_response, hang_up, invalid, refuse, refuse_as};
use super::state::ServerShared;
use super::tiers::AnsweringTier;
use crate::clock;
use crate::config::{FaultSpec, SimulatorSpec};
use crate::ident::Tokens;

/// The fields that all kinds of requests have in common.
#[derive(Debug)]
pub(super) struct GateRequest<'a> {
    /// Number of the request among all requests, counted from 1.
    pub(super) number: u64,
    /// Identifies the request for counts and random draws.
    pub(super) prompt: &'a str,
    /// Texts in which a fault's `contains` is looked for.
    pub(super) texts: &'a [&'a str],
    /// Number of earlier requests for the same prompt.
    pub(super) nth: u32,
    pub(super) prompt_tokens: u64,
    pub(super) max_tokens: Option<u64>,
}

/// The cost of an answer, and the headers that go with it.
#[derive(Debug)]
pub(super) struct Bill {
    /// US dollars, or `None` if answers do not state their cost.
    pub(super) cost: Option<f64>,
    /// Rate limit headers.
    pub(super) headers: Vec<(String, String)>,
}

/// Parses the body of a request. A request whose body cannot be parsed is counted here.
pub(super) fn read<T: DeserializeOwned>(shared: &ServerShared, body: &[u8]) -> Result<T, ErrorReply> {
    serde_json::from_slice(body).map_err(|error| {
        shared.lock().counts.requests += 1;
        invalid("invalid_request_error", &format!("we could not parse the body: {error}"), None)
    })
}

/// Checks the key and the model of a request.
pub(super) fn known(shared: &ServerShared, api: ApiKind<'_>, model: &str) -> Result<(), ErrorReply> {
    if let ApiKind::Synchronous(headers) = api {
        known_key(shared, headers)?;
    }
    if shared.spec.model.as_ref().is_some_and(|known| known != model) {
        let message = format!("The model `{model}` does not exist");
        return Err(Box::new(refuse(404, "model_not_found", &message)));
    }
    Ok(())
}

/// Checks the key of a request.
pub(super) fn known_key(shared: &ServerShared, headers: &HeaderMap) -> Result<(), ErrorReply> {
    let spec = &shared.spec;
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let is_given = |key: &str| given.and_then(|given| given.strip_prefix("Bearer ")) == Some(key);
    let is_refused = spec.api_key.as_ref().is_some_and(|key| !is_given(key));
    let taken = spec.api_keys_file.as_ref().map(|file| std::fs::read_to_string(file).unwrap_or_default());
    if is_refused || taken.is_some_and(|taken| !taken.lines().any(is_given)) {
        return Err(Box::new(refuse(401, "invalid_api_key", "Incorrect API key provided.")));
    }
    Ok(())
}

/// Waits until a request is due to be answered. Returns the fault that the answer must show, or an error response.
pub(super) async fn pass(
    shared: &ServerShared,
    api: ApiKind<'_>,
    question: &GateRequest<'_>,
) -> Result<Option<FaultSpec>, ErrorReply> {
    let due = match api {
        ApiKind::Synchronous(_) => admit(shared, question)?,
        ApiKind::InBatch => clock::now(),
    };
    let duration = due.saturating_duration_since(clock::now());
    wait_at(&shared.gate, question).await?;
    let fault = match next_in_script(shared)? {
        Some(scripted) => Some(scripted),
        None => fault_for(&shared.spec, question.prompt, question.texts, question.nth).cloned(),
    };
    if !duration.is_zero() && !fault.as_ref().is_some_and(|fault| fault.at_once) {
        tokio::time::sleep(duration).await;
    }
    if let Some(fault) = &fault {
        if let Some(delay) = fault.delay {
            tokio::time::sleep(delay.0).await;
        }
        if let Some(response) = fault_response(fault) {
            return Err(Box::new(response));
        }
    }
    Ok(fault)
}

/// Waits until the gate lets a request through; an error response breaks the connection.
async fn wait_at(gate: &watch::Sender<Gate>, request: &GateRequest<'_>) -> Result<(), ErrorReply> {
    let mut gate = gate.subscribe();
    match gate.wait_for(|gate| gate.lets_through(request.number, request.texts)).await {
        Ok(gate) if *gate != Gate::Broken => Ok(()),
        _ => Err(Box::new(hang_up())),
    }
}

/// Bills an answer by a service tier. `embedded` holds the texts whose vectors it carries.
pub(super) fn bill(
    shared: &ServerShared,
    question: &GateRequest<'_>,
    completion_tokens: u64,
    embedded: &[&str],
    tier: AnsweringTier<'_>,
) -> Bill {
    let tokens =
        Tokens { prompt: question.prompt_tokens, cached: 0, completion: completion_tokens, reasoning: 0 };
    let cost = tier.prices(shared.prices).cost(tokens);
    let mut inner = shared.lock();
    inner.model.answered(tokens.total(), clock::now());
    inner.counts.answered(question.prompt, tokens, cost);
    inner.counts.embedded(embedded);
    inner.counts.answered_by(tier.stated);
    Bill {
        cost: shared.spec.tells_cost.then(|| cost.dollars()),
        headers: inner.model.headers(clock::now(), clock::wall()),
    }
}

/// Admits a request and returns when its answer is due, or refuses it.
fn admit(shared: &ServerShared, question: &GateRequest<'_>) -> Result<clock::Instant, ErrorReply> {
    let (now, wall) = (clock::now(), clock::wall());
    let mut inner = shared.lock();
    let model = &mut inner.model;
    match model.admit(question.prompt_tokens, question.max_tokens.unwrap_or_default(), now, wall) {
        Ok(()) => {
            let latency = model.latency(question.prompt, question.nth.into());
            Ok(model.work(latency, now))
        }
        Err(ModelRefusal { status: 0, .. }) => Err(Box::new(hang_up())),
        Err(ModelRefusal { status, kind, code, message, headers }) => {
            let mut response = refuse_as(status, kind, code, &message, None);
            let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value));
            add(&mut response, headers.chain(model.headers(now, wall)));
            Err(Box::new(response))
        }
    }
}

fn next_in_script(shared: &ServerShared) -> Result<Option<FaultSpec>, ErrorReply> {
    let script = &shared.spec.script;
    if script.is_empty() {
        return Ok(None);
    }
    let mut inner = shared.lock();
    let next = script.get(inner.next_in_script).cloned();
    inner.next_in_script += 1;
    if next.is_none() {
        inner.counts.script_exhausted += 1;
        return Err(Box::new(refuse(500, "script_exhausted", "the simulator's script has run out")));
    }
    Ok(next)
}

/// The first fault that applies to the `nth` request for a prompt, counted from 0. A fault's `contains` is looked for
/// in `texts`.
#[must_use]
pub fn fault_for<'a>(
    spec: &'a SimulatorSpec,
    prompt: &str,
    texts: &[&str],
    nth: u32,
) -> Option<&'a FaultSpec> {
    let matches = |(at, fault): &(usize, &FaultSpec)| {
        fault.contains.as_ref().is_none_or(|text| texts.iter().any(|own| own.contains(text)))
            && fault.times.is_none_or(|times| nth < times)
            && chance(spec.seed, &format!("fault {at}"), prompt, nth.into()) < fault.share
    };
    spec.faults.iter().enumerate().find(matches).map(|(_, fault)| fault)
}

//! An endpoint with its model, its key and its connection pool.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use url::Url;

use super::classify::{classify, classify_inner};
use super::connection::{ProviderConnection, ResponseHead, route_url, shown};
use super::error::EndpointError;
use super::forms::SchemaFormProbe;
use super::request_body::RequestBodies;
use crate::clock;
use crate::config::{Params, Provider, SchemaForm};
use crate::decode;
use crate::fault::{Class, Failure, Policy as Retry};
use crate::faultpoint::{self, Side};
use crate::prompt::Question;
use crate::wire::{self, AssistantMessage, ChatResponse, Limits};

/// A successful response, which was paid for.
#[derive(Debug)]
pub struct Paid {
    /// The body, decompressed, with secrets replaced and the cost added that the headers stated.
    pub body: Bytes,
    /// The parsed body.
    pub response: ChatResponse,
    /// Time from the start of the request to the last byte of the answer.
    pub latency: Duration,
}

/// The result of a request that was sent once.
#[derive(Debug)]
pub struct SendResult {
    /// The answer, or a classified failure without secrets.
    pub result: Result<Paid, Failure>,
    /// Rate limits that the response stated, whatever its result.
    pub limits: Limits,
    /// Whether the provider may bill the request. It does not bill a request that it refuses, cannot process, or never
    /// received.
    pub may_be_billed: bool,
    /// Body of a successful response that cannot be parsed or holds no answer. It may have been paid for.
    pub unread: Option<Bytes>,
}

impl SendResult {
    /// The result of sending no question at all.
    fn nothing() -> Self {
        let failure = Failure::new(Class::BadRequest, "there is nothing to send");
        SendResult { result: Err(failure), limits: Limits::default(), may_be_billed: false, unread: None }
    }
}

/// A timeout that ends later than planned by this much shows that the process was stopped or the machine slept.
const STOPPED_FOR: Duration = Duration::from_millis(500);
/// Time to read an answer that arrived while the process was stopped.
const AFTER_STOP: Duration = Duration::from_secs(5);
/// What is known of a response so far.
#[derive(Debug, Default)]
struct ResponseProgress {
    head: ResponseHead,
    unread: Option<Bytes>,
}

/// An endpoint of a provider for one model: chat completions and embeddings.
#[derive(Debug)]
pub struct Endpoint {
    connection: ProviderConnection,
    url: Url,
    embeddings: Url,
    bodies: RequestBodies,
    forms: SchemaFormProbe,
    request_timeout: Duration,
}

impl Endpoint {
    /// Creates the endpoint of a provider whose interface begins at `base`.
    ///
    /// # Errors
    /// When the HTTP client does not start or a header cannot be sent.
    pub fn new(provider: &Provider, base: &Url) -> Result<Endpoint, EndpointError> {
        Ok(Endpoint {
            connection: ProviderConnection::new(provider, base)?,
            url: route_url(base, provider, &["chat", "completions"]),
            embeddings: route_url(base, provider, &["embeddings"]),
            bodies: RequestBodies::new(provider),
            forms: SchemaFormProbe::new(provider.schema_form),
            request_timeout: provider.request_timeout,
        })
    }

    /// The address for chat completions without query, user name and password, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        shown(&self.url)
    }

    /// The address for embeddings, in the same form.
    #[must_use]
    pub fn embeddings_address(&self) -> String {
        shown(&self.embeddings)
    }

    /// Name of the model.
    #[must_use]
    pub fn model(&self) -> &Arc<str> {
        self.bodies.model()
    }

    /// The form in which the endpoint takes schemas, if it was found out.
    #[must_use]
    pub fn schema_form(&self) -> Option<SchemaForm> {
        self.forms.proven()
    }

    /// Makes the schema form that a former run found the first one to try.
    pub fn begin_with(&self, form: SchemaForm) {
        self.forms.begin_with(form);
    }

    /// Returns the body of a request in a file for the Batch API, where the schema form cannot be found out: it is the one
    /// that is known, or the first of those that would be tried.
    #[must_use]
    pub fn body_in_file(&self, question: &Arc<Question>, params: &Params) -> Vec<u8> {
        if params.vectors.is_some() {
            return self.bodies.embeddings(std::slice::from_ref(question), params);
        }
        let form = self.forms.settled().or_else(|| self.forms.to_try().first().copied());
        self.bodies.chat(question, params, form.unwrap_or(SchemaForm::Auto))
    }

    /// Sends a question, or texts to be embedded, and reads the whole answer. All attempts together may take `most`, each
    /// as long as the request timeout. While the schema form is unknown, a refused request is sent again in the
    /// next form.
    pub async fn send(&self, questions: &[Arc<Question>], params: &Params, most: Duration) -> SendResult {
        if params.vectors.is_some() {
            return self.post(&self.embeddings, self.bodies.embeddings(questions, params), most).await;
        }
        let Some(question) = questions.first() else { return SendResult::nothing() };
        let form = if params.shape.is_some() { self.forms.settled() } else { Some(SchemaForm::Auto) };
        // What seldom happens is boxed: the future of a request is moved as a whole when it is spawned.
        let Some(form) = form else {
            return Box::pin(self.send_in_unknown_form(question, params, most)).await;
        };
        let sent = self.post(&self.url, self.bodies.chat(question, params, form), most).await;
        self.note_open_form(params, form, &sent);
        sent
    }

    /// Sends a question in one schema form after another, until one is taken. One request does so at a time.
    async fn send_in_unknown_form(&self, question: &Question, params: &Params, most: Duration) -> SendResult {
        let started = clock::now();
        let send = |form| {
            let left = most.saturating_sub(clock::now() - started);
            self.post(&self.url, self.bodies.chat(question, params, form), left)
        };
        let turn = self.forms.turn().await;
        if let Some(form) = self.forms.settled() {
            drop(turn);
            let sent = send(form).await;
            self.note_open_form(params, form, &sent);
            return sent;
        }
        let mut refused: Option<SendResult> = None;
        let mut has_failed = false;
        for form in self.forms.to_try() {
            let sent = send(form).await;
            match &sent.result {
                Ok(paid) => {
                    self.note_form(form, &paid.response);
                    return sent;
                }
                Err(failure) if matches!(failure.class, Class::BadRequest | Class::NotFound) => {
                    refused.get_or_insert(sent);
                }
                // Some servers fail on a form that they do not know. One that fails on the next form, too, is down.
                Err(failure) if failure.class == Class::ServerError && !has_failed => {
                    has_failed = true;
                    refused.get_or_insert(sent);
                }
                Err(_) => return sent,
            }
        }
        // Refused in every form: the server refuses the question itself.
        refused.unwrap_or_else(SendResult::nothing)
    }

    /// Notes what an answer in a settled form shows about that form, while it is not proven.
    fn note_open_form(&self, params: &Params, form: SchemaForm, sent: &SendResult) {
        if params.shape.is_some()
            && let Ok(paid) = &sent.result
            && self.forms.is_open()
        {
            self.note_form(form, &paid.response);
        }
    }

    /// Notes what an answer shows about its schema form.
    fn note_form(&self, form: SchemaForm, response: &ChatResponse) {
        if is_whole(response) {
            self.forms.answered(form, has_json(response));
        } else {
            self.forms.taken(form);
        }
    }

    async fn post(&self, url: &Url, body: Vec<u8>, most: Duration) -> SendResult {
        let body = Bytes::from(body);
        let started = clock::now();
        let mut progress = ResponseProgress::default();
        let mut result = self.attempt(url, body.clone(), most, &mut progress).await;
        if let (Err(failure), Some(key)) = (&mut result, &self.connection.key)
            && failure.class == Class::Auth
        {
            match Box::pin(key.renew(progress.head.key)).await {
                Ok(true) => {
                    progress = ResponseProgress::default();
                    let left = most.saturating_sub(clock::now() - started);
                    result = Box::pin(self.attempt(url, body, left, &mut progress)).await;
                }
                Ok(false) => {}
                Err(why) => failure.detail.push_str(&format!("; the key cannot be read again: it {why}")),
            }
        }
        let ResponseProgress { head, unread } = progress;
        let result = result.map_err(|failure| self.connection.redact(failure));
        SendResult { result, limits: head.headers.limits, may_be_billed: !head.was_refused, unread }
    }

    async fn attempt(
        &self,
        url: &Url,
        body: Bytes,
        most: Duration,
        progress: &mut ResponseProgress,
    ) -> Result<Paid, Failure> {
        let limit = self.request_timeout.min(most);
        let broken = |error: std::io::Error| Failure::new(Class::Connection, error.to_string());
        faultpoint::pass("first-call", Side::Before).map_err(broken)?;
        let started = clock::now();
        let mut exchange = pin!(self.exchange(url, body, progress));
        let mut answer = tokio::time::timeout(limit, &mut exchange).await;
        if answer.is_err() && clock::now() - started > limit + STOPPED_FOR {
            // The process itself was stopped: the answer may have arrived meanwhile and wait in the socket.
            answer = tokio::time::timeout(limit.min(AFTER_STOP), &mut exchange).await;
        }
        let answer = answer.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            Err(Failure::new(Class::Timeout, format!("no whole answer within {limit}")))
        });
        let latency = clock::now() - started;
        faultpoint::pass("first-call", Side::After).map_err(broken)?;
        answer.map(|(body, response)| Paid { body, response, latency })
    }

    async fn exchange(
        &self,
        url: &Url,
        body: Bytes,
        progress: &mut ResponseProgress,
    ) -> Result<(Bytes, ChatResponse), Failure> {
        let body = self.connection.post(url, body, &mut progress.head).await?;
        let ResponseHead { status, headers, .. } = progress.head;
        if !(200..300).contains(&status) {
            return Err(classify(status, &body, self.model(), &headers));
        }
        let body = match wire::join_events(&body) {
            Some(joined) => self.connection.redact_body(joined.into()),
            None => body,
        };
        let parsed = decode::parse(&body).inspect_err(|_| progress.unread = Some(body.clone()))?;
        let (body, parsed) = match headers.cost.filter(|_| decode::facts(&parsed).cost.is_none()) {
            Some(cost) => with_cost(body, parsed, cost),
            None => (body, parsed),
        };
        let choice = parsed.choices.first();
        let inner = parsed.error.as_ref().or(choice.and_then(|choice| choice.error.as_ref()));
        let inner = inner.filter(|error| !error.is_empty());
        if let Some(error) = inner {
            let failure = classify_inner(error, self.model(), &headers);
            progress.head.was_refused = failure.class.policy() != Retry::Retry;
            return Err(failure);
        }
        match choice {
            None if !parsed.data.is_empty() => Ok((body, parsed)),
            None => {
                let reason = wire::reason_of(&body);
                progress.unread = Some(body);
                Err(Failure::new(Class::InvalidResponse, format!("the answer has no choices: {reason}")))
            }
            Some(choice) if choice.finish_reason.as_deref() == Some("error") => {
                Err(Failure::new(Class::ServerError, "the answer broke off (finish_reason \"error\")"))
            }
            Some(_) => Ok((body, parsed)),
        }
    }
}

/// Adds the cost that the headers stated to the body, because of a response the journal stores the body alone.
fn with_cost(body: Bytes, parsed: ChatResponse, cost: f64) -> (Bytes, ChatResponse) {
    let Ok(mut value) = serde_json::from_slice::<Value>(&body) else { return (body, parsed) };
    let Some(usage) = value.get_mut("usage").and_then(Value::as_object_mut) else { return (body, parsed) };
    usage.insert("cost".into(), cost.into());
    let body = Bytes::from(value.to_string());
    match wire::read(&body) {
        Some(parsed) => (body, parsed),
        None => (body, parsed),
    }
}

/// Whether the model finished its answer. An answer that was cut off, or with which the model declined, shows nothing
/// about the schema form.
fn is_whole(response: &ChatResponse) -> bool {
    let Some(choice) = response.choices.first() else { return false };
    let is_cut = choice
        .finish_reason
        .as_deref()
        .is_some_and(|reason| decode::is_cut(reason) || reason == "content_filter");
    let is_declined =
        |message: &AssistantMessage| message.refusal.as_ref().is_some_and(|text| !text.trim().is_empty());
    !is_cut && !choice.message.as_ref().is_some_and(is_declined)
}

/// Whether the answer is a JSON object, perhaps in a Markdown fence, or a tool call.
fn has_json(response: &ChatResponse) -> bool {
    let message = response.choices.first().and_then(|choice| choice.message.as_ref());
    let called =
        message.is_some_and(|message| message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()));
    let content = message.and_then(|message| message.content.as_deref()).unwrap_or_default();
    called || serde_json::from_str::<Map<String, Value>>(decode::unfenced(content)).is_ok()
}

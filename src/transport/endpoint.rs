//! An endpoint with its model, its key and its connection pool.

use std::borrow::Cow;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response};
use serde_json::{Map, Value};
use url::Url;

use super::classify::{ResponseHeaders, classify, classify_inner};
use super::error::EndpointError;
use super::forms::{self, SchemaFormProbe};
use super::key::Keyring;
use crate::clock;
use crate::config::{Params, Provider, SchemaForm, Tls, VectorEncoding, Vectors};
use crate::decode;
use crate::fault::{Class, Failure, Policy as Retry};
use crate::faultpoint::{self, Side};
use crate::prompt::Question;
use crate::wire::{self, AssistantMessage, ChatRequest, ChatResponse, EmbeddingRequest, Limits};

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
/// Shortest value in an address that counts as a key, in bytes. Shorter ones occur in texts by chance.
const MIN_SECRET: usize = 8;
/// Statuses with which a gateway gives up on a provider that may still process the request, and bill it.
const MAYBE_WORKED_ON: [u16; 4] = [408, 502, 504, 524];

/// What is known of a response so far.
#[derive(Debug, Default)]
struct ResponseProgress {
    limits: Limits,
    was_refused: bool,
    /// Number of the key that was sent.
    key: u64,
    unread: Option<Bytes>,
}

/// An endpoint of a provider for one model: chat completions and embeddings.
#[derive(Debug)]
pub struct Endpoint {
    client: Client,
    url: Url,
    embeddings: Url,
    model: Arc<str>,
    headers: HeaderMap,
    extra_body: Map<String, Value>,
    max_tokens_field: String,
    forms: SchemaFormProbe,
    request_timeout: Duration,
    max_response_bytes: usize,
    key: Option<Keyring>,
    /// Values in the address that may be secret.
    secrets: Vec<String>,
}

impl Endpoint {
    /// Creates the endpoint of a provider whose interface begins at `base`.
    ///
    /// # Errors
    /// When the HTTP client does not start or a header cannot be sent.
    pub fn new(provider: &Provider, base: &Url) -> Result<Endpoint, EndpointError> {
        let builder = Client::builder()
            .user_agent(concat!("enrich/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(provider.connect_timeout)
            .pool_max_idle_per_host(provider.max_concurrency as usize)
            .tcp_nodelay(true)
            // Following a redirect could take the key and the rows to another host.
            .redirect(Policy::none());
        let client = with_certificates(builder, &provider.tls).and_then(ClientBuilder::build);
        let client = client.map_err(|error| EndpointError::Client {
            provider: provider.name.clone(),
            message: chain(&error),
        })?;
        Ok(Endpoint {
            client,
            url: route_url(base, provider, &["chat", "completions"]),
            embeddings: route_url(base, provider, &["embeddings"]),
            model: provider.model.as_str().into(),
            headers: headers(provider)?,
            extra_body: provider.extra_body.clone(),
            max_tokens_field: provider.max_tokens_field.clone(),
            forms: SchemaFormProbe::new(provider.schema_form),
            request_timeout: provider.request_timeout,
            max_response_bytes: usize::try_from(provider.max_response_bytes).unwrap_or(usize::MAX),
            key: Keyring::new(provider)?,
            secrets: secrets_of(&route_url(base, provider, &[])),
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
        &self.model
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

    /// Sends a question, or texts to be embedded, and reads the whole answer. All attempts together may take `most`, each
    /// as long as the request timeout. While the schema form is unknown, a refused request is sent again in the
    /// next form.
    pub async fn send(&self, questions: &[Arc<Question>], params: &Params, most: Duration) -> SendResult {
        if params.vectors.is_some() {
            return self.post(&self.embeddings, self.texts(questions, params), most).await;
        }
        let Some(question) = questions.first() else { return SendResult::nothing() };
        if params.shape.is_none() {
            return self.send_as(question, params, SchemaForm::Auto, most).await;
        }
        if let Some(form) = self.forms.settled() {
            return self.send_in_known_form(question, params, form, most).await;
        }
        let started = clock::now();
        let turn = self.forms.turn().await;
        let left = || most.saturating_sub(clock::now() - started);
        if let Some(form) = self.forms.settled() {
            drop(turn);
            return self.send_in_known_form(question, params, form, left()).await;
        }
        let mut refused: Option<SendResult> = None;
        let mut has_failed = false;
        for form in self.forms.to_try() {
            let sent = self.send_as(question, params, form, left()).await;
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

    /// Sends a question in a settled form. While the form is not proven, the answer may prove it.
    async fn send_in_known_form(
        &self,
        question: &Question,
        params: &Params,
        form: SchemaForm,
        most: Duration,
    ) -> SendResult {
        let sent = self.send_as(question, params, form, most).await;
        if let Ok(paid) = &sent.result
            && self.forms.is_open()
        {
            self.note_form(form, &paid.response);
        }
        sent
    }

    /// Notes what an answer shows about its schema form.
    fn note_form(&self, form: SchemaForm, response: &ChatResponse) {
        if is_whole(response) {
            self.forms.answered(form, has_json(response));
        } else {
            self.forms.taken(form);
        }
    }

    async fn send_as(
        &self,
        question: &Question,
        params: &Params,
        form: SchemaForm,
        most: Duration,
    ) -> SendResult {
        self.post(&self.url, self.body(question, params, form), most).await
    }

    async fn post(&self, url: &Url, body: Vec<u8>, most: Duration) -> SendResult {
        let body = Bytes::from(body);
        let started = clock::now();
        let mut progress = ResponseProgress::default();
        let mut result = self.attempt(url, body.clone(), most, &mut progress).await;
        if let (Err(failure), Some(key)) = (&mut result, &self.key)
            && failure.class == Class::Auth
        {
            match key.renew(progress.key).await {
                Ok(true) => {
                    progress = ResponseProgress::default();
                    let left = most.saturating_sub(clock::now() - started);
                    result = self.attempt(url, body, left, &mut progress).await;
                }
                Ok(false) => {}
                Err(why) => failure.detail.push_str(&format!("; the key cannot be read again: it {why}")),
            }
        }
        let ResponseProgress { limits, was_refused, unread, .. } = progress;
        let result = result.map_err(|failure| self.redact(failure));
        SendResult { result, limits, may_be_billed: !was_refused, unread }
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
        let mut headers = self.headers.clone();
        if let Some(key) = &self.key {
            let (name, value, number) = key.header();
            headers.insert(name, value);
            progress.key = number;
        }
        let request = self.client.post(url.clone()).headers(headers).body(body);
        let mut response = request.send().await.map_err(|error| {
            progress.was_refused = error.is_connect();
            failed(&error)
        })?;
        let status = response.status().as_u16();
        let headers = response.headers();
        let response_headers = ResponseHeaders::read(
            |name| headers.get(name).and_then(|value| value.to_str().ok()),
            clock::wall(),
        );
        progress.limits = response_headers.limits;
        progress.was_refused = !(200..300).contains(&status) && !MAYBE_WORKED_ON.contains(&status);
        let body = self.redact_body(self.read(&mut response).await?);
        if !(200..300).contains(&status) {
            return Err(classify(status, &body, &self.model, &response_headers));
        }
        let parsed = decode::parse(&body).inspect_err(|_| progress.unread = Some(body.clone()))?;
        let (body, parsed) = match response_headers.cost.filter(|_| decode::facts(&parsed).cost.is_none()) {
            Some(cost) => with_cost(body, parsed, cost),
            None => (body, parsed),
        };
        let choice = parsed.choices.first();
        let inner = parsed.error.as_ref().or(choice.and_then(|choice| choice.error.as_ref()));
        let inner = inner.filter(|error| !error.is_empty());
        if let Some(error) = inner {
            let failure = classify_inner(error, &self.model, &response_headers);
            progress.was_refused = failure.class.policy() != Retry::Retry;
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

    fn body(&self, question: &Question, params: &Params, form: SchemaForm) -> Vec<u8> {
        let mut rest = self.extra_body.clone();
        if let Some(max_tokens) = params.max_tokens {
            rest.insert(self.max_tokens_field.clone(), max_tokens.into());
        }
        let mut messages = Cow::Borrowed(question.messages());
        if let Some(shape) = &params.shape {
            forms::put(shape, form, &mut rest, messages.to_mut());
        }
        rest.extend(params.extra_body.iter().map(|(name, value)| (name.clone(), value.clone())));
        let request = ChatRequest {
            model: &self.model,
            messages: &messages,
            temperature: params.temperature,
            rest: &rest,
        };
        serde_json::to_vec(&request).expect("writing JSON to memory does not fail")
    }

    /// The body of a request for the embeddings of texts.
    fn texts(&self, questions: &[Arc<Question>], params: &Params) -> Vec<u8> {
        let mut rest = self.extra_body.clone();
        rest.extend(params.extra_body.iter().map(|(name, value)| (name.clone(), value.clone())));
        let Vectors { dimensions, encoding } = params.vectors.unwrap_or_default();
        let request = EmbeddingRequest {
            model: &self.model,
            input: questions
                .iter()
                .filter_map(|question| Some(question.messages().last()?.content.as_str()))
                .collect(),
            encoding_format: encoding.map(|encoding| match encoding {
                VectorEncoding::Float => "float",
                VectorEncoding::Base64 => "base64",
            }),
            dimensions,
            rest: &rest,
        };
        serde_json::to_vec(&request).expect("writing JSON to memory does not fail")
    }

    async fn read(&self, response: &mut Response) -> Result<Bytes, Failure> {
        let too_long = || {
            let most = self.max_response_bytes;
            Failure::new(Class::InvalidResponse, format!("the answer is longer than {most} bytes"))
        };
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if body.is_empty() && chunk.len() <= self.max_response_bytes {
                // Most answers come in one chunk, which is then not copied.
                match response.chunk().await.map_err(|error| failed(&error))? {
                    None => return Ok(chunk),
                    Some(next) => {
                        body.extend_from_slice(&chunk);
                        body.extend_from_slice(&next);
                    }
                }
            } else {
                body.extend_from_slice(&chunk);
            }
            if body.len() > self.max_response_bytes {
                return Err(too_long());
            }
        }
        if body.len() > self.max_response_bytes {
            return Err(too_long());
        }
        Ok(body.freeze())
    }

    /// A body without the key, which a model or a gateway may echo anywhere in it.
    fn redact_body(&self, body: Bytes) -> Bytes {
        self.redacted(&String::from_utf8_lossy(&body)).map_or(body, Bytes::from)
    }

    /// A text with its secrets replaced, or `None` if it holds none.
    fn redacted(&self, text: &str) -> Option<String> {
        let mut redacted = self.key.as_ref().and_then(|key| key.redacted(text));
        for secret in &self.secrets {
            let before = redacted.as_deref().unwrap_or(text);
            if before.contains(secret.as_str()) {
                redacted = Some(before.replace(secret.as_str(), "[key]"));
            }
        }
        redacted
    }

    fn redact(&self, mut failure: Failure) -> Failure {
        if failure.class == Class::Auth && self.key.is_none() {
            let hint = " (no key was sent: set api_key_env, api_key_file or api_key_command)";
            failure.detail.push_str(hint);
        }
        if let Some(redacted) = self.redacted(&failure.detail) {
            failure.detail = redacted;
        }
        failure
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

/// Values in an address's query that may be keys.
fn secrets_of(url: &Url) -> Vec<String> {
    let is_key = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["key", "token", "secret", "sig", "auth", "password"].iter().any(|part| name.contains(part))
    };
    let pairs = url.query_pairs().filter(|(name, value)| is_key(name) && value.len() >= MIN_SECRET);
    pairs.map(|(_, value)| value.into_owned()).collect()
}

/// An address without the parts that may be secret.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // This fails for an address that cannot have a user or a password, which then has none to hide.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.to_string()
}

fn route_url(base: &Url, provider: &Provider, route: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(route);
    }
    if !provider.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&provider.query);
    }
    url
}

/// Makes a client trust the provider's authorities and present the job's own certificate.
fn with_certificates(mut builder: ClientBuilder, tls: &Tls) -> reqwest::Result<ClientBuilder> {
    if let Some(authorities) = &tls.authorities {
        builder = builder.tls_certs_merge(Certificate::from_pem_bundle(authorities)?);
    }
    if let Some(identity) = &tls.identity {
        builder = builder.identity(Identity::from_pem(identity)?);
    }
    Ok(builder)
}

fn headers(provider: &Provider) -> Result<HeaderMap, EndpointError> {
    let wrong =
        |header: &str| EndpointError::Header { provider: provider.name.clone(), header: header.to_owned() };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in &provider.headers {
        let name_value = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name))?;
        headers.insert(name_value, HeaderValue::from_str(value).map_err(|_| wrong(name))?);
    }
    Ok(headers)
}

fn failed(error: &reqwest::Error) -> Failure {
    let class = if error.is_timeout() && !error.is_connect() {
        Class::Timeout
    } else if error.is_decode() {
        Class::InvalidResponse
    } else {
        Class::Connection
    };
    Failure::new(class, chain(error))
}

/// An error and its root cause, without the address, which may hold query parameters.
fn chain(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_connect() => "cannot connect".to_owned(),
        () if error.is_timeout() => "timed out".to_owned(),
        () if error.is_decode() => "cannot decode the answer".to_owned(),
        () => "the connection broke".to_owned(),
    };
    let mut last = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        last = error.to_string();
        cause = error.source();
    }
    if !last.is_empty() {
        text.push_str(": ");
        text.push_str(&last);
    }
    text.push_str(hint(&last));
    text
}

/// Returns which key of the job file a TLS error is about. The error is recognized by the wording of rustls.
fn hint(cause: &str) -> &'static str {
    match cause {
        cause if cause.contains("InvalidContentType") => {
            " (what answers there speaks no TLS: should base_url begin with http://?)"
        }
        cause if cause.contains("UnknownIssuer") => {
            " (no trusted authority has signed its certificate: an authority of a company goes into ca_file)"
        }
        cause if cause.contains("CertificateRequired") => {
            " (it asks for a certificate of ours: client_certificate and client_key)"
        }
        _ => "",
    }
}

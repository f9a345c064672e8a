//! An endpoint with its model, its key and its pooled connections.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::{Map, Value};
use url::Url;

use super::classify::{Heard, classify, classify_inner};
use crate::clock;
use crate::config::{ApiKey, Params, Provider};
use crate::decode;
use crate::fault::{Class, Failure, Policy as Retry};
use crate::faultpoint::{self, Side};
use crate::prompt::Question;
use crate::wire::{ChatRequest, ChatResponse, Limits};

/// A response that was paid for.
#[derive(Debug)]
pub struct Paid {
    /// The body as the server sent it, decompressed.
    pub body: Bytes,
    /// The same, read.
    pub response: ChatResponse,
    /// From the first byte sent to the last one received.
    pub latency: Duration,
}

/// What came of a request that was sent once.
#[derive(Debug)]
pub struct Sent {
    /// The answer, or a classified failure without secrets.
    pub result: Result<Paid, Failure>,
    /// What the response said of the provider's limits, whatever came of it.
    pub limits: Limits,
    /// Whether the provider may bill it: it does not bill what it refuses, cannot do, or never heard of.
    pub may_be_billed: bool,
}

/// Statuses by which something before the provider gives up, which may still have worked, and billed.
const MAYBE_WORKED_ON: [u16; 4] = [408, 502, 504, 524];

/// What is known of a response, however far it came.
#[derive(Debug, Default)]
struct Course {
    limits: Limits,
    was_refused: bool,
}

/// An endpoint that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The HTTP client does not start.
    #[error("provider {provider:?}: cannot start the HTTP client: {message}")]
    Client {
        /// Name of the provider.
        provider: String,
        /// Why.
        message: String,
    },
    /// A header has a value that cannot be sent.
    #[error(
        "provider {provider:?}: the value of the header {header:?} holds characters that no header can carry"
    )]
    Header {
        /// Name of the provider.
        provider: String,
        /// Name of the header.
        header: String,
    },
}

/// An endpoint of a provider for the chat completions of one model.
#[derive(Debug)]
pub struct Endpoint {
    client: Client,
    url: Url,
    model: Arc<str>,
    headers: HeaderMap,
    extra_body: Map<String, Value>,
    max_tokens_field: String,
    request_timeout: Duration,
    max_response_bytes: usize,
    key: Option<ApiKey>,
}

impl Endpoint {
    /// Makes the endpoint of a provider whose interface begins at `base`.
    ///
    /// # Errors
    /// When the HTTP client does not start or a header cannot be sent.
    pub fn new(provider: &Provider, base: &Url) -> Result<Endpoint, EndpointError> {
        let client = Client::builder()
            .user_agent(concat!("enrich/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(provider.connect_timeout)
            .pool_max_idle_per_host(provider.max_concurrency as usize)
            .tcp_nodelay(true)
            // Following a redirect could take the key and the rows to another host.
            .redirect(Policy::none())
            .build()
            .map_err(|error| EndpointError::Client {
                provider: provider.name.clone(),
                message: chain(&error),
            })?;
        Ok(Endpoint {
            client,
            url: completions(base, provider),
            model: provider.model.as_str().into(),
            headers: headers(provider)?,
            extra_body: provider.extra_body.clone(),
            max_tokens_field: provider.max_tokens_field.clone(),
            request_timeout: provider.request_timeout,
            max_response_bytes: usize::try_from(provider.max_response_bytes).unwrap_or(usize::MAX),
            key: provider.key.clone(),
        })
    }

    /// The address without its query, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &Arc<str> {
        &self.model
    }

    /// Sends a question once and reads the whole answer, within the request's time limit and `most`.
    pub async fn send(&self, question: &Question, params: &Params, most: Duration) -> Sent {
        let mut course = Course::default();
        let result = self.attempt(question, params, most, &mut course).await;
        let Course { limits, was_refused } = course;
        Sent { result: result.map_err(|failure| self.redact(failure)), limits, may_be_billed: !was_refused }
    }

    async fn attempt(
        &self,
        question: &Question,
        params: &Params,
        most: Duration,
        course: &mut Course,
    ) -> Result<Paid, Failure> {
        let limit = self.request_timeout.min(most);
        let broken = |error: std::io::Error| Failure::new(Class::Connection, error.to_string());
        faultpoint::pass("first-call", Side::Before).map_err(broken)?;
        let started = clock::now();
        let answer = match tokio::time::timeout(limit, self.exchange(question, params, course)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                Class::Timeout,
                format!("no whole answer within {}", humantime::format_duration(limit)),
            )),
        };
        let latency = clock::now() - started;
        faultpoint::pass("first-call", Side::After).map_err(broken)?;
        answer.map(|(body, response)| Paid { body, response, latency })
    }

    async fn exchange(
        &self,
        question: &Question,
        params: &Params,
        course: &mut Course,
    ) -> Result<(Bytes, ChatResponse), Failure> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(self.body(question, params));
        let mut response = request.send().await.map_err(|error| {
            course.was_refused = error.is_connect();
            failed(&error)
        })?;
        let status = response.status().as_u16();
        let headers = response.headers();
        let heard =
            Heard::read(|name| headers.get(name).and_then(|value| value.to_str().ok()), clock::wall());
        course.limits = heard.limits;
        course.was_refused = !(200..300).contains(&status) && !MAYBE_WORKED_ON.contains(&status);
        let body = self.read(&mut response).await?;
        if !(200..300).contains(&status) {
            return Err(classify(status, &body, &self.model, &heard));
        }
        let parsed = decode::parse(&body)?;
        let choice = parsed.choices.first();
        let inner = parsed.error.as_ref().or(choice.and_then(|choice| choice.error.as_ref()));
        if let Some(error) = inner {
            let failure = classify_inner(error, &self.model, &heard);
            course.was_refused = failure.class.policy() != Retry::Retry;
            return Err(failure);
        }
        match choice {
            None => Err(Failure::new(Class::InvalidResponse, "the answer has no choices")),
            Some(choice) if choice.finish_reason.as_deref() == Some("error") => {
                Err(Failure::new(Class::ServerError, "the answer broke off (finish_reason \"error\")"))
            }
            Some(_) => Ok((body, parsed)),
        }
    }

    fn body(&self, question: &Question, params: &Params) -> Vec<u8> {
        let mut rest = self.extra_body.clone();
        if let Some(max_tokens) = params.max_tokens {
            rest.insert(self.max_tokens_field.clone(), max_tokens.into());
        }
        rest.extend(params.extra_body.iter().map(|(name, value)| (name.clone(), value.clone())));
        let request = ChatRequest {
            model: &self.model,
            messages: &question.messages,
            temperature: params.temperature,
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
                // Most answers come in one piece.
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

    fn redact(&self, mut failure: Failure) -> Failure {
        let secret = self.key.as_ref().map(ApiKey::secret);
        if let Some(secret) = secret.filter(|secret| failure.detail.contains(secret)) {
            failure.detail = failure.detail.replace(secret, "[key]");
        }
        failure
    }
}

fn completions(base: &Url, provider: &Provider) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push("chat").push("completions");
    }
    if !provider.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&provider.query);
    }
    url
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
    if let Some(key) = &provider.key {
        let value = if key.bearer { format!("Bearer {}", key.secret()) } else { key.secret().to_owned() };
        let name = HeaderName::from_bytes(key.header.as_bytes()).map_err(|_| wrong(&key.header))?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| wrong(&key.header))?;
        value.set_sensitive(true);
        headers.insert(name, value);
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

/// An error with its causes, without the address, which may hold query parameters.
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
    text
}

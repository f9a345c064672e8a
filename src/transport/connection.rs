//! The connections to a provider: certificates, headers, key, and the secrets that are kept out of messages.
//!
//! Sends one body and reads one response as bytes. What a response means is decided by its callers.

use std::error::Error;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, RequestBuilder, Response};
use url::Url;

use super::classify::ResponseHeaders;
use super::error::EndpointError;
use super::key::Keyring;
use crate::clock;
use crate::config::{Provider, Tls};
use crate::fault::{Class, Failure};

/// Minimum length, in bytes, of a value in an address that counts as a key. Shorter ones occur in texts by chance.
const MIN_SECRET: usize = 8;
/// Statuses with which a gateway gives up waiting for a provider that may still process the request, and bill it.
const MAYBE_WORKED_ON: [u16; 4] = [408, 502, 504, 524];

/// The connections to a provider.
#[derive(Debug)]
pub(super) struct ProviderConnection {
    client: Client,
    headers: HeaderMap,
    max_response_bytes: usize,
    pub(super) key: Option<Keyring>,
    /// Values in the address that may be secret.
    secrets: Vec<String>,
}

/// The parts of a response that are known before its body arrives.
#[derive(Debug, Default)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) headers: ResponseHeaders,
    /// Whether the provider did not work on the request, and does not bill it.
    pub(super) was_refused: bool,
    /// Number of the key that was sent.
    pub(super) key: u64,
}

impl ProviderConnection {
    /// Creates the connections to a provider whose interface begins at `base`.
    ///
    /// # Errors
    /// When the HTTP client does not start or a header cannot be sent.
    pub(super) fn new(provider: &Provider, base: &Url) -> Result<Self, EndpointError> {
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
        Ok(ProviderConnection {
            client,
            headers: headers(provider)?,
            max_response_bytes: usize::try_from(provider.max_response_bytes).unwrap_or(usize::MAX),
            key: Keyring::new(provider)?,
            secrets: secrets_of(&route_url(base, provider, &[])),
        })
    }

    /// Begins a request, to be sent with [`ProviderConnection::exchange`] or [`ProviderConnection::send`].
    pub(super) fn begin(&self, method: Method, url: &Url) -> RequestBuilder {
        self.client.request(method, url.clone())
    }

    /// Posts a body and reads the whole response, with secrets replaced. `head` is filled in even if the response's
    /// body does not arrive.
    pub(super) async fn post(
        &self,
        url: &Url,
        body: Bytes,
        head: &mut ResponseHead,
    ) -> Result<Bytes, Failure> {
        self.exchange(self.begin(Method::POST, url).body(body), head).await
    }

    /// Sends a request and reads the whole response, like [`ProviderConnection::post`].
    pub(super) async fn exchange(
        &self,
        request: RequestBuilder,
        head: &mut ResponseHead,
    ) -> Result<Bytes, Failure> {
        let mut response = self.send(request, head).await?;
        Ok(self.redact_body(self.read(&mut response).await?))
    }

    /// Sends a request with the provider's headers and the key. Returns the response before its body is read.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        head: &mut ResponseHead,
    ) -> Result<Response, Failure> {
        let mut request = request.build().map_err(|error| failed(&error))?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            // A form has a content type of its own.
            headers.entry(name).or_insert_with(|| value.clone());
        }
        if let Some(key) = &self.key {
            let (name, value, number) = key.header();
            headers.insert(name, value);
            head.key = number;
        }
        let response = self.client.execute(request).await.map_err(|error| {
            head.was_refused = error.is_connect();
            failed(&error)
        })?;
        head.status = response.status().as_u16();
        // Few responses have any of the many headers that are looked for.
        let headers = response.headers().iter().filter(|(name, _)| ResponseHeaders::may_state(name.as_str()));
        let stated: Vec<(&str, &str)> =
            headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
        if !stated.is_empty() {
            let find = |name: &str| stated.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            head.headers = ResponseHeaders::read(find, clock::wall());
        }
        head.was_refused = !(200..300).contains(&head.status) && !MAYBE_WORKED_ON.contains(&head.status);
        Ok(response)
    }

    /// Reads the whole body of a response.
    pub(super) async fn read(&self, response: &mut Response) -> Result<Bytes, Failure> {
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

    /// Returns a body with secrets replaced, which a model or a gateway may echo anywhere in it.
    pub(super) fn redact_body(&self, body: Bytes) -> Bytes {
        if self.key.is_none() && self.secrets.is_empty() {
            return body;
        }
        self.redacted(&String::from_utf8_lossy(&body)).map_or(body, Bytes::from)
    }

    /// Returns a text with its secrets replaced, or `None` if it holds none.
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

    pub(super) fn redact(&self, mut failure: Failure) -> Failure {
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

/// Returns the values in an address's query that may be keys, judged by their names and lengths.
fn secrets_of(url: &Url) -> Vec<String> {
    let is_key = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["key", "token", "secret", "sig", "auth", "password"].iter().any(|part| name.contains(part))
    };
    let pairs = url.query_pairs().filter(|(name, value)| is_key(name) && value.len() >= MIN_SECRET);
    pairs.map(|(_, value)| value.into_owned()).collect()
}

/// Returns an address without its query, user name and password, which may be secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // This fails only for an address that cannot have a user name or a password, and so has none to hide.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.to_string()
}

pub(super) fn route_url(base: &Url, provider: &Provider, route: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(route);
    }
    if !provider.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&provider.query);
    }
    url
}

/// Makes a client trust the configured certificate authorities and present the configured client certificate.
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

pub(super) fn failed(error: &reqwest::Error) -> Failure {
    let class = if error.is_timeout() && !error.is_connect() {
        Class::Timeout
    } else if error.is_decode() {
        Class::InvalidResponse
    } else {
        Class::Connection
    };
    Failure::new(class, chain(error))
}

/// Describes an error and its root cause, without the address, whose query may hold secrets.
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

/// Returns a hint that names the job-file key behind a TLS error. The error is recognized by the wording of rustls.
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

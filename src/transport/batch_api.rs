//! The files and batches of a provider.
//!
//! No call is repeated here, except with a renewed key after a refusal: whether a call may be made again is for the
//! caller to decide, because a second creation is a second batch, which is paid for.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::multipart::{Form, Part};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use url::Url;

use super::classify::classify;
use super::connection::{ProviderConnection, ResponseHead, failed, route_url};
use super::error::EndpointError;
use crate::clock;
use crate::config::{BatchShape, Provider};
use crate::fault::{Class, Failure};
use crate::wire::{self, BatchRequest, ErrorBody, RemoteBatch, RemoteFile, RemoteList};

/// Time without a byte after which a transfer has failed.
const STALLED: Duration = Duration::from_secs(60);
/// Maximum number of addresses that a download is sent on to.
const REDIRECTS: usize = 2;
/// Number of pages of a list that are looked through for a file.
const MOST_PAGES: u32 = 20;
/// Bytes that an upload reads at once.
const PIECE: usize = 1 << 16;
/// Header in which Together names the file that is to be sent elsewhere.
const FILE_ID: &str = "x-together-file-id";
/// Header with which some providers recognise a creation that is made again.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The Batch API of a provider.
#[derive(Debug)]
pub struct BatchApi {
    connection: ProviderConnection,
    shape: BatchShape,
    /// For addresses that a transfer is sent on to: without the provider's headers and key.
    elsewhere: Client,
    files: Url,
    batches: Url,
    model: Arc<str>,
    request_timeout: Duration,
}

/// What became of the creation of a batch.
#[derive(Debug)]
pub enum BatchCreation {
    /// The batch is made.
    Made(Box<RemoteBatch>),
    /// The batch is surely not made.
    Refused(BatchCreationRefusal),
    /// The answer was lost: the batch may be made or not.
    Unclear(Failure),
}

/// A refusal of the creation of a batch.
#[derive(Debug)]
pub struct BatchCreationRefusal {
    /// What the provider states.
    pub failure: Failure,
    /// What it is about.
    pub subject: RefusalSubject,
}

/// What a refusal of the creation of a batch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalSubject {
    /// The file, which some providers do not find at once.
    File,
    /// The tokens of prompts that wait in batches: there are too many with those of this one.
    EnqueuedTokens,
    /// Something else.
    Other,
}

impl BatchApi {
    /// Creates the Batch API of a provider whose interface begins at `base`.
    ///
    /// # Errors
    /// When the HTTP client does not start or a header cannot be sent.
    pub fn new(provider: &Provider, base: &Url) -> Result<BatchApi, EndpointError> {
        let elsewhere = Client::builder().redirect(Policy::none()).connect_timeout(provider.connect_timeout);
        let elsewhere = elsewhere.build().map_err(|error| EndpointError::Client {
            provider: provider.name.clone(),
            message: failed(&error).detail,
        })?;
        let shape = provider.batch.as_ref().map(|settings| settings.shape).unwrap_or_default();
        Ok(BatchApi {
            shape,
            connection: ProviderConnection::new(provider, base)?,
            elsewhere,
            files: route_url(base, provider, &["files"]),
            batches: route_url(base, provider, shape.route()),
            model: provider.model.as_str().into(),
            request_timeout: provider.request_timeout,
        })
    }

    /// Uploads a file of requests under a name.
    ///
    /// # Errors
    /// When the file cannot be read, the provider refuses it, or the answer is lost.
    pub async fn upload(&self, path: &Path, name: &str) -> Result<RemoteFile, Failure> {
        if self.shape == BatchShape::Together
            && let Some(file) = self.upload_elsewhere(path, name).await?
        {
            return Ok(file);
        }
        let sent = Arc::new(AtomicU64::new(0));
        let mut head = ResponseHead::default();
        let called = self.call_with(&mut head, async |head| {
            let (content, len) = content_of(path, &sent).await?;
            let part = Part::stream_with_length(content, len).file_name(name.to_owned());
            let part = part.mime_str("application/jsonl").map_err(|error| failed(&error))?;
            let form = Form::new().text("purpose", self.shape.purpose()).part("file", part);
            let request = self.connection.begin(Method::POST, &self.files).multipart(form);
            while_moving(&sent, self.connection.exchange(request, head)).await
        });
        let body = called.await.map_err(|refused| refused.failure)?;
        serde_json::from_slice(&body).map_err(|_| unreadable("file", &body))
    }

    /// Announces a file, and sends it to the address that the provider names for it. Returns `None` if the provider takes
    /// files itself.
    async fn upload_elsewhere(&self, path: &Path, name: &str) -> Result<Option<RemoteFile>, Failure> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("purpose", self.shape.purpose()).append_pair("file_name", name);
        let form = form.append_pair("file_type", "jsonl").finish();
        let named = OnceLock::new();
        let mut head = ResponseHead::default();
        let called = self.call_with(&mut head, async |head| {
            let request = self.connection.begin(Method::POST, &self.files).body(form.clone());
            let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            self.in_time(async {
                let mut response = self.connection.send(request, head).await?;
                let id = response.headers().get(FILE_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
                if let Some(id) = id.filter(|_| response.status().is_redirection()) {
                    named.get_or_init(|| (id, self.next_address(&response, &self.files)));
                }
                Ok(self.connection.redact_body(self.connection.read(&mut response).await?))
            })
            .await
        });
        let called = called.await;
        let (id, address) = match (named.into_inner(), called) {
            (Some((id, address)), _) => (id, address?),
            (None, Err(refused)) if !matches!(head.status, 400 | 404 | 405 | 415 | 422) => {
                return Err(refused.failure);
            }
            (None, _) => return Ok(None),
        };
        let sent = Arc::new(AtomicU64::new(0));
        let (content, len) = content_of(path, &sent).await?;
        let put = self.elsewhere.put(address).header(CONTENT_LENGTH, len).body(content);
        let response =
            while_moving(&sent, async { put.send().await.map_err(|error| failed(&error)) }).await?;
        if !response.status().is_success() {
            // Of the store behind the address, whose refusals say nothing of the provider.
            let detail = format!("the address for the file {id} answers with HTTP {}", response.status());
            return Err(Failure::new(Class::Connection, detail));
        }
        let mut head = ResponseHead::default();
        let url = below(&self.files, &[&id, "preprocess"]);
        let body = match self.call(&mut head, || self.connection.begin(Method::POST, &url)).await {
            Ok(body) => body,
            // The provider asks for no report.
            Err(_) if matches!(head.status, 404 | 405) => Bytes::new(),
            Err(refused) => return Err(refused.failure),
        };
        let unnamed = RemoteFile { id, bytes: Some(len), filename: None, created_at: None };
        Ok(Some(serde_json::from_slice(&body).unwrap_or(unnamed)))
    }

    /// Looks for an uploaded file by its name and size. Returns the newest one.
    ///
    /// # Errors
    /// When the list cannot be had.
    pub async fn find_file(&self, name: &str, bytes: u64) -> Result<Option<RemoteFile>, Failure> {
        let mut page: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut url = self.files.clone();
            self.shape.ask_for_files(&mut url, page.as_deref());
            let body = self.get_whole(&url).await?;
            let list: RemoteList<RemoteFile> =
                wire::read_list(&body).ok_or_else(|| unreadable("list of files", &body))?;
            let is_wanted =
                |file: &&RemoteFile| file.filename.as_deref() == Some(name) && file.bytes == Some(bytes);
            if let Some(file) = list.items.iter().find(is_wanted) {
                return Ok(Some(file.clone()));
            }
            page = self.shape.next_page(page.as_deref(), &list);
            // OpenAI's first page is long enough.
            if page.is_none() || self.shape == BatchShape::Openai {
                break;
            }
        }
        Ok(None)
    }

    /// Makes a batch, with one request. `key` identifies the creation for providers that recognise it when it is made
    /// again.
    pub async fn create(&self, request: &BatchRequest<'_>, key: &str) -> BatchCreation {
        let json = self.shape.creation(request, &self.model).to_string();
        let mut head = ResponseHead::default();
        let called = self.call(&mut head, || {
            let post = self.connection.begin(Method::POST, &self.batches);
            post.body(json.clone()).header(IDEMPOTENCY_KEY, key)
        });
        match called.await {
            Ok(body) => match wire::read_batch(&body) {
                Some(batch) => BatchCreation::Made(Box::new(batch)),
                None => BatchCreation::Unclear(unreadable("batch", &body)),
            },
            Err(refused) => {
                let Refused { failure, body } = refused;
                // A gateway that gives up may have passed the request on.
                let is_sure = head.was_refused && !matches!(head.status, 409 | 425 | 500..);
                if !is_sure {
                    return BatchCreation::Unclear(failure);
                }
                let parsed = serde_json::from_slice::<ErrorBody>(&body).ok().and_then(|body| body.error);
                let error = parsed.unwrap_or_default();
                let subject =
                    if wire::is_about_enqueued_tokens(error.code.as_deref(), error.message.as_deref()) {
                        RefusalSubject::EnqueuedTokens
                    } else if head.status == 404 || error.param.is_some_and(|param| param.contains("file")) {
                        RefusalSubject::File
                    } else {
                        RefusalSubject::Other
                    };
                BatchCreation::Refused(BatchCreationRefusal { failure, subject })
            }
        }
    }

    /// Returns the newest batches, or the page of them that an earlier one names as the next.
    ///
    /// # Errors
    /// When the list cannot be had.
    pub async fn list(&self, page: Option<&str>) -> Result<RemoteList<RemoteBatch>, Failure> {
        let mut url = self.batches.clone();
        self.shape.ask_for_batches(&mut url, page);
        let body = self.get_whole(&url).await?;
        let mut list = wire::read_list(&body).ok_or_else(|| unreadable("list of batches", &body))?;
        list.next = self.shape.next_page(page, &list);
        Ok(list)
    }

    /// Returns a batch, or `None` if the provider does not find it, which is no proof that it does not exist.
    ///
    /// # Errors
    /// When the provider refuses for another reason, or the answer is lost.
    pub async fn get(&self, id: &str) -> Result<Option<RemoteBatch>, Failure> {
        let mut head = ResponseHead::default();
        let url = below(&self.batches, &[id]);
        let called = self.call(&mut head, || self.connection.begin(Method::GET, &url));
        match called.await {
            Ok(body) => wire::read_batch(&body).map(Some).ok_or_else(|| unreadable("batch", &body)),
            Err(_) if head.status == 404 => Ok(None),
            Err(refused) => Err(refused.failure),
        }
    }

    /// Asks for a batch to be cancelled, which takes some time. One that has ended already counts as cancelled.
    ///
    /// # Errors
    /// When the provider refuses, or the answer is lost.
    pub async fn cancel(&self, id: &str) -> Result<(), Failure> {
        let mut head = ResponseHead::default();
        let url = below(&self.batches, &[id, "cancel"]);
        let called = self.call(&mut head, || self.connection.begin(Method::POST, &url));
        match called.await {
            Err(refused) if head.status != 409 => Err(refused.failure),
            _ => Ok(()),
        }
    }

    /// Whether the provider finds a file.
    ///
    /// # Errors
    /// When the provider refuses for another reason, or the answer is lost.
    pub async fn has_file(&self, id: &str) -> Result<bool, Failure> {
        let mut head = ResponseHead::default();
        let url = below(&self.files, &[id]);
        let called = self.call(&mut head, || self.connection.begin(Method::GET, &url));
        match called.await {
            Ok(_) => Ok(true),
            Err(_) if head.status == 404 => Ok(false),
            Err(refused) => Err(refused.failure),
        }
    }

    /// Deletes a file. One that is not there counts as deleted.
    ///
    /// # Errors
    /// When the provider refuses, or the answer is lost.
    pub async fn delete_file(&self, id: &str) -> Result<(), Failure> {
        let mut head = ResponseHead::default();
        let url = below(&self.files, &[id]);
        let called = self.call(&mut head, || self.connection.begin(Method::DELETE, &url));
        match called.await {
            Err(refused) if head.status != 404 => Err(refused.failure),
            _ => Ok(()),
        }
    }

    /// Downloads a file to `path`, which is complete if it exists. What an earlier attempt left in `path` with the ending
    /// `part` is gone on with.
    ///
    /// # Errors
    /// When the file cannot be had whole, or cannot be written.
    pub async fn download(&self, id: &str, path: &Path) -> Result<(), Failure> {
        let part = path.with_extension("part");
        let io = |error: std::io::Error| {
            Failure::new(Class::Connection, format!("cannot write {}: {error}", part.display()))
        };
        let mut file = tokio::fs::File::options();
        let mut file =
            file.create(true).truncate(false).read(true).write(true).open(&part).await.map_err(io)?;
        let have = file.seek(std::io::SeekFrom::End(0)).await.map_err(io)?;
        // The last byte is fetched again: beyond a part that is whole there is nothing to be had.
        let have = have.saturating_sub(1);
        let response = self.content(id, have).await?;
        let mut at = match response.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(&response, have) => have,
            _ => 0,
        };
        let expected = length(&response).map(|length| at + length);
        file.set_len(at).await.map_err(io)?;
        file.seek(std::io::SeekFrom::Start(at)).await.map_err(io)?;
        let mut pieces = response.bytes_stream().map_err(|error| failed(&error));
        let mut last = None;
        loop {
            let next = tokio::time::timeout(STALLED, pieces.next()).await.map_err(|_| stalled())?;
            if matches!(next, Some(Err(_))) && last.is_none() {
                // The rest of what is compressed cannot be read by itself.
                file.set_len(0).await.map_err(io)?;
            }
            let Some(piece) = next.transpose()? else { break };
            at += piece.len() as u64;
            last = piece.last().copied().or(last);
            file.write_all(&piece).await.map_err(io)?;
        }
        file.flush().await.map_err(io)?;
        let is_short = expected.is_some_and(|expected| at != expected);
        // Each line ends with a line feed; some providers leave the last one out.
        if is_short || !(at == 0 || last == Some(b'\n') || ends_with_json(&part, at).await.map_err(io)?) {
            let detail = format!("the file {id} ends in the middle, after {at} bytes");
            return Err(Failure::new(Class::Connection, detail));
        }
        tokio::fs::rename(&part, path).await.map_err(io)
    }

    /// Requests the content of a file from a byte on, wherever the provider keeps it.
    async fn content(&self, id: &str, from: u64) -> Result<Response, Failure> {
        let mut url = below(&self.files, &[id, "content"]);
        let with_range = |request: RequestBuilder| {
            let request = request.header(ACCEPT_ENCODING, "identity");
            if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request }
        };
        let mut head = ResponseHead::default();
        let request = with_range(self.connection.begin(Method::GET, &url));
        let mut response = self.in_time(self.connection.send(request, &mut head)).await?;
        for _ in 0..REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            url = self.next_address(&response, &url)?;
            let request = with_range(self.elsewhere.get(url.clone()));
            response = self.in_time(async { request.send().await.map_err(|error| failed(&error)) }).await?;
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE && from > 0 {
            // What is there came in another form, or of another file.
            return Box::pin(self.content(id, 0)).await;
        }
        let body = self.in_time(self.connection.read(&mut response)).await?;
        Err(self.connection.redact(classify(status.as_u16(), &body, &self.model, &head.headers)))
    }

    /// Returns the address that a response from `url` sends a transfer on to.
    fn next_address(&self, response: &Response, url: &Url) -> Result<Url, Failure> {
        let next = response.headers().get(LOCATION).and_then(|next| url.join(next.to_str().ok()?).ok());
        let is_safe = |next: &Url| next.scheme() == "https" || next.host_str() == self.files.host_str();
        next.filter(is_safe)
            .ok_or_else(|| Failure::new(Class::Redirect, "a transfer is sent on to an address without https"))
    }

    /// Returns a line of a download with secrets replaced.
    #[must_use]
    pub fn redact_line(&self, line: Bytes) -> Bytes {
        self.connection.redact_body(line)
    }

    async fn get_whole(&self, url: &Url) -> Result<Bytes, Failure> {
        let mut head = ResponseHead::default();
        let called = self.call(&mut head, || self.connection.begin(Method::GET, url));
        called.await.map_err(|refused| refused.failure)
    }

    /// Sends a request, once more with a renewed key if the key was refused. Returns the body of a success.
    async fn call(
        &self,
        head: &mut ResponseHead,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Bytes, Refused> {
        let sent = self.in_time(self.connection.exchange(request(), head)).await;
        let result = self.judged(sent, head);
        if !self.has_new_key(&result, head).await {
            return result;
        }
        *head = ResponseHead::default();
        let sent = self.in_time(self.connection.exchange(request(), head)).await;
        self.judged(sent, head)
    }

    /// As [`BatchApi::call`], with a request that is sent in its own way.
    async fn call_with(
        &self,
        head: &mut ResponseHead,
        send: impl AsyncFn(&mut ResponseHead) -> Result<Bytes, Failure>,
    ) -> Result<Bytes, Refused> {
        let result = self.judged(send(head).await, head);
        if !self.has_new_key(&result, head).await {
            return result;
        }
        *head = ResponseHead::default();
        self.judged(send(head).await, head)
    }

    /// Whether a call was refused for its key, and there is a new one.
    async fn has_new_key(&self, result: &Result<Bytes, Refused>, head: &ResponseHead) -> bool {
        match (result, &self.connection.key) {
            (Err(refused), Some(key)) if refused.failure.class == Class::Auth => {
                key.renew(head.key).await == Ok(true)
            }
            _ => false,
        }
    }

    fn judged(&self, sent: Result<Bytes, Failure>, head: &ResponseHead) -> Result<Bytes, Refused> {
        let (failure, body) = match sent {
            Ok(body) if (200..300).contains(&head.status) => return Ok(body),
            Ok(body) => (classify(head.status, &body, &self.model, &head.headers), body),
            Err(failure) => (failure, Bytes::new()),
        };
        Err(Refused { failure: self.connection.redact(failure), body })
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.request_timeout;
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            Err(Failure::new(Class::Timeout, format!("no whole answer within {limit}")))
        })
    }
}

/// A call that did not succeed.
struct Refused {
    failure: Failure,
    /// The body of the refusal; empty if none arrived.
    body: Bytes,
}

/// Opens a file to be sent, whose bytes are counted in `sent`. Returns its content and its length.
async fn content_of(path: &Path, sent: &Arc<AtomicU64>) -> Result<(Body, u64), Failure> {
    let io = |error: std::io::Error| {
        Failure::new(Class::Connection, format!("cannot read {}: {error}", path.display()))
    };
    let file = tokio::fs::File::open(path).await.map_err(io)?;
    let len = file.metadata().await.map_err(io)?.len();
    let counted = Arc::clone(sent);
    let pieces = futures::stream::try_unfold(file, move |mut file| {
        let counted = Arc::clone(&counted);
        async move {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).await?;
            piece.truncate(read);
            counted.fetch_add(read as u64, Ordering::Relaxed);
            std::io::Result::Ok((read > 0).then(|| (Bytes::from(piece), file)))
        }
    });
    Ok((Body::wrap_stream(pieces), len))
}

/// Waits for a call until the number of bytes that it has sent has not grown for a while.
async fn while_moving<T>(
    sent: &AtomicU64,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut call = std::pin::pin!(call);
    let (mut seen, mut at) = (0, clock::now());
    loop {
        match tokio::time::timeout(STALLED, &mut call).await {
            Ok(result) => return result,
            Err(_) if sent.load(Ordering::Relaxed) > seen => {
                (seen, at) = (sent.load(Ordering::Relaxed), clock::now());
            }
            Err(_) if clock::now() - at >= STALLED => return Err(stalled()),
            Err(_) => {}
        }
    }
}

fn stalled() -> Failure {
    let time = humantime::format_duration(STALLED);
    Failure::new(Class::Timeout, format!("nothing moved for {time}"))
}

fn unreadable(what: &str, body: &[u8]) -> Failure {
    let reason = wire::reason_of(body);
    Failure::new(Class::InvalidResponse, format!("the answer is no {what}: {reason}"))
}

/// Adds segments to the path of an address. Ids of gateways may hold characters that a path cannot.
fn below(url: &Url, segments: &[&str]) -> Url {
    let mut url = url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
    url
}

/// Whether a partial response begins at this byte.
fn begins_at(response: &Response, byte: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {byte}-")))
}

fn length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the last line of a file without a line feed at its end is whole.
async fn ends_with_json(path: &Path, len: u64) -> std::io::Result<bool> {
    let mut file = tokio::fs::File::open(path).await?;
    // A line is longer than this only if an answer is; then it is fetched again in vain, and told.
    let most = len.min(1 << 20);
    file.seek(std::io::SeekFrom::Start(len - most)).await?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).await?;
    let line = end.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok())
}

//! The files and batches of a provider.
//!
//! No call is repeated here, except with a renewed key after a refusal: whether a call may be made again is for the
//! caller to decide, because a second creation is a second batch, which is paid for.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use reqwest::multipart::{Form, Part};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use url::Url;

use super::classify::classify;
use super::connection::{ProviderConnection, ResponseHead, failed, route_url};
use super::error::EndpointError;
use crate::clock;
use crate::config::Provider;
use crate::fault::{Class, Failure};
use crate::wire::{self, BatchRequest, ErrorBody, RemoteBatch, RemoteFile, RemoteList};

/// Time without a byte after which a transfer has failed.
const STALLED: Duration = Duration::from_secs(60);
/// Maximum number of addresses that a download is sent on to.
const REDIRECTS: usize = 2;
/// Number of items on a page of a list of batches.
const PAGE: &str = "100";
/// Bytes that an upload reads at once.
const PIECE: usize = 1 << 16;
/// Header with which some providers recognise a creation that is made again.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The Batch API of a provider.
#[derive(Debug)]
pub struct BatchApi {
    connection: ProviderConnection,
    /// For addresses that a download is sent on to: without the provider's headers and key.
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
    /// Whether the refusal is about the file, which some providers do not find at once.
    pub is_about_file: bool,
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
        Ok(BatchApi {
            connection: ProviderConnection::new(provider, base)?,
            elsewhere,
            files: route_url(base, provider, &["files"]),
            batches: route_url(base, provider, &["batches"]),
            model: provider.model.as_str().into(),
            request_timeout: provider.request_timeout,
        })
    }

    /// Uploads a file of requests under a name.
    ///
    /// # Errors
    /// When the file cannot be read, the provider refuses it, or the answer is lost.
    pub async fn upload(&self, path: &Path, name: &str) -> Result<RemoteFile, Failure> {
        let io = |error: std::io::Error| {
            Failure::new(Class::Connection, format!("cannot read {}: {error}", path.display()))
        };
        let len = tokio::fs::metadata(path).await.map_err(io)?.len();
        let sent = Arc::new(AtomicU64::new(0));
        let mut head = ResponseHead::default();
        let called = self.call_with(&mut head, async |head| {
            let file = tokio::fs::File::open(path).await.map_err(io)?;
            let counted = Arc::clone(&sent);
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
            let part = Part::stream_with_length(Body::wrap_stream(pieces), len).file_name(name.to_owned());
            let part = part.mime_str("application/jsonl").map_err(|error| failed(&error))?;
            let form = Form::new().text("purpose", "batch").part("file", part);
            let request = self.connection.begin(Method::POST, &self.files).multipart(form);
            while_moving(&sent, self.connection.exchange(request, head)).await
        });
        let body = called.await.map_err(|refused| refused.failure)?;
        serde_json::from_slice(&body).map_err(|_| unreadable("file", &body))
    }

    /// Looks for an uploaded file by its name and size. Returns the newest one.
    ///
    /// # Errors
    /// When the list cannot be had.
    pub async fn find_file(&self, name: &str, bytes: u64) -> Result<Option<RemoteFile>, Failure> {
        let mut url = self.files.clone();
        url.query_pairs_mut().append_pair("purpose", "batch").append_pair("order", "desc");
        let body = self.get_whole(&url).await?;
        let list: RemoteList<RemoteFile> =
            wire::read_list(&body).ok_or_else(|| unreadable("list of files", &body))?;
        let mut found = list.items.into_iter();
        Ok(found.find(|file| file.filename.as_deref() == Some(name) && file.bytes == Some(bytes)))
    }

    /// Makes a batch, with one request. `key` identifies the creation for providers that recognise it when it is made
    /// again.
    pub async fn create(&self, request: &BatchRequest<'_>, key: &str) -> BatchCreation {
        let json = serde_json::to_vec(request).expect("writing JSON to memory does not fail");
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
                let param = parsed.and_then(|error| error.param);
                let is_about_file = head.status == 404 || param.is_some_and(|param| param.contains("file"));
                BatchCreation::Refused(BatchCreationRefusal { failure, is_about_file })
            }
        }
    }

    /// Returns the newest batches, or those after the one with the id `after`.
    ///
    /// # Errors
    /// When the list cannot be had.
    pub async fn list(&self, after: Option<&str>) -> Result<RemoteList<RemoteBatch>, Failure> {
        let mut url = self.batches.clone();
        url.query_pairs_mut().append_pair("limit", PAGE);
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let body = self.get_whole(&url).await?;
        wire::read_list(&body).ok_or_else(|| unreadable("list of batches", &body))
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
            let next = response.headers().get(LOCATION).and_then(|next| url.join(next.to_str().ok()?).ok());
            let is_safe = |next: &Url| next.scheme() == "https" || next.host_str() == self.files.host_str();
            let Some(next) = next.filter(is_safe) else {
                let detail = "a download is sent on to an address without https";
                return Err(Failure::new(Class::Redirect, detail));
            };
            url = next;
            let request = with_range(self.elsewhere.get(url.clone()));
            response = self.in_time(async { request.send().await.map_err(|error| failed(&error)) }).await?;
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.in_time(self.connection.read(&mut response)).await?;
        Err(self.connection.redact(classify(status.as_u16(), &body, &self.model, &head.headers)))
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

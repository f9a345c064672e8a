//! Files: uploads, lists and downloads, as in OpenAI's files API.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Multipart, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};

use super::gate::known_key;
use super::list_pages::{list_page, parameter};
use super::reply::{ErrorReply, hang_up, invalid, refuse, respond, success};
use super::state::ServerShared;
use super::stored::{ContentWriter, UploadedFile};
use crate::config::{BatchShape, BatchesSpec, ByteSize};

/// Maximum size of an upload in bytes, where the specification states none.
const MAX_BYTES: u64 = 200_000_000;
/// Bytes that a download reads at once.
const PIECE: u64 = 1 << 16;
/// Maximum length of a list of files.
const LONGEST_LIST: usize = 10_000;

/// Checks the key of a request about files or batches, and draws whether it fails. Returns what the simulator is to do
/// with files and batches, and the key.
pub(super) fn enter<'a>(
    shared: &'a ServerShared,
    headers: &HeaderMap,
) -> Result<(&'a BatchesSpec, String), ErrorReply> {
    let Some(spec) = &shared.spec.batches else {
        let message = "the simulator has no files and batches: [simulator.batches] is missing";
        return Err(Box::new(refuse(404, "unknown_route", message)));
    };
    known_key(shared, headers)?;
    if shared.draws_batch_fault("throttled request", spec.throttled_requests) {
        let mut response = refuse(429, "rate_limit_exceeded", "Too many requests about files and batches.");
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        return Err(Box::new(response));
    }
    let key = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok((spec, key.to_owned()))
}

/// As [`enter`], for requests that may fail without harm.
pub(super) fn enter_again<'a>(
    shared: &'a ServerShared,
    headers: &HeaderMap,
) -> Result<(&'a BatchesSpec, String), ErrorReply> {
    let (spec, key) = enter(shared, headers)?;
    if shared.draws_batch_fault("failing request", spec.failing_requests) {
        return Err(Box::new(refuse(503, "unavailable", "a configured fault")));
    }
    Ok((spec, key))
}

pub(super) fn no_file(id: &str) -> ErrorReply {
    Box::new(refuse(404, "not_found", &format!("No such File object: {id}")))
}

/// An error response for a disk that fails.
pub(super) fn disk_fails(error: &io::Error) -> ErrorReply {
    Box::new(refuse(500, "disk", &format!("the simulator's disk fails: {error}")))
}

/// Takes a form with a file.
pub(super) async fn take_upload(
    shared: &ServerShared,
    headers: &HeaderMap,
    mut parts: Multipart,
) -> Result<Response, ErrorReply> {
    let (spec, key) = enter(shared, headers)?;
    let broken = |error: axum::extract::multipart::MultipartError| {
        invalid("invalid_request_error", &format!("we could not read the form: {error}"), None)
    };
    let most = spec.max_bytes.map_or(MAX_BYTES, ByteSize::get);
    let (mut purpose, mut file) = (None, None);
    while let Some(mut part) = parts.next_field().await.map_err(broken)? {
        match part.name() {
            Some("purpose") => purpose = Some(part.text().await.map_err(broken)?),
            Some("file") => {
                let name = part.file_name().unwrap_or_default().to_owned();
                let mut content = ContentWriter::create().map_err(|error| disk_fails(&error))?;
                while let Some(piece) = part.chunk().await.map_err(broken)? {
                    if content.len + piece.len() as u64 > most {
                        let message = format!("The file is larger than {most} bytes.");
                        return Err(Box::new(refuse(413, "file_too_large", &message)));
                    }
                    content.append(&piece).map_err(|error| disk_fails(&error))?;
                }
                file = Some((name, content.finish().map_err(|error| disk_fails(&error))?));
            }
            _ => {
                part.bytes().await.map_err(broken)?;
            }
        }
    }
    let Some((name, content)) = file else {
        return Err(invalid("invalid_request_error", "Missing required parameter: 'file'.", Some("file")));
    };
    check_upload(spec, purpose.as_deref().unwrap_or_default(), &name)?;
    Ok(store_upload(shared, spec, UploadedFile::new(name, purpose_in(spec), &key, content)))
}

fn purpose_in(spec: &BatchesSpec) -> &'static str {
    match spec.shape {
        BatchShape::Openai | BatchShape::Mistral => "batch",
        BatchShape::Together => "batch-api",
    }
}

/// Checks the purpose and the name of a file of requests.
pub(super) fn check_upload(spec: &BatchesSpec, purpose: &str, name: &str) -> Result<(), ErrorReply> {
    if purpose != purpose_in(spec) {
        let message = format!("Invalid 'purpose': it must be '{}'.", purpose_in(spec));
        return Err(invalid("invalid_request_error", &message, Some("purpose")));
    }
    if !name.ends_with(".jsonl") {
        let message = format!("Invalid file format for Batch API: '{name}' must end in .jsonl.");
        return Err(invalid("invalid_request_error", &message, Some("file")));
    }
    Ok(())
}

/// Stores a file. Returns the response, which may be lost.
pub(super) fn store_upload(shared: &ServerShared, spec: &BatchesSpec, file: UploadedFile) -> Response {
    let is_lost = shared.draws_batch_fault("lost upload", spec.lost_uploads);
    let mut state = shared.lock();
    let body = file.to_json().to_string();
    state.counts.batches.uploads += 1;
    state.counts.batches.files += 1;
    state.batches.files.push(file);
    if is_lost { hang_up() } else { success(body) }
}

pub(super) async fn list(State(shared): State<Arc<ServerShared>>, headers: HeaderMap, uri: Uri) -> Response {
    respond(|| {
        let (spec, key) = enter_again(&shared, &headers)?;
        let purpose = parameter(&uri, "purpose");
        let state = shared.lock();
        let seen = state.batches.files.iter().filter(|file| file.is_seen_with(&key, spec));
        let wanted = seen.filter(|file| purpose.as_ref().is_none_or(|purpose| file.purpose == *purpose));
        let mut files: Vec<Value> = wanted.map(UploadedFile::to_json).collect();
        if parameter(&uri, "order").as_deref() != Some("asc") {
            files.reverse();
        }
        Ok(success(list_page(spec.shape, &files, &uri, LONGEST_LIST, LONGEST_LIST)?.to_string()))
    })
}

pub(super) async fn get(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    respond(|| {
        let (spec, key) = enter_again(&shared, &headers)?;
        let state = shared.lock();
        let file = state.batches.file(&id, &key, spec).ok_or_else(|| no_file(&id))?;
        Ok(success(file.to_json().to_string()))
    })
}

pub(super) async fn delete(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    respond(|| {
        let (spec, key) = enter_again(&shared, &headers)?;
        let mut state = shared.lock();
        state.batches.file(&id, &key, spec).ok_or_else(|| no_file(&id))?;
        state.batches.files.retain(|file| file.id != id);
        state.counts.batches.files -= 1;
        Ok(success(json!({"id": id, "object": "file", "deleted": true}).to_string()))
    })
}

pub(super) async fn download(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    respond(|| send_content(&shared, &headers, &id))
}

fn send_content(shared: &ServerShared, headers: &HeaderMap, id: &str) -> Result<Response, ErrorReply> {
    let (spec, key) = enter_again(shared, headers)?;
    let is_cut = shared.draws_batch_fault("cut download", spec.cut_downloads);
    let is_short = shared.draws_batch_fault("short download", spec.short_downloads);
    let content = {
        let mut state = shared.lock();
        state.counts.batches.downloads += 1;
        state.batches.file(id, &key, spec).ok_or_else(|| no_file(id))?.content.clone()
    };
    let content = match spec.gzips_downloads {
        true => {
            content.gzipped().map_err(|error| Box::new(refuse(500, "server_error", &error.to_string())))?
        }
        false => content,
    };
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    let first = first.filter(|_| !spec.ignores_ranges);
    let (start, len) = (first.unwrap_or_default(), content.len);
    if start > len || (start == len && first.is_some()) {
        return Err(Box::new(refuse(416, "range_not_satisfiable", "The range lies outside the file.")));
    }
    let end = if is_cut || is_short { start + (len - start) / 2 } else { len };
    let pieces = stream::unfold(Some(start), move |at| {
        let content = content.clone();
        async move {
            let at = at?;
            if at >= end {
                // A cut connection ends with an error, in place of the rest.
                return is_cut.then(|| (Err(io::Error::from(io::ErrorKind::ConnectionReset)), None));
            }
            let size = PIECE.min(end - at);
            Some((content.read(at, size), Some(at + size)))
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    if spec.gzips_downloads {
        fields.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    if !is_short {
        fields.insert(header::CONTENT_LENGTH, (len - start).into());
    }
    if first.is_some() {
        let range = format!("bytes {start}-{}/{len}", len - 1);
        fields.insert(header::CONTENT_RANGE, range.parse().expect("digits"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response.into_response())
}

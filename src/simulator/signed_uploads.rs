//! Uploads in three steps, as at Together: a file is announced, its content sent to an address that the response names, and
//! its arrival reported.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::files::{check_upload, disk_fails, enter, no_file, store_upload, take_upload};
use super::reply::{ErrorReply, invalid, refuse, respond, success};
use super::state::ServerShared;
use super::stored::{AnnouncedFile, ContentWriter, UploadedFile};

/// The form of an announcement.
#[derive(Debug, Deserialize)]
struct Announcement {
    purpose: String,
    file_name: String,
}

/// Takes an upload, or its announcement.
pub(super) async fn upload(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    if is_announcement(&shared, &headers) {
        return match Bytes::from_request(request, &()).await {
            Ok(form) => respond(|| announce(&shared, &headers, &form)),
            Err(rejection) => rejection.into_response(),
        };
    }
    match Multipart::from_request(request, &()).await {
        Ok(parts) => take_upload(&shared, &headers, parts).await.unwrap_or_else(|refused| *refused),
        Err(rejection) => rejection.into_response(),
    }
}

/// Whether a request announces a file, in place of bringing it.
fn is_announcement(shared: &ServerShared, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    shared.spec.batches.as_ref().is_some_and(|spec| spec.signed_uploads)
        && kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"))
}

/// Answers an announcement with the address for the content.
fn announce(shared: &ServerShared, headers: &HeaderMap, form: &[u8]) -> Result<Response, ErrorReply> {
    let (spec, key) = enter(shared, headers)?;
    let pairs: serde_json::Map<_, _> = url::form_urlencoded::parse(form)
        .map(|(name, value)| (name.into_owned(), serde_json::Value::from(value.into_owned())))
        .collect();
    let read = serde_json::from_value::<Announcement>(pairs.into());
    let Announcement { purpose, file_name } =
        read.map_err(|error| invalid("invalid_request_error", &error.to_string(), None))?;
    check_upload(spec, &purpose, &file_name)?;
    let id = format!("file-{}", uuid::Uuid::new_v4().simple());
    let mut response = StatusCode::FOUND.into_response();
    for (name, value) in [("x-together-file-id", id.clone()), ("location", format!("/signed/{id}"))] {
        response.headers_mut().insert(name, HeaderValue::try_from(value).expect("letters and digits"));
    }
    shared.lock().batches.announced.push(AnnouncedFile { id, name: file_name, purpose, key, content: None });
    Ok(response)
}

/// Takes the content of an announced file. The address is the permission: a key is not to be sent along.
pub(super) async fn receive(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    respond(|| {
        if headers.contains_key(header::AUTHORIZATION) || !headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Box::new(refuse(400, "invalid_request", "a key, or no length, is sent along")));
        }
        let mut content = ContentWriter::create().map_err(|error| disk_fails(&error))?;
        content.append(&body).map_err(|error| disk_fails(&error))?;
        let content = content.finish().map_err(|error| disk_fails(&error))?;
        let mut state = shared.lock();
        let announced = state.batches.announced.iter_mut().find(|file| file.id == id);
        announced.ok_or_else(|| no_file(&id))?.content = Some(content);
        Ok(success(""))
    })
}

/// Makes a file of an announced one whose content is there.
pub(super) async fn preprocess(
    State(shared): State<Arc<ServerShared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    respond(|| {
        let (spec, key) = enter(&shared, &headers)?;
        let announced = {
            let mut state = shared.lock();
            let is_meant = |file: &AnnouncedFile| file.id == id && file.key == key && file.content.is_some();
            let at = state.batches.announced.iter().position(is_meant).ok_or_else(|| no_file(&id))?;
            state.batches.announced.remove(at)
        };
        let AnnouncedFile { id, name, purpose, content, .. } = announced;
        let content = content.ok_or_else(|| no_file(&id))?;
        let file = UploadedFile { id, ..UploadedFile::new(name, &purpose, &key, content) };
        Ok(store_upload(&shared, spec, file))
    })
}

//! Responses: outcomes, and why there are none.

use axum::Json;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body::ARROW;
use crate::run::{End, RunError};
use crate::service::ServiceError;

/// Seconds after which a client may find room in the window.
const UNTIL_ROOM: u64 = 1;
/// Seconds after which a client may find the service started again.
const UNTIL_START: u64 = 5;

/// Returns the exit status with which a command ends after a job has.
pub(super) type StatusOf = fn(&Result<End, RunError>) -> u8;

pub(super) fn arrow(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(ARROW));
    response
}

pub(super) fn message(status: StatusCode, text: impl Into<String>) -> Response {
    (status, Json(json!({ "message": text.into() }))).into_response()
}

pub(super) fn refused(error: &ServiceError, status_of: StatusOf) -> Response {
    let text = error.to_string();
    match error {
        ServiceError::Invalid(_) => message(StatusCode::BAD_REQUEST, text),
        ServiceError::TooLarge(_) => message(StatusCode::PAYLOAD_TOO_LARGE, text),
        ServiceError::OtherRows => message(StatusCode::UNPROCESSABLE_ENTITY, text),
        ServiceError::Full => later(text, UNTIL_ROOM),
        ServiceError::Stopping => later(text, UNTIL_START),
        ServiceError::Journal(_) => message(StatusCode::INTERNAL_SERVER_ERROR, text),
        ServiceError::Ended(end) => {
            (StatusCode::CONFLICT, Json(ended(end, &text, status_of(end)))).into_response()
        }
    }
}

/// A refusal that holds for a while only.
pub(super) fn later(text: String, seconds: u64) -> Response {
    let mut response = message(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Describes how a job has ended.
fn ended(end: &Result<End, RunError>, message: &str, status: u8) -> Value {
    let (provider, class) = match end {
        Ok(End::Provider { provider, failure }) => (Some(provider.as_str()), Some(failure.class.name())),
        _ => (None, None),
    };
    let word = end.as_ref().map_or("error", End::word);
    json!({ "end": word, "status": status, "provider": provider, "class": class, "message": message })
}

//! Responses: JSON, refusals, and what a fault sends instead of an answer.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};

use crate::config::FaultSpec;

/// The response to a refused request.
pub(super) type ErrorReply = Box<Response>;

/// Marks a response whose connection breaks.
#[derive(Clone)]
pub(super) struct HangUp;

/// The response that a handler makes, or the one with which it refuses.
pub(super) fn respond(handler: impl FnOnce() -> Result<Response, ErrorReply>) -> Response {
    handler().unwrap_or_else(|refused| *refused)
}

/// A JSON response with status 200.
pub(super) fn success(body: impl Into<Body>) -> Response {
    with_status(StatusCode::OK, body)
}

fn with_status(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// An error response whose type and code are the same.
pub(super) fn refuse(status: u16, code: &str, message: &str) -> Response {
    refuse_as(status, code, code, message, None)
}

/// An error response with status 400.
pub(super) fn invalid(code: &str, message: &str, param: Option<&str>) -> ErrorReply {
    Box::new(refuse_as(400, "invalid_request_error", code, message, param))
}

pub(super) fn refuse_as(status: u16, kind: &str, code: &str, message: &str, param: Option<&str>) -> Response {
    let body = json!({"error": {"message": message, "type": kind, "code": code, "param": param}});
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_status(status, body.to_string())
}

/// A response whose connection breaks in the middle of the body.
pub(super) fn hang_up() -> Response {
    let pieces: [Result<&'static str, std::io::Error>; 2] =
        [Ok("{\"choices\":[{\"message\":"), Err(std::io::ErrorKind::ConnectionReset.into())];
    let mut response = Response::new(Body::from_stream(stream::iter(pieces)));
    response.extensions_mut().insert(HangUp);
    response
}

/// The response that a fault sends instead of an answer; `None` if it only changes or delays the answer.
pub(super) fn fault_response(fault: &FaultSpec) -> Option<Response> {
    if fault.hang_up {
        return Some(hang_up());
    }
    let status = fault.status.unwrap_or(if fault.body.is_some() { 200 } else { 500 });
    let mut response = if let Some(body) = &fault.body {
        with_status(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), body.clone())
    } else if fault.finish_reason.is_some()
        || fault.text.is_some()
        || fault.wrong.is_some()
        || (fault.status.is_none() && fault.delay.is_some())
    {
        return None;
    } else {
        let code = fault.code.as_deref().unwrap_or("simulated_fault");
        refuse(status, code, fault.message.as_deref().unwrap_or("a configured fault"))
    };
    if let Some(value) = fault.retry_after.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    Some(response)
}

/// The `usage` object of a response; `cost` is in US dollars.
pub(super) fn usage(prompt_tokens: u64, completion_tokens: Option<u64>, cost: Option<f64>) -> Value {
    let mut usage = json!({"prompt_tokens": prompt_tokens});
    if let Some(tokens) = completion_tokens {
        usage["completion_tokens"] = tokens.into();
    }
    usage["total_tokens"] = (prompt_tokens + completion_tokens.unwrap_or_default()).into();
    if let Some(cost) = cost {
        usage["cost"] = cost.into();
    }
    usage
}

/// Adds headers to a response and leaves out invalid ones.
pub(super) fn add(response: &mut Response, headers: impl IntoIterator<Item = (String, String)>) {
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
}

//! The pages of lists of files and batches.

use axum::http::Uri;
use serde_json::{Value, json};

use super::reply::{ErrorReply, invalid};
use crate::config::BatchShape;

/// Items on a page of Mistral's, if the request does not say how many.
const PAGE_SIZE: usize = 100;

/// Returns the value of a parameter in the query of an address.
pub(super) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Returns the page of a list that an address asks for.
pub(super) fn list_page(
    shape: BatchShape,
    items: &[Value],
    uri: &Uri,
    longest: usize,
    usual: usize,
) -> Result<Value, ErrorReply> {
    match shape {
        BatchShape::Openai => page_after(items, uri, longest, usual),
        BatchShape::Together => Ok(json!({"object": "list", "data": items})),
        BatchShape::Mistral => {
            let number = |name: &str, usual: usize| match parameter(uri, name).map(|text| text.parse()) {
                None => Ok(usual),
                Some(Ok(number)) => Ok(number),
                Some(Err(_)) => {
                    Err(invalid("invalid_request_error", &format!("Invalid '{name}'."), Some(name)))
                }
            };
            let size = number("page_size", PAGE_SIZE)?;
            let page = items.iter().skip(number("page", 0)?.saturating_mul(size)).take(size);
            Ok(json!({"object": "list", "data": page.collect::<Vec<_>>(), "total": items.len()}))
        }
    }
}

/// Takes `limit` items after the one with the id `after`, and wraps them as a list.
fn page_after(items: &[Value], uri: &Uri, longest: usize, usual: usize) -> Result<Value, ErrorReply> {
    let limit = match parameter(uri, "limit").map(|limit| limit.parse::<usize>()) {
        None => usual,
        Some(Ok(limit)) if (1..=longest).contains(&limit) => limit,
        Some(_) => {
            let message = format!("Invalid 'limit': it must lie between 1 and {longest}.");
            return Err(invalid("invalid_request_error", &message, Some("limit")));
        }
    };
    let start = match parameter(uri, "after") {
        Some(after) => {
            items.iter().position(|item| item["id"] == after.as_str()).map_or(items.len(), |at| at + 1)
        }
        None => 0,
    };
    let page: Vec<&Value> = items[start..].iter().take(limit).collect();
    Ok(json!({
        "object": "list",
        "data": page,
        "first_id": page.first().map(|item| &item["id"]),
        "last_id": page.last().map(|item| &item["id"]),
        "has_more": start + page.len() < items.len(),
    }))
}

//! How the interfaces of Batch APIs differ in what is sent: routes, pages, creations and lines. What comes back is read
//! alike ([`crate::wire`]).
//!
//! Sources: Together's API reference for files and batches and its client for Python (uploads); Mistral's "Batch
//! Processing" and its client for Python.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::Url;

use crate::config::{BatchShape, duration};
use crate::wire::{BatchRequest, RemoteList, RequestLine};

/// Number of items on a page of a list.
const PAGE: u64 = 100;

impl BatchShape {
    /// Returns the route below which batches are.
    pub(super) fn route(self) -> &'static [&'static str] {
        match self {
            BatchShape::Openai | BatchShape::Together => &["batches"],
            BatchShape::Mistral => &["batch", "jobs"],
        }
    }

    /// Returns the purpose of a file of requests.
    pub(super) fn purpose(self) -> &'static str {
        match self {
            BatchShape::Openai | BatchShape::Mistral => "batch",
            BatchShape::Together => "batch-api",
        }
    }

    /// Asks an address for a page of the list of files: the first one, or the one that [`BatchShape::next_page`] named.
    pub(super) fn ask_for_files(self, url: &mut Url, page: Option<&str>) {
        let mut query = url.query_pairs_mut();
        match self {
            // The first page has 10,000 of them.
            BatchShape::Openai => query.append_pair("purpose", self.purpose()).append_pair("order", "desc"),
            // The list is whole.
            BatchShape::Together => return,
            BatchShape::Mistral => query
                .append_pair("purpose", self.purpose())
                .append_pair("page", page.unwrap_or("0"))
                .append_pair("page_size", &PAGE.to_string()),
        };
    }

    /// Asks an address for a page of the list of batches.
    pub(super) fn ask_for_batches(self, url: &mut Url, page: Option<&str>) {
        let mut query = url.query_pairs_mut();
        match self {
            BatchShape::Openai => {
                query.append_pair("limit", &PAGE.to_string());
                if let Some(after) = page {
                    query.append_pair("after", after);
                }
            }
            BatchShape::Together => {}
            BatchShape::Mistral => {
                query.append_pair("page", page.unwrap_or("0")).append_pair("page_size", &PAGE.to_string());
            }
        }
    }

    /// Returns what names the page after one that was asked for as `page`, or `None` if that was the last one.
    pub(super) fn next_page<T>(self, page: Option<&str>, list: &RemoteList<T>) -> Option<String> {
        match self {
            BatchShape::Openai | BatchShape::Together => list.next.clone(),
            BatchShape::Mistral => {
                let next = page.and_then(|page| page.parse().ok()).unwrap_or(0) + 1;
                let has_more = list.total.map_or(!list.items.is_empty(), |total| next * PAGE < total);
                has_more.then(|| next.to_string())
            }
        }
    }

    /// Returns the body of the creation of a batch.
    pub(super) fn creation(self, request: &BatchRequest<'_>, model: &str) -> Value {
        let BatchRequest { input_file_id, endpoint, completion_window, metadata } = request;
        match self {
            BatchShape::Openai => json!(request),
            BatchShape::Together => json!({
                "input_file_id": input_file_id,
                "endpoint": endpoint,
                "completion_window": completion_window,
            }),
            BatchShape::Mistral => json!({
                "input_files": [input_file_id],
                "model": model,
                "endpoint": endpoint,
                "metadata": metadata,
                "timeout_hours": duration(completion_window).map_or(24, |window| window.as_secs() / 3600),
            }),
        }
    }

    /// Returns the body of a request as it stands in a line. Mistral has its model in the creation of the batch.
    ///
    /// # Errors
    /// When the body is no JSON object.
    pub fn line_body(self, body: String) -> serde_json::Result<String> {
        match self {
            BatchShape::Openai | BatchShape::Together => Ok(body),
            BatchShape::Mistral => {
                let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(&body)?;
                fields.remove("model");
                serde_json::to_string(&fields)
            }
        }
    }

    /// Returns the line of a request to the interface at `endpoint`.
    #[must_use]
    pub fn line<'a>(self, custom_id: &'a str, endpoint: &'a str, body: &'a RawValue) -> RequestLine<'a> {
        let has_url = self == BatchShape::Openai;
        RequestLine { custom_id, method: has_url.then_some("POST"), url: has_url.then_some(endpoint), body }
    }
}

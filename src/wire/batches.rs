//! Files and batches of Batch APIs: objects, lists and lines, as servers and gateways send them. A field that is missing or
//! cannot be read counts as unknown; one that has another name at Together or Mistral is read by that name, too.
//!
//! Sources: OpenAI's API reference, `Batch`, `File` and "Batch API" (the lines of the files); Together's and Mistral's
//! clients for Python, `BatchJob`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chat::text;

/// Names of a batch's fields at Together and Mistral, each with OpenAI's.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("input_files", "input_file_id"),
    ("output_file", "output_file_id"),
    ("error_file", "error_file_id"),
    ("error", "errors"),
    ("job_deadline", "expires_at"),
];

/// Code of the refusal of a batch because too many tokens of prompts wait in batches, and words in the messages of providers
/// and gateways that have no code for it.
const TOO_MANY_TOKENS: &str = "token_limit_exceeded";
const TOO_MANY_TOKENS_WORDS: &str = "enqueued token";

/// A file at the provider.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteFile {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    #[serde(default, deserialize_with = "lenient")]
    pub bytes: Option<u64>,
    /// The name that it was uploaded with.
    #[serde(default, deserialize_with = "lenient")]
    pub filename: Option<String>,
    /// When it was uploaded.
    #[serde(default, deserialize_with = "moment")]
    pub created_at: Option<DateTime<Utc>>,
}

/// A batch at the provider.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteBatch {
    /// Its id.
    pub id: String,
    /// Its state.
    #[serde(default, deserialize_with = "status")]
    pub status: BatchStatus,
    /// Id of the file of its requests.
    #[serde(default, deserialize_with = "file_id")]
    pub input_file_id: Option<String>,
    /// Id of the file of its answers.
    #[serde(default, deserialize_with = "file_id")]
    pub output_file_id: Option<String>,
    /// Id of the file of its failed requests.
    #[serde(default, deserialize_with = "file_id")]
    pub error_file_id: Option<String>,
    /// When it was made.
    #[serde(default, deserialize_with = "moment")]
    pub created_at: Option<DateTime<Utc>>,
    /// When it expires.
    #[serde(default, deserialize_with = "moment")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Numbers of its requests.
    #[serde(default, deserialize_with = "lenient")]
    pub request_counts: Option<RequestCounts>,
    /// What was wrong with its file.
    #[serde(default, deserialize_with = "errors")]
    pub errors: Option<BatchErrors>,
    /// What all of its answers used.
    #[serde(default, deserialize_with = "lenient")]
    pub usage: Option<BatchUsage>,
    /// What its creator wrote on it.
    #[serde(default, deserialize_with = "lenient")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// The state of a batch, by family: providers name them differently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BatchStatus {
    /// Its file is checked, or it waits for its turn.
    Validating,
    /// Its requests are answered, or its files are written.
    Running,
    /// It has ended, with an answer or a failure for each request.
    Completed,
    /// Its file was refused; nothing was answered.
    Failed,
    /// Its time was over before all requests were answered.
    Expired,
    /// It is being cancelled; what is being answered may still come.
    Cancelling,
    /// It was cancelled.
    Cancelled,
    /// None of these; counts as running.
    Unknown(String),
    /// Not stated; counts as running.
    #[default]
    Unstated,
}

impl BatchStatus {
    /// Reads a state's name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "validating" | "queued" | "pending" => BatchStatus::Validating,
            "running" | "in_progress" | "finalizing" => BatchStatus::Running,
            "completed" | "succeeded" | "success" | "ended" => BatchStatus::Completed,
            "failed" => BatchStatus::Failed,
            "expired" | "timeout_exceeded" => BatchStatus::Expired,
            "canceling" | "cancelling" | "cancellation_requested" => BatchStatus::Cancelling,
            "cancelled" | "canceled" => BatchStatus::Cancelled,
            _ => BatchStatus::Unknown(name.to_owned()),
        }
    }

    /// Whether nothing more comes of the batch.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            BatchStatus::Completed | BatchStatus::Failed | BatchStatus::Expired | BatchStatus::Cancelled
        )
    }

    /// Returns the name that is shown and stored.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            BatchStatus::Validating => "validating",
            BatchStatus::Running => "in_progress",
            BatchStatus::Completed => "completed",
            BatchStatus::Failed => "failed",
            BatchStatus::Expired => "expired",
            BatchStatus::Cancelling => "cancelling",
            BatchStatus::Cancelled => "cancelled",
            BatchStatus::Unknown(name) => name,
            BatchStatus::Unstated => "unknown",
        }
    }
}

/// Numbers of a batch's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// All of them.
    #[serde(default)]
    pub total: u64,
    /// Those that were answered.
    #[serde(default)]
    pub completed: u64,
    /// Those that failed.
    #[serde(default)]
    pub failed: u64,
}

/// What was wrong with a batch's file.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct BatchErrors {
    /// Each error.
    #[serde(default)]
    pub data: Vec<BatchError>,
}

/// One error of a batch's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BatchError {
    /// Its code.
    #[serde(default, deserialize_with = "code")]
    pub code: Option<String>,
    /// Its message.
    #[serde(default, deserialize_with = "lenient")]
    pub message: Option<String>,
    /// Number of the line that it is about, from 1.
    #[serde(default, deserialize_with = "lenient")]
    pub line: Option<u64>,
}

/// What all answers of a batch used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchUsage {
    /// Tokens of prompts.
    #[serde(default)]
    pub input_tokens: u64,
    /// Tokens of answers.
    #[serde(default)]
    pub output_tokens: u64,
}

/// A page of a list.
#[derive(Debug)]
pub struct RemoteList<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// The id after which the next page begins; `None` on the last page.
    pub next: Option<String>,
    /// Number of items on all pages, where the list states it.
    pub total: Option<u64>,
}

/// The creation of a batch; as a body, OpenAI's.
#[derive(Debug, Serialize)]
pub struct BatchRequest<'a> {
    /// Id of the file of its requests.
    pub input_file_id: &'a str,
    /// Path of the interface that answers them.
    pub endpoint: &'a str,
    /// Time in which they are to be answered.
    pub completion_window: &'a str,
    /// What is written on it.
    pub metadata: &'a BTreeMap<&'a str, String>,
}

/// One line of a file of requests.
#[derive(Debug, Serialize)]
pub struct RequestLine<'a> {
    /// The id that its answer carries.
    pub custom_id: &'a str,
    /// `POST`, where a line states the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// Path of the interface that answers it, where a line states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<&'a str>,
    /// The request.
    pub body: &'a RawValue,
}

/// One line of a file of answers or of failures.
#[derive(Debug, Deserialize)]
pub struct AnswerLine<'a> {
    /// The id of the request.
    #[serde(default)]
    pub custom_id: Option<String>,
    /// The response to the request; `None` if it was never made.
    #[serde(borrow, default)]
    pub response: Option<LineResponse<'a>>,
    /// Why the request was never made.
    #[serde(default, deserialize_with = "lenient")]
    pub error: Option<BatchError>,
}

/// The response to one request of a batch.
#[derive(Debug, Deserialize)]
pub struct LineResponse<'a> {
    /// Its HTTP status; 0 or `None` if it was never made.
    #[serde(default)]
    pub status_code: Option<u16>,
    /// Its body.
    #[serde(borrow, default)]
    pub body: Option<&'a RawValue>,
}

/// Whether an error says that too many tokens of prompts wait in batches.
#[must_use]
pub fn is_about_enqueued_tokens(code: Option<&str>, message: Option<&str>) -> bool {
    match code {
        Some(code) => code == TOO_MANY_TOKENS,
        None => message.is_some_and(|text| text.to_ascii_lowercase().contains(TOO_MANY_TOKENS_WORDS)),
    }
}

/// Reads a batch, which some providers wrap into `job`.
#[must_use]
pub fn read_batch(body: &[u8]) -> Option<RemoteBatch> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    let batch = match value.get_mut("job") {
        Some(job) => job.take(),
        None => value,
    };
    serde_json::from_value(with_usual_names(batch)).ok()
}

/// Gives the fields of a batch the names that OpenAI has for them.
fn with_usual_names(mut item: Value) -> Value {
    let Some(fields) = item.as_object_mut() else { return item };
    for (other, usual) in OTHER_NAMES {
        if fields.get(usual).is_none_or(Value::is_null)
            && let Some(value) = fields.remove(other)
        {
            fields.insert(usual.to_owned(), value);
        }
    }
    let count = |name: &str| fields.get(name).and_then(Value::as_u64);
    if let Some(total) = count("total_requests") {
        let (completed, failed) = (count("succeeded_requests"), count("failed_requests"));
        let counts = json!({
            "total": total,
            "completed": completed.unwrap_or_default(),
            "failed": failed.unwrap_or_default(),
        });
        fields.entry("request_counts").or_insert(counts);
    }
    item
}

/// Reads a page of a list: an object with `data`, or a bare array, which has no further pages. Items that cannot be read
/// are left out.
#[must_use]
pub fn read_list<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Option<RemoteList<T>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let (items, has_more, total) = match value {
        Value::Array(items) => (items, false, None),
        Value::Object(mut fields) => {
            let total = fields.get("total").and_then(Value::as_u64);
            let has_more = fields.get("has_more").and_then(Value::as_bool).unwrap_or(false);
            match fields.remove("data") {
                Some(Value::Array(items)) => (items, has_more, total),
                // A list without an item.
                Some(Value::Null) => (Vec::new(), false, total),
                None if total == Some(0) => (Vec::new(), false, total),
                _ => return None,
            }
        }
        _ => return None,
    };
    let last = items.last().and_then(|item| item.get("id")?.as_str().map(ToOwned::to_owned));
    let read = |item: Value| serde_json::from_value(with_usual_names(item)).ok();
    let items = items.into_iter().filter_map(read).collect();
    Some(RemoteList { items, next: last.filter(|_| has_more), total })
}

/// A value that cannot be read counts as missing.
fn lenient<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// The id of a file, or of the first of several. An empty one counts as missing.
fn file_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let id = match Value::deserialize(deserializer)? {
        Value::Array(ids) => ids.into_iter().next(),
        id => Some(id),
    };
    Ok(id.and_then(|id| Some(id.as_str()?.to_owned())).filter(|id| !id.is_empty()))
}

/// The errors of a file: a list in an object, a bare list, or a message.
fn errors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BatchErrors>, D::Error> {
    let data = match Value::deserialize(deserializer)? {
        Value::Object(mut fields) => fields.remove("data").unwrap_or_default(),
        Value::String(message) if !message.is_empty() => json!([{"message": message}]),
        other => other,
    };
    let Value::Array(errors) = data else { return Ok(None) };
    let data = errors.into_iter().filter_map(|error| serde_json::from_value(error).ok()).collect();
    Ok(Some(BatchErrors { data }))
}

/// A code, also one that is a number.
fn code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(text(Value::deserialize(deserializer)?))
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BatchStatus, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_str().map_or(BatchStatus::Unstated, BatchStatus::of))
}

/// A time in seconds since 1970 or in RFC 3339.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(seconds) => seconds.as_f64().and_then(|seconds| {
            #[expect(clippy::cast_possible_truncation, reason = "saturates, which is no time")]
            DateTime::from_timestamp(seconds as i64, 0)
        }),
        Value::String(text) => DateTime::parse_from_rfc3339(&text).ok().map(|time| time.to_utc()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_read_in_the_forms_that_providers_send() {
        let openai = br#"{"id":"batch_1","object":"batch","status":"in_progress","input_file_id":"file-1",
            "output_file_id":null,"created_at":1711471533,"expires_at":1711557933,"errors":null,
            "request_counts":{"total":100,"completed":95,"failed":5},"metadata":{"enrich":"a"}}"#;
        let batch = read_batch(openai).unwrap();
        assert_eq!((batch.id.as_str(), &batch.status), ("batch_1", &BatchStatus::Running));
        assert_eq!(batch.request_counts, Some(RequestCounts { total: 100, completed: 95, failed: 5 }));
        assert_eq!(batch.metadata.unwrap()["enrich"], "a");
        assert_eq!(batch.expires_at.unwrap() - batch.created_at.unwrap(), chrono::TimeDelta::days(1));
        let together = br#"{"job":{"id":"j","status":"COMPLETED","input_file_id":"f","output_file_id":"o",
            "created_at":"2026-03-01T10:00:00Z","progress":75.0},"warning":"slow"}"#;
        let batch = read_batch(together).unwrap();
        assert_eq!((batch.status, batch.output_file_id.as_deref()), (BatchStatus::Completed, Some("o")));
        assert_eq!(batch.created_at.unwrap().timestamp(), 1_772_359_200);
        let refused =
            br#"{"id":"j","status":"FAILED","error":"no such model","job_deadline":"2026-03-02T10:00:00Z"}"#;
        let batch = read_batch(refused).unwrap();
        assert_eq!(batch.errors.unwrap().data[0].message.as_deref(), Some("no such model"));
        assert_eq!(batch.expires_at.unwrap().timestamp(), 1_772_445_600);
        let mistral =
            br#"{"id":"m","status":"TIMEOUT_EXCEEDED","input_files":["f"],"output_file":"o","error_file":"",
            "errors":[{"message":"late","count":3}],"created_at":1772359200,"total_requests":9,
            "completed_requests":6,"succeeded_requests":5,"failed_requests":1,"metadata":{"enrich":"a"}}"#;
        let batch = read_batch(mistral).unwrap();
        assert_eq!((batch.status, batch.input_file_id.as_deref()), (BatchStatus::Expired, Some("f")));
        assert_eq!((batch.output_file_id.as_deref(), batch.error_file_id), (Some("o"), None));
        assert_eq!(batch.request_counts, Some(RequestCounts { total: 9, completed: 5, failed: 1 }));
        assert_eq!(batch.errors.unwrap().data[0].message.as_deref(), Some("late"));
        // What a gateway sends that knows little.
        let bare = br#"{"id":"b","status":"brewing","request_counts":"many","errors":[],"metadata":{"n":1}}"#;
        let batch = read_batch(bare).unwrap();
        assert_eq!(batch.status, BatchStatus::Unknown("brewing".into()));
        assert!(batch.request_counts.is_none() && batch.metadata.is_none());
        assert!(batch.errors.is_none_or(|errors| errors.data.is_empty()));
        assert!(read_batch(br#"{"object":"batch"}"#).is_none());
    }

    #[test]
    fn failed_batches_say_which_line() {
        let failed = br#"{"id":"b","status":"failed","errors":{"object":"list","data":[
            {"code":"invalid_json_line","message":"no JSON","line":7,"param":null},{"code":null}]}}"#;
        let errors = read_batch(failed).unwrap().errors.unwrap().data;
        assert_eq!((errors[0].code.as_deref(), errors[0].line), (Some("invalid_json_line"), Some(7)));
        assert_eq!(errors[1], BatchError::default());
    }

    #[test]
    fn lists_are_pages_or_bare_arrays() {
        let page = br#"{"object":"list","data":[{"id":"a"},{"no":"id"},{"id":"c"}],"has_more":true}"#;
        let page = read_list::<RemoteBatch>(page).unwrap();
        assert_eq!((page.items.len(), page.next.as_deref()), (2, Some("c")));
        let bare = read_list::<RemoteFile>(br#"[{"id":"a","bytes":-1,"filename":"x.jsonl"}]"#).unwrap();
        assert_eq!((bare.items[0].bytes, bare.next), (None, None));
        assert!(read_list::<RemoteBatch>(br#"{"object":"list"}"#).is_none());
        let mistral = br#"{"object":"list","data":[{"id":"a","input_files":["f"]}],"total":140}"#;
        let mistral = read_list::<RemoteBatch>(mistral).unwrap();
        assert_eq!((mistral.total, mistral.items[0].input_file_id.as_deref()), (Some(140), Some("f")));
        assert!(read_list::<RemoteBatch>(br#"{"object":"list","total":0}"#).unwrap().items.is_empty());
    }

    #[test]
    fn lines_have_a_response_or_an_error() {
        let read = |line: &'static str| serde_json::from_str::<AnswerLine<'_>>(line).unwrap();
        let line = read(
            r#"{"id":"r","custom_id":"a","response":{"status_code":200,"body":{"choices":[]}},"error":null}"#,
        );
        let response = line.response.unwrap();
        assert_eq!((response.status_code, response.body.unwrap().get()), (Some(200), r#"{"choices":[]}"#));
        let line =
            read(r#"{"custom_id":"a","response":null,"error":{"code":"batch_expired","message":"late"}}"#);
        assert_eq!(line.error.unwrap().code.as_deref(), Some("batch_expired"));
        assert!(read(r#"{"custom_id":"a"}"#).response.is_none());
        let line = read(r#"{"custom_id":"a","error":{"message":"slow","code":504}}"#);
        assert_eq!(line.error.unwrap().code.as_deref(), Some("504"));
    }
}

//! The OpenAI-compatible interface, as serde types.
//!
//! Sources: the OpenAI API reference (chat completions, models) and what compatible servers add to it
//! (`usage.cost` of OpenRouter, an error inside a successful response). Reading is lenient: unknown
//! fields are passed over and most known ones may be missing or null.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::lenient;

/// How every message begins that tells a model what is wrong with its answer.
pub const COMPLAINT: &str = "That is not ";

/// The line before the answers that there may be, one a line.
pub const CLASSES_WORDS: &str = "Answer with one of the following and nothing else:";

/// The line before a JSON Schema that is told in words.
pub const SCHEMA_WORDS: &str = "Answer with a JSON object that this JSON Schema describes and nothing else:";

/// Body of a request for a chat completion.
#[derive(Debug, Serialize)]
pub struct ChatRequest<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// The conversation.
    pub messages: &'a [Message],
    /// Sampling temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: &'a Map<String, Value>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator.
    System,
    /// The one who asks.
    User,
    /// The one who answers.
    Assistant,
}

/// Body of a request for embeddings.
#[derive(Debug, Serialize)]
pub struct EmbeddingRequest<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// The texts.
    pub input: Vec<&'a str>,
    /// How the numbers are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<&'a str>,
    /// How many numbers a vector has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: &'a Map<String, Value>,
}

/// Body of a response to a request for a chat completion, or for embeddings.
#[derive(Debug, Default, Deserialize)]
pub struct ChatResponse {
    /// The model that answered, as the server names it.
    #[serde(default)]
    pub model: Option<String>,
    /// The answers; one is asked for.
    #[serde(default)]
    pub choices: Vec<Choice>,
    /// The vectors, where those were asked for.
    #[serde(default)]
    pub data: Vec<Embedding>,
    /// What was used.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// An error inside a successful response.
    #[serde(default)]
    pub error: Option<ErrorObject>,
    /// What was used, as it was sent, where not all of it can be read.
    #[serde(skip)]
    pub unread_usage: Option<String>,
}

/// Reads the body of a response, however oddly it is written; `None` where there is no answer and no error in it.
#[must_use]
pub fn read(body: &[u8]) -> Option<ChatResponse> {
    serde_json::from_slice(body).ok().or_else(|| lenient::read(body))
}

/// What a body says of the reason for which it has no answer: its message, else its first 200 bytes.
#[must_use]
pub fn reason_of(body: &[u8]) -> String {
    lenient::reason(body).unwrap_or_else(|| lenient::beginning(body))
}

/// One vector.
#[derive(Debug, Default, Deserialize)]
pub struct Embedding {
    /// Whose text it is of.
    #[serde(default)]
    pub index: Option<u64>,
    /// Its numbers: a list, or base64.
    #[serde(default)]
    pub embedding: Option<Box<RawValue>>,
}

/// One answer.
#[derive(Debug, Default, Deserialize)]
pub struct Choice {
    /// What was said.
    #[serde(default)]
    pub message: Option<AssistantMessage>,
    /// Why it ends: `stop`, `length`, `content_filter`, `tool_calls`, `error`, …
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// An error of this answer alone (OpenRouter).
    #[serde(default)]
    pub error: Option<ErrorObject>,
}

/// What the model said.
#[derive(Debug, Default, Deserialize)]
pub struct AssistantMessage {
    /// The text.
    #[serde(default)]
    pub content: Option<String>,
    /// Why it declined to answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// The tools that it calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// A tool that a model calls.
#[derive(Debug, Default, Deserialize)]
pub struct ToolCall {
    /// Its function.
    #[serde(default)]
    pub function: Option<CalledFunction>,
}

/// What a tool is called with.
#[derive(Debug, Default, Deserialize)]
pub struct CalledFunction {
    /// An object as JSON.
    #[serde(default)]
    pub arguments: Option<String>,
}

/// What a request used.
#[derive(Debug, Default, Deserialize)]
pub struct Usage {
    /// Tokens of the request.
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(default)]
    pub completion_tokens: Option<u64>,
    /// Tokens of both, and of thinking where the provider does not count it as part of the answer.
    #[serde(default)]
    pub total_tokens: Option<u64>,
    /// Parts of `prompt_tokens`.
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Parts of `completion_tokens`.
    #[serde(default)]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
    /// US dollars: a number (OpenRouter) or an object with `total_cost` (Perplexity).
    #[serde(default)]
    pub cost: Option<Value>,
}

/// Parts of a request's tokens.
#[derive(Debug, Default, Deserialize)]
pub struct PromptTokensDetails {
    /// Tokens that the provider had cached.
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

/// Parts of an answer's tokens.
#[derive(Debug, Default, Deserialize)]
pub struct CompletionTokensDetails {
    /// Tokens that were thought and not said.
    #[serde(default)]
    pub reasoning_tokens: Option<u64>,
}

/// Body of a refused request.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    #[serde(default)]
    pub error: Option<ErrorObject>,
    /// What is wrong, in the words of servers that have no error object (FastAPI).
    #[serde(default)]
    pub detail: Option<Value>,
    /// What is wrong, where it stands at the top (Mistral, vLLM).
    #[serde(default)]
    pub message: Option<Value>,
    /// The error's code there.
    #[serde(default)]
    pub code: Option<Value>,
    /// The kind of error there.
    #[serde(default, rename = "type")]
    pub kind: Option<Value>,
    /// The parameter that is wrong there.
    #[serde(default)]
    pub param: Option<Value>,
}

/// An error in the provider's words. Some servers send a bare string instead of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "ErrorForm")]
pub struct ErrorObject {
    /// For people.
    pub message: Option<String>,
    /// For programs; some servers send the HTTP status as a number here.
    pub code: Option<String>,
    /// The kind of error.
    pub kind: Option<String>,
    /// The parameter that is wrong.
    pub param: Option<String>,
    /// Further facts (OpenRouter).
    pub metadata: Option<Value>,
    /// Further facts (Google).
    pub details: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorForm {
    Object(Box<ErrorFields>),
    Other(Value),
}

#[derive(Deserialize)]
struct ErrorFields {
    #[serde(default)]
    message: Option<Value>,
    #[serde(default)]
    code: Option<Value>,
    #[serde(default, rename = "type")]
    kind: Option<Value>,
    #[serde(default)]
    param: Option<Value>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    details: Option<Value>,
}

impl ErrorObject {
    /// Whether it says nothing, as some servers send it beside a good answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let ErrorObject { message, code, kind, param: _, metadata, details } = self;
        message.as_ref().is_none_or(|message| message.trim().is_empty())
            && code.is_none()
            && kind.is_none()
            && metadata.is_none()
            && details.is_none()
    }
}

impl From<ErrorForm> for ErrorObject {
    fn from(form: ErrorForm) -> Self {
        match form {
            ErrorForm::Object(fields) => ErrorObject {
                message: fields.message.and_then(text),
                code: fields.code.and_then(text),
                kind: fields.kind.and_then(text),
                param: fields.param.and_then(text),
                metadata: fields.metadata,
                details: fields.details,
            },
            ErrorForm::Other(value) => ErrorObject { message: text(value), ..ErrorObject::default() },
        }
    }
}

/// A JSON value as a person would read it; none for null.
pub(crate) fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_every_form_that_servers_send() {
        let read = |json: &str| serde_json::from_str::<ErrorBody>(json).unwrap().error.unwrap();
        assert_eq!(read(r#"{"error":{"message":"m","code":429}}"#).code.as_deref(), Some("429"));
        assert_eq!(read(r#"{"error":{"message":"m","code":null,"type":"t"}}"#).kind.as_deref(), Some("t"));
        assert_eq!(read(r#"{"error":"plain"}"#).message.as_deref(), Some("plain"));
        assert!(serde_json::from_str::<ErrorBody>(r#"{"error":null}"#).unwrap().error.is_none());
    }
}

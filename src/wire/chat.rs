//! The bodies of the OpenAI-compatible interface, as serde types.
//!
//! Sources: the OpenAI API reference (chat completions, models) and what compatible servers add to it (`usage.cost`
//! of OpenRouter, an error inside a successful response). Reading is lenient: unknown fields are ignored, and most
//! known ones may be missing or null.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::vector::Vector;

/// The beginning of every message that tells a model what is wrong with its answer.
pub const COMPLAINT: &str = "That is not ";

/// The line before the list of allowed answers, which stand one on a line.
pub const CLASSES_WORDS: &str = "Answer with one of the following and nothing else:";

/// The line before a JSON Schema in the prompt.
pub const SCHEMA_WORDS: &str = "Answer with a JSON object that this JSON Schema describes and nothing else:";

/// Body of a request for a chat completion.
#[derive(Debug, Serialize)]
pub struct ChatRequest<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Messages of the conversation.
    pub messages: &'a [Message],
    /// Sampling temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Further fields of the body.
    #[serde(flatten)]
    pub rest: &'a Map<String, Value>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Author of the message.
    pub role: Role,
    /// Text of the message.
    pub content: String,
}

/// Author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// Body of a request for embeddings.
#[derive(Debug, Serialize)]
pub struct EmbeddingRequest<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Texts to embed.
    pub input: Vec<&'a str>,
    /// Encoding of the vectors: `float` or `base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<&'a str>,
    /// Numbers per vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// Further fields of the body.
    #[serde(flatten)]
    pub rest: &'a Map<String, Value>,
}

/// Body of a response to a request for a chat completion or for embeddings.
#[derive(Debug, Default, Deserialize)]
pub struct ChatResponse {
    /// The model that answered, as the server names it.
    #[serde(default)]
    pub model: Option<String>,
    /// Answers of a chat completion; one is requested.
    #[serde(default)]
    pub choices: Vec<Choice>,
    /// Vectors of an embeddings response.
    #[serde(default)]
    pub data: Vec<Embedding>,
    /// Tokens and cost of the request.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// The service tier by which the request was answered.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// An error inside a successful response.
    #[serde(default)]
    pub error: Option<ErrorObject>,
    /// `usage` as it was sent, if not all of it can be read.
    #[serde(skip)]
    pub unread_usage: Option<String>,
}

/// A vector of an embeddings response.
#[derive(Debug, Default, Deserialize)]
pub struct Embedding {
    /// Position of its text in the request.
    #[serde(default)]
    pub index: Option<u64>,
    /// The vector.
    #[serde(default)]
    pub embedding: Option<Vector>,
}

/// An answer of a chat completion.
#[derive(Debug, Default, Deserialize)]
pub struct Choice {
    /// The model's message.
    #[serde(default)]
    pub message: Option<AssistantMessage>,
    /// Why the answer ended: `stop`, `length`, `content_filter`, `tool_calls`, `error`, …
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// An error of this answer alone (OpenRouter).
    #[serde(default)]
    pub error: Option<ErrorObject>,
}

/// The model's message.
#[derive(Debug, Default, Deserialize)]
pub struct AssistantMessage {
    /// Text of the answer.
    #[serde(default)]
    pub content: Option<String>,
    /// The model's reason for declining to answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Calls of tools.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// A call of a tool.
#[derive(Debug, Default, Deserialize)]
pub struct ToolCall {
    /// The called function.
    #[serde(default)]
    pub function: Option<CalledFunction>,
}

/// The function of a tool call.
#[derive(Debug, Default, Deserialize)]
pub struct CalledFunction {
    /// Its arguments: a JSON object as text.
    #[serde(default)]
    pub arguments: Option<String>,
}

/// Tokens that a request used, and their cost.
#[derive(Debug, Default, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(default)]
    pub completion_tokens: Option<u64>,
    /// Tokens of both, and of reasoning if the provider does not count it as part of the answer.
    #[serde(default)]
    pub total_tokens: Option<u64>,
    /// Breakdown of `prompt_tokens`.
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Breakdown of `completion_tokens`.
    #[serde(default)]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
    /// Cost in US dollars: a number (OpenRouter) or an object with `total_cost` (Perplexity).
    #[serde(default)]
    pub cost: Option<Value>,
}

/// Breakdown of a prompt's tokens.
#[derive(Debug, Default, Deserialize)]
pub struct PromptTokensDetails {
    /// Tokens that were in the provider's cache.
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

/// Breakdown of an answer's tokens.
#[derive(Debug, Default, Deserialize)]
pub struct CompletionTokensDetails {
    /// Tokens of reasoning that are not in the answer.
    #[serde(default)]
    pub reasoning_tokens: Option<u64>,
}

/// Body of a refused request.
#[derive(Debug, Default, Deserialize)]
pub struct ErrorBody {
    /// The error object.
    #[serde(default)]
    pub error: Option<ErrorObject>,
    /// Error message of servers without an error object (FastAPI).
    #[serde(default)]
    pub detail: Option<Value>,
    /// Error message at the top level (Mistral, vLLM).
    #[serde(default)]
    pub message: Option<Value>,
    /// Error code at the top level.
    #[serde(default)]
    pub code: Option<Value>,
    /// Error type at the top level.
    #[serde(default, rename = "type")]
    pub kind: Option<Value>,
    /// Invalid parameter, at the top level.
    #[serde(default)]
    pub param: Option<Value>,
}

/// An error as the provider states it. Some servers send a bare string instead of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "ErrorForm")]
pub struct ErrorObject {
    /// Message for people.
    pub message: Option<String>,
    /// Code for programs. Some servers send the HTTP status as a number here.
    pub code: Option<String>,
    /// Error type.
    pub kind: Option<String>,
    /// Name of the invalid parameter.
    pub param: Option<String>,
    /// Further details (OpenRouter).
    pub metadata: Option<Value>,
    /// Further details (Google).
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
    /// Whether the error is empty, as some servers send it beside a good answer.
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

/// A JSON value as a person would read it; `None` for null.
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

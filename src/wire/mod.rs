//! The OpenAI-compatible interface: its bodies as serde types, and its rate limit headers.

mod batches;
mod chat;
mod events;
mod lenient;
mod limits;
mod odd_json;
mod vector;

pub use batches::{
    AnswerLine, BatchError, BatchErrors, BatchRequest, BatchStatus, BatchUsage, LineResponse, RemoteBatch,
    RemoteFile, RemoteList, RequestCounts, RequestLine, is_about_enqueued_tokens, read_batch, read_list,
};
pub(crate) use chat::text;
pub use chat::{
    AssistantMessage, CLASSES_WORDS, COMPLAINT, CalledFunction, ChatRequest, ChatResponse, Choice,
    CompletionTokensDetails, Embedding, EmbeddingRequest, ErrorBody, ErrorObject, Message,
    PromptTokensDetails, Role, SCHEMA_WORDS, ToolCall, Usage,
};
pub use events::join_events;
pub use lenient::{read, reason_of};
pub use limits::{Limits, Quota, Reset, delay_in_text, duration, requested_beyond_limit};
pub use vector::Vector;

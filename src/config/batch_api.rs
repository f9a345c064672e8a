//! The section of a provider that is asked through its Batch API.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{ByteSize, Span};

/// The interface of a Batch API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchShape {
    /// OpenAI's, which most others have taken over.
    #[default]
    Openai,
    /// Together's.
    Together,
    /// Mistral's.
    Mistral,
}

impl BatchShape {
    /// Returns the name that a job file has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BatchShape::Openai => "openai",
            BatchShape::Together => "together",
            BatchShape::Mistral => "mistral",
        }
    }

    /// Returns the interface of a host that has another one than OpenAI's.
    pub(super) fn of_host(host: &str) -> Option<Self> {
        match host {
            "api.together.xyz" | "api.together.ai" => Some(BatchShape::Together),
            "api.mistral.ai" => Some(BatchShape::Mistral),
            _ => None,
        }
    }
}

/// The section `[provider.<name>.batch]`: requests go out in files and come back within a day, at another price.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBatchApi {
    /// Interface of the Batch API. Default: `openai`.
    #[serde(default)]
    pub(super) shape: BatchShape,
    /// Time in which the provider is to answer, sent as `completion_window`; for `mistral` whole hours, sent as
    /// `timeout_hours`. Default: `24h`.
    #[schemars(length(min = 1))]
    pub(super) window: Option<String>,
    /// Maximum number of requests in a file, at least 1. Default: 50,000.
    #[schemars(range(min = 1))]
    pub(super) max_requests: Option<u32>,
    /// Maximum size of a file. Default: 190MB, for `together` 95MB.
    pub(super) max_bytes: Option<ByteSize>,
    /// Maximum number of requests that are at the provider, at least 1. Default: 500,000.
    #[schemars(range(min = 1))]
    pub(super) max_outstanding: Option<u32>,
    /// Maximum number of prompt tokens that are at the provider, estimated at four bytes each. Default: learned from
    /// batches that fail because there are too many.
    #[schemars(range(min = 1))]
    pub(super) enqueued_tokens: Option<u64>,
    /// Number of requests in the first batch of a model. The others follow when it has come through the provider's
    /// validation, so that a wrong model costs one small file. 0 for no such batch. Default: 200.
    pub(super) first_requests: Option<u32>,
    /// Time after the creation of a batch at which it is cancelled. What it has answered is used, and the other rows go to
    /// the step's next provider, or into the next batch. Default: 26h.
    pub(super) deadline: Option<Span>,
    /// Number of batches that a row may be in without an answer; then it goes to the step's next provider, or fails. At
    /// least 1. Default: 3.
    #[schemars(range(min = 1))]
    pub(super) max_submissions: Option<u32>,
    /// How an answer is repaired that does not fit `classes`, `fields` or `schema`: `batch` sends the second question in
    /// the next file, `online` by itself to the first provider of the step's list without a section `batch`. Default:
    /// `batch`.
    #[serde(default)]
    pub(super) repairs: Repairs,
    /// Time between two looks at the state of the batches, at least 10s except on this machine. Default: 60s.
    pub(super) poll: Option<Span>,
    /// Whether the provider recognises a creation that is made again by its `Idempotency-Key`. Default: false.
    #[serde(default)]
    pub(super) idempotent: bool,
    /// If the answer to the creation of a batch is lost: time for which the provider's list must not have shown the batch
    /// before it is made again, at least 5m unless `idempotent`. Default: 15m.
    pub(super) recreate_after: Option<Span>,
    /// Whether the files at the provider are kept. Default: false; they are deleted when they are no longer needed.
    #[serde(default)]
    pub(super) keep_files: bool,
}

/// How an answer from a batch that is not valid is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repairs {
    /// By a request in the next file.
    #[default]
    Batch,
    /// By a single request to another provider of the step.
    Online,
}

/// How a provider's Batch API is used.
#[derive(Clone, Debug)]
pub struct BatchApiSettings {
    /// Interface of the Batch API.
    pub shape: BatchShape,
    /// Value of `completion_window`, or the time that is sent in its place.
    pub window: String,
    /// Maximum number of requests in a file.
    pub max_requests: u32,
    /// Maximum bytes of a file.
    pub max_bytes: u64,
    /// Maximum number of requests at the provider.
    pub max_outstanding: u64,
    /// Maximum number of prompt tokens at the provider; `None` if it is learned.
    pub enqueued_tokens: Option<u64>,
    /// Number of requests in the first batch of a model; `None` for as many as in others.
    pub first_requests: Option<u32>,
    /// Time after its creation at which a batch is cancelled.
    pub deadline: Duration,
    /// Number of submissions that a row may be in without an answer.
    pub max_submissions: u32,
    /// How an answer that is not valid is repaired.
    pub repairs: Repairs,
    /// Time between two looks at the state of the batches.
    pub poll: Duration,
    /// Whether the provider recognises a creation that is made again.
    pub is_idempotent: bool,
    /// Time for which the list must not have shown a batch before it is made again.
    pub recreate_after: Duration,
    /// Whether the files at the provider are kept.
    pub keeps_files: bool,
}

//! How the interfaces of Batch APIs differ: creations, what a batch is shown as, and lines.

use std::time::Duration;

use chrono::SecondsFormat;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::gate::read;
use super::reply::{ErrorReply, refuse};
use super::state::ServerShared;
use super::stored::{SimulatedBatch, SimulatedBatchState};
use crate::clock;
use crate::config::{BatchShape, BatchesSpec};

/// The creation of a batch; as a body, OpenAI's.
#[derive(Debug, Deserialize)]
pub(super) struct ReceivedBatch {
    pub(super) input_file_id: String,
    pub(super) endpoint: String,
    pub(super) completion_window: String,
    #[serde(default)]
    pub(super) metadata: Option<Map<String, Value>>,
    /// Model of all lines, where they do not state it.
    #[serde(skip)]
    pub(super) model: Option<String>,
}

/// Body of a creation as Together takes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TogetherCreation {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
}

/// Body of a creation as Mistral takes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MistralCreation {
    input_files: [String; 1],
    model: String,
    endpoint: String,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
    timeout_hours: u32,
}

/// Refuses an address that the interface does not have.
pub(super) fn check_route(shape: BatchShape, path: &str) -> Result<(), ErrorReply> {
    if path.starts_with("/v1/batch/jobs") == (shape == BatchShape::Mistral) {
        return Ok(());
    }
    Err(Box::new(refuse(404, "unknown_route", &format!("the simulator's Batch API has no {path}"))))
}

/// Reads the body of a creation.
pub(super) fn read_creation(
    shared: &ServerShared,
    shape: BatchShape,
    body: &[u8],
) -> Result<ReceivedBatch, ErrorReply> {
    fn parsed<T: DeserializeOwned>(shared: &ServerShared, body: &[u8]) -> Result<T, ErrorReply> {
        read(shared, body)
    }
    match shape {
        BatchShape::Openai => parsed(shared, body),
        BatchShape::Together => {
            let TogetherCreation { input_file_id, endpoint, completion_window } = parsed(shared, body)?;
            Ok(ReceivedBatch { input_file_id, endpoint, completion_window, metadata: None, model: None })
        }
        BatchShape::Mistral => {
            let MistralCreation { input_files: [file], model, endpoint, metadata, timeout_hours } =
                parsed(shared, body)?;
            Ok(ReceivedBatch {
                input_file_id: file,
                endpoint,
                completion_window: format!("{timeout_hours}h"),
                metadata,
                model: Some(model),
            })
        }
    }
}

/// Returns the response to a creation of a batch that is shown like this.
pub(super) fn created(shape: BatchShape, shown: Value) -> Value {
    match shape {
        BatchShape::Openai | BatchShape::Mistral => shown,
        BatchShape::Together => json!({"job": shown, "warning": null}),
    }
}

impl SimulatedBatchState {
    /// Returns the name of the state.
    pub(super) fn name_in(self, shape: BatchShape) -> String {
        let mistral = match self {
            SimulatedBatchState::Validating => "QUEUED",
            SimulatedBatchState::InProgress | SimulatedBatchState::Finalizing => "RUNNING",
            SimulatedBatchState::Completed => "SUCCESS",
            SimulatedBatchState::Failed => "FAILED",
            SimulatedBatchState::Expired => "TIMEOUT_EXCEEDED",
            SimulatedBatchState::Cancelling => "CANCELLATION_REQUESTED",
            SimulatedBatchState::Cancelled => "CANCELLED",
        };
        match (shape, self) {
            (BatchShape::Openai, _) => self.name().to_owned(),
            (BatchShape::Together, SimulatedBatchState::Cancelling) => "CANCELING".to_owned(),
            (BatchShape::Together, SimulatedBatchState::Finalizing) => "IN_PROGRESS".to_owned(),
            (BatchShape::Together, _) => self.name().to_ascii_uppercase(),
            (BatchShape::Mistral, _) => mistral.to_owned(),
        }
    }
}

impl SimulatedBatch {
    /// Shows it to a client.
    pub(super) fn show(&mut self, spec: &BatchesSpec) -> Value {
        let mut state = self.state;
        if state.is_end() {
            if spec.revives && self.was_seen_ended && !self.has_revived {
                self.has_revived = true;
                state = SimulatedBatchState::InProgress;
            }
            self.was_seen_ended = true;
        }
        let late = spec.late_output.map_or(Duration::ZERO, |late| late.0);
        let has_files = state.is_end() && self.ended.is_some_and(|ended| clock::now() >= ended + late);
        let status = state.name_in(spec.shape);
        match spec.shape {
            BatchShape::Openai => self.as_openai(&status, has_files, spec),
            BatchShape::Together => self.as_together(&status, has_files, spec),
            BatchShape::Mistral => self.as_mistral(&status, has_files, spec),
        }
    }

    fn as_openai(&self, status: &str, has_files: bool, spec: &BatchesSpec) -> Value {
        let counts = json!({"total": self.total, "completed": self.completed, "failed": self.failed});
        json!({
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": self.errors.as_ref().filter(|_| !spec.hides_errors),
            "input_file_id": self.input_id,
            "completion_window": self.completion_window,
            "status": status,
            "output_file_id": self.output_file.as_ref().filter(|_| has_files),
            "error_file_id": self.error_file.as_ref().filter(|_| has_files),
            "created_at": self.created.timestamp(),
            "expires_at": self.expires_at.timestamp(),
            "request_counts": (!spec.hides_counts).then_some(counts),
            "usage": has_files.then(|| json!({
                "input_tokens": self.prompt_tokens,
                "output_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            })),
            "metadata": if spec.forgets_metadata { &Value::Null } else { &self.metadata },
        })
    }

    fn as_together(&self, status: &str, has_files: bool, spec: &BatchesSpec) -> Value {
        let done = (self.completed + self.failed) * 100;
        json!({
            "id": self.id,
            "user_id": "user",
            "input_file_id": self.input_id,
            "file_size_bytes": self.input.len,
            "status": status,
            "job_deadline": self.expires_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            "created_at": self.created.to_rfc3339_opts(SecondsFormat::Millis, true),
            "endpoint": self.endpoint,
            "progress": done.checked_div(self.total).unwrap_or_default(),
            "output_file_id": self.output_file.as_ref().filter(|_| has_files),
            "error_file_id": self.error_file.as_ref().filter(|_| has_files),
            "error": self.messages(spec).first(),
        })
    }

    fn as_mistral(&self, status: &str, has_files: bool, spec: &BatchesSpec) -> Value {
        let errors: Vec<Value> =
            self.messages(spec).iter().map(|message| json!({"message": message, "count": 1})).collect();
        json!({
            "id": self.id,
            "object": "batch",
            "input_files": [self.input_id],
            "metadata": if spec.forgets_metadata { &Value::Null } else { &self.metadata },
            "endpoint": self.endpoint,
            "model": self.model,
            "output_file": self.output_file.as_ref().filter(|_| has_files),
            "error_file": self.error_file.as_ref().filter(|_| has_files),
            "errors": errors,
            "status": status,
            "created_at": self.created.timestamp(),
            "total_requests": self.total,
            "completed_requests": self.completed + self.failed,
            "succeeded_requests": self.completed,
            "failed_requests": self.failed,
        })
    }

    /// Messages of the errors of its validation.
    fn messages(&self, spec: &BatchesSpec) -> Vec<&Value> {
        let errors = self.errors.as_ref().filter(|_| !spec.hides_errors);
        let errors = errors.and_then(|errors| errors["data"].as_array()).into_iter().flatten();
        errors.map(|error| &error["message"]).collect()
    }
}

/// Returns the line of an answer, or of the refusal of a request. Where a refusal has a response, its error object is null.
pub(super) fn answered_line(shape: BatchShape, id: &str, status: u16, body: &Value) -> Value {
    let request = format!("batch_req_{}", uuid::Uuid::new_v4().simple());
    match shape {
        BatchShape::Openai => {
            let response = json!({"status_code": status, "request_id": request, "body": body});
            json!({"id": request, "custom_id": id, "response": response, "error": null})
        }
        BatchShape::Together if status >= 400 => {
            let error = json!({"message": body["error"]["message"], "code": body["error"]["code"]});
            json!({"custom_id": id, "error": error})
        }
        BatchShape::Together => {
            json!({"custom_id": id, "response": {"status_code": status, "body": body}})
        }
        BatchShape::Mistral => {
            let response = json!({"status_code": status, "body": body});
            json!({"id": request, "custom_id": id, "response": response, "error": null})
        }
    }
}

/// Returns the line of a request that was never made.
pub(super) fn unanswered_line(shape: BatchShape, id: &str, code: &str, message: &str) -> Value {
    let error = json!({"code": code, "message": message});
    match shape {
        BatchShape::Openai | BatchShape::Mistral => {
            let request = format!("batch_req_{}", uuid::Uuid::new_v4().simple());
            json!({"id": request, "custom_id": id, "response": null, "error": error})
        }
        BatchShape::Together => json!({"custom_id": id, "error": error}),
    }
}

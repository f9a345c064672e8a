//! What becomes of a batch: its validation, its lines one by one, and its files.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::answer::{chance, tokens_of};
use super::api_kind::ApiKind;
use super::batch_shapes::{answered_line, unanswered_line};
use super::gate::fault_for;
use super::model::log_normal;
use super::state::ServerShared;
use super::stored::{ContentWriter, FileContent, SimulatedBatch, SimulatedBatchState, UploadedFile};
use super::{chat, embeddings};
use crate::clock::{self, Instant};
use crate::config::{AnswerOrder, BatchShape, BatchesSpec, StuckIn};

const MAX_REQUESTS: u32 = 50_000;
/// Time between two looks of a batch that waits for its cancellation or its expiry.
const LOOK: Duration = Duration::from_millis(5);
/// Lines after which other tasks run.
const LINES_AT_ONCE: usize = 32;
/// Bytes of the input that are read at once.
const PIECE: u64 = 1 << 20;

/// A line of a batch's file.
#[derive(Debug, Deserialize)]
struct ReceivedLine<'a> {
    custom_id: String,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Where a line stands in its file.
#[derive(Clone, Copy, Debug)]
struct InputLineLocation {
    offset: u64,
    len: u64,
}

/// Why a batch fails in its validation.
struct ValidationError {
    code: String,
    message: String,
    line: Option<u64>,
}

/// The files of a batch's answers, as they are written.
struct OutputFiles {
    shape: BatchShape,
    output: ContentWriter,
    errors: ContentWriter,
}

/// Works on a batch until it has ended.
pub(super) async fn work_off(shared: Arc<ServerShared>, id: String) {
    let Some(spec) = &shared.spec.batches else { return };
    let Some(work) = BatchWorker::of(&shared, spec, &id) else { return };
    tokio::time::sleep(spec.validation.map_or(Duration::ZERO, |time| time.0)).await;
    if spec.stuck == Some(StuckIn::Validating) {
        return work.end_when_stopped(None).await;
    }
    let places = match work.validate() {
        Ok(places) => places,
        Err(invalid) => return work.fail(invalid),
    };
    let Ok(files) = OutputFiles::create(spec.shape) else {
        return work.change(|batch| batch.state = SimulatedBatchState::Failed);
    };
    work.change(|batch| {
        batch.total = places.len() as u64;
        if batch.state == SimulatedBatchState::Validating {
            batch.state = SimulatedBatchState::InProgress;
        }
    });
    work.answer_lines(places, files).await;
}

/// A batch that is worked on.
struct BatchWorker<'a> {
    shared: &'a ServerShared,
    spec: &'a BatchesSpec,
    id: &'a str,
    number: u32,
    endpoint: String,
    /// Model of all lines, where they do not state it.
    model: Option<String>,
    input: FileContent,
    expires: Instant,
}

impl<'a> BatchWorker<'a> {
    fn of(shared: &'a ServerShared, spec: &'a BatchesSpec, id: &'a str) -> Option<Self> {
        let mut state = shared.lock();
        let batch = state.batches.batch(id)?;
        let (number, endpoint, model) = (batch.number, batch.endpoint.clone(), batch.model.clone());
        Some(BatchWorker {
            shared,
            spec,
            id,
            number,
            endpoint,
            model,
            input: batch.input.clone(),
            expires: batch.expires,
        })
    }

    /// Changes the stored batch.
    fn change(&self, change: impl FnOnce(&mut SimulatedBatch)) {
        if let Some(batch) = self.shared.lock().batches.batch(self.id) {
            change(batch);
        }
    }

    /// How the batch is to end before its work is done; `None` if it goes on.
    fn stopped(&self) -> Option<SimulatedBatchState> {
        let mut state = self.shared.lock();
        match state.batches.batch(self.id)?.state {
            SimulatedBatchState::Cancelling => Some(SimulatedBatchState::Cancelled),
            _ if clock::now() >= self.expires => Some(SimulatedBatchState::Expired),
            _ => None,
        }
    }

    /// Waits until the batch is cancelled or expires, and ends it.
    async fn end_when_stopped(&self, files: Option<OutputFiles>) {
        let end = loop {
            if let Some(end) = self.stopped() {
                break end;
            }
            tokio::time::sleep(LOOK).await;
        };
        self.end(end, files);
    }

    /// Checks the file, as a provider does before it answers any line. Returns where its lines stand.
    fn validate(&self) -> Result<Vec<InputLineLocation>, ValidationError> {
        let invalid = |code: &str, message: String, line: Option<u64>| ValidationError {
            code: code.to_owned(),
            message,
            line,
        };
        if let Some(failure) = &self.spec.failure
            && failure.times.is_none_or(|times| self.number < times)
        {
            let code = failure.code.clone().unwrap_or_default();
            return Err(ValidationError {
                code,
                message: "a configured failure".to_owned(),
                line: failure.line,
            });
        }
        let mut places = Vec::new();
        let mut ids = HashSet::new();
        let (mut model, mut tokens) = (None, 0);
        let mut check = |place: InputLineLocation, line: &[u8]| {
            places.push(place);
            let number = Some(places.len() as u64);
            let read = |_| {
                let message = "This line is not parseable as valid JSON.".to_owned();
                invalid("invalid_json_line", message, number)
            };
            let line: ReceivedLine<'_> = serde_json::from_slice(line).map_err(read)?;
            let (method, url) = match self.spec.shape {
                BatchShape::Openai => (Some("POST"), Some(self.endpoint.as_str())),
                BatchShape::Together | BatchShape::Mistral => (None, None),
            };
            if (line.method.as_deref(), line.url.as_deref()) != (method, url) {
                let message = format!("The line is not one for '{}'.", self.endpoint);
                return Err(invalid("mismatched_url", message, number));
            }
            let body = self.body_of(&line).map_err(read)?;
            if *model.get_or_insert_with(|| body["model"].clone()) != body["model"] {
                return Err(invalid("mismatched_model", "The file has several models.".to_owned(), number));
            }
            if !ids.insert(line.custom_id) {
                return Err(invalid(
                    "duplicate_custom_id",
                    "The custom_id is not unique.".to_owned(),
                    number,
                ));
            }
            if self.spec.bad_line_fails_file && self.is_bad(&body) {
                return Err(invalid("invalid_request", "The request is invalid.".to_owned(), number));
            }
            tokens += tokens_of(line.body.get());
            Ok(())
        };
        match self.each_line(&mut check) {
            Ok(checked) => checked?,
            Err(error) => return Err(invalid("disk", error.to_string(), None)),
        }
        let most = self.spec.max_requests.unwrap_or(MAX_REQUESTS) as usize;
        if places.is_empty() {
            return Err(invalid("empty_file", "The file is empty.".to_owned(), None));
        }
        if places.len() > most {
            return Err(invalid("too_many_tasks", format!("The file has more than {most} requests."), None));
        }
        if let Some(known) = &self.shared.spec.model
            && model != Some(Value::from(known.as_str()))
        {
            return Err(invalid("model_not_found", format!("The model of the file is not {known}."), None));
        }
        let mut state = self.shared.lock();
        if let Some(most) = self.spec.enqueued_tokens
            && state.batches.enqueued_tokens() + tokens > most
        {
            let message = format!("Enqueued token limit reached. Limit: {most} enqueued tokens.");
            return Err(invalid("token_limit_exceeded", message, None));
        }
        if let Some(batch) = state.batches.batch(self.id) {
            batch.enqueued_tokens = tokens;
        }
        Ok(places)
    }

    /// The body of a line's request, with the model.
    fn body_of(&self, line: &ReceivedLine<'_>) -> serde_json::Result<Value> {
        let mut body: Value = serde_json::from_str(line.body.get())?;
        if let (Some(model), Some(fields)) = (&self.model, body.as_object_mut()) {
            fields.entry("model").or_insert_with(|| model.as_str().into());
        }
        Ok(body)
    }

    /// Whether a fault answers a request with 400.
    fn is_bad(&self, body: &Value) -> bool {
        let text = body.to_string();
        fault_for(&self.shared.spec, &text, &[&text], 0).is_some_and(|fault| fault.status == Some(400))
    }

    /// Calls `check` with each line that is not empty and its place, until it fails.
    fn each_line<E>(
        &self,
        check: &mut impl FnMut(InputLineLocation, &[u8]) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        let (mut offset, mut line_offset, mut line) = (0, 0, Vec::new());
        while offset < self.input.len {
            let piece = self.input.read(offset, PIECE.min(self.input.len - offset))?;
            offset += piece.len() as u64;
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if part.last() != Some(&b'\n') && offset < self.input.len {
                    continue;
                }
                let len = line.len() as u64;
                let text = line.trim_ascii_end();
                if !text.is_empty()
                    && let Err(error) =
                        check(InputLineLocation { offset: line_offset, len: text.len() as u64 }, text)
                {
                    return Ok(Err(error));
                }
                line_offset += len;
                line.clear();
            }
        }
        Ok(Ok(()))
    }

    fn fail(&self, invalid: ValidationError) {
        let ValidationError { code, message, line } = invalid;
        self.change(|batch| {
            batch.state = SimulatedBatchState::Failed;
            batch.ended = Some(clock::now());
            let error = json!({"code": code, "message": message, "line": line, "param": null});
            batch.errors = (!code.is_empty()).then(|| json!({"object": "list", "data": [error]}));
        });
    }

    /// Answers the lines in the time that the batch takes, and ends it.
    async fn answer_lines(&self, mut places: Vec<InputLineLocation>, mut files: OutputFiles) {
        let spec = self.spec;
        match spec.order {
            AnswerOrder::Kept => {}
            AnswerOrder::Reversed => places.reverse(),
            AnswerOrder::Shuffled => {
                let seed = self.shared.spec.seed.wrapping_add(u64::from(self.number));
                fastrand::Rng::with_seed(seed).shuffle(&mut places);
            }
        }
        let median = spec.takes.map_or(Duration::ZERO, |takes| takes.0);
        let factor = log_normal(spec.takes_sigma, self.shared.spec.seed, "batch", "", self.number.into());
        let takes = median.mul_f64(factor);
        let (started, lines) = (clock::now(), places.len());
        let mut is_short = false;
        for (at, place) in places.into_iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "lines of a file")]
            let due = started + takes.mul_f64((at + 1) as f64 / lines as f64);
            if due > clock::now() + Duration::from_millis(1) {
                sleep_until(due).await;
            }
            if at % LINES_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            if spec.stuck == Some(StuckIn::InProgress) && at * 2 >= lines {
                return self.end_when_stopped(Some(files)).await;
            }
            if let Some(end) = self.stopped() {
                return self.end(end, Some(files));
            }
            is_short |= !self.answer_line(place, &mut files).await;
        }
        self.change(|batch| batch.state = SimulatedBatchState::Finalizing);
        if spec.stuck == Some(StuckIn::Finalizing) {
            return self.end_when_stopped(Some(files)).await;
        }
        self.end(
            if is_short { SimulatedBatchState::Expired } else { SimulatedBatchState::Completed },
            Some(files),
        );
    }

    /// Answers a line. Returns `false` if it is left until the batch expires.
    async fn answer_line(&self, place: InputLineLocation, files: &mut OutputFiles) -> bool {
        let Ok(bytes) = self.input.read(place.offset, place.len) else { return true };
        let Ok(line) = serde_json::from_slice::<ReceivedLine<'_>>(&bytes) else { return true };
        let id = line.custom_id.as_str();
        let draws = |purpose: &str, share: f64| {
            share > 0.0 && chance(self.shared.spec.seed, purpose, id, self.number.into()) < share
        };
        if draws("expired line", self.spec.expired_lines) {
            files.unanswered(
                id,
                "batch_expired",
                "This request could not be executed before the window ended.",
            );
            self.change(|batch| batch.failed += 1);
            return false;
        }
        if draws("missing line", self.spec.missing_lines) {
            return true;
        }
        if draws("zero line", self.spec.status_zero_lines) {
            files.answered(id, 0, &Value::Null);
            self.change(|batch| batch.completed += 1);
            return true;
        }
        let (status, body) = if draws("throttled line", self.spec.throttled_lines) {
            (429, json!({"error": {"message": "Too many requests.", "code": "rate_limit_exceeded"}}))
        } else {
            let with_model = self.model.as_ref().and_then(|_| Some(self.body_of(&line).ok()?.to_string()));
            self.answer(with_model.as_deref().unwrap_or(line.body.get()).as_bytes()).await
        };
        let is_answered = (200..300).contains(&status);
        self.change(|batch| {
            if is_answered {
                batch.completed += 1;
                batch.prompt_tokens += body["usage"]["prompt_tokens"].as_u64().unwrap_or_default();
                batch.completion_tokens += body["usage"]["completion_tokens"].as_u64().unwrap_or_default();
            } else {
                batch.failed += 1;
            }
        });
        if is_answered && draws("lost line", self.spec.lost_lines) {
            return true;
        }
        files.answered(id, status, &body);
        if draws("twice line", self.spec.twice_lines) {
            files.answered(id, status, &body);
        }
        if draws("foreign line", self.spec.foreign_lines) {
            files.answered(&format!("foreign-{id}"), status, &body);
        }
        true
    }

    /// The status and body of the answer to a request.
    async fn answer(&self, request: &[u8]) -> (u16, Value) {
        let answered = if self.endpoint == "/v1/embeddings" {
            embeddings::answer(self.shared, ApiKind::InBatch, request).await
        } else {
            chat::answer(self.shared, ApiKind::InBatch, request).await
        };
        let response = answered.unwrap_or_else(|refused| *refused);
        let status = response.status().as_u16();
        match axum::body::to_bytes(response.into_body(), usize::MAX).await {
            Ok(body) => (status, serde_json::from_slice(&body).unwrap_or_default()),
            Err(_) => (0, Value::Null),
        }
    }

    /// Ends the batch and stores the files of its answers.
    fn end(&self, end: SimulatedBatchState, files: Option<OutputFiles>) {
        let (output, errors) = files.and_then(|files| files.finish().ok()).unzip();
        let mut state = self.shared.lock();
        let key = state.batches.batch(self.id).map(|batch| batch.key.clone()).unwrap_or_default();
        // Lines that were worked on may be lost: then the file is there, and lacks them.
        let has_completed = state.batches.batch(self.id).is_some_and(|batch| batch.completed > 0);
        let mut store = |content: Option<FileContent>, kind: &str, is_kept: bool| {
            let content = content.filter(|content| content.len > 0 || is_kept)?;
            let file = UploadedFile::new(format!("{}_{kind}.jsonl", self.id), "batch_output", &key, content);
            let id = file.id.clone();
            state.batches.files.push(file);
            state.counts.batches.files += 1;
            Some(id)
        };
        let output = store(output, "output", has_completed);
        let errors = store(errors, "error", self.spec.empty_error_file);
        if let Some(batch) = state.batches.batch(self.id) {
            batch.state = end;
            batch.ended = Some(clock::now());
            (batch.output_file, batch.error_file) = (output, errors);
        }
    }
}

impl OutputFiles {
    fn create(shape: BatchShape) -> io::Result<Self> {
        Ok(OutputFiles { shape, output: ContentWriter::create()?, errors: ContentWriter::create()? })
    }

    fn finish(self) -> io::Result<(FileContent, FileContent)> {
        Ok((self.output.finish()?, self.errors.finish()?))
    }

    /// Adds the answer to a line, or the refusal of its request.
    fn answered(&mut self, id: &str, status: u16, body: &Value) {
        let line = answered_line(self.shape, id, status, body);
        let file = if status >= 400 { &mut self.errors } else { &mut self.output };
        append(file, &line);
    }

    /// Adds a line whose request was never made.
    fn unanswered(&mut self, id: &str, code: &str, message: &str) {
        append(&mut self.errors, &unanswered_line(self.shape, id, code, message));
    }
}

/// Appends a line. A disk that is full shows as an answer that is missing.
fn append(file: &mut ContentWriter, line: &Value) {
    let _ = file.append(format!("{line}\n").as_bytes());
}

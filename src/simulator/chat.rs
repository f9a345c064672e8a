//! Chat completions: a text, an instance of a JSON Schema, or a function call with an instance as arguments.

use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{BYTES_OF_TOKEN, answer_to, choose, tokens_of};
use super::api_kind::ApiKind;
use super::chat_request::ReceivedChat;
use super::gate::{GateRequest, bill, known, pass, read};
use super::instance::instance_of;
use super::malformed::{spoil_instance, spoil_text};
use super::reply::{ErrorReply, add, invalid, success, usage};
use super::state::ServerShared;
use super::structured::{AnswerShape, split_words};
use super::tiers::AnsweringTier;
use crate::clock;
use crate::config::{CLASS, FaultSpec, SimulatorSpec, WrongForm};
use crate::wire::CLASSES_WORDS;

/// The message of an answer, and why it ends.
#[derive(Debug)]
struct ReplyMessage {
    /// `None` if a fault leaves the text out.
    text: Option<String>,
    /// Name of the called function, if `text` holds its arguments.
    function: Option<String>,
    finish_reason: String,
}

/// Answers a chat completion request, or refuses it.
pub(super) async fn answer(
    shared: &ServerShared,
    api: ApiKind<'_>,
    body: &[u8],
) -> Result<Response, ErrorReply> {
    let spec = &shared.spec;
    let request: ReceivedChat = read(shared, body)?;
    let (prompt, words) = split_words(request.question());
    let (number, nth) = shared.lock().counts.count_request(prompt, api);
    let question = GateRequest {
        number,
        prompt,
        texts: &[prompt],
        nth,
        prompt_tokens: request.prompt_tokens(),
        max_tokens: request.most_tokens(),
    };
    known(shared, api, &request.model)?;
    request.check()?;
    let shape = AnswerShape::of(&request, words, spec)?;
    within_context(spec, &question)?;
    let tier =
        AnsweringTier::of(shared, api, question.prompt, question.nth, request.service_tier.as_deref())?;
    let fault = pass(shared, api, &question).await?;
    let answer = ReplyMessage::new(spec, shape, prompt, fault.as_ref()).within(request.most_tokens());
    let completion_tokens = answer.text.as_ref().map_or(0, |text| {
        let drawn = shared.lock().model.completion_tokens(prompt, question.nth.into(), request.most_tokens());
        drawn.unwrap_or_else(|| tokens_of(text)) * u64::from(request.choices())
    });
    let choice = |index: u32| json!({"index": index, "message": answer.message(), "finish_reason": answer.finish_reason});
    let bill = bill(shared, &question, completion_tokens, &[], tier);
    let mut body = json!({
        "id": format!("chatcmpl-simulated-{}", shared.lock().counts.next_id()),
        "object": "chat.completion",
        "created": clock::wall().timestamp(),
        "model": request.model,
        "choices": (0..request.choices()).map(choice).collect::<Vec<Value>>(),
        "usage": usage(question.prompt_tokens, Some(completion_tokens), bill.cost),
    });
    if let Some(tier) = tier.stated {
        body["service_tier"] = tier.into();
    }
    let mut response = success(body.to_string());
    add(&mut response, bill.headers);
    Ok(response)
}

fn within_context(spec: &SimulatorSpec, question: &GateRequest<'_>) -> Result<(), ErrorReply> {
    let Some(most) = spec.context_tokens else { return Ok(()) };
    let (prompt, answer) = (question.prompt_tokens, question.max_tokens.unwrap_or_default());
    if prompt.saturating_add(answer) <= most {
        return Ok(());
    }
    let message = format!(
        "This model's maximum context length is {most} tokens. However, you requested {prompt} tokens in the \
         messages and {answer} in the completion. Please reduce the length of either."
    );
    Err(invalid("context_length_exceeded", &message, Some("messages")))
}

/// The classes that the last paragraph of a prompt lists, if it lists any.
fn classes_in(prompt: &str) -> Vec<String> {
    let line = format!("\n\n{CLASSES_WORDS}\n");
    let classes = prompt.rsplit_once(&line).map(|(_, classes)| classes).unwrap_or_default();
    classes.lines().filter(|class| !class.is_empty()).map(ToOwned::to_owned).collect()
}

impl ReplyMessage {
    fn new(
        spec: &SimulatorSpec,
        shape: AnswerShape,
        prompt: &str,
        fault: Option<&FaultSpec>,
    ) -> ReplyMessage {
        if let Some(reason) = fault.and_then(|fault| fault.finish_reason.clone()) {
            return ReplyMessage { text: None, function: None, finish_reason: reason };
        }
        let fixed_text = fault.and_then(|fault| fault.text.clone());
        let wrong = fault.and_then(|fault| fault.wrong).filter(|_| fixed_text.is_none());
        let instance = |schema: &Value| {
            let mut instance = instance_of(schema, spec.seed, prompt);
            // The class must be the same whether it is requested in words or by a schema.
            if let (Some(class), classes @ [_, ..]) = (instance.get_mut(CLASS), classes_in(prompt).as_slice())
            {
                *class = choose(classes, spec.seed, prompt).into();
            }
            if let Some(wrong) = wrong {
                spoil_instance(&mut instance, schema, wrong);
            }
            instance.to_string()
        };
        let right = || match &shape {
            AnswerShape::Json(schema) | AnswerShape::Call { schema, .. } => instance(schema),
            AnswerShape::Text if !spec.answers.is_empty() => choose(&spec.answers, spec.seed, prompt),
            AnswerShape::Text => match classes_in(prompt) {
                classes if classes.is_empty() => answer_to(prompt),
                classes => choose(&classes, spec.seed, prompt),
            },
        };
        let text = spoil_text(fixed_text.unwrap_or_else(right), wrong);
        let function = match shape {
            // A model that answers in prose calls no function.
            AnswerShape::Call { function, .. } if wrong != Some(WrongForm::Prose) => Some(function),
            _ => None,
        };
        let finish_reason = match (wrong, &function) {
            (Some(WrongForm::CutJson), _) => "length",
            (_, Some(_)) => "tool_calls",
            (_, None) => "stop",
        };
        ReplyMessage { text: Some(text), function, finish_reason: finish_reason.to_owned() }
    }

    /// Cuts the text to at most `most` tokens, with the finish reason `length`.
    fn within(mut self, most: Option<u64>) -> ReplyMessage {
        if let (Some(text), Some(most)) = (&mut self.text, most)
            && tokens_of(text) > most
        {
            let bytes = usize::try_from(most.saturating_mul(BYTES_OF_TOKEN)).unwrap_or(usize::MAX);
            text.truncate(text.floor_char_boundary(bytes));
            self.finish_reason = "length".to_owned();
        }
        self
    }

    fn message(&self) -> Value {
        match &self.function {
            Some(name) => json!({
                "role": "assistant",
                "content": null,
                "tool_calls": [{
                    "id": "call_simulated",
                    "type": "function",
                    "function": {"name": name, "arguments": self.text},
                }],
            }),
            None => json!({"role": "assistant", "content": self.text}),
        }
    }
}

//! Reads responses that deviate from the interface, as servers and gateways send them: a text in parts, a negative
//! count, half a surrogate pair, events that were not requested. A field that cannot be read counts as missing.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::chat::{
    AssistantMessage, CalledFunction, ChatResponse, Choice, CompletionTokensDetails, Embedding, ErrorObject,
    PromptTokensDetails, ToolCall, Usage, text,
};
use super::events::{join_events, stream};
use super::odd_json::object;
use super::vector::Vector;

/// Number of bytes of a body that a message shows.
const SHOWN_BYTES: usize = 200;
/// JSON pointers to the error message in bodies that have no `error`.
const MESSAGES: [&str; 8] = [
    "/base_resp/status_msg",
    "/error_msg",
    "/error_message",
    "/status_msg",
    "/errors/0/message",
    "/message",
    "/msg",
    "/detail",
];

/// Reads the body of a response, also a malformed one. `None` if it holds no JSON object, or a stream that broke off.
#[must_use]
pub fn read(body: &[u8]) -> Option<ChatResponse> {
    serde_json::from_slice(body).ok().or_else(|| read_malformed(body))
}

/// The reason for which a body holds no answer: its error message, else its first 200 bytes.
#[must_use]
pub fn reason_of(body: &[u8]) -> String {
    reason(body).unwrap_or_else(|| beginning(body))
}

/// Reads a body that does not parse as a [`ChatResponse`]. `None` if it holds no JSON object, or a stream that broke
/// off.
fn read_malformed(body: &[u8]) -> Option<ChatResponse> {
    let body = match stream(body).is_some() {
        true => Cow::Owned(join_events(body)?),
        false => Cow::Borrowed(body),
    };
    let text = String::from_utf8_lossy(&body);
    object(text.trim_start_matches('\u{feff}').trim_start()).map(|value| response(&value))
}

/// The beginning of a body for messages, or only its size if it is not text.
fn beginning(body: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
    let is_odd = |c: &char| *c == char::REPLACEMENT_CHARACTER || (c.is_control() && !c.is_whitespace());
    if shown.chars().filter(is_odd).count() > shown.chars().count() / 10 {
        return format!("{} bytes that are no text", body.len());
    }
    let more = if body.len() > SHOWN_BYTES { "…" } else { "" };
    let shown: String = shown.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{shown}{more}")
}

/// The error message of a body that has no answer and no `error`.
fn reason(body: &[u8]) -> Option<String> {
    let value = object(String::from_utf8_lossy(body).trim_start_matches('\u{feff}'))?;
    let message = MESSAGES.iter().find_map(|path| text(value.pointer(path)?.clone()));
    message.filter(|message| !message.trim().is_empty())
}

fn response(value: &Value) -> ChatResponse {
    let list = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
    let mut response = ChatResponse {
        model: value.get("model").and_then(Value::as_str).map(ToOwned::to_owned),
        service_tier: value.get("service_tier").and_then(Value::as_str).map(ToOwned::to_owned),
        choices: list("choices").map(choice).collect(),
        data: list("data").map(embedding).collect(),
        error: value.get("error").and_then(error),
        ..ChatResponse::default()
    };
    if let Some(found) = value.get("usage").filter(|usage| !usage.is_null()) {
        response.usage = usage(found);
        let is_read = response.usage.as_ref().is_some_and(|usage| usage.prompt_tokens.is_some());
        response.unread_usage = (!is_read || has_odd_count(found)).then(|| found.to_string());
    }
    response
}

fn error(value: &Value) -> Option<ErrorObject> {
    serde_json::from_value::<Option<ErrorObject>>(value.clone()).ok().flatten()
}

fn choice(value: &Value) -> Choice {
    let message = value.get("message").or_else(|| value.get("delta"));
    Choice {
        message: message.filter(|message| message.is_object()).map(answer),
        finish_reason: value.get("finish_reason").cloned().and_then(text),
        error: value.get("error").and_then(error),
    }
}

fn answer(value: &Value) -> AssistantMessage {
    let calls = value.get("tool_calls").and_then(Value::as_array);
    AssistantMessage {
        content: value.get("content").and_then(content),
        refusal: value.get("refusal").and_then(Value::as_str).map(ToOwned::to_owned),
        tool_calls: calls.map(|calls| calls.iter().map(call).collect()),
    }
}

fn call(value: &Value) -> ToolCall {
    let arguments = value.pointer("/function/arguments").cloned().and_then(text);
    ToolCall { function: value.get("function").map(|_| CalledFunction { arguments }) }
}

/// A text, or the joined texts of a list of parts. The model's reasoning is left out.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let part = |part: &Value| match part {
                Value::String(text) => Some(text.clone()),
                Value::Object(fields) => {
                    let kind = fields.get("type").and_then(Value::as_str).unwrap_or("text");
                    let is_text = matches!(kind, "text" | "output_text");
                    fields.get("text").filter(|_| is_text)?.as_str().map(ToOwned::to_owned)
                }
                _ => None,
            };
            Some(parts.iter().filter_map(part).collect())
        }
        _ => None,
    }
}

fn embedding(value: &Value) -> Embedding {
    let index = value.get("index").and_then(|index| match index {
        Value::String(text) => text.parse().ok(),
        other => count(other),
    });
    let vector = value.get("embedding").filter(|vector| !vector.is_null());
    Embedding { index, embedding: vector.and_then(|vector| Vector::deserialize(vector).ok()) }
}

fn usage(value: &Value) -> Option<Usage> {
    let fields = value.as_object()?;
    let read = |key: &str| fields.get(key).and_then(count);
    let detail = |key: &str, name: &str| fields.get(key)?.get(name).and_then(count);
    Some(Usage {
        prompt_tokens: read("prompt_tokens"),
        completion_tokens: read("completion_tokens"),
        total_tokens: read("total_tokens"),
        prompt_tokens_details: detail("prompt_tokens_details", "cached_tokens")
            .map(|cached| PromptTokensDetails { cached_tokens: Some(cached) }),
        completion_tokens_details: detail("completion_tokens_details", "reasoning_tokens")
            .map(|reasoning| CompletionTokensDetails { reasoning_tokens: Some(reasoning) }),
        cost: fields.get("cost").cloned(),
    })
}

/// Whether a token count is present and cannot be read.
fn has_odd_count(usage: &Value) -> bool {
    ["prompt_tokens", "completion_tokens", "total_tokens"]
        .iter()
        .filter_map(|key| usage.get(key))
        .any(|value| !value.is_null() && count(value).is_none())
}

/// Reads a whole number that is not negative, also from a float or a string.
fn count(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    let whole =
        |number: f64| (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64);
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::read as read_any;
    use super::*;

    /// Text, finish reason, and tokens of prompt and answer of a body.
    fn parts_of(body: &str) -> (Option<String>, Option<String>, Option<(u64, u64)>) {
        parts_of_bytes(body.as_bytes())
    }

    fn parts_of_bytes(body: &[u8]) -> (Option<String>, Option<String>, Option<(u64, u64)>) {
        let response = read_any(body).unwrap();
        let usage = response.usage.and_then(|usage| Some((usage.prompt_tokens?, usage.completion_tokens?)));
        let choice = response.choices.into_iter().next();
        let (message, reason) = choice.map_or((None, None), |choice| (choice.message, choice.finish_reason));
        (message.and_then(|message| message.content), reason, usage)
    }

    fn body(content: &str, usage: &str) -> String {
        format!(
            r#"{{"choices":[{{"message":{{"content":{content}}},"finish_reason":"stop"}}],"usage":{usage}}}"#
        )
    }

    const USAGE: &str = r#"{"prompt_tokens":10,"completion_tokens":5}"#;

    #[test]
    fn a_text_is_kept_whatever_its_usage_is() {
        for usage in [
            r#"{"prompt_tokens":1151,"completion_tokens":-35,"total_tokens":1116}"#,
            r#"{"prompt_tokens":12.0,"completion_tokens":2.25}"#,
            r#"{"prompt_tokens":"many"}"#,
            r#""none""#,
            "7",
        ] {
            let body = body("\"good\"", usage);
            assert_eq!(parts_of(&body).0.as_deref(), Some("good"), "{usage}");
            assert!(read_any(body.as_bytes()).unwrap().unread_usage.is_some(), "{usage}");
        }
        let lists = body(
            "\"good\"",
            r#"{"prompt_tokens":12,"completion_tokens":2,"prompt_tokens_details":[{"modality":"TEXT"}]}"#,
        );
        assert_eq!(parts_of(&lists).2, Some((12, 2)));
        let whole = body("\"good\"", r#"{"prompt_tokens":12.0,"completion_tokens":"2"}"#);
        assert_eq!(parts_of(&whole).2, Some((12, 2)));
        assert_eq!(parts_of(&body("\"good\"", "null")), (Some("good".into()), Some("stop".into()), None));
    }

    #[test]
    fn a_text_in_parts_is_joined_without_what_was_thought() {
        let parts = r#"[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"},"b",{"type":"output_text","text":"c"}]"#;
        assert_eq!(parts_of(&body(parts, USAGE)), (Some("abc".into()), Some("stop".into()), Some((10, 5))));
    }

    #[test]
    fn characters_that_no_json_may_hold_are_replaced() {
        for (content, read) in [
            (r#""cut \ud83d""#, "cut \u{fffd}"),
            (r#""\udc00 low""#, "\u{fffd} low"),
            (r#""\ud83d\ude00 and \ud83dx""#, "\u{1f600} and \u{fffd}x"),
            ("\"a\tb\nc\"", "a\tb\nc"),
            (r#""a\qb""#, "a\\qb"),
            (r#""a \"quote\" \\ NaN""#, "a \"quote\" \\ NaN"),
        ] {
            assert_eq!(
                parts_of(&body(content, r#"{"prompt_tokens":NaN,"x":-Infinity}"#)).0.as_deref(),
                Some(read)
            );
        }
        let mut bytes = body("\"cut HERE\"", USAGE).into_bytes();
        let at = bytes.windows(4).position(|four| four == b"HERE").unwrap();
        bytes.splice(at..at + 4, *b"\xf0\x9f\x98");
        assert_eq!(parts_of_bytes(&bytes).0.as_deref(), Some("cut \u{fffd}"));
    }

    #[test]
    fn other_oddities_cost_no_answer() {
        let marked = format!("\u{feff}\n  {}\n\ndata: [DONE]\n\n", body("\"good\"", USAGE));
        assert_eq!(parts_of(&marked).0.as_deref(), Some("good"));
        let twice = body("\"bad\",\"content\":\"good\"", USAGE);
        assert_eq!(parts_of(&twice).0.as_deref(), Some("good"), "the last of two keys counts");
        let number =
            r#"{"model":7,"choices":[{"index":"0","message":{"content":"good"},"finish_reason":1}]}"#;
        assert_eq!(parts_of(number), (Some("good".into()), Some("1".into()), None));
        assert!(read_any(br#"{"choices":null,"error":{"code":402,"message":"m"}}"#).unwrap().error.is_some());
        let call = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f","arguments":{"label":"good"}}}]}}]}"#;
        let mut response = read_any(call.as_bytes()).unwrap();
        let called = response.choices.remove(0).message.unwrap().tool_calls.unwrap().remove(0);
        assert_eq!(called.function.unwrap().arguments.as_deref(), Some(r#"{"label":"good"}"#));
        let nested = r#"{"data":[{"index":"1","embedding":[[0.1,0.2]]},{"index":0,"embedding":null}]}"#;
        let vectors = read_any(nested.as_bytes()).unwrap().data;
        assert_eq!(vectors[0].embedding, Some(Vector::Numbers(vec![0.1, 0.2])));
        assert_eq!(
            (vectors[0].index, vectors[1].index, vectors[1].embedding.is_none()),
            (Some(1), Some(0), true)
        );
    }

    #[test]
    fn unrequested_events_make_an_answer() {
        let stream = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"he\"}}]}\n\n: still here\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"llo\"},\"finish_reason\":\"stop\"}]}\n\n\
                      data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        assert_eq!(parts_of(stream), (Some("hello".into()), Some("stop".into()), Some((3, 2))));
        let (broken, _) = stream.split_once("data: {\"choices\":[{\"delta\":{\"content\":\"llo").unwrap();
        assert!(read_any(broken.as_bytes()).is_none(), "half an answer is none");
        let quoted = broken.replace("\"he\"", "\"he ends with [DONE]\"");
        assert!(read_any(quoted.as_bytes()).is_none(), "a text may name the end without being there");
    }

    #[test]
    fn what_is_no_answer_says_what_it_is() {
        assert!(read_any(b"<html><body>Please sign in</body></html>").is_none());
        assert_eq!(beginning(b"<html>"), "<html>");
        assert_eq!(beginning(&[b'x'; 300]).chars().count(), SHOWN_BYTES + 1);
        assert_eq!(
            reason(br#"{"error_code":110,"error_msg":"token invalid"}"#).as_deref(),
            Some("token invalid")
        );
        assert_eq!(reason(br#"{"base_resp":{"status_code":1004,"status_msg":"no"}}"#).as_deref(), Some("no"));
        assert_eq!(reason(b"{}"), None);
    }
}

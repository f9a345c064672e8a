//! Joins the server-sent events of a chat completion to the body that the response would have had without streaming.
//!
//! Some gateways stream although that was not requested. The deltas of each choice are joined in their order: texts are
//! appended, and tool calls are joined by their index. A stream that broke off gives no body: half an answer is no
//! answer. The form of the events is that of `chat.completion.chunk` in OpenAI's interface.

use serde_json::{Map, Value, json};

use super::odd_json::object;

/// Data of the event that ends a stream.
const DONE: &str = "[DONE]";
/// Fields of a delta whose texts are appended.
const TEXTS: [&str; 4] = ["content", "refusal", "reasoning_content", "reasoning"];

/// Joins the events of a stream to one body. Returns `None` if `body` is not a stream, has no JSON object in its
/// events, or broke off.
#[must_use]
pub fn join_events(body: &[u8]) -> Option<Vec<u8>> {
    joined(&String::from_utf8_lossy(stream(body)?)).map(|body| body.to_string().into())
}

/// Returns a body without what stands before its first event, or `None` if it does not begin as a stream does.
pub(super) fn stream(body: &[u8]) -> Option<&[u8]> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii_start();
    [b"data:".as_slice(), b"event:", b":"].iter().any(|begin| body.starts_with(begin)).then_some(body)
}

fn joined(text: &str) -> Option<Value> {
    let data = text.lines().filter_map(|line| Some(line.strip_prefix("data:")?.trim()));
    let mut whole: Option<Map<String, Value>> = None;
    let mut choices: Vec<Map<String, Value>> = Vec::new();
    let mut is_done = false;
    for event in data {
        is_done |= event == DONE;
        let Some(Value::Object(event)) = object(event) else { continue };
        let whole = whole.get_or_insert_with(Map::new);
        for (name, value) in event {
            match (name.as_str(), value) {
                ("choices", Value::Array(deltas)) => {
                    deltas.into_iter().for_each(|delta| add_delta(&mut choices, delta));
                }
                (_, Value::Null) => {}
                // The last usage that an event states stands for the whole stream.
                ("usage", usage) => drop(whole.insert(name, usage)),
                (_, value) => drop(whole.entry(name).or_insert(value)),
            }
        }
    }
    let mut whole = whole?;
    if !is_done && choices.iter().any(|choice| !choice.contains_key("finish_reason")) {
        return None;
    }
    whole.insert("choices".into(), choices.into());
    Some(Value::Object(whole))
}

/// Joins a choice of an event to the choice that has its index; an unknown index adds a choice.
fn add_delta(choices: &mut Vec<Map<String, Value>>, part: Value) {
    let Value::Object(mut part) = part else { return };
    let index = part.get("index").and_then(Value::as_u64).unwrap_or_default();
    let place = choices.iter().position(|choice| choice.get("index").and_then(Value::as_u64) == Some(index));
    let place = place.unwrap_or_else(|| {
        choices.push(Map::from_iter([
            ("index".to_owned(), index.into()),
            ("message".to_owned(), json!({"role": "assistant"})),
        ]));
        choices.len() - 1
    });
    let choice = &mut choices[place];
    let delta = part.remove("delta").or_else(|| part.remove("message"));
    if let (Some(Value::Object(delta)), Some(Value::Object(message))) = (delta, choice.get_mut("message")) {
        for (name, value) in delta {
            match (name.as_str(), value) {
                ("tool_calls", Value::Array(calls)) => {
                    let all = message.entry(name).or_insert_with(|| json!([]));
                    calls.into_iter().for_each(|call| add_call(all, call));
                }
                (_, Value::Null) => {}
                (field, Value::String(text)) if TEXTS.contains(&field) => append(message, field, &text),
                (_, value) => drop(message.entry(name).or_insert(value)),
            }
        }
    }
    for (name, value) in part.into_iter().filter(|(_, value)| !value.is_null()) {
        choice.insert(name, value);
    }
}

/// Joins a part of a tool call to the call that has its index; an unknown index adds a call.
fn add_call(calls: &mut Value, part: Value) {
    let (Some(calls), Value::Object(mut part)) = (calls.as_array_mut(), part) else { return };
    let index = part.get("index").and_then(Value::as_u64).unwrap_or_default();
    let place = calls.iter().position(|call| call["index"].as_u64() == Some(index));
    let place = place.unwrap_or_else(|| {
        calls.push(json!({"index": index, "function": {}}));
        calls.len() - 1
    });
    let Some(call) = calls[place].as_object_mut() else { return };
    if let (Some(Value::Object(function)), Some(Value::Object(known))) =
        (part.remove("function"), call.get_mut("function"))
    {
        for (name, value) in function {
            match value {
                Value::String(text) => append(known, &name, &text),
                Value::Null => {}
                value => drop(known.insert(name, value)),
            }
        }
    }
    for (name, value) in part.into_iter().filter(|(_, value)| !value.is_null()) {
        call.entry(name).or_insert(value);
    }
}

/// Appends to the text of a field, or sets it if it is missing or not a text.
fn append(fields: &mut Map<String, Value>, name: &str, text: &str) {
    match fields.get_mut(name) {
        Some(Value::String(known)) => known.push_str(text),
        _ => drop(fields.insert(name.to_owned(), text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined_text(events: &str) -> Option<Value> {
        Some(serde_json::from_slice(&join_events(events.as_bytes())?).unwrap())
    }

    #[test]
    fn deltas_of_choices_and_calls_become_one_body() {
        let events = concat!(
            "data: {\"id\":\"1\",\"model\":\"m\",\"usage\":null,\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"he\"}}]}\n\n",
            ": still here\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"llo\",\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"answer\",\"arguments\":\"{\\\"a\\\"\"}}]}}]}\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\":1}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
        );
        let expected = json!({
            "id": "1", "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
                "role": "assistant", "content": "hello",
                "tool_calls": [{"index": 0, "id": "c", "function": {"name": "answer", "arguments": "{\"a\":1}"}}]
            }}]
        });
        assert_eq!(joined_text(events), Some(expected));
    }

    #[test]
    fn a_refusal_and_an_error_arrive_too() {
        let refusal = "data: {\"choices\":[{\"delta\":{\"refusal\":\"no\"},\"finish_reason\":\"stop\"}]}\n";
        for before in ["", "\u{feff}", " \n"] {
            let joined = joined_text(&format!("{before}{refusal}")).unwrap();
            assert_eq!(joined["choices"][0]["message"]["refusal"], "no", "{before:?}");
        }
        let error = "data: {\"error\":{\"code\":429,\"message\":\"slow down\"}}\n";
        assert_eq!(joined_text(error).unwrap()["error"]["code"], 429);
    }

    #[test]
    fn what_broke_off_or_is_no_stream_has_no_body() {
        assert_eq!(
            joined_text("data: {\"choices\":[{\"delta\":{\"content\":\"ends with [DONE]\"}}]}\n"),
            None
        );
        assert_eq!(joined_text("{\"choices\":[]}"), None);
        assert_eq!(joined_text("data: nothing\n"), None);
    }
}

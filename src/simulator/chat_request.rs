//! The fields of a chat completion request that the simulator reads, and their checks.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::answer::tokens_of;
use super::reply::{ErrorReply, invalid};
use crate::wire::COMPLAINT;

/// Roles that a message may have.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
/// Largest number of answers (`n`) to one request.
const MAX_CHOICES: u32 = 128;

/// Body of a chat completion request.
#[derive(Debug, Deserialize)]
pub(super) struct ReceivedChat {
    pub(super) model: String,
    messages: Vec<ReceivedMessage>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    n: Option<u32>,
    pub(super) service_tier: Option<String>,
    pub(super) response_format: Option<Value>,
    pub(super) tools: Option<Vec<Tool>>,
    pub(super) tool_choice: Option<Value>,
    pub(super) structured_outputs: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ReceivedMessage {
    role: String,
    /// `None` if the message is a tool call.
    #[serde(default, deserialize_with = "text")]
    content: Option<String>,
}

/// A part of a message's content.
#[derive(Debug, Deserialize)]
struct ContentPart {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MessageContent {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// Reads a text, or a list of parts and joins them. A part that is not a text is an error.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<MessageContent>::deserialize(deserializer)? {
        None => Ok(None),
        Some(MessageContent::Text(text)) => Ok(Some(text)),
        Some(MessageContent::Parts(parts)) => {
            let text = |part: ContentPart| match (part.kind.as_str(), part.text) {
                ("text", Some(text)) => Ok(text),
                (other, _) => Err(de::Error::custom(format!("a part of type '{other}' is not understood"))),
            };
            parts.into_iter().map(text).collect::<Result<String, _>>().map(Some)
        }
    }
}

/// A tool that the model may call.
#[derive(Debug, Deserialize)]
pub(super) struct Tool {
    pub(super) function: Function,
}

/// A function and the JSON Schema of its arguments.
#[derive(Debug, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) parameters: Option<Value>,
}

impl ReceivedChat {
    /// Checks the fields as OpenAI's servers do.
    pub(super) fn check(&self) -> Result<(), ErrorReply> {
        let wrong = |field: &str, what: String| {
            Err(invalid("invalid_value", &format!("Invalid value for '{field}': {what}"), Some(field)))
        };
        if self.messages.is_empty() {
            return wrong("messages", "it is an empty list.".to_owned());
        }
        let unknown = self.messages.iter().position(|message| !ROLES.contains(&message.role.as_str()));
        if let Some(at) = unknown {
            let known = ROLES.join("', '");
            return wrong(
                &format!("messages[{at}].role"),
                format!("'{}' is none of '{known}'.", self.messages[at].role),
            );
        }
        match (self.temperature, self.most_tokens(), self.n) {
            (Some(temperature), ..) if !(0.0..=2.0).contains(&temperature) => {
                wrong("temperature", format!("{temperature} lies outside 0 to 2."))
            }
            (_, Some(0), _) => wrong("max_tokens", "0 is less than 1.".to_owned()),
            (.., Some(n)) if !(1..=MAX_CHOICES).contains(&n) => {
                wrong("n", format!("{n} lies outside 1 to {MAX_CHOICES}."))
            }
            _ => Ok(()),
        }
    }

    /// Largest number of tokens that an answer may have, if the request limits it.
    pub(super) fn most_tokens(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Number of answers that are requested.
    pub(super) fn choices(&self) -> u32 {
        self.n.unwrap_or(1)
    }

    /// The message to be answered: the user's last one that is not a complaint about an answer, or else the first.
    /// Few-shot examples come before it, and repairs after it.
    pub(super) fn question(&self) -> &str {
        let messages = self.messages.iter().filter(|message| message.role == "user");
        let mut texts = messages.filter_map(|message| message.content.as_deref());
        let first = texts.clone().next();
        texts.rfind(|text| !text.starts_with(COMPLAINT)).or(first).unwrap_or_default()
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        self.messages.iter().filter_map(|message| message.content.as_deref()).map(tokens_of).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(messages: &[(&str, Option<&str>)]) -> String {
        let messages: Vec<Value> =
            messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        let request: ReceivedChat =
            serde_json::from_value(json!({"model": "m", "messages": messages})).unwrap();
        request.question().to_owned()
    }

    #[test]
    fn a_question_stands_after_the_examples_and_before_the_complaints() {
        let (system, example) = (("system", Some("s")), ("user", Some("an example")));
        let (answer, question_) = (("assistant", Some("a")), ("user", Some("the question")));
        let complaint = ("user", Some("That is not JSON."));
        assert_eq!(question(&[question_]), "the question");
        assert_eq!(question(&[system, example, answer, question_]), "the question");
        assert_eq!(question(&[example, answer, question_, answer, complaint]), "the question");
        assert_eq!(question(&[question_, answer, complaint, ("assistant", None), complaint]), "the question");
        assert_eq!(question(&[system]), "");
    }

    #[test]
    fn a_question_may_begin_like_a_complaint() {
        let own = ("user", Some("That is not a review. Is it?"));
        let complaint = ("user", Some("That is not JSON."));
        assert_eq!(question(&[own, ("assistant", Some("a")), complaint]), "That is not a review. Is it?");
    }
}

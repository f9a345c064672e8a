//! The body of a request for a chat completion, as far as the simulator reads it.

use serde::Deserialize;
use serde_json::Value;

use super::answer::tokens_of;
use crate::wire::COMPLAINT;

/// A request for a chat completion.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pub(super) model: String,
    messages: Vec<Said>,
    pub(super) max_tokens: Option<u64>,
    pub(super) response_format: Option<Value>,
    pub(super) tools: Option<Vec<Tool>>,
    pub(super) tool_choice: Option<Value>,
    pub(super) structured_outputs: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Said {
    role: String,
    /// None where the message is a call.
    content: Option<String>,
}

/// Something that the model may call.
#[derive(Debug, Deserialize)]
pub(super) struct Tool {
    pub(super) function: Function,
}

/// A function, and a JSON Schema of its arguments.
#[derive(Debug, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) parameters: Option<Value>,
}

impl Asked {
    /// The message that the request is about: the last one of the user that is no complaint. Examples stand
    /// before it, and a conversation goes on about it.
    pub(super) fn question(&self) -> &str {
        let said = self.messages.iter().filter(|said| said.role == "user");
        let mut said = said.filter_map(|said| said.content.as_deref());
        let first = said.clone().next();
        said.rfind(|text| !text.starts_with(COMPLAINT)).or(first).unwrap_or_default()
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        self.messages.iter().filter_map(|said| said.content.as_deref()).map(tokens_of).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(said: &[(&str, Option<&str>)]) -> String {
        let messages: Vec<Value> =
            said.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        let asked: Asked = serde_json::from_value(json!({"model": "m", "messages": messages})).unwrap();
        asked.question().to_owned()
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

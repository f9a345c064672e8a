//! Reads a response: its metadata, and its answer as the step wants it.

use serde_json::{Map, Value};

use super::content::Content;
use crate::config::{CLASS, Form};
use crate::fault::{Class, Failure};
use crate::ident::Tokens;
use crate::wire::{self, CLASSES_WORDS, COMPLAINT, ChatResponse};

/// Largest plausible number of prompt tokens beyond those of the text: roles, tools, additions of the provider.
const MAX_UNSEEN_TOKENS: u64 = 10_000;
/// Largest plausible number of tokens of an answer to a request without `max_tokens`.
const MAX_UNBOUND_COMPLETION: u64 = 2_000_000;

/// Whether a request with this prompt can have used these tokens. An implausible number from a server must not be
/// charged to the rate limits.
#[must_use]
pub fn is_plausible(tokens: Tokens, prompt_bytes: usize, max_tokens: Option<u32>) -> bool {
    // A token is at least one byte of text in every encoding; the factor is a margin.
    let most_prompt = (prompt_bytes as u64).saturating_mul(2).saturating_add(MAX_UNSEEN_TOKENS);
    // Reasoning may come on top of `max_tokens`.
    let thought = |most: u32| u64::from(most).saturating_mul(20).max(MAX_UNSEEN_TOKENS);
    let most_completion = max_tokens.map_or(MAX_UNBOUND_COMPLETION, thought);
    tokens.prompt <= most_prompt && tokens.completion <= most_completion
}

/// Parses the body of a response.
///
/// # Errors
/// When the body is not a response, with class `invalid_response`.
pub fn parse(body: &[u8]) -> Result<ChatResponse, Failure> {
    wire::read(body).ok_or_else(|| {
        let beginning = wire::reason_of(body);
        Failure::new(Class::InvalidResponse, format!("the answer is no JSON; it begins: {beginning}"))
    })
}

/// What happens to a block of reasoning at the beginning of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reasoning {
    /// The block is removed.
    Strip,
    /// The block is part of the answer.
    Keep,
}

/// An answer, checked against what the step asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The answer is valid.
    Good {
        /// Content of the output column.
        content: Content,
        /// Text of the answer, if the step keeps it too.
        raw_text: Option<String>,
    },
    /// The answer is not what the step asks for.
    Invalid {
        /// Text of the answer.
        text: String,
        /// What is wrong with the answer.
        mistake: String,
        /// Message to the model that states the mistake.
        complaint: String,
    },
}

/// Checks an answer against the form that the step asks for. White space around it and a Markdown fence are ignored;
/// nothing else is guessed.
///
/// # Errors
/// As for [`text`], or when a vector cannot be read.
pub fn answer(response: ChatResponse, form: &Form, reasoning: Reasoning) -> Result<Answer, Failure> {
    if let Form::Embedding(_) = form {
        let content = Content::Vector(super::embedding::vector(&response)?);
        return Ok(Answer::Good { content, raw_text: None });
    }
    let mut text = text(response)?;
    if reasoning == Reasoning::Strip {
        text = without_reasoning(text);
    }
    match form {
        Form::Text | Form::Embedding(_) => Ok(Answer::Good { content: Content::Text(text), raw_text: None }),
        Form::Classes(classes) => {
            let bare = unfenced(&text);
            if let Some(class) = class_of(bare, classes) {
                return Ok(Answer::Good { content: Content::Text(class.clone()), raw_text: None });
            }
            let complaint = format!(
                "{COMPLAINT}one of the answers that there may be. {CLASSES_WORDS}\n{}",
                classes.join("\n")
            );
            Ok(Answer::Invalid { text, mistake: "it is not one of the classes".to_owned(), complaint })
        }
        Form::Typed(typed) => match super::typed::read(unfenced(&text), &typed.shape) {
            Ok(content) => {
                let raw_text = typed.keep_raw.then_some(text);
                Ok(Answer::Good { content: Content::Text(content), raw_text })
            }
            Err(mistake) => {
                let complaint = format!(
                    "{COMPLAINT}what was asked for: {mistake}. Answer with the whole JSON object again, and with nothing else."
                );
                Ok(Answer::Invalid { text, mistake, complaint })
            }
        },
    }
}

/// The class that an answer names: its whole text, or the value in the object that the schema of classes describes.
fn class_of<'a>(answer: &str, classes: &'a [String]) -> Option<&'a String> {
    let known = |named: &str| classes.iter().find(|class| *class == named);
    known(answer).or_else(|| {
        let object: Map<String, Value> = serde_json::from_str(answer).ok()?;
        known(object.get(CLASS).filter(|_| object.len() == 1)?.as_str()?)
    })
}

/// An answer without a block of reasoning at its beginning. A block that does not end is part of the answer.
fn without_reasoning(answer: String) -> String {
    let blocks = [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>")];
    let bare = blocks.iter().find_map(|(begins, ends)| {
        let (_, rest) = answer.trim_start().strip_prefix(begins)?.split_once(ends)?;
        Some(rest.trim_start().to_owned())
    });
    bare.filter(|bare| !bare.is_empty()).unwrap_or(answer)
}

/// The content of a Markdown block if a text is nothing else, or else the text, trimmed.
#[must_use]
pub fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|text| text.strip_suffix("```"));
    // The first line may name a language.
    let inner = inner.and_then(|inner| inner.split_once('\n'));
    inner.map_or(text, |(_, inner)| inner.trim())
}

/// Whether an answer ended because of the token limit, in OpenAI's, Google's or Anthropic's terms.
#[must_use]
pub fn is_cut(finish_reason: &str) -> bool {
    matches!(finish_reason, "length" | "MAX_TOKENS" | "max_tokens")
}

/// Whether an answer ended because a filter cut it: OpenAI's term, with any suffix, or Google's.
fn is_filtered(finish_reason: &str) -> bool {
    finish_reason.starts_with("content_filter")
        || matches!(
            finish_reason,
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY"
        )
}

/// The text of a chat completion, or the arguments of its first tool call.
///
/// # Errors
/// When there is no text to write: blocked, declined, cut before the first word, or empty.
pub fn text(response: ChatResponse) -> Result<String, Failure> {
    let Some(choice) = response.choices.into_iter().next() else {
        return Err(Failure::new(Class::InvalidResponse, "the answer has no choices"));
    };
    let answer = choice.message.unwrap_or_default();
    if let Some(refusal) = answer.refusal.filter(|refusal| !refusal.trim().is_empty()) {
        return Err(Failure::new(Class::Refusal, refusal));
    }
    let finish_reason = choice.finish_reason.unwrap_or_default();
    let content = answer.content.filter(|content| !content.trim().is_empty());
    let called = answer.tool_calls.into_iter().flatten().next().and_then(|call| call.function?.arguments);
    // Some models write a text beside the call.
    let content = called.or(content).filter(|content| !content.trim().is_empty());
    if is_filtered(&finish_reason) {
        let detail = format!("the provider's filter cut the answer (finish_reason {finish_reason:?})");
        return Err(Failure::new(Class::ContentFilter, detail));
    }
    match (content, finish_reason.as_str()) {
        (Some(content), _) => Ok(content),
        (None, reason) if is_cut(reason) => {
            Err(Failure::new(Class::Length, "the token limit was reached before any text"))
        }
        (None, other) => {
            Err(Failure::new(Class::EmptyAnswer, format!("no text came (finish_reason {other:?})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts;
    use super::*;
    use crate::ident::Money;

    fn read(json: &str) -> Result<String, Class> {
        text(parse(json.as_bytes()).map_err(|failure| failure.class)?).map_err(|failure| failure.class)
    }

    #[test]
    fn what_is_no_text_is_a_failure_of_its_own_class() {
        let choice = |rest: &str| read(&format!(r#"{{"choices":[{{{rest}}}]}}"#));
        assert_eq!(choice(r#""message":{"content":"yes"},"finish_reason":"stop""#), Ok("yes".into()));
        assert_eq!(choice(r#""message":{"content":"ye"},"finish_reason":"length""#), Ok("ye".into()));
        assert_eq!(choice(r#""message":{"content":""},"finish_reason":"length""#), Err(Class::Length));
        assert_eq!(choice(r#""message":{"content":null},"finish_reason":"stop""#), Err(Class::EmptyAnswer));
        assert_eq!(choice(r#""finish_reason":"content_filter""#), Err(Class::ContentFilter));
        for reason in ["SAFETY", "RECITATION", "content_filter: RECITATION"] {
            let half = format!(r#""message":{{"content":"The first ha"}},"finish_reason":"{reason}""#);
            assert_eq!(choice(&half), Err(Class::ContentFilter), "half a sentence is no answer: {reason}");
        }
        assert_eq!(choice(r#""message":{"content":null},"finish_reason":"MAX_TOKENS""#), Err(Class::Length));
        assert_eq!(choice(r#""message":{"content":null,"refusal":"no"}"#), Err(Class::Refusal));
        assert_eq!(read(r#"{"choices":[]}"#), Err(Class::InvalidResponse));
        assert_eq!(read("<html>"), Err(Class::InvalidResponse));
    }

    #[test]
    fn an_answer_is_one_of_the_classes_or_invalid() {
        let form = Form::Classes(vec!["bug".into(), "a feature".into()]);
        let read = |content: &str| {
            let choice = serde_json::json!({ "message": { "content": content } });
            let body = serde_json::json!({ "choices": [choice] }).to_string();
            match answer(parse(body.as_bytes()).unwrap(), &form, Reasoning::Strip).unwrap() {
                Answer::Good { content: Content::Text(text), .. } => Some(text),
                Answer::Good { content, .. } => panic!("{content:?}"),
                Answer::Invalid { text, complaint, .. } => {
                    assert!(text == content && complaint.ends_with("else:\nbug\na feature"), "{complaint}");
                    None
                }
            }
        };
        for good in [
            "bug",
            " bug\n",
            "```\nbug\n```",
            "```text\nbug```",
            "<think>\nhm\n</think>\n\nbug",
            "<thinking>a feature?</thinking>bug",
        ] {
            assert_eq!(read(good).as_deref(), Some("bug"), "{good:?}");
        }
        assert_eq!(read("a feature").as_deref(), Some("a feature"));
        assert_eq!(without_reasoning("<think>it never ends, bug".into()), "<think>it never ends, bug");
        for bad in ["Bug", "bug.", "a  feature", "It is a bug", "bug\na feature", "```bug```", "\"bug\""] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_the_provider_says_of_the_cost_is_read() {
        let response =
            parse(br#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"cost":0.0000125}}"#).unwrap();
        let facts = facts(&response);
        assert_eq!(facts.cost, Some(Money::picodollars(12_500_000)));
        assert_eq!(facts.tokens.map(Tokens::total), Some(7));
        let read =
            |usage: &str| super::super::facts(&parse(format!("{{\"usage\":{usage}}}").as_bytes()).unwrap());
        let thinking =
            read(r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":20,"cost":{"total_cost":0.5}}"#);
        assert_eq!(thinking.tokens.map(|tokens| tokens.completion), Some(17));
        assert_eq!(thinking.cost, Money::from_dollars(0.5));
        assert_eq!(read(r#"{"prompt_tokens":3}"#).tokens, None);
        assert_eq!(read(r#"{"prompt_tokens":3,"completion_tokens":1000000000000000}"#).tokens, None);
        let used = |prompt, completion| Tokens { prompt, cached: 0, completion, reasoning: 0 };
        assert!(is_plausible(used(120, 30), 400, Some(50)) && is_plausible(used(120, 900), 400, None));
        assert!(!is_plausible(used(90_000, 30), 400, None), "four hundred bytes are not that many tokens");
        assert!(!is_plausible(used(120, 90_000_000), 400, None));
        assert_eq!(read("{}").tokens, None);
    }
}

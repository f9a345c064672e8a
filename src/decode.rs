//! From a response to what stands in the output column, or to a class of failure. Pure, so that a journal
//! read again gives the same rows.

use crate::fault::{Class, Failure};
use crate::ident::{Money, Tokens};
use crate::wire::ChatResponse;

/// What the provider says of a response besides its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The model that answered, as the server names it.
    pub model: Option<String>,
    /// Why the answer ends.
    pub finish_reason: Option<String>,
    /// What was used; none if the server does not say.
    pub tokens: Option<Tokens>,
    /// What it cost; none if the server does not say.
    pub cost: Option<Money>,
}

/// Reads the body of a response.
///
/// # Errors
/// A failure of class `invalid_response` when it is no response.
pub fn parse(body: &[u8]) -> Result<ChatResponse, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(
            Class::InvalidResponse,
            format!("the answer is not what the interface promises: {error}"),
        )
    })
}

/// The facts of a response.
#[must_use]
pub fn facts(response: &ChatResponse) -> Facts {
    let usage = response.usage.as_ref();
    Facts {
        model: response.model.clone(),
        finish_reason: response.choices.first().and_then(|choice| choice.finish_reason.clone()),
        tokens: usage.map(|usage| Tokens {
            prompt: usage.prompt_tokens.unwrap_or_default(),
            cached: usage
                .prompt_tokens_details
                .as_ref()
                .and_then(|details| details.cached_tokens)
                .unwrap_or_default(),
            completion: usage.completion_tokens.unwrap_or_default(),
        }),
        cost: usage.and_then(|usage| usage.cost).and_then(Money::from_dollars),
    }
}

/// The text of a chat completion.
///
/// # Errors
/// A failure when there is no text to write: blocked, declined, cut before the first word, or empty.
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
    match (content, finish_reason.as_str()) {
        (_, "content_filter") => {
            Err(Failure::new(Class::ContentFilter, "the provider's filter cut the answer"))
        }
        (Some(content), _) => Ok(content),
        (None, "length") => Err(Failure::new(Class::Length, "the token limit was reached before any text")),
        (None, other) => {
            Err(Failure::new(Class::EmptyAnswer, format!("no text came (finish_reason {other:?})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(choice(r#""message":{"content":null,"refusal":"no"}"#), Err(Class::Refusal));
        assert_eq!(read(r#"{"choices":[]}"#), Err(Class::InvalidResponse));
        assert_eq!(read("<html>"), Err(Class::InvalidResponse));
    }

    #[test]
    fn what_the_provider_says_of_the_cost_is_read() {
        let response =
            parse(br#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"cost":0.0000125}}"#).unwrap();
        let facts = facts(&response);
        assert_eq!(facts.cost, Some(Money::picodollars(12_500_000)));
        assert_eq!(facts.tokens.map(Tokens::total), Some(7));
    }
}

//! The question that is sent to a model about a row.

use crate::ident::Fingerprint;
use crate::wire::{Message, Role};

/// A conversation and its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    messages: Vec<Message>,
    /// Size of the messages' texts.
    bytes: usize,
    fingerprint: Fingerprint,
}

impl Question {
    /// Creates a question from its messages and their fingerprint.
    #[must_use]
    pub fn new(messages: Vec<Message>, fingerprint: Fingerprint) -> Self {
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        Question { messages, bytes, fingerprint }
    }

    /// The conversation, in order.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Size of the messages' texts in bytes; computed only once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hash of the conversation and the parameters; not of address, key or provider.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The question with an invalid answer and a complaint about it, to be sent again.
    #[must_use]
    pub fn repaired(&self, answer: &str, complaint: &str) -> Question {
        let message = |role, content: &str| Message { role, content: content.to_owned() };
        let mut messages = self.messages.clone();
        messages.extend([message(Role::Assistant, answer), message(Role::User, complaint)]);
        let before = self.fingerprint.to_bytes();
        let fingerprint = Fingerprint::of([before.as_slice(), answer.as_bytes(), complaint.as_bytes()]);
        Question::new(messages, fingerprint)
    }

    /// The question with the fingerprint of a larger `max_tokens`, to be sent again after an answer that was cut off.
    #[must_use]
    pub fn longer(&self, max_tokens: u32) -> Question {
        let before = self.fingerprint.to_bytes();
        let fingerprint =
            Fingerprint::of([before.as_slice(), b"max_tokens", max_tokens.to_string().as_bytes()]);
        Question { fingerprint, ..self.clone() }
    }
}

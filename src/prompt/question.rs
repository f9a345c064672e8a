//! The question that is sent to a model about a row.

use crate::ident::Fingerprint;
use crate::wire::{Message, Role};

/// A conversation to be sent to a model, and its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    messages: Vec<Message>,
    /// Size of the messages' texts in bytes.
    bytes: usize,
    fingerprint: Fingerprint,
}

impl Question {
    /// Creates a question from a conversation and its fingerprint.
    #[must_use]
    pub fn new(messages: Vec<Message>, fingerprint: Fingerprint) -> Self {
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        Question { messages, bytes, fingerprint }
    }

    /// Returns the messages of the conversation, the oldest first.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Returns the size of the messages' texts in bytes. It is computed only once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the hash of the conversation and the parameters. Address, key and provider are not part of it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Returns the question with an invalid answer and a complaint about it appended, to be sent again.
    #[must_use]
    pub fn repaired(&self, said: &str, complaint: &str) -> Question {
        let message = |role, content: &str| Message { role, content: content.to_owned() };
        let mut messages = self.messages.clone();
        messages.extend([message(Role::Assistant, said), message(Role::User, complaint)]);
        let before = self.fingerprint.to_bytes();
        let fingerprint = Fingerprint::of([before.as_slice(), said.as_bytes(), complaint.as_bytes()]);
        Question::new(messages, fingerprint)
    }

    /// Returns the question with the fingerprint of a request for up to `max_tokens` tokens, to be sent again after
    /// an answer that was cut off.
    #[must_use]
    pub fn longer(&self, max_tokens: u32) -> Question {
        let before = self.fingerprint.to_bytes();
        let fingerprint =
            Fingerprint::of([before.as_slice(), b"max_tokens", max_tokens.to_string().as_bytes()]);
        Question { fingerprint, ..self.clone() }
    }
}

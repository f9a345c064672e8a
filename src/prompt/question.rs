//! What is asked about a row.

use crate::ident::Fingerprint;
use crate::wire::{Message, Role};

/// What is asked: the conversation and what stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    messages: Vec<Message>,
    /// Bytes of the messages.
    bytes: usize,
    fingerprint: Fingerprint,
}

impl Question {
    /// A conversation and what stands for it.
    #[must_use]
    pub fn new(messages: Vec<Message>, fingerprint: Fingerprint) -> Self {
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        Question { messages, bytes, fingerprint }
    }

    /// The conversation.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Bytes of the messages, without looking at them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hash of the conversation and the parameters; not of address, key or provider.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The same question once more, after an answer that was not what is asked for.
    #[must_use]
    pub fn repaired(&self, said: &str, complaint: &str) -> Question {
        let message = |role, content: &str| Message { role, content: content.to_owned() };
        let mut messages = self.messages.clone();
        messages.extend([message(Role::Assistant, said), message(Role::User, complaint)]);
        let before = self.fingerprint.to_bytes();
        let fingerprint = Fingerprint::of([before.as_slice(), said.as_bytes(), complaint.as_bytes()]);
        Question::new(messages, fingerprint)
    }

    /// The same question once more, with room for so many tokens, after an answer that was cut off.
    #[must_use]
    pub fn longer(&self, max_tokens: u32) -> Question {
        let before = self.fingerprint.to_bytes();
        let fingerprint =
            Fingerprint::of([before.as_slice(), b"max_tokens", max_tokens.to_string().as_bytes()]);
        Question { fingerprint, ..self.clone() }
    }
}

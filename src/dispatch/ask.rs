//! Who is asked: an endpoint, or in a rehearsal a model of one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Params;
use crate::ident::Fingerprint;
use crate::prompt::Question;
use crate::transport::{Endpoint, Sent};
use crate::wire::{Message, Role};

/// Somebody who answers questions.
pub trait Ask: Send + Sync + 'static {
    /// Asks once, and waits no longer than `most`.
    fn ask(&self, question: &Question, params: &Params, most: Duration) -> impl Future<Output = Sent> + Send;

    /// Name of the model that answers.
    fn model(&self) -> &Arc<str>;
}

impl Ask for Endpoint {
    async fn ask(&self, question: &Question, params: &Params, most: Duration) -> Sent {
        self.send(question, params, most).await
    }

    fn model(&self) -> &Arc<str> {
        Endpoint::model(self)
    }
}

/// A question that costs next to nothing and that every model can answer: it tells whether a provider works
/// at all.
#[must_use]
pub fn harmless_question() -> (Question, Params) {
    let prompt = "Reply with the word OK.";
    let question = Question {
        messages: vec![Message { role: Role::User, content: prompt.to_owned() }],
        fingerprint: Fingerprint::of([prompt.as_bytes()]),
    };
    (question, Params::default())
}

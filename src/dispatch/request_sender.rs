//! What requests are sent to: an endpoint, or a model of one in a rehearsal.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Params, SchemaForm, Vectors};
use crate::ident::Fingerprint;
use crate::prompt::Question;
use crate::transport::{Endpoint, SendResult};
use crate::wire::{Message, Role};

/// Sends requests to a model.
pub trait RequestSender: Send + Sync + 'static {
    /// Sends one question, or several texts whose vectors are requested, once, and waits no longer than `most`.
    fn ask(
        &self,
        questions: &[Arc<Question>],
        params: &Params,
        most: Duration,
    ) -> impl Future<Output = SendResult> + Send;

    /// Name of the model that answers.
    fn model(&self) -> &Arc<str>;

    /// The form in which schemas are taken, or `None` if it is not known.
    fn schema_form(&self) -> Option<SchemaForm> {
        None
    }

    /// Starts the search for that form with the one that a former run found.
    fn begin_with(&self, _: SchemaForm) {}
}

impl RequestSender for Endpoint {
    async fn ask(&self, questions: &[Arc<Question>], params: &Params, most: Duration) -> SendResult {
        self.send(questions, params, most).await
    }

    fn model(&self) -> &Arc<str> {
        Endpoint::model(self)
    }

    fn schema_form(&self) -> Option<SchemaForm> {
        Endpoint::schema_form(self)
    }

    fn begin_with(&self, form: SchemaForm) {
        Endpoint::begin_with(self, form);
    }
}

/// A question that costs next to nothing and that every model can answer, to test whether a provider works at all. With
/// `embeds` it asks for the vector of its text.
#[must_use]
pub fn harmless_question(embeds: bool) -> (Arc<Question>, Params) {
    let prompt = "Reply with the word OK.";
    let message = Message { role: Role::User, content: prompt.to_owned() };
    let question = Question::new(vec![message], Fingerprint::of([prompt.as_bytes()]));
    let vectors = embeds.then(Vectors::default);
    (Arc::new(question), Params { vectors, ..Params::default() })
}

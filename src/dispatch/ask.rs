//! Who is asked: an endpoint, or in a rehearsal a model of one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Params, SchemaForm, Vectors};
use crate::ident::Fingerprint;
use crate::prompt::Question;
use crate::transport::{Endpoint, SendResult};
use crate::wire::{Message, Role};

/// Somebody who answers questions.
pub trait RequestSender: Send + Sync + 'static {
    /// Asks one question, or about the vectors of several texts, once, and waits no longer than `most`.
    fn ask(
        &self,
        questions: &[Arc<Question>],
        params: &Params,
        most: Duration,
    ) -> impl Future<Output = SendResult> + Send;

    /// Name of the model that answers.
    fn model(&self) -> &Arc<str>;

    /// The form in which schemas are taken, where that was found out.
    fn schema_form(&self) -> Option<SchemaForm> {
        None
    }

    /// Begins to find that out with what a former run found.
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

/// A question that costs next to nothing and that every model can answer: it tells whether a provider works
/// at all. One that is asked for nothing but vectors is asked for the vector of it.
#[must_use]
pub fn harmless_question(embeds: bool) -> (Arc<Question>, Params) {
    let prompt = "Reply with the word OK.";
    let message = Message { role: Role::User, content: prompt.to_owned() };
    let question = Question::new(vec![message], Fingerprint::of([prompt.as_bytes()]));
    let vectors = embeds.then(Vectors::default);
    (Arc::new(question), Params { vectors, ..Params::default() })
}

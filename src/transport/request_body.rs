//! The bodies of requests, as they are sent.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::forms;
use crate::config::{Params, Provider, SchemaForm, VectorEncoding, Vectors};
use crate::prompt::Question;
use crate::wire::{ChatRequest, EmbeddingRequest};

/// Bytes of a usual body besides its texts.
const AROUND_TEXTS: usize = 256;

/// Makes the bodies of a provider's requests.
#[derive(Debug)]
pub(super) struct RequestBodies {
    model: Arc<str>,
    extra_body: Map<String, Value>,
    max_tokens_field: String,
    service_tier: Option<String>,
}

impl RequestBodies {
    pub(super) fn new(provider: &Provider) -> Self {
        RequestBodies {
            model: provider.model.as_str().into(),
            extra_body: provider.extra_body.clone(),
            max_tokens_field: provider.max_tokens_field.clone(),
            service_tier: provider.service_tier.clone(),
        }
    }

    /// Returns the fields of each request that concern the provider.
    fn own_fields(&self, params: &Params) -> Map<String, Value> {
        let mut fields = self.extra_body.clone();
        if let Some(tier) = self.service_tier.as_ref().filter(|_| !params.without_tier) {
            fields.insert("service_tier".to_owned(), tier.as_str().into());
        }
        fields
    }

    /// Name of the model.
    pub(super) fn model(&self) -> &Arc<str> {
        &self.model
    }

    /// Returns the body of a request for a chat completion, with the schema in this form.
    pub(super) fn chat(&self, question: &Question, params: &Params, form: SchemaForm) -> Vec<u8> {
        let mut rest = self.own_fields(params);
        if let Some(max_tokens) = params.max_tokens {
            rest.insert(self.max_tokens_field.clone(), max_tokens.into());
        }
        let mut messages = Cow::Borrowed(question.messages());
        if let Some(shape) = &params.shape {
            forms::put(shape, form, &mut rest, messages.to_mut());
        }
        rest.extend(params.extra_body.iter().map(|(name, value)| (name.clone(), value.clone())));
        let request = ChatRequest {
            model: &self.model,
            messages: &messages,
            temperature: params.temperature,
            rest: &rest,
        };
        written(&request, question.bytes())
    }

    /// Returns the body of a request for the embeddings of texts.
    pub(super) fn embeddings(&self, questions: &[Arc<Question>], params: &Params) -> Vec<u8> {
        let mut rest = self.own_fields(params);
        rest.extend(params.extra_body.iter().map(|(name, value)| (name.clone(), value.clone())));
        let Vectors { dimensions, encoding } = params.vectors.unwrap_or_default();
        let request = EmbeddingRequest {
            model: &self.model,
            input: questions
                .iter()
                .filter_map(|question| Some(question.messages().last()?.content.as_str()))
                .collect(),
            encoding_format: encoding.map(|encoding| match encoding {
                VectorEncoding::Float => "float",
                VectorEncoding::Base64 => "base64",
            }),
            dimensions,
            rest: &rest,
        };
        written(&request, questions.iter().map(|question| question.bytes()).sum())
    }
}

/// Returns a body as JSON. `bytes` is the length of the texts in it, so that it is allocated once.
fn written(body: &impl Serialize, bytes: usize) -> Vec<u8> {
    let mut json = Vec::with_capacity(bytes + bytes / 8 + AROUND_TEXTS);
    serde_json::to_writer(&mut json, body).expect("writing JSON to memory does not fail");
    json
}

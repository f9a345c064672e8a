//! A step of a validated job: its prompt, its providers, and the form of its answers.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shape::Shape;
use crate::ident::Fingerprint;

/// One prompt and its output.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// Column for the answers.
    pub output: String,
    /// Indices in [`Job::providers`](super::Job::providers), in the order in which they are tried; at least one.
    pub providers: Vec<usize>,
    /// Other providers, for rows that meet a condition; the first condition that a row meets counts.
    pub routes: Vec<Route>,
    /// What to do with a prompt that is too long for all of its providers.
    pub on_too_long: OnTooLong,
    /// Example inputs and answers that are sent to the model before each row.
    pub examples: Vec<Example>,
    /// Whether rows go to all of the providers at once.
    pub balance: bool,
    /// SQL condition for the rows that are sent.
    pub when: Option<String>,
    /// SQL condition for the rows that are asked before the others, and through no Batch API.
    pub urgent_when: Option<String>,
    /// Template of the user message.
    pub prompt: String,
    /// Template of the system message.
    pub system: Option<String>,
    /// Required form of an answer.
    pub form: Form,
    /// Content of the column of a text answer if a row fails.
    pub on_error: OnError,
    /// Whether rows with the same request share one answer.
    pub shares: bool,
    /// Maximum number of times that a row is sent again after an invalid answer.
    pub max_repairs: u32,
    /// Maximum tokens of the one further attempt after an answer was cut off; `None` for no further attempt.
    pub max_tokens_retry: Option<u32>,
    /// Whether reasoning at the beginning of an answer is removed.
    pub strips_reasoning: bool,
    /// Parameters of the request besides its messages.
    pub params: Params,
    /// What to do with rows without input.
    pub null_inputs: NullInputs,
    /// Maximum time for a row over all its attempts.
    pub row_deadline: Duration,
}

impl StepSpec {
    /// Returns the indices of all providers that the step may use.
    pub fn all_providers(&self) -> impl Iterator<Item = usize> {
        self.routes.iter().flat_map(|route| &route.providers).chain(&self.providers).copied()
    }

    /// Returns its lists of providers: its own, then those of its routes.
    pub(super) fn provider_lists(&self) -> impl Iterator<Item = &[usize]> {
        let routed = self.routes.iter().map(|route| &*route.providers);
        std::iter::once(&*self.providers).chain(routed)
    }

    /// Returns a fingerprint of the step's templates and parameters, the same for every row.
    #[must_use]
    pub fn template_fingerprint(&self) -> Fingerprint {
        let Params { temperature, max_tokens, extra_body, .. } = &self.params;
        let params = serde_json::json!([temperature, max_tokens, extra_body]).to_string();
        let system = self.system.as_deref().map_or(&[][..], |system| system.as_bytes());
        let shown = self
            .examples
            .iter()
            .map(|example| serde_json::json!([example.input, example.output]).to_string());
        let shown = shown.collect::<String>();
        let examples = (!shown.is_empty()).then_some(shown.as_bytes());
        let hashed = [self.prompt.as_bytes(), system, params.as_bytes()].into_iter().chain(examples);
        match &self.form {
            Form::Text => Fingerprint::of(hashed),
            Form::Classes(classes) => Fingerprint::of(hashed.chain(classes.iter().map(String::as_bytes))),
            Form::Typed(typed) => Fingerprint::of(hashed.chain([typed.shape.text().as_bytes()])),
            Form::Embedding(Vectors { dimensions, .. }) => {
                let dimensions = format!("embedding {dimensions:?}");
                Fingerprint::of(hashed.chain([dimensions.as_bytes()]))
            }
        }
    }
}

/// Providers for rows that meet a condition.
#[derive(Clone, Debug)]
pub struct Route {
    /// The condition, in SQL.
    pub when: String,
    /// Indices in [`Job::providers`](super::Job::providers), in the order in which they are tried; at least one.
    pub providers: Vec<usize>,
}

/// An example input and its answer.
#[derive(Clone, Debug)]
pub struct Example {
    /// Line in its file, counted from 1.
    pub line: usize,
    /// The columns of the example row.
    pub input: Map<String, Value>,
    /// The answer, as a model would give it.
    pub output: String,
}

/// What to do with a prompt that no provider of its step can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTooLong {
    /// The row is an error, and no request is sent.
    #[default]
    Fail,
    /// The end of the rendered template is cut off.
    Truncate,
}

/// Content of the column of a text answer if a row fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// An `ERROR:` string.
    #[default]
    Text,
    /// Null; the string has a column of its own.
    Null,
}

/// Required form of an answer.
#[derive(Clone, Debug, Default)]
pub enum Form {
    /// Any text.
    #[default]
    Text,
    /// One of these classes.
    Classes(Vec<String>),
    /// A JSON object.
    Typed(Typed),
    /// The vector of the prompt.
    Embedding(Vectors),
}

/// The requested vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors {
    /// Length of a vector; `None` for the model's own.
    pub dimensions: Option<u32>,
    /// How the numbers are sent; `None` for the endpoint's own way.
    pub encoding: Option<VectorEncoding>,
}

/// How the numbers of a vector are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VectorEncoding {
    /// As a list of numbers.
    Float,
    /// In base64: a third of the bytes.
    Base64,
}

/// What a step requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Answers to prompts.
    #[default]
    Chat,
    /// Vectors of texts.
    Embedding,
}

impl Form {
    /// Whether the text of a typed answer is kept as well.
    #[must_use]
    pub fn keeps_raw(&self) -> bool {
        matches!(self, Form::Typed(Typed { keep_raw: true, .. }))
    }
}

/// A typed answer: a JSON object and its columns.
#[derive(Clone, Debug)]
pub struct Typed {
    /// Schema and columns of the object.
    pub shape: Shape,
    /// Whether each field has a column of its own, instead of all in one struct column.
    pub flat: bool,
    /// Whether the text of the answer has a column, too.
    pub keep_raw: bool,
}

/// How a request carries the schema of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaForm {
    /// What the endpoint turns out to accept and obey: `json_schema`, else `tool`, else `json_object`, else `words`.
    /// The result is remembered.
    #[default]
    Auto,
    /// `response_format` with the schema, as in OpenAI's interface.
    JsonSchema,
    /// A tool that the model must call.
    Tool,
    /// `response_format` that requests JSON, and the schema in the prompt.
    JsonObject,
    /// `response_format` that requests JSON, with the schema beside it, as in llama.cpp.
    LlamaCpp,
    /// `structured_outputs`, as in vLLM.
    Vllm,
    /// In the prompt alone.
    Words,
}

/// Parameters of a request. Together with the messages they determine its fingerprint.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Maximum tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Further fields of the request body.
    pub extra_body: Map<String, Value>,
    /// Schema of the answer.
    pub shape: Option<Shape>,
    /// The requested vectors; `None` for a chat answer.
    pub vectors: Option<Vectors>,
    /// Whether a request asks for no service tier although its provider's requests do.
    pub without_tier: bool,
}

/// What to do with a row whose inputs are all null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullInputs {
    /// The output is null, and no request is sent.
    #[default]
    Skip,
    /// The row is sent like any other.
    Ask,
}

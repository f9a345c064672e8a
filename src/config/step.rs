//! A step of a validated job: what is asked about a row, of whom, and what an answer must be.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shape::Shape;
use crate::ident::Fingerprint;

/// One prompt and one output.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// Column that takes the answers.
    pub output: String,
    /// Positions in [`Job::providers`], in the order in which they are tried; at least one.
    pub providers: Vec<usize>,
    /// Other such lists, for rows that meet a condition; the first that is met counts.
    pub routes: Vec<Route>,
    /// What becomes of a prompt that is too long for all of them.
    pub on_too_long: OnTooLong,
    /// Questions and answers that the model sees before each row's own.
    pub examples: Vec<Example>,
    /// Whether all of them are asked at once.
    pub balance: bool,
    /// The SQL condition that rows must meet to be asked about.
    pub when: Option<String>,
    /// Template of the user's message.
    pub prompt: String,
    /// Template of the system message.
    pub system: Option<String>,
    /// What an answer must be.
    pub form: Form,
    /// What stands in the column of a text where a row failed.
    pub on_error: OnError,
    /// Whether rows with the same question share one answer.
    pub shares: bool,
    /// How often a row is asked again whose answer is not that.
    pub max_repairs: u32,
    /// Most tokens of the one further attempt after an answer that was cut off; none for no such attempt.
    pub max_tokens_retry: Option<u32>,
    /// Whether what a model thought aloud at the beginning of an answer is left out.
    pub strips_reasoning: bool,
    /// What is asked for besides the messages.
    pub params: Params,
    /// What happens to rows without input.
    pub null_inputs: NullInputs,
    /// Time for a row over all its attempts.
    pub row_deadline: Duration,
}

impl StepSpec {
    /// Positions of all providers that it may ask.
    pub fn all_providers(&self) -> impl Iterator<Item = usize> {
        self.routes.iter().flat_map(|route| &route.providers).chain(&self.providers).copied()
    }

    /// Stands for what the step asks, whatever the row: templates and parameters.
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
        let asked = [self.prompt.as_bytes(), system, params.as_bytes()].into_iter().chain(examples);
        match &self.form {
            Form::Text => Fingerprint::of(asked),
            Form::Classes(classes) => Fingerprint::of(asked.chain(classes.iter().map(String::as_bytes))),
            Form::Typed(typed) => Fingerprint::of(asked.chain([typed.shape.text().as_bytes()])),
            Form::Embedding(Vectors { dimensions, .. }) => {
                let dimensions = format!("embedding {dimensions:?}");
                Fingerprint::of(asked.chain([dimensions.as_bytes()]))
            }
        }
    }
}

/// Where rows go that meet a condition.
#[derive(Clone, Debug)]
pub struct Route {
    /// The condition, in SQL.
    pub when: String,
    /// Positions in [`Job::providers`], in the order in which they are tried; at least one.
    pub providers: Vec<usize>,
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub struct Example {
    /// Line in its file, counted from 1.
    pub line: usize,
    /// The columns of the row that is asked about.
    pub input: Map<String, Value>,
    /// The answer, as a model would give it.
    pub output: String,
}

/// What becomes of a prompt that no provider of its step can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTooLong {
    /// The row is an error, and nothing is asked.
    #[default]
    Fail,
    /// What the template made is cut at its end.
    Truncate,
}

/// What stands in the column of a text where a row failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// An `ERROR:` string.
    #[default]
    Text,
    /// Nothing; the string has a column of its own.
    Null,
}

/// What an answer must be.
#[derive(Clone, Debug, Default)]
pub enum Form {
    /// Any text.
    #[default]
    Text,
    /// One of these.
    Classes(Vec<String>),
    /// An object.
    Typed(Typed),
    /// The vector of the text.
    Embedding(Vectors),
}

/// Which vectors are asked for, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors {
    /// How many numbers one has; none for what the model gives.
    pub dimensions: Option<u32>,
    /// How they are sent.
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

/// What a step asks for.
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
    /// Whether the text of an answer is kept beside what it means.
    #[must_use]
    pub fn keeps_raw(&self) -> bool {
        matches!(self, Form::Typed(Typed { keep_raw: true, .. }))
    }
}

/// An answer that is an object, and the columns that it becomes.
#[derive(Clone, Debug)]
pub struct Typed {
    /// What it holds.
    pub shape: Shape,
    /// Whether each field has a column of its own, instead of all in one struct column.
    pub flat: bool,
    /// Whether the text of the answer has a column, too.
    pub keep_raw: bool,
}

/// How a request says what an answer must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchemaForm {
    /// What the endpoint turns out to take and to heed: `json_schema`, else `tool`, else `json_object`, else `words`.
    /// It is remembered.
    #[default]
    Auto,
    /// `response_format` with the schema, as OpenAI has it.
    JsonSchema,
    /// A tool that the model has to call.
    Tool,
    /// `response_format` that asks for JSON, and the schema in the prompt.
    JsonObject,
    /// `response_format` that asks for JSON, with the schema beside it, as llama.cpp has it.
    LlamaCpp,
    /// `structured_outputs`, as vLLM has it.
    Vllm,
    /// In the prompt alone.
    Words,
}

/// Parameters of the question: with the messages, they are what a request's fingerprint stands for.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Further fields of the body.
    pub extra_body: Map<String, Value>,
    /// What an answer must hold.
    pub shape: Option<Shape>,
    /// Which vector is asked for; none where an answer is.
    pub vectors: Option<Vectors>,
}

/// What happens to a row whose inputs are all null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullInputs {
    /// The output is null and nothing is asked.
    #[default]
    Skip,
    /// It is asked like any other.
    Ask,
}

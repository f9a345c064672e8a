//! The compiled templates of one step.

use std::fmt;
use std::sync::Arc;

use arrow::array::new_null_array;
use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::error::PromptError;
use super::filters;
use super::inputs::inputs;
use super::question::Question;
use super::row::{Rows, StepOutput, binary_column, input_value};
use crate::config::{Example, Form, NullInputs, Params, StepSpec};
use crate::fault::{Class, Failure};
use crate::ident::Fingerprint;
use crate::tokens::tokenizer::Encoding;
use crate::wire::{CLASSES_WORDS, Message, Role};

const USER: &str = "prompt";
const SYSTEM: &str = "system";

/// The result of rendering a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendered {
    /// The question to be sent.
    Ask(Question),
    /// All inputs of the row are null, and nothing is sent.
    Skip,
}

/// The compiled templates of one step.
pub struct Prompt {
    environment: Environment<'static>,
    has_system: bool,
    /// Columns that the templates name: of the source, then of earlier steps.
    inputs: Vec<usize>,
    /// Number of columns of the source.
    source_columns: usize,
    /// Earlier steps whose outputs the templates name, and names of the outputs.
    needs: Vec<(usize, Arc<str>)>,
    skips_nulls: bool,
    params: Vec<u8>,
    /// Text at the end of the prompt that states what an answer must be.
    instruction: String,
    /// Messages of the examples, before the row's own question.
    examples: Vec<Message>,
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompt(inputs: {:?})", self.inputs)
    }
}

impl Prompt {
    /// Compiles a step's templates and checks them against the columns of the source and the outputs of earlier
    /// steps.
    ///
    /// # Errors
    /// When a template is malformed, names a missing or binary column, or does not fit an example.
    pub fn compile(step: &StepSpec, source: &Schema, earlier: &[Field]) -> Result<Prompt, PromptError> {
        let source_columns = source.fields().len();
        let all = source.fields().iter().map(|field| field.as_ref().clone()).chain(earlier.iter().cloned());
        let schema = &Schema::new(all.collect::<Vec<_>>());
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_formatter(format_value);
        filters::add(&mut environment);
        let templates = [(USER, Some(&step.prompt)), (SYSTEM, step.system.as_ref())];
        for (which, text) in templates {
            let Some(text) = text else { continue };
            environment
                .add_template_owned(which, text.clone())
                .map_err(|error| syntax(step, which, &error))?;
        }
        let inputs = inputs(step, schema, source_columns, &environment)?;
        if let Some(column) = binary_column(schema, &inputs) {
            return Err(PromptError::Binary { step: step.output.clone(), column: column.to_owned() });
        }
        let mut prompt = Prompt {
            has_system: step.system.is_some(),
            skips_nulls: step.null_inputs == NullInputs::Skip && !inputs.is_empty(),
            needs: inputs
                .iter()
                .filter(|column| **column >= source_columns)
                .map(|column| (column - source_columns, schema.field(*column).name().as_str().into()))
                .collect(),
            source_columns,
            inputs,
            params: params(&step.params),
            instruction: instruction(&step.form),
            examples: Vec::new(),
            environment,
        };
        prompt.check_with_nulls(step, schema)?;
        prompt.show(step)?;
        Ok(prompt)
    }

    /// Renders the examples of a step and keeps their messages.
    fn show(&mut self, step: &StepSpec) -> Result<(), PromptError> {
        for Example { line, input, output } in &step.examples {
            let wrong =
                |message: String| PromptError::Example { step: step.output.clone(), line: *line, message };
            let question = self.user(&input_value(input)).map_err(|failure| wrong(failure.detail))?;
            let answer = Message { role: Role::Assistant, content: output.clone() };
            self.examples.extend([question, answer]);
        }
        Ok(())
    }

    /// Renders a row of nulls to find unknown filters, tests and functions, which are reported only when a template is
    /// rendered. Other errors are ignored, since they may come from the nulls.
    fn check_with_nulls(&self, step: &StepSpec, schema: &Schema) -> Result<(), PromptError> {
        let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let fields: Vec<_> =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let Ok(nulls) = RecordBatch::try_new(Arc::new(Schema::new(fields)), nulls) else { return Ok(()) };
        let context = Rows::new(nulls).value(0, Vec::new());
        for (which, is_there) in [(USER, true), (SYSTEM, self.has_system)] {
            if !is_there {
                continue;
            }
            let rendered =
                self.environment.get_template(which).and_then(|template| template.render(&context));
            let Err(error) = rendered else { continue };
            let is_mistake = matches!(
                error.kind(),
                ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction
            );
            if is_mistake {
                return Err(syntax(step, which, &error));
            }
        }
        Ok(())
    }

    /// The columns of the source that the templates name.
    #[must_use]
    pub fn names(&self, source: &Schema) -> Vec<String> {
        let own = self.inputs.iter().filter(|column| **column < self.source_columns);
        own.filter_map(|column| Some(source.fields().get(*column)?.name().clone())).collect()
    }

    /// Positions of the earlier steps whose outputs the templates name.
    pub fn needs(&self) -> impl Iterator<Item = usize> {
        self.needs.iter().map(|(step, _)| *step)
    }

    /// Renders a row. `given` holds the outputs of the steps that it [needs](Prompt::needs), in that order.
    ///
    /// # Errors
    /// When a template fails for the row, with class `template`.
    pub fn render(&self, rows: &Rows, row: usize, given: Vec<StepOutput>) -> Result<Rendered, Failure> {
        let mut of_source = self.inputs.iter().copied().filter(|column| *column < self.source_columns);
        if self.skips_nulls
            && given.iter().all(StepOutput::is_null)
            && of_source.all(|column| rows.is_null(row, column))
        {
            return Ok(Rendered::Skip);
        }
        let names = self.needs.iter().map(|(_, name)| Arc::clone(name));
        let context = rows.value(row, names.zip(given).collect());
        let mut messages = Vec::with_capacity(2 + self.examples.len());
        if self.has_system {
            messages.push(Message { role: Role::System, content: self.text(SYSTEM, &context)? });
        }
        messages.extend(self.examples.iter().cloned());
        messages.push(self.user(&context)?);
        Ok(Rendered::Ask(self.question(messages)))
    }

    fn user(&self, context: &Value) -> Result<Message, Failure> {
        let mut content = self.text(USER, context)?;
        content.push_str(&self.instruction);
        Ok(Message { role: Role::User, content })
    }

    fn question(&self, messages: Vec<Message>) -> Question {
        let fingerprint = Fingerprint::of(
            std::iter::once(self.params.as_slice())
                .chain(messages.iter().flat_map(|message| [role(message.role), message.content.as_bytes()])),
        );
        Question::new(messages, fingerprint)
    }

    /// Returns the question with `tokens` tokens cut from the end of its rendered template; `None` if nothing of it
    /// would be left.
    #[must_use]
    pub fn shortened(&self, question: &Question, tokens: usize) -> Option<Question> {
        let mut messages = question.messages().to_vec();
        let last = messages.last_mut()?;
        let text = last.content.strip_suffix(self.instruction.as_str())?;
        let left = Encoding::usual().count(text).checked_sub(tokens).filter(|left| *left > 0)?;
        let mut content = Encoding::usual().cut(text, left).ok()?.to_owned();
        content.push_str(&self.instruction);
        last.content = content;
        Some(self.question(messages))
    }

    fn text(&self, which: &str, context: &Value) -> Result<String, Failure> {
        self.environment
            .get_template(which)
            .and_then(|template| template.render(context))
            .map_err(|error| Failure::new(Class::Template, describe(&error)))
    }
}

fn syntax(step: &StepSpec, which: &'static str, error: &Error) -> PromptError {
    PromptError::Syntax {
        step: step.output.clone(),
        which,
        line: error.line(),
        message: format!(
            "{}{}",
            error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
            filters::meant(error).map_or_else(String::new, |near| format!("; did you mean {near}?"))
        ),
    }
}

fn role(role: Role) -> &'static [u8] {
    match role {
        Role::System => b"system",
        Role::User => b"user",
        Role::Assistant => b"assistant",
    }
}

/// The text that states the form of an answer in the prompt.
fn instruction(form: &Form) -> String {
    match form {
        Form::Text | Form::Embedding(_) => String::new(),
        // The request carries the schema in a form of its own.
        Form::Typed(_) => String::new(),
        Form::Classes(classes) => {
            format!("\n\n{CLASSES_WORDS}\n{}", classes.join("\n"))
        }
    }
}

/// Returns the parameters as bytes, equal for equal parameters: a part of a request's fingerprint. A setting that
/// decides about an answer belongs here and in `StepSpec::template_fingerprint`, which is stored with each row.
fn params(params: &Params) -> Vec<u8> {
    let mut extra: Vec<_> = params.extra_body.iter().collect();
    extra.sort_by_key(|(name, _)| name.as_str());
    let known = (params.temperature, params.max_tokens, extra);
    // A schema in the prompt is part of the fingerprint through the messages.
    let bytes = match params.shape.as_ref().filter(|shape| !shape.is_in_prompt()) {
        None => serde_json::to_vec(&known),
        Some(shape) => serde_json::to_vec(&(known, shape.text())),
    };
    let bytes = match &params.vectors {
        None => bytes,
        Some(vectors) => {
            bytes.and_then(|bytes| serde_json::to_vec(&(bytes, "embedding", vectors.dimensions)))
        }
    };
    bytes.unwrap_or_default()
}

fn describe(error: &Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    let hint = match error.kind() {
        ErrorKind::UndefinedError => "; where what holds it may be null, {{ x.y if x }} passes over it",
        _ => "",
    };
    match (error.name(), error.line()) {
        (Some(name), Some(line)) => format!("{what} ({name} template, line {line}){hint}"),
        _ => format!("{what}{hint}"),
    }
}

/// Writes null as nothing, not as the word `none`, and structures as JSON.
fn format_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => Ok(()),
        // A missing output is a map, too, but counts as false: it renders as nothing below.
        ValueKind::Map if value.is_true() => {
            let json = serde_json::to_string(value);
            let json = json.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
            out.write_str(&json).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int64Array, ListArray, MapBuilder, StringArray,
        StringBuilder, StructArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{DataType, Int32Type};

    use super::*;

    fn step(prompt: &str) -> StepSpec {
        StepSpec {
            on_error: crate::config::OnError::Text,
            form: Form::Text,
            shares: true,
            examples: Vec::new(),
            routes: Vec::new(),
            on_too_long: crate::config::OnTooLong::Fail,
            max_repairs: 0,
            max_tokens_retry: None,
            strips_reasoning: false,
            output: "answer".into(),
            providers: vec![0],
            balance: false,
            when: None,
            urgent_when: None,
            prompt: prompt.into(),
            system: None,
            params: Params::default(),
            null_inputs: NullInputs::Skip,
            row_deadline: Duration::from_secs(600),
        }
    }

    fn rows() -> Rows {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("k");
        map.values().append_value("v");
        map.append(true).unwrap();
        map.append(false).unwrap();
        let structs = StructArray::from(vec![(
            Arc::new(Field::new("inner", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(5), None])) as ArrayRef,
        )]);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(vec![Some("a\u{0}b <ü>"), None]))),
            (
                "price",
                Arc::new(Decimal128Array::from(vec![1990, 5]).with_precision_and_scale(10, 2).unwrap()),
            ),
            ("day", Arc::new(Date32Array::from(vec![19_000, 0]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, 1]).with_timezone("UTC"))),
            ("items", Arc::new(lists)),
            ("nested", Arc::new(structs)),
            ("tags", Arc::new(map.finish())),
            ("blob", Arc::new(BinaryArray::from(vec![Some(b"x".as_slice()), None]))),
            ("two words", Arc::new(Int64Array::from(vec![7, 8]))),
        ];
        Rows::new(RecordBatch::try_from_iter(columns).unwrap())
    }

    fn text(prompt: &str, row: usize) -> String {
        let rows = rows();
        let prompt = Prompt::compile(&step(prompt), rows.batch().schema_ref(), &[]).unwrap();
        match prompt.render(&rows, row, Vec::new()).unwrap() {
            Rendered::Ask(question) => question.messages()[0].content.clone(),
            Rendered::Skip => "(skipped)".into(),
        }
    }

    #[test]
    fn every_type_renders_as_a_person_would_write_it() {
        let all = "{{ text }}|{{ price }}|{{ day }}|{{ at }}|{{ items }}|{{ nested.inner }}|{{ tags.k }}|{{ row['two words'] }}";
        assert_eq!(text(all, 0), "a\u{0}b <ü>|19.90|2022-01-08|1970-01-01T00:00:00Z|[1, None]|5|v|7");
    }

    #[test]
    fn null_renders_as_nothing_and_rows_without_input_are_skipped() {
        assert_eq!(text("[{{ text }}] {{ price }}", 1), "[] 0.05");
        assert_eq!(text("{{ text }}{{ items }}", 1), "(skipped)");
        assert_eq!(text("{{ row.text }}{{ row['items'] }}", 1), "(skipped)");
        assert_eq!(text("{{ row['text'] }} {{ row | length }}", 1), " 9");
        assert_eq!(text("{% if text is none %}nothing{% endif %} {{ price }}", 1), "nothing 0.05");
    }

    #[test]
    fn a_row_without_input_is_sent_where_the_job_says_so() {
        let rows = rows();
        let step = StepSpec { null_inputs: NullInputs::Ask, ..step("[{{ text }}]") };
        let prompt = Prompt::compile(&step, rows.batch().schema_ref(), &[]).unwrap();
        assert!(matches!(prompt.render(&rows, 1, Vec::new()).unwrap(), Rendered::Ask(_)));
    }

    #[test]
    fn columns_that_are_not_there_or_binary_are_refused_before_the_run() {
        let rows = rows();
        let refusal = |prompt: &str| {
            Prompt::compile(&step(prompt), rows.batch().schema_ref(), &[]).unwrap_err().to_string()
        };
        assert_eq!(
            refusal("{{ txt }}"),
            "step \"answer\": the templates name the column \"txt\", which the source does not have; did you mean \"text\"?"
        );
        assert!(refusal("{{ row.prise }}").contains("did you mean \"price\""));
        assert!(refusal("{{ row['two wrods'] }}").contains("did you mean {{ row[\"two words\"] }}"));
        assert!(refusal("{{ blob }}").contains("binary"));
        assert!(refusal("{{ text").contains("line 1"));

        let blob = rows.batch().project(&[7]).unwrap();
        let refusal =
            |prompt: &str| Prompt::compile(&step(prompt), blob.schema_ref(), &[]).unwrap_err().to_string();
        assert!(refusal("{{ blob }}").contains("binary"), "also where it is the only column");
        assert!(refusal("{{ blob }} of {{ row }}").contains("binary"));
        assert!(Prompt::compile(&step("{{ row | length }}"), blob.schema_ref(), &[]).is_ok());
    }

    #[test]
    fn a_fingerprint_stands_for_messages_and_parameters() {
        let rows = rows();
        let fingerprint = |step: &StepSpec| {
            let prompt = Prompt::compile(step, rows.batch().schema_ref(), &[]).unwrap();
            match prompt.render(&rows, 0, Vec::new()).unwrap() {
                Rendered::Ask(question) => question.fingerprint(),
                Rendered::Skip => unreachable!("the row has input"),
            }
        };
        let plain = step("{{ text }}");
        let mut warm = step("{{ text }}");
        warm.params.temperature = Some(0.5);
        assert_eq!(fingerprint(&plain), fingerprint(&step("{{ text }}")));
        assert_ne!(fingerprint(&plain), fingerprint(&warm));
        assert_ne!(fingerprint(&plain), fingerprint(&step("{{ text }} ")));
    }
}

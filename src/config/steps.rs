//! Validates the steps of a job.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::check::{Checker, FLEX, FLEX_TIMEOUT};
use super::error::{ConfigError, nearest};
use super::job::Provider;
use super::raw::{FileOrTable, OneOrMore, RawStep};
use super::shape::{NO_COLUMN, Shape, is_column};
use super::step::{Example, Form, Params, Route, StepKind, StepSpec, Typed, Vectors};

/// An example as written in its file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExample {
    input: Map<String, Value>,
    output: Value,
}

/// Maximum of `max_repairs`: each repair is paid for.
const MAX_REPAIRS: u32 = 10;
const MAX_STEPS: usize = 100;

impl Checker<'_> {
    pub(super) fn steps(
        &self,
        raw: Vec<RawStep>,
        providers: &[Provider],
        metadata_column: Option<&str>,
    ) -> Result<Vec<Arc<StepSpec>>, ConfigError> {
        if raw.is_empty() {
            return Err(
                self.wrong("step", "is missing; a job has at least one [[step]] with a prompt and an output")
            );
        }
        if raw.len() > MAX_STEPS {
            return Err(
                self.wrong("step", format!("stands there {} times; {MAX_STEPS} is the most", raw.len()))
            );
        }
        let mut steps: Vec<Arc<StepSpec>> = Vec::with_capacity(raw.len());
        for (position, step) in raw.into_iter().enumerate() {
            let row_deadline = step.row_deadline;
            let step = self.step(position, step, providers)?;
            self.check_batch_step(position, &step, row_deadline, providers)?;
            if metadata_column.is_some_and(|metadata| step.output.eq_ignore_ascii_case(metadata)) {
                return Err(self.wrong(
                    format!("step[{position}].output"),
                    format!("is {:?}, the name of the metadata column; choose another", step.output),
                ));
            }
            if steps.iter().any(|other| other.output.eq_ignore_ascii_case(&step.output)) {
                return Err(self.wrong(
                    format!("step[{position}].output"),
                    format!("is {:?}, as in an earlier step; columns need names of their own", step.output),
                ));
            }
            steps.push(Arc::new(step));
        }
        Ok(steps)
    }

    fn step(&self, position: usize, raw: RawStep, providers: &[Provider]) -> Result<StepSpec, ConfigError> {
        let key = |field: &str| format!("step[{position}].{field}");
        if raw.output.is_empty() {
            return Err(self.wrong(key("output"), "is empty; it names the column for the answers"));
        }
        if !is_column(&raw.output) {
            return Err(self.wrong(key("output"), format!("is {:?}; {NO_COLUMN}", raw.output)));
        }
        let prompt = self.prompt(position, &raw)?;
        if raw.when.as_ref().is_some_and(|when| when.trim().is_empty()) {
            return Err(self.wrong(key("when"), "is empty; give a condition, or take it out"));
        }
        if raw.urgent_when.as_ref().is_some_and(|urgent| urgent.trim().is_empty()) {
            return Err(self.wrong(key("urgent_when"), "is empty; give a condition, or take it out"));
        }
        let chosen = self.providers_of(&key("provider"), raw.provider.as_ref(), providers)?;
        if raw.balance && chosen.len() == 1 {
            return Err(self.wrong(key("balance"), "is set, and there is one provider only; name several"));
        }
        if raw.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            return Err(self.wrong(key("temperature"), "lies outside 0 to 2"));
        }
        let max_tokens = match raw.max_tokens {
            Some(_) => Some(self.positive(&key("max_tokens"), raw.max_tokens, 1)?),
            None => None,
        };
        let max_tokens_retry =
            self.max_tokens_retry(&key("max_tokens_retry"), raw.max_tokens_retry, max_tokens)?;
        let form = self.form(position, &raw)?;
        let max_repairs = match (raw.max_repairs, &form) {
            (Some(_), Form::Text) => {
                return Err(self.wrong(
                    key("max_repairs"),
                    "is set, and any text is an answer of this step; it goes with classes, fields and schema",
                ));
            }
            (Some(repairs), _) if repairs > MAX_REPAIRS => {
                return Err(
                    self.wrong(key("max_repairs"), format!("is {repairs}; {MAX_REPAIRS} is the most"))
                );
            }
            (repairs, _) => repairs.unwrap_or(2),
        };
        if raw.on_error.is_some() && !matches!(form, Form::Text | Form::Classes(_)) {
            return Err(self.wrong(
                key("on_error"),
                "is set, and the answer is no text: its errors have a column of their own in any case; take it out",
            ));
        }
        let routes = raw.route.iter().enumerate().map(|(nth, route)| {
            let key = |field: &str| key(&format!("route[{nth}].{field}"));
            if route.when.trim().is_empty() {
                return Err(self.wrong(key("when"), "is empty; give a condition"));
            }
            let providers = self.providers_of(&key("provider"), Some(&route.provider), providers)?;
            Ok(Route { when: route.when.clone(), providers })
        });
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        let used = || routes.iter().flat_map(|route| &route.providers).chain(&chosen);
        let has_window = used().any(|provider| providers[*provider].context_window.is_some());
        let is_flex = used().any(|provider| providers[*provider].service_tier.as_deref() == Some(FLEX));
        let row_deadline = if is_flex { FLEX_TIMEOUT } else { Duration::from_secs(600) };
        if raw.on_too_long.is_some() && !has_window {
            return Err(self.wrong(
                key("on_too_long"),
                "is set, and no provider of the step has a context_window: nothing says what is too long",
            ));
        }
        let examples = match &raw.examples {
            Some(file) => self.examples(&key("examples"), file, &form)?,
            None => Vec::new(),
        };
        let (shape, vectors) = match &form {
            Form::Typed(typed) => (Some(typed.shape.clone()), None),
            Form::Classes(classes) => (Shape::of_classes(classes, max_tokens), None),
            Form::Embedding(vectors) => (None, Some(*vectors)),
            Form::Text => (None, None),
        };
        Ok(StepSpec {
            strips_reasoning: raw
                .strip_reasoning
                .unwrap_or(matches!(form, Form::Classes(_) | Form::Typed(_))),
            shares: raw.share.unwrap_or_else(|| raw.temperature.is_none_or(|temperature| temperature <= 0.0)),
            form,
            max_repairs,
            max_tokens_retry,
            output: raw.output,
            providers: chosen,
            balance: raw.balance,
            routes,
            on_too_long: raw.on_too_long.unwrap_or_default(),
            examples,
            when: raw.when,
            urgent_when: raw.urgent_when,
            on_error: raw.on_error.unwrap_or_default(),
            prompt,
            system: raw.system,
            params: Params {
                temperature: raw.temperature,
                max_tokens,
                extra_body: self.json(&key("extra_body"), raw.extra_body)?,
                shape,
                vectors,
                without_tier: false,
            },
            null_inputs: raw.null_inputs,
            row_deadline: self.positive_span(&key("row_deadline"), raw.row_deadline, row_deadline)?,
        })
    }

    /// Returns the template of the user message, from `prompt` or `prompt_file`.
    fn prompt(&self, position: usize, raw: &RawStep) -> Result<String, ConfigError> {
        let key = |field: &str| format!("step[{position}].{field}");
        let (field, text) = match (&raw.prompt, &raw.prompt_file) {
            (Some(_), Some(_)) => {
                return Err(self.wrong(key("prompt_file"), "and prompt are both set; keep one"));
            }
            (None, None) => {
                return Err(self.wrong(
                    key("prompt"),
                    "is missing; it is what is sent to the model (or prompt_file holds it)",
                ));
            }
            (Some(prompt), None) => ("prompt", prompt.clone()),
            (None, Some(file)) => {
                let path = self.folder.join(file);
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    let message = format!("names {}, which cannot be read: {error}", path.display());
                    self.wrong(key("prompt_file"), message)
                })?;
                // Editors add a line end to the last line.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                ("prompt_file", text.strip_suffix('\r').unwrap_or(text).to_owned())
            }
        };
        if text.trim().is_empty() {
            return Err(self.wrong(key(field), "is empty"));
        }
        Ok(text)
    }

    fn max_tokens_retry(
        &self,
        key: &str,
        retry: Option<u32>,
        max_tokens: Option<u32>,
    ) -> Result<Option<u32>, ConfigError> {
        match (retry, max_tokens) {
            (Some(retry), Some(most)) if retry <= most => {
                Err(self.wrong(key, format!("is {retry}; it must be more than max_tokens, {most}")))
            }
            (retry, _) => Ok(retry),
        }
    }

    /// Returns the required form of an answer.
    fn form(&self, position: usize, raw: &RawStep) -> Result<Form, ConfigError> {
        let key = |field: &str| format!("step[{position}].{field}");
        if raw.kind == StepKind::Embedding {
            return self.vectors(position, raw);
        }
        if raw.dimensions.is_some() || raw.encoding.is_some() {
            let name = if raw.dimensions.is_some() { "dimensions" } else { "encoding" };
            return Err(self.wrong(
                key(name),
                "is set, and the step asks for no vectors; it goes with kind = \"embedding\"",
            ));
        }
        let forms = [
            ("classes", raw.classes.is_some()),
            ("fields", raw.fields.is_some()),
            ("schema", raw.schema.is_some()),
        ];
        let mut forms_given = forms.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name);
        if let (Some(first), Some(second)) = (forms_given.next(), forms_given.next()) {
            return Err(self.wrong(key(second), format!("and {first} are both set; an answer has one form")));
        }
        let shape = match (&raw.fields, &raw.schema) {
            (Some(fields), _) => {
                Shape::of_fields(fields).map_err(|message| self.wrong(key("fields"), message))?
            }
            (None, Some(schema)) => self.schema(&key("schema"), schema)?,
            (None, None) => {
                let typed_only = [("flat", raw.flat.is_some()), ("keep_raw", raw.keep_raw.is_some())];
                if let Some((name, _)) = typed_only.iter().find(|(_, is_there)| *is_there) {
                    return Err(self.wrong(
                        key(name),
                        "is set, and the answer is not typed; it goes with fields and schema",
                    ));
                }
                return match &raw.classes {
                    Some(classes) => self.classes(&key("classes"), classes.clone()),
                    None => Ok(Form::Text),
                };
            }
        };
        Ok(Form::Typed(Typed {
            shape,
            flat: raw.flat.unwrap_or_default(),
            keep_raw: raw.keep_raw.unwrap_or_default(),
        }))
    }

    /// Returns the form of an embedding step, and refuses keys that apply to chat answers only.
    fn vectors(&self, position: usize, raw: &RawStep) -> Result<Form, ConfigError> {
        let key = |field: &str| format!("step[{position}].{field}");
        let foreign = [
            ("classes", raw.classes.is_some()),
            ("fields", raw.fields.is_some()),
            ("schema", raw.schema.is_some()),
            ("flat", raw.flat.is_some()),
            ("keep_raw", raw.keep_raw.is_some()),
            ("strip_reasoning", raw.strip_reasoning.is_some()),
            ("max_repairs", raw.max_repairs.is_some()),
            ("examples", raw.examples.is_some()),
            ("system", raw.system.is_some()),
            ("temperature", raw.temperature.is_some()),
            ("max_tokens", raw.max_tokens.is_some()),
            ("max_tokens_retry", raw.max_tokens_retry.is_some()),
        ];
        if let Some((name, _)) = foreign.iter().find(|(_, is_there)| *is_there) {
            return Err(self.wrong(
                key(name),
                "is set, and the step asks for vectors (kind = \"embedding\"); take it out",
            ));
        }
        if raw.dimensions == Some(0) {
            return Err(self.wrong(key("dimensions"), "is 0; it must be at least 1"));
        }
        Ok(Form::Embedding(Vectors { dimensions: raw.dimensions, encoding: raw.encoding }))
    }

    /// Reads the examples of a step and checks that their answers are valid for it.
    fn examples(&self, key: &str, file: &str, form: &Form) -> Result<Vec<Example>, ConfigError> {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            self.wrong(key, format!("names {}, which cannot be read: {error}", path.display()))
        })?;
        let mut examples = Vec::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let wrong = |message: String| {
                self.wrong(key, format!("names {}, whose line {line} {message}", path.display()))
            };
            let WrittenExample { input, output } = serde_json::from_str(text)
                .map_err(|error| wrong(format!("is no object with input and output: {error}")))?;
            let mistake = match (form, &output) {
                (Form::Classes(classes), Value::String(class)) if !classes.contains(class) => {
                    Some(format!("has the output {class:?}, which is not one of the classes"))
                }
                (Form::Typed(typed), output) => {
                    let mistake = typed.shape.validator().iter_errors(output).next();
                    mistake
                        .map(|mistake| format!("has an output that is not what the step asks for: {mistake}"))
                }
                (Form::Text | Form::Classes(_), Value::String(_)) => None,
                _ => Some(format!("has the output {output}, which is no text")),
            };
            if let Some(mistake) = mistake {
                return Err(wrong(mistake));
            }
            let output = match output {
                Value::String(text) => text,
                other => other.to_string(),
            };
            examples.push(Example { line, input, output });
        }
        match examples.is_empty() {
            true => Err(self.wrong(key, format!("names {}, which has no example in it", path.display()))),
            false => Ok(examples),
        }
    }

    fn schema(&self, key: &str, written: &FileOrTable) -> Result<Shape, ConfigError> {
        let (schema, of) = match written {
            FileOrTable::Table(table) => (Value::Object(self.json(key, table.clone())?), String::new()),
            FileOrTable::File(file) => {
                let path = self.folder.join(file);
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    self.wrong(key, format!("names {}, which cannot be read: {error}", path.display()))
                })?;
                let schema = serde_json::from_str(&text).map_err(|error| {
                    self.wrong(key, format!("names {}, which is no JSON: {error}", path.display()))
                })?;
                (schema, format!("names {}, which ", path.display()))
            }
        };
        Shape::of_schema(schema).map_err(|message| self.wrong(key, format!("{of}{message}")))
    }

    fn classes(&self, key: &str, classes: Vec<String>) -> Result<Form, ConfigError> {
        if classes.is_empty() {
            return Err(self.wrong(key, "is empty; it names the answers that there may be"));
        }
        for (at, class) in classes.iter().enumerate() {
            if class.is_empty() || class.trim() != class || class.chars().any(char::is_control) {
                return Err(self.wrong(
                    key,
                    format!("has the entry {class:?}; a class is text without white space at its ends"),
                ));
            }
            if classes.iter().take(at).any(|other| other == class) {
                return Err(self.wrong(key, format!("has {class:?} twice")));
            }
        }
        Ok(Form::Classes(classes))
    }

    /// Returns the indices of the providers that a step names.
    fn providers_of(
        &self,
        key: &str,
        named: Option<&OneOrMore>,
        providers: &[Provider],
    ) -> Result<Vec<usize>, ConfigError> {
        let known = || providers.iter().map(|provider| provider.name.as_str());
        let Some(named) = named else {
            return match providers.len() {
                1 => Ok(vec![0]),
                0 => Err(self.wrong("provider", "is missing; a job has at least one [provider.<name>]")),
                _ => Err(self.wrong(key, "is missing, and there is more than one to choose from")),
            };
        };
        let mut chosen = Vec::new();
        for name in named.names() {
            let position = known().position(|known| known == name).ok_or_else(|| {
                let hint = nearest(name, known())
                    .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
                self.wrong(key, format!("is {name:?}, and there is no [provider.{name}]{hint}"))
            })?;
            if chosen.contains(&position) {
                return Err(self.wrong(key, format!("names {name:?} twice")));
            }
            chosen.push(position);
        }
        if chosen.is_empty() {
            return Err(self.wrong(key, "is an empty list; name at least one provider"));
        }
        Ok(chosen)
    }
}

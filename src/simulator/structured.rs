//! Finds the JSON Schema of a request and the form that carries it. A request whose form the simulator does not
//! accept, or whose fields have unknown values, is refused.

use serde_json::{Value, json};

use crate::wire::SCHEMA_WORDS;

use super::chat_request::ReceivedChat;
use super::reply::{ErrorReply, invalid};
use crate::config::{SchemaFormName, SimulatorSpec};

/// The shape that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AnswerShape {
    Text,
    /// An instance of this schema.
    Json(Value),
    /// A call of `function` whose arguments are an instance of `schema`.
    Call {
        function: String,
        schema: Value,
    },
}

/// A schema form that a request uses.
#[derive(Debug)]
struct SchemaInRequest<'a> {
    form: SchemaFormName,
    /// `None` if the form holds no schema, as when the prompt states it.
    schema: Option<&'a Value>,
    function: Option<&'a str>,
}

impl AnswerShape {
    /// Returns the shape that a request demands. `words` is the schema that its prompt states.
    pub(super) fn of(
        request: &ReceivedChat,
        words: Option<Value>,
        spec: &SimulatorSpec,
    ) -> Result<AnswerShape, ErrorReply> {
        let carried = carried(request)?;
        if spec.ignores_schema {
            return Ok(AnswerShape::Text);
        }
        if let Some(forms) = &spec.schema_forms
            && let Some(unknown) = carried.iter().find(|carried| !forms.contains(&carried.form))
        {
            return Err(unsupported(unknown.form));
        }
        if let Some((function, carried)) =
            carried.iter().find_map(|carried| Some((carried.function?, carried)))
        {
            let schema = carried.schema.cloned().unwrap_or_else(|| json!({"type": "object"}));
            return Ok(AnswerShape::Call { function: function.to_owned(), schema });
        }
        let schema = carried.iter().find_map(|carried| carried.schema.cloned()).or(words);
        Ok(match schema {
            Some(schema) => AnswerShape::Json(schema),
            None if carried.is_empty() || !spec.answers.is_empty() => AnswerShape::Text,
            None => AnswerShape::Json(any_object()),
        })
    }
}

/// Splits off the part of a prompt that states a schema, and reads the schema if it is JSON.
pub(super) fn split_words(prompt: &str) -> (&str, Option<Value>) {
    let line = format!("{SCHEMA_WORDS}\n");
    let Some((before, schema)) = prompt.rsplit_once(&line) else { return (prompt, None) };
    if !(before.is_empty() || before.ends_with('\n')) {
        return (prompt, None);
    }
    // The line breaks that separate the part from the prompt belong to neither.
    let own = before.strip_suffix("\n\n").or_else(|| before.strip_suffix('\n')).unwrap_or(before);
    (own, serde_json::from_str(schema).ok())
}

fn carried(request: &ReceivedChat) -> Result<Vec<SchemaInRequest<'_>>, ErrorReply> {
    let format = request.response_format.as_ref().map(response_format).transpose()?.flatten();
    let outputs = request.structured_outputs.as_ref().map(structured_outputs).transpose()?;
    Ok([tool(request)?, format, outputs].into_iter().flatten().collect())
}

fn response_format(format: &Value) -> Result<Option<SchemaInRequest<'_>>, ErrorReply> {
    let carried = |form, schema| Ok(Some(SchemaInRequest { form, schema, function: None }));
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_schema") => {
            let described = &format["json_schema"];
            if !described["name"].is_string() {
                return Err(missing("response_format.json_schema.name"));
            }
            let schema = described.get("schema").ok_or_else(|| missing("response_format.json_schema.schema"));
            carried(SchemaFormName::JsonSchema, Some(schema?))
        }
        Some("json_object") => match format.get("schema") {
            Some(schema) => carried(SchemaFormName::LlamaCpp, Some(schema)),
            None => carried(SchemaFormName::JsonObject, None),
        },
        _ => Err(not_known("response_format.type", &format["type"])),
    }
}

fn structured_outputs(outputs: &Value) -> Result<SchemaInRequest<'_>, ErrorReply> {
    let schema = outputs.get("json").ok_or_else(|| missing("structured_outputs.json"))?;
    Ok(SchemaInRequest { form: SchemaFormName::Vllm, schema: Some(schema), function: None })
}

/// Returns the function to be called: the one that `tool_choice` names, else the first. `None` without tools, or if
/// `tool_choice` forbids a call.
fn tool(request: &ReceivedChat) -> Result<Option<SchemaInRequest<'_>>, ErrorReply> {
    let Some(tools) = &request.tools else { return Ok(None) };
    let functions = tools.iter().map(|tool| &tool.function);
    let choice = request.tool_choice.as_ref().unwrap_or(&Value::Null);
    let named = choice["function"]["name"].as_str();
    let called = match (choice, named) {
        (Value::String(text), _) if text == "none" => return Ok(None),
        (Value::String(text), _) if !["auto", "required"].contains(&text.as_str()) => None,
        (Value::Null | Value::String(_), _) => functions.into_iter().next(),
        (_, Some(name)) => functions.into_iter().find(|function| function.name == name),
        (_, None) => None,
    };
    let function = called.ok_or_else(|| not_known("tool_choice", choice))?;
    Ok(Some(SchemaInRequest {
        form: SchemaFormName::Tool,
        schema: function.parameters.as_ref(),
        function: Some(&function.name),
    }))
}

/// Returns the schema of the answer to a request for JSON that contains no schema.
fn any_object() -> Value {
    json!({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]})
}

fn unsupported(form: SchemaFormName) -> ErrorReply {
    let (param, field) = match form {
        SchemaFormName::JsonSchema => ("response_format", "response_format.json_schema"),
        SchemaFormName::JsonObject => ("response_format", "response_format.type"),
        SchemaFormName::Tool => ("tools", "tools"),
        SchemaFormName::LlamaCpp => ("response_format", "response_format.schema"),
        SchemaFormName::Vllm => ("structured_outputs", "structured_outputs"),
    };
    let message = format!("Unsupported parameter: '{field}' is not supported with this model.");
    invalid("unsupported_parameter", &message, Some(param))
}

fn missing(field: &str) -> ErrorReply {
    invalid("invalid_request_error", &format!("Missing required parameter: '{field}'."), Some(field))
}

fn not_known(field: &str, value: &Value) -> ErrorReply {
    invalid("invalid_request_error", &format!("Invalid value: '{field}' is {value}."), Some(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(more: &Value) -> ReceivedChat {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "?"}]});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    fn schema() -> Value {
        json!({"type": "object", "properties": {"a": {"type": "integer"}}})
    }

    fn forms() -> [(SchemaFormName, Value); 5] {
        let function = json!({"type": "function", "function": {"name": "note", "parameters": schema()}});
        let choice = json!({"type": "function", "function": {"name": "note"}});
        let described = json!({"name": "note", "strict": true, "schema": schema()});
        [
            (
                SchemaFormName::JsonSchema,
                json!({"response_format": {"type": "json_schema", "json_schema": described}}),
            ),
            (SchemaFormName::JsonObject, json!({"response_format": {"type": "json_object"}})),
            (SchemaFormName::Tool, json!({"tools": [function], "tool_choice": choice})),
            (
                SchemaFormName::LlamaCpp,
                json!({"response_format": {"type": "json_object", "schema": schema()}}),
            ),
            (SchemaFormName::Vllm, json!({"structured_outputs": {"json": schema()}})),
        ]
    }

    #[test]
    fn every_form_leads_to_its_schema() {
        let spec = SimulatorSpec::default();
        for (form, body) in forms() {
            let shape = AnswerShape::of(&received(&body), Some(schema()), &spec).unwrap();
            match form {
                SchemaFormName::Tool => {
                    assert_eq!(shape, AnswerShape::Call { function: "note".into(), schema: schema() });
                }
                _ => assert_eq!(shape, AnswerShape::Json(schema()), "{form:?}"),
            }
        }
        let plain = received(&json!({"response_format": {"type": "text"}, "tools": null}));
        assert_eq!(AnswerShape::of(&plain, None, &spec).unwrap(), AnswerShape::Text);
        assert_eq!(AnswerShape::of(&plain, Some(schema()), &spec).unwrap(), AnswerShape::Json(schema()));
    }

    #[test]
    fn a_form_that_is_not_taken_is_refused_and_one_that_is_ignored_is_not() {
        for (form, body) in forms() {
            for (other, _) in forms() {
                let spec = SimulatorSpec { schema_forms: Some(vec![other]), ..SimulatorSpec::default() };
                let taken = AnswerShape::of(&received(&body), None, &spec);
                assert_eq!(taken.is_ok(), form == other, "{form:?} and {other:?}");
            }
            let deaf = SimulatorSpec { ignores_schema: true, ..SimulatorSpec::default() };
            assert_eq!(AnswerShape::of(&received(&body), Some(schema()), &deaf).unwrap(), AnswerShape::Text);
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let call = json!({"type": "function", "function": {"name": "note"}});
        for body in [
            json!({"response_format": {"type": "yaml"}}),
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "note"}}}),
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema()}}}),
            json!({"structured_outputs": {"regex": "a+"}}),
            json!({"tools": []}),
            json!({"tools": [call], "tool_choice": {"type": "function", "function": {"name": "other"}}}),
            json!({"tools": [call], "tool_choice": "perhaps"}),
        ] {
            assert!(AnswerShape::of(&received(&body), None, &SimulatorSpec::default()).is_err(), "{body}");
        }
        let none = received(&json!({"tools": [call], "tool_choice": "none"}));
        assert_eq!(AnswerShape::of(&none, None, &SimulatorSpec::default()).unwrap(), AnswerShape::Text);
    }

    #[test]
    fn a_schema_in_words_is_no_part_of_the_prompt() {
        let schema = schema();
        for (prompt, between) in [("Row 1\nis it?", "\n\n"), ("Row 1", "\n"), ("Row 1\n", "\n\n"), ("", "")] {
            let whole = format!("{prompt}{between}{SCHEMA_WORDS}\n{schema:#}\n");
            assert_eq!(split_words(&whole), (prompt, Some(schema.clone())));
        }
        let broken = format!("Row 1\n\n{SCHEMA_WORDS}\n{{\"type\":");
        assert_eq!(split_words(&broken), ("Row 1", None));
        for other in [format!("I say: {SCHEMA_WORDS}\n{schema}"), SCHEMA_WORDS.to_owned(), "Row 1".into()] {
            assert_eq!(split_words(&other), (other.as_str(), None));
        }
    }
}

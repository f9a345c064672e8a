//! Wrong answers: faults in instances, texts and embeddings.

use serde_json::{Map, Value, json};

use super::instance::{first_branch, resolve_reference};
use crate::config::WrongForm;

const PROSE: &str = "Sure, I can help with that. I would rather say it in words of my own.";
/// Maximum number of references and alternatives that are followed to the schema that applies.
const MOST_STEPS: usize = 8;

/// Makes an instance violate its schema, for faults in the content of an answer.
pub(super) fn spoil_instance(instance: &mut Value, schema: &Value, wrong: WrongForm) {
    let root = schema;
    if wrong == WrongForm::WrongEnum && replace_listed_value(instance, schema, root) {
        return;
    }
    let schema = resolve_schema(schema, root);
    match (wrong, &mut *instance) {
        (WrongForm::ExtraField, Value::Object(made)) => {
            let declared = schema["properties"].as_object();
            let mut name = "extra".to_owned();
            while made.contains_key(&name) || declared.is_some_and(|declared| declared.contains_key(&name)) {
                name.push('_');
            }
            made.insert(name, "nobody asked for this".into());
        }
        (WrongForm::MissingField, Value::Object(made)) => {
            if let Some(first) = schema["required"][0].as_str() {
                made.shift_remove(first);
            }
        }
        (WrongForm::WrongEnum, Value::Object(made)) => {
            if let Some((name, value)) = made.iter_mut().next() {
                *value = of_another_type(&schema["properties"][name], root);
            }
        }
        (WrongForm::ExtraField | WrongForm::MissingField | WrongForm::WrongEnum, _) => {
            *instance = of_another_type(schema, root);
        }
        _ => {}
    }
}

/// Puts the text of an answer into a wrong form, for faults in how an answer is written.
pub(super) fn spoil_text(text: String, wrong: Option<WrongForm>) -> String {
    match wrong {
        Some(WrongForm::Prose) => PROSE.to_owned(),
        Some(WrongForm::Fenced) => format!("```json\n{text}\n```"),
        Some(WrongForm::CutJson) => text.chars().take(text.chars().count() / 2).collect(),
        _ => text,
    }
}

/// Makes a list of embeddings wrong: repeats an index, reverses the order, or drops the last one.
pub(super) fn spoil_embeddings(data: &mut Vec<Value>, wrong: WrongForm) {
    match wrong {
        WrongForm::WrongIndex => {
            let before = data.len().checked_sub(2);
            // A single embedding has no predecessor whose index it could repeat.
            let index = before.and_then(|at| data.get(at)).map_or(json!(1), |item| item["index"].clone());
            if let Some(last) = data.last_mut() {
                last["index"] = index;
            }
        }
        WrongForm::Shuffled => data.reverse(),
        WrongForm::Fewer => {
            data.pop();
        }
        _ => {}
    }
}

/// Follows references and first alternatives to the schema that applies.
fn resolve_schema<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let mut resolved = schema;
    for _ in 0..MOST_STEPS {
        let next = resolved.as_object().and_then(|keywords| {
            let reference = keywords.get("$ref").and_then(Value::as_str);
            reference.map_or_else(|| first_branch(keywords), |reference| resolve_reference(root, reference))
        });
        let Some(next) = next else { break };
        resolved = next;
    }
    resolved
}

/// Replaces the first value that an `enum` or `const` restricts by one that it does not allow. Returns whether there
/// was one.
fn replace_listed_value(value: &mut Value, schema: &Value, root: &Value) -> bool {
    let schema = resolve_schema(schema, root);
    let listed = schema.get("const").map(std::slice::from_ref);
    if let Some(listed) = listed.or_else(|| schema.get("enum")?.as_array().map(Vec::as_slice)) {
        let mut other = "something else".to_owned();
        while listed.iter().any(|value| *value == other) {
            other.push('!');
        }
        *value = other.into();
        return true;
    }
    match value {
        Value::Object(made) => made
            .iter_mut()
            .any(|(name, value)| replace_listed_value(value, &schema["properties"][name], root)),
        Value::Array(made) => {
            made.iter_mut().any(|value| replace_listed_value(value, &schema["items"], root))
        }
        _ => false,
    }
}

fn of_another_type(schema: &Value, root: &Value) -> Value {
    let mut types = Vec::new();
    collect_types(schema, root, MOST_STEPS, &mut types);
    let others: [(&[&str], Value); 4] = [
        (&["string"], "a text".into()),
        (&["number", "integer"], 7.into()),
        (&["boolean"], true.into()),
        (&["object"], Map::new().into()),
    ];
    let other = others.into_iter().find(|(names, _)| !names.iter().any(|name| types.contains(name)));
    other.map_or(Value::Null, |(_, value)| value)
}

fn collect_types<'a>(schema: &'a Value, root: &'a Value, steps: usize, types: &mut Vec<&'a str>) {
    let Some(steps) = steps.checked_sub(1) else { return };
    match &schema["type"] {
        Value::String(name) => types.push(name),
        Value::Array(names) => types.extend(names.iter().filter_map(Value::as_str)),
        _ => {}
    }
    let referenced = schema["$ref"].as_str().and_then(|reference| resolve_reference(root, reference));
    let branches = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema[*key].as_array()).flatten();
    for inner in referenced.into_iter().chain(branches) {
        collect_types(inner, root, steps, types);
    }
}

#[cfg(test)]
mod tests {
    use super::super::instance::instance_of;
    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "name": {"type": ["string", "null"]},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
                "extra": {"type": "boolean"},
            },
            "required": ["parts", "name"],
            "additionalProperties": false,
            "$defs": {"part": {"anyOf": [{"enum": ["bolt", "nut", "something else"]}, {"type": "null"}]}},
        })
    }

    fn spoilt(schema: &Value, wrong: WrongForm) -> Value {
        let mut instance = instance_of(schema, 0, "Row 1");
        assert!(jsonschema::is_valid(schema, &instance));
        spoil_instance(&mut instance, schema, wrong);
        instance
    }

    #[test]
    fn spoilt_instances_do_not_fit_their_schema() {
        for wrong in [WrongForm::ExtraField, WrongForm::MissingField, WrongForm::WrongEnum] {
            assert!(!jsonschema::is_valid(&schema(), &spoilt(&schema(), wrong)), "{wrong:?}");
        }
        assert_eq!(spoilt(&schema(), WrongForm::WrongEnum)["parts"][0], "something else!");
        assert!(spoilt(&schema(), WrongForm::MissingField).get("parts").is_none());
        assert_eq!(spoilt(&schema(), WrongForm::ExtraField)["extra_"], "nobody asked for this");
    }

    #[test]
    fn without_a_list_the_first_property_gets_another_type() {
        for first in [
            json!({"type": "string"}),
            json!({"type": ["integer", "null"]}),
            json!({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}),
            json!({"$ref": "#/$defs/b"}),
            json!({"type": "array", "items": {"type": "string"}}),
        ] {
            let schema = json!({"type": "object", "properties": {"a": first, "c": {"type": "string"}},
                "$defs": {"b": {"type": "object"}}});
            let spoilt = spoilt(&schema, WrongForm::WrongEnum);
            assert!(!jsonschema::is_valid(&schema, &spoilt), "{spoilt} fits {schema}");
            assert!(spoilt["c"].is_string());
        }
    }

    #[test]
    fn a_root_that_is_no_object_gets_another_type() {
        let schema = json!({"type": "array", "items": {"type": "string"}});
        for wrong in [WrongForm::ExtraField, WrongForm::MissingField, WrongForm::WrongEnum] {
            assert!(!jsonschema::is_valid(&schema, &spoilt(&schema, wrong)), "{wrong:?}");
        }
    }

    #[test]
    fn texts_are_put_wrong() {
        let text = r#"{"a":"für"}"#.to_owned();
        let put = |wrong| spoil_text(text.clone(), Some(wrong));
        assert_eq!(put(WrongForm::Fenced), format!("```json\n{text}\n```"));
        assert_eq!(put(WrongForm::CutJson), r#"{"a":"#);
        assert!(!put(WrongForm::Prose).contains(['{', '[', '"', '`']));
        assert_eq!(spoil_text(text.clone(), None), text);
    }

    #[test]
    fn embeddings_are_put_wrong() {
        let indexes = |count: u64, wrong| {
            let mut data: Vec<Value> = (0..count).map(|index| json!({"index": index})).collect();
            spoil_embeddings(&mut data, wrong);
            data.iter().map(|item| item["index"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(indexes(3, WrongForm::WrongIndex), [0, 1, 1]);
        assert_eq!(indexes(1, WrongForm::WrongIndex), [1]);
        assert_eq!(indexes(3, WrongForm::Shuffled), [2, 1, 0]);
        assert_eq!(indexes(3, WrongForm::Fewer), [0, 1]);
        assert_eq!(indexes(3, WrongForm::OtherDimension), [0, 1, 2]);
    }
}

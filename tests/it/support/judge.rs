//! A judge of job files that knows nothing but the JSON Schema.

use enrich::config::reference;
use regex::Regex;
use serde_json::Value;

/// What is wrong with a value, by the keywords that our schema uses; any other is an error here.
fn judge(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{at}: {value} {what}"));
    let object = schema.as_object().unwrap();
    for (keyword, rule) in object {
        let right = match keyword.as_str() {
            "$schema" | "title" | "description" | "examples" => true,
            "type" => {
                let own = match value {
                    Value::String(_) => "string",
                    Value::Bool(_) => "boolean",
                    Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
                    Value::Number(_) => "number",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                    Value::Null => "null",
                };
                let fits = |name: &Value| name == own || (name == "number" && own == "integer");
                rule.as_array().map_or_else(|| fits(rule), |names| names.iter().any(fits))
            }
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            "oneOf" => {
                let choices = rule.as_array().unwrap();
                choices.iter().filter(|choice| judge(choice, value, at).is_ok()).count() == 1
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|text| text.len() as u64 <= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap()),
            "minProperties" => value.as_object().is_none_or(|map| map.len() as u64 >= rule.as_u64().unwrap()),
            "pattern" => {
                let pattern = Regex::new(rule.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "required" => {
                rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
            }
            "items" => {
                for (position, value) in value.as_array().into_iter().flatten().enumerate() {
                    judge(rule, value, &format!("{at}[{position}]"))?;
                }
                true
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    rule.get(key).map_or(Ok(()), |rule| judge(rule, value, &format!("{at}.{key}")))?;
                }
                true
            }
            "additionalProperties" => {
                let known = |key: &str| object.get("properties").is_some_and(|keys| keys.get(key).is_some());
                for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| !known(key)) {
                    match rule {
                        Value::Bool(true) => {}
                        Value::Bool(false) => return Err(format!("{at}: unknown key {key}")),
                        rule => judge(rule, value, &format!("{at}.{key}"))?,
                    }
                }
                true
            }
            other => panic!("{at}: the schema uses {other}, which is not judged here"),
        };
        if !right {
            return wrong(&format!("does not fit {keyword} {rule}"));
        }
    }
    Ok(())
}

/// What is wrong with the text of a job.
pub fn judge_text(text: &str) -> Result<(), String> {
    let table: toml::Table = toml::from_str(text).unwrap();
    judge(&reference::schema(), &serde_json::to_value(table).unwrap(), "job")
}

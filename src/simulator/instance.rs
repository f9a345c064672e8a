//! Instances of a JSON Schema, always the same for a schema, a seed and a prompt.
//!
//! The keywords that schemas for models use are supported, but not `pattern`, `not` and conditions, for example. In a
//! recursive schema only required values are made from the second level on.

use chrono::{DateTime, Days, NaiveDate, SecondsFormat, TimeDelta};
use serde_json::{Map, Value};

use super::answer::{chance, draw, mark_of};

/// Share of nulls among values that may be null.
const NULLS: f64 = 0.2;
/// Nested uses of one reference after which it yields null.
const MAX_RECURSION: usize = 4;
/// Number of values after which only required ones are made.
const MANY_VALUES: usize = 2_000;
/// Number of values after which every reference yields null.
const MOST_VALUES: usize = 20_000;
/// Largest `minItems` and `minLength` that are obeyed.
const MOST_ITEMS: usize = 1_000;
/// Number of days from 2000-01-01 on that dates are drawn from.
const DAYS: usize = 10_000;

/// Returns the instance of a schema with which a simulator of this seed answers a prompt.
#[must_use]
pub fn instance_of(schema: &Value, seed: u64, prompt: &str) -> Value {
    let mut maker = Maker { root: schema, seed, prompt, references: Vec::new(), made: 0, scarce: false };
    maker.value(schema, "answer")
}

/// Returns the schema that a local reference (`#/…`) points to, or `None` if there is none.
pub(super) fn resolve_reference<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

/// Returns the first alternative of `anyOf`, `oneOf` or `allOf`, or `None` without one. Beside `properties` it is
/// `None`, too, since alternatives there only state which properties go together.
pub(super) fn first_branch(keywords: &Map<String, Value>) -> Option<&Value> {
    branches(keywords)?.first()
}

fn branches(keywords: &Map<String, Value>) -> Option<&Vec<Value>> {
    if keywords.contains_key("properties") {
        return None;
    }
    ["anyOf", "oneOf", "allOf"].iter().find_map(|key| keywords.get(*key)?.as_array())
}

struct Maker<'a> {
    root: &'a Value,
    seed: u64,
    prompt: &'a str,
    /// References that are being followed.
    references: Vec<&'a str>,
    /// Number of values made so far.
    made: usize,
    /// Whether only required values are made.
    scarce: bool,
}

impl<'a> Maker<'a> {
    fn value(&mut self, schema: &'a Value, path: &str) -> Value {
        self.made += 1;
        // `true` is a schema, too.
        let Some(keywords) = schema.as_object() else { return self.text(&Map::new(), path) };
        if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
            return self.at_reference(reference, path);
        }
        if let Some(only) = keywords.get("const") {
            return only.clone();
        }
        if let Some(listed) = keywords.get("enum").and_then(Value::as_array) {
            return listed.get(draw(listed.len(), self.chance(path))).cloned().unwrap_or_default();
        }
        if let Some(branches) = branches(keywords) {
            let null = branches.iter().find(|branch| self.is_scarce() && branch["type"] == "null");
            return null.or(branches.first()).map_or(Value::Null, |branch| self.value(branch, path));
        }
        match self.kind(keywords, path) {
            "object" => self.object(keywords, path),
            "array" => self.array(keywords, path),
            "integer" => self.integer(keywords, path),
            "number" => self.number(keywords, path),
            "boolean" => Value::Bool(self.chance(path) < 0.5),
            "string" => self.text(keywords, path),
            _ => Value::Null,
        }
    }

    fn chance(&self, path: &str) -> f64 {
        chance(self.seed, &format!("instance {path}"), self.prompt, 0)
    }

    fn is_scarce(&self) -> bool {
        self.scarce || self.made > MANY_VALUES
    }

    fn at_reference(&mut self, reference: &'a str, path: &str) -> Value {
        let turns = self.references.iter().filter(|earlier| **earlier == reference).count();
        let ends = turns >= MAX_RECURSION || self.made > MOST_VALUES;
        let Some(schema) = resolve_reference(self.root, reference).filter(|_| !ends) else {
            return Value::Null;
        };
        let scarce = self.scarce;
        self.scarce |= turns > 0;
        self.references.push(reference);
        let value = self.value(schema, path);
        self.references.pop();
        self.scarce = scarce;
        value
    }

    fn kind(&self, keywords: &'a Map<String, Value>, path: &str) -> &'a str {
        match keywords.get("type") {
            Some(Value::String(kind)) => kind,
            Some(Value::Array(kinds)) => {
                let mut kinds = kinds.iter().filter_map(Value::as_str);
                let nullable = kinds.clone().any(|kind| kind == "null");
                if nullable && (self.is_scarce() || self.chance(&format!("{path} null")) < NULLS) {
                    return "null";
                }
                kinds.find(|kind| *kind != "null").unwrap_or("null")
            }
            _ if keywords.contains_key("properties") => "object",
            _ if keywords.contains_key("items") => "array",
            _ if keywords.contains_key("minimum") || keywords.contains_key("maximum") => "number",
            _ => "string",
        }
    }

    fn object(&mut self, keywords: &'a Map<String, Value>, path: &str) -> Value {
        let required: Vec<&str> = keywords
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut made = Map::new();
        for (name, schema) in keywords.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if required.contains(&name.as_str()) || !self.is_scarce() {
                made.insert(name.clone(), self.value(schema, &format!("{path}.{name}")));
            }
        }
        let other = keywords.get("additionalProperties").unwrap_or(&Value::Null);
        for name in required {
            if !made.contains_key(name) {
                made.insert(name.to_owned(), self.value(other, &format!("{path}.{name}")));
            }
        }
        Value::Object(made)
    }

    fn array(&mut self, keywords: &'a Map<String, Value>, path: &str) -> Value {
        let least = size(keywords, "minItems").unwrap_or_default().min(MOST_ITEMS);
        let most = size(keywords, "maxItems").unwrap_or(usize::MAX).max(least);
        let count = if self.is_scarce() { 0 } else { 1 + draw(3, self.chance(&format!("{path} count"))) };
        let items = keywords.get("items").unwrap_or(&Value::Null);
        let unique = keywords.get("uniqueItems") == Some(&Value::Bool(true));
        let mut made: Vec<Value> = Vec::new();
        for at in 0..count.clamp(least, most) {
            let item = self.value(items, &format!("{path}[{at}]"));
            if !unique || !made.contains(&item) {
                made.push(item);
            }
        }
        Value::Array(made)
    }

    /// Returns a short text with the mark of the prompt, or a date or time if the schema demands one.
    fn text(&self, keywords: &Map<String, Value>, path: &str) -> Value {
        let day = || {
            let first = NaiveDate::from_ymd_opt(2_000, 1, 1).unwrap_or_default();
            first + Days::new(draw(DAYS, self.chance(path)) as u64)
        };
        match keywords.get("format").and_then(Value::as_str) {
            Some("date") => return day().to_string().into(),
            Some("date-time") => {
                let second = draw(86_400, self.chance(&format!("{path} second")));
                let moment = DateTime::UNIX_EPOCH.with_timezone(&chrono::Utc)
                    + (day() - NaiveDate::default())
                    + TimeDelta::seconds(i64::try_from(second).unwrap_or_default());
                return moment.to_rfc3339_opts(SecondsFormat::Secs, true).into();
            }
            _ => {}
        }
        let mark = mark_of(self.prompt);
        let name = path.rsplit('.').next().unwrap_or(path);
        let (least, most) = (size(keywords, "minLength"), size(keywords, "maxLength").unwrap_or(usize::MAX));
        let long = format!("{name} [{mark}]");
        let text = if long.chars().count() <= most { long } else { mark.chars().take(most).collect() };
        format!("{text:.<width$}", width = least.unwrap_or_default().min(MOST_ITEMS)).into()
    }

    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    fn integer(&self, keywords: &Map<String, Value>, path: &str) -> Value {
        let bound = |key: &str| keywords.get(key).and_then(Value::as_f64);
        let above = bound("exclusiveMinimum").map(|bound| bound.floor() + 1.0);
        let below = bound("exclusiveMaximum").map(|bound| bound.ceil() - 1.0);
        let (least, most) = range(
            larger(bound("minimum").map(f64::ceil), above),
            smaller(bound("maximum").map(f64::floor), below),
        );
        let step = bound("multipleOf").filter(|step| *step >= 1.0).unwrap_or(1.0);
        let first = (least / step).ceil() * step;
        let steps = ((most - first) / step).floor().max(0.0);
        let drawn = first + step * (self.chance(path) * (steps + 1.0)).floor().min(steps);
        Value::from(drawn as i64)
    }

    fn number(&self, keywords: &Map<String, Value>, path: &str) -> Value {
        let bound = |key: &str| keywords.get(key).and_then(Value::as_f64);
        let (least, most) = range(
            larger(bound("minimum"), bound("exclusiveMinimum")),
            smaller(bound("maximum"), bound("exclusiveMaximum")),
        );
        let drawn = least + (most - least) * self.chance(path);
        let rounded = (drawn * 100.0).round() / 100.0;
        let inside = [rounded, drawn].into_iter().find(|number| *number > least && *number < most);
        Value::from(inside.unwrap_or(least + (most - least) / 2.0))
    }
}

fn size(keywords: &Map<String, Value>, key: &str) -> Option<usize> {
    keywords.get(key)?.as_u64()?.try_into().ok()
}

fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

fn smaller(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::min)
}

/// Returns a lower and an upper bound. A missing upper bound becomes 100 more than the lower one. A missing lower bound
/// becomes 0, or 100 less than a negative upper one.
fn range(least: Option<f64>, most: Option<f64>) -> (f64, f64) {
    match (least, most) {
        (Some(least), most) => (least, most.unwrap_or(least + 100.0).max(least)),
        (None, Some(most)) if most < 0.0 => (most - 100.0, most),
        (None, most) => (0.0, most.unwrap_or(100.0)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Makes instances for many prompts and checks them against the schema.
    fn instances(schema: &Value) -> Vec<Value> {
        let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
        let made: Vec<Value> = (0..200).map(|row| instance_of(schema, 7, &format!("Row {row}"))).collect();
        for instance in &made {
            let errors: Vec<String> =
                validator.iter_errors(instance).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{instance} is no {schema}: {errors:?}");
        }
        made
    }

    #[test]
    fn instances_fit_their_schema_and_have_every_declared_property() {
        let schema = json!({
            "type": "object",
            "properties": {
                "kind": {"enum": ["bug", "idea", null]},
                "version": {"const": 3},
                "title": {"type": "string", "maxLength": 20},
                "code": {"type": "string", "minLength": 30},
                "short": {"type": "string", "maxLength": 4},
                "day": {"type": "string", "format": "date"},
                "moment": {"type": "string", "format": "date-time"},
                "score": {"type": "integer", "minimum": 1, "maximum": 5},
                "below": {"type": "integer", "exclusiveMaximum": -3},
                "dozens": {"type": "integer", "minimum": 5, "maximum": 100, "multipleOf": 12},
                "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.001},
                "weight": {"type": "number", "minimum": 2.5, "maximum": 2.5},
                "sure": {"type": "boolean"},
                "remark": {"type": ["string", "null"]},
                "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": true},
                "none": {"type": "array", "maxItems": 0},
                "price": {"anyOf": [{"$ref": "#/$defs/price"}, {"type": "null"}]},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/price"}},
                "anything": true,
            },
            "required": ["kind", "more"],
            "additionalProperties": {"type": "integer"},
            "$defs": {
                "price": {
                    "type": "object",
                    "properties": {"amount": {"type": "number"}, "unit": {"oneOf": [{"const": "€"}]}},
                    "required": ["amount", "unit"],
                    "additionalProperties": false,
                },
            },
        });
        let made = instances(&schema);
        for instance in &made {
            assert_eq!(instance.as_object().unwrap().len(), 20);
            assert!((2..=3).contains(&instance["tags"].as_array().unwrap().len()));
            assert!(instance["price"].is_object());
        }
        let nulls = made.iter().filter(|instance| instance["remark"].is_null()).count();
        assert!((20..60).contains(&nulls), "{nulls} of 200");
        for key in ["kind", "score", "day", "moment", "sure", "dozens"] {
            assert!(made.iter().any(|instance| instance[key] != made[0][key]), "{key} is always the same");
        }
    }

    #[test]
    fn instances_depend_on_seed_and_prompt_alone_and_carry_its_mark() {
        let schema = json!({"type": "object", "properties": {
            "text": {"type": "string"}, "number": {"type": "integer", "maximum": 1_000_000}}});
        let made = instance_of(&schema, 1, "Row 1");
        assert_eq!(made, instance_of(&schema, 1, "Row 1"));
        assert_ne!(made["number"], instance_of(&schema, 2, "Row 1")["number"]);
        assert_ne!(made["text"], instance_of(&schema, 1, "Row 2")["text"]);
        let mark = mark_of("Row 1");
        assert!(super::super::answer_to("Row 1").contains(&mark));
        assert_eq!(made["text"], format!("text [{mark}]"));
    }

    #[test]
    fn a_schema_that_describes_itself_comes_to_an_end() {
        let node = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#/definitions/node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/definitions/node"}},
                "parent": {"$ref": "#"},
            },
            "required": ["name", "next", "children"],
        });
        let schema = json!({"$ref": "#/definitions/node", "definitions": {"node": node}});
        for instance in instances(&schema) {
            assert!(instance["next"]["next"].is_null() && instance["next"]["name"].is_string());
            assert!(instance.to_string().len() < 10_000);
        }
        // This schema has no finite instance.
        let endless = json!({"type": "object", "properties": {"own": {"$ref": "#"}}, "required": ["own"]});
        assert!(instance_of(&endless, 0, "Row 1").to_string().len() < 100);
        let circle = json!({"$ref": "#"});
        assert!(instance_of(&circle, 0, "Row 1").is_null());
    }

    #[test]
    fn a_schema_of_many_references_to_each_other_stays_small() {
        let names: Vec<String> = (0..12).map(|at| format!("def{at}")).collect();
        let reference = |name: &String| (name.clone(), json!({"$ref": format!("#/$defs/{name}")}));
        let properties: Map<String, Value> = names.iter().map(reference).collect();
        for required in [json!([]), json!(names)] {
            let each = json!({"type": "object", "properties": properties, "required": required});
            let definitions: Map<String, Value> =
                names.iter().map(|name| (name.clone(), each.clone())).collect();
            let schema = json!({"$ref": "#/$defs/def0", "$defs": definitions});
            assert!(instance_of(&schema, 0, "Row 1").to_string().len() < 1_000_000);
        }
    }

    #[test]
    fn a_root_may_be_anything() {
        for schema in [
            json!({"type": "array", "items": {"type": "number", "minimum": -1, "maximum": 1}}),
            json!({"type": "integer", "minimum": i64::MIN}),
            json!({"allOf": [{"type": "boolean"}]}),
            json!({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}]}),
            json!({"items": {"minimum": 4}}),
            json!({"type": "null"}),
            json!(true),
        ] {
            instances(&schema);
        }
    }
}

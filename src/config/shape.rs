//! The shape of a typed answer: from `fields` or a JSON Schema to the schema that is sent and the column types.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::{Map, Value, json};

/// Type names in `fields`.
const TYPES: [&str; 6] = ["string", "int", "float", "bool", "date", "timestamp"];
/// Characters that a column name of a Delta table must not contain (the Delta protocol, "Column Mapping").
const NOT_IN_NAMES: &str = " ,;{}()\n\t=";
/// End of the message about a name that cannot be a column name.
pub(super) const NO_COLUMN: &str = "the name of a column of a Delta table has none of spaces, commas, semicolons, equals signs, braces and parentheses";

/// Whether a column of a Delta table may have this name, by the Parquet rules that Spark enforces on every writer.
pub(super) fn is_column(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| NOT_IN_NAMES.contains(c) || c.is_control())
}
/// Name of the property that holds the class in an answer object.
pub const CLASS: &str = "answer";
/// Maximum number of classes in a schema, and maximum bytes of all classes together: OpenAI accepts 1,000 values and,
/// if there are more than 250, 15,000 characters.
const MAX_CLASSES: usize = 250;
const MAX_CLASS_BYTES: usize = 15_000;
/// Tokens of the object around a class, including white space that a model adds.
const TOKENS_AROUND_CLASS: usize = 16;
/// Maximum nesting of schemas. It also ends the reading of a schema that refers to itself.
const DEPTH: usize = 20;

/// The shape of a typed answer: its schema and its columns.
#[derive(Clone)]
pub struct Shape(Arc<ShapeKind>);

struct ShapeKind {
    schema: Value,
    text: String,
    fields: Fields,
    is_strict: bool,
    /// Whether the prompt itself describes the answer in words.
    is_in_prompt: bool,
    validator: jsonschema::Validator,
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({})", self.0.text)
    }
}

impl Shape {
    /// Builds a shape from the `fields` of a job file.
    pub(super) fn of_fields(fields: &toml::Table) -> Result<Shape, String> {
        if fields.is_empty() {
            return Err("is empty; it names what an answer holds, each with its type".to_owned());
        }
        Self::of_schema(object(fields, "")?)
    }

    /// Builds a shape from a JSON Schema.
    ///
    /// # Errors
    /// When the schema is invalid or describes something that columns cannot hold.
    pub fn of_schema(schema: Value) -> Result<Shape, String> {
        if let Some(reference) = remote_reference(&schema) {
            return Err(format!(
                "refers to {reference:?}; only references into the schema itself are followed"
            ));
        }
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .map_err(|error| format!("is no JSON Schema: {error}"))?;
        let reader = Reader { root: &schema };
        let (data_type, _) = reader.data_type(&schema, "", 0)?;
        let DataType::Struct(fields) = data_type else {
            return Err("is not of an object with properties, as an answer must be".to_owned());
        };
        let is_strict = is_strict(&schema);
        let is_in_prompt = false;
        Ok(Shape(Arc::new(ShapeKind {
            text: schema.to_string(),
            fields,
            is_strict,
            is_in_prompt,
            validator,
            schema,
        })))
    }

    /// Builds the shape of an object that holds one of several classes, which the prompt also lists. Returns `None`
    /// if there are too many classes for the schemas of most endpoints, or if `max_tokens` has room for a bare class
    /// only.
    pub(super) fn of_classes(classes: &[String], max_tokens: Option<u32>) -> Option<Shape> {
        let bytes = |classes: &[String]| classes.iter().map(String::len).sum::<usize>();
        let longest = classes.iter().map(String::len).max().unwrap_or_default();
        let has_room = max_tokens.is_none_or(|most| most as usize >= longest + TOKENS_AROUND_CLASS);
        if classes.len() > MAX_CLASSES || bytes(classes) > MAX_CLASS_BYTES || !has_room {
            return None;
        }
        let shape = Shape::of_schema(json!({
            "type": "object",
            "required": [CLASS],
            "properties": { CLASS: { "type": "string", "enum": classes } },
            "additionalProperties": false,
        }));
        let mut inner = Arc::into_inner(shape.ok()?.0)?;
        inner.is_in_prompt = true;
        Some(Shape(Arc::new(inner)))
    }

    /// Returns the JSON Schema.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.0.schema
    }

    /// Returns the JSON Schema as text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Returns the columns, or the fields of a struct column. All are nullable: Delta has no non-nullable field
    /// inside a nullable one.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.0.fields
    }

    /// Whether every object requires all its properties and forbids others, as OpenAI's strict mode demands.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.0.is_strict
    }

    /// Whether the prompt itself describes the answer in words, so that nothing is added to it when no schema is
    /// sent.
    #[must_use]
    pub fn is_in_prompt(&self) -> bool {
        self.0.is_in_prompt
    }

    /// Returns the validator that checks answers against the schema.
    #[must_use]
    pub fn validator(&self) -> &jsonschema::Validator {
        &self.0.validator
    }
}

/// Builds the schema of an object from fields of a job file.
fn object(fields: &toml::Table, at: &str) -> Result<Value, String> {
    let mut properties = Map::new();
    for (name, written) in fields {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        properties.insert(name.clone(), of_written(written, &at)?);
    }
    let required: Vec<&String> = properties.keys().collect();
    Ok(json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    }))
}

fn of_written(written: &toml::Value, at: &str) -> Result<Value, String> {
    match written {
        toml::Value::String(text) => of_text(text, at),
        toml::Value::Table(fields) if fields.is_empty() => {
            Err(format!("has the field {at:?} without fields of its own"))
        }
        toml::Value::Table(fields) => object(fields, at),
        toml::Value::Array(items) => match items.as_slice() {
            [] => Err(format!("has an empty list for {at:?}; name the texts that there may be")),
            [item @ (toml::Value::Table(_) | toml::Value::Array(_))] => {
                Ok(json!({ "type": "array", "items": of_written(item, at)? }))
            }
            items => choice(items, at),
        },
        other => Err(format!("has {other} for {at:?}; {}", expected())),
    }
}

/// Builds the schema of an enumeration of texts.
fn choice(items: &[toml::Value], at: &str) -> Result<Value, String> {
    let mut texts: Vec<&str> = Vec::new();
    for item in items {
        let text = item.as_str().filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| format!("has {item} in the list for {at:?}, which takes texts"))?;
        if texts.contains(&text) {
            return Err(format!("has {text:?} twice in the list for {at:?}"));
        }
        texts.push(text);
    }
    match texts.as_slice() {
        [only] if TYPES.contains(only) => Err(format!(
            "has [{only:?}] for {at:?}, the text {only:?} alone; a list of that type is \"[{only}]\""
        )),
        texts => Ok(json!({ "type": "string", "enum": texts })),
    }
}

fn of_text(text: &str, at: &str) -> Result<Value, String> {
    if let Some(text) = text.strip_suffix('?') {
        let mut schema = of_text(text, at)?;
        schema["type"] = json!([schema["type"], "null"]);
        return Ok(schema);
    }
    if let Some(item) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return Ok(json!({ "type": "array", "items": of_text(item, at)? }));
    }
    Ok(match text {
        "string" => json!({ "type": "string" }),
        "int" => json!({ "type": "integer" }),
        "float" => json!({ "type": "number" }),
        "bool" => json!({ "type": "boolean" }),
        "date" => json!({ "type": "string", "format": "date" }),
        "timestamp" => json!({ "type": "string", "format": "date-time" }),
        _ => {
            let near = super::nearest(text, TYPES);
            let near = near.map_or_else(expected, |near| format!("did you mean {near:?}?"));
            return Err(format!("has the type {text:?} for {at:?}, which is not known; {near}"));
        }
    })
}

fn expected() -> String {
    format!(
        "a type is one of {}, with a ? at its end where it may be null, a list of them as \"[int]\", a list of texts to \
         choose from, or fields of its own",
        TYPES.join(", ")
    )
}

/// Returns the first reference that points outside the schema.
fn remote_reference(schema: &Value) -> Option<&str> {
    match schema {
        Value::Object(map) => {
            let own = ["$ref", "$dynamicRef"].iter().find_map(|key| map.get(*key)?.as_str());
            own.filter(|reference| !reference.starts_with('#'))
                .or_else(|| map.values().find_map(remote_reference))
        }
        Value::Array(items) => items.iter().find_map(remote_reference),
        _ => None,
    }
}

/// Whether all objects, at any depth, require all their properties and forbid others.
fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            let properties = map.get("properties").and_then(Value::as_object);
            let is_closed = properties.is_none_or(|properties| {
                let required = map.get("required").and_then(Value::as_array);
                let is_required =
                    |name: &String| required.is_some_and(|all| all.iter().any(|one| one == name));
                map.get("additionalProperties") == Some(&Value::Bool(false))
                    && properties.keys().all(is_required)
            });
            is_closed && map.values().all(is_strict)
        }
        Value::Array(items) => items.iter().all(is_strict),
        _ => true,
    }
}

/// Derives column types from a schema.
struct Reader<'a> {
    root: &'a Value,
}

impl Reader<'_> {
    /// Returns the column type for a schema, and whether it is nullable.
    fn data_type(&self, schema: &Value, at: &str, depth: usize) -> Result<(DataType, bool), String> {
        let wrong = |what: &str| Err(unfit(at, what));
        if depth > DEPTH {
            return wrong("holds itself, or too many levels");
        }
        let Some(map) = schema.as_object() else { return wrong("allows anything; give it a type") };
        if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
            let Some(found) = self.root.pointer(reference.trim_start_matches('#')) else {
                return wrong(&format!("refers to {reference}, which is not there"));
            };
            return self.data_type(found, at, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            let Some(branches) = map.get(key).and_then(Value::as_array) else { continue };
            let (nulls, others): (Vec<&Value>, Vec<&Value>) =
                branches.iter().partition(|branch| branch.get("type") == Some(&json!("null")));
            return match others.as_slice() {
                [one] => Ok((self.data_type(one, at, depth + 1)?.0, !nulls.is_empty())),
                _ => wrong(&format!("is one of several types ({key})")),
            };
        }
        if let Some([one]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            return self.data_type(one, at, depth + 1);
        }
        let (kind, is_nullable) = match kind_of(map) {
            Ok(kind) => kind,
            Err(what) => return wrong(&what),
        };
        let data_type = match kind.as_str() {
            "boolean" => DataType::Boolean,
            "integer" => DataType::Int64,
            "number" => DataType::Float64,
            "string" => match map.get("format").and_then(Value::as_str) {
                Some("date") => DataType::Date32,
                Some("date-time") => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                _ => DataType::Utf8,
            },
            "array" => {
                let Some(items) = map.get("items") else { return wrong("is a list without items") };
                let (item, _) = self.data_type(items, &format!("{at}[]"), depth + 1)?;
                DataType::List(Arc::new(Field::new("element", item, true)))
            }
            "object" => return Ok((self.object(map, at, depth)?, is_nullable)),
            other => return wrong(&format!("is of type {other:?}")),
        };
        Ok((data_type, is_nullable))
    }

    fn object(&self, map: &Map<String, Value>, at: &str, depth: usize) -> Result<DataType, String> {
        let properties = map.get("properties").and_then(Value::as_object);
        let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
            return Err(unfit(at, "is an object whose properties are not named"));
        };
        let mut fields: Vec<Field> = Vec::with_capacity(properties.len());
        for (name, schema) in properties {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            if !is_column(name) {
                return Err(format!("has the name {at:?}; {NO_COLUMN}"));
            }
            if let Some(other) = fields.iter().find(|other| other.name().eq_ignore_ascii_case(name)) {
                return Err(format!(
                    "has {:?} and {name:?}, which differ in capitals alone; Delta takes them for one column",
                    other.name()
                ));
            }
            fields.push(Field::new(name, self.data_type(schema, &at, depth + 1)?.0, true));
        }
        Ok(DataType::Struct(fields.into()))
    }
}

/// Returns the message for a part of a schema that columns cannot hold.
fn unfit(at: &str, what: &str) -> String {
    let place = if at.is_empty() { "the root".to_owned() } else { format!("{at:?}") };
    format!("cannot become columns of a table: {place} {what}")
}

/// Returns the single type of a schema besides null, and whether null is allowed.
fn kind_of(map: &Map<String, Value>) -> Result<(String, bool), String> {
    let names: Vec<&str> = match map.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => {
            let values = map.get("enum").and_then(Value::as_array).map(Vec::as_slice);
            let values = values.or_else(|| map.get("const").map(std::slice::from_ref)).unwrap_or_default();
            values.iter().map(name_of).collect()
        }
    };
    let mut kinds: Vec<&str> = Vec::new();
    for name in names.iter().copied().filter(|name| *name != "null") {
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    if kinds.len() == 2 && kinds.contains(&"integer") && kinds.contains(&"number") {
        // Every integer is a number.
        kinds = vec!["number"];
    }
    match kinds.as_slice() {
        [kind] => Ok(((*kind).to_owned(), names.contains(&"null"))),
        [] => Err("has no type".to_owned()),
        kinds => Err(format!("is of several types ({})", kinds.join(", "))),
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_fields(text: &str) -> Result<Shape, String> {
        let table: toml::Table = toml::from_str(text).unwrap();
        Shape::of_fields(table["fields"].as_table().unwrap())
    }

    #[test]
    fn fields_become_a_closed_schema_and_columns_in_their_order() {
        let shape = of_fields(
            r#"fields = { sentiment = ["good", "bad"], urgency = "int", due = "date?", tags = "[string]",
                who = { name = "string", born = "timestamp" }, items = [{ sku = "string", price = "float" }] }"#,
        )
        .unwrap();
        let names: Vec<&str> = shape.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["sentiment", "urgency", "due", "tags", "who", "items"]);
        let of = |name: &str| shape.fields().find(name).unwrap().1.data_type().clone();
        assert_eq!((of("urgency"), of("due")), (DataType::Int64, DataType::Date32));
        assert!(
            matches!(of("items"), DataType::List(item) if matches!(item.data_type(), DataType::Struct(fields) if fields.len() == 2))
        );
        assert!(shape.is_strict());
        assert_eq!(
            shape.schema()["properties"]["due"],
            json!({"type": ["string", "null"], "format": "date"})
        );
        let answer = json!({"sentiment": "good", "urgency": 3, "due": null, "tags": [],
            "who": {"name": "x", "born": "2026-01-01T00:00:00Z"}, "items": []});
        assert!(shape.validator().is_valid(&answer));
        let mut late = answer.clone();
        late["due"] = json!("tomorrow");
        assert!(!shape.validator().is_valid(&late), "formats count");
    }

    #[test]
    fn whole_numbers_among_others_are_numbers() {
        for of_property in [json!({"enum": [1, 2.5, 3]}), json!({"type": ["integer", "number", "null"]})] {
            let schema = json!({"type": "object", "properties": {"a": of_property}});
            let shape = Shape::of_schema(schema).unwrap();
            assert_eq!(shape.fields().find("a").unwrap().1.data_type(), &DataType::Float64, "{of_property}");
        }
    }

    #[test]
    fn what_is_wrong_with_fields_is_named() {
        for (written, expected) in [
            (
                "a = \"integer\"",
                "has the type \"integer\" for \"a\", which is not known; did you mean \"int\"?",
            ),
            ("a = [\"string\"]", "a list of that type is \"[string]\""),
            ("a = [\"x\", \"x\"]", "has \"x\" twice in the list for \"a\""),
            ("a = [1, 2]", "has 1 in the list for \"a\""),
            ("a = 3", "has 3 for \"a\"; a type is one of string, int"),
            ("a = { b = { \"c d\" = \"int\" } }", "has the name \"a.b.c d\""),
            ("a = \"int\", A = \"int\"", "differ in capitals alone"),
            ("a = {}", "has the field \"a\" without fields"),
            ("a = []", "has an empty list for \"a\""),
        ] {
            let found = of_fields(&format!("fields = {{ {written} }}")).unwrap_err();
            assert!(found.contains(expected), "{written}: {found}");
        }
    }

    #[test]
    fn a_schema_becomes_columns_or_the_place_is_named_that_cannot() {
        let schema = json!({"type": "object", "properties": {
            "a": {"$ref": "#/$defs/money"}, "b": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}, "c": {"enum": [1, 2]}},
            "$defs": {"money": {"type": "object", "properties": {"amount": {"type": "number"}}}}});
        let shape = Shape::of_schema(schema).unwrap();
        let types: Vec<&DataType> = shape.fields().iter().map(|field| field.data_type()).collect();
        assert!(matches!(types[0], DataType::Struct(_)));
        assert_eq!(types[1..], [&DataType::Boolean, &DataType::Int64]);
        assert!(!shape.is_strict());
        let of = |property: Value| {
            let schema = json!({"type": "object", "properties": {"a": property}});
            Shape::of_schema(schema).unwrap_err()
        };
        for (property, expected) in [
            (json!({"type": ["string", "integer"]}), "\"a\" is of several types (string, integer)"),
            (json!({"type": "object"}), "\"a\" is an object whose properties are not named"),
            (json!({"type": "array"}), "\"a\" is a list without items"),
            (json!(true), "\"a\" allows anything"),
            (json!({"type": "array", "items": {}}), "\"a[]\" has no type"),
            (
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                "\"a\" is one of several types (oneOf)",
            ),
            (json!({"$ref": "#"}), "holds itself"),
            (json!({"$ref": "https://example.com/schema"}), "refers to \"https://example.com/schema\""),
            (json!({"type": "text"}), "is no JSON Schema"),
        ] {
            let found = of(property.clone());
            assert!(found.contains(expected), "{property}: {found}");
        }
        assert!(
            Shape::of_schema(json!({"type": "array", "items": {"type": "string"}}))
                .unwrap_err()
                .contains("object")
        );
    }
}

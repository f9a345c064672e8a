//! Reference of the job file's keys, as a page for people and as a JSON Schema for editors.
//!
//! Both are made from the doc comments of [`super::raw`] and stored in `config/`; the test `reference` fails if they
//! differ. A doc comment ends with `Required.` or with `Default: ….`

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::raw::RawJob;

const BEGINNING: &str = "\
# Jobs

A job is a TOML file. The ones here ask about the sample table in `examples/data`, each at another
endpoint: copy the one that is nearest, and change `app_id`, the two paths and the prompt.

| file | endpoint | key from |
| --- | --- | --- |
| [`quickstart.toml`](quickstart.toml) | the built-in simulator, with some faults | no key |
| [`quickstart-batch.toml`](quickstart-batch.toml) | the same through a Batch API, at half the price | no key |
| [`openai.toml`](openai.toml) | OpenAI | `OPENAI_API_KEY` |
| [`openai-flex.toml`](openai-flex.toml) | OpenAI at half the price, for rows that can wait for minutes | `OPENAI_API_KEY` |
| [`openai-batch.toml`](openai-batch.toml) | OpenAI at half the price, for rows that can wait for hours | `OPENAI_API_KEY` |
| [`openrouter.toml`](openrouter.toml) | OpenRouter, the cheapest host first | `OPENROUTER_API_KEY` |
| [`mistral.toml`](mistral.toml) | Mistral | `MISTRAL_API_KEY` |
| [`mistral-batch.toml`](mistral-batch.toml) | Mistral at half the price, for rows that can wait for hours | `MISTRAL_API_KEY` |
| [`together-batch.toml`](together-batch.toml) | Together, for rows that can wait for a day or three | `TOGETHER_API_KEY` |
| [`anthropic.toml`](anthropic.toml) | Anthropic, by its OpenAI-compatible interface | `ANTHROPIC_API_KEY` |
| [`azure.toml`](azure.toml) | a deployment of Azure OpenAI | `AZURE_OPENAI_API_KEY` |
| [`gemini.toml`](gemini.toml) | Gemini, by its OpenAI-compatible interface | `GEMINI_API_KEY` |
| [`ollama.toml`](ollama.toml) | Ollama on this machine | no key |
| [`vllm.toml`](vllm.toml) | a vLLM server | no key |
| [`llama-cpp.toml`](llama-cpp.toml) | a llama.cpp server | no key |

A first line `#:schema job.schema.json`, with the path from the job to
[`job.schema.json`](job.schema.json), lets editors that use Taplo complete and check the keys.

# The keys

Relative paths are relative to the job file. A **size** is `\"50MB\"`, `\"64 MiB\"` or a number of bytes; a **time**
is `\"250ms\"`, `\"90s\"` or `\"1h 30m\"`. A key that is not here is an error that names the one you meant; every
mistake is reported before the first call. This page is made from the doc comments in `src/config/raw.rs`.
";

/// Returns the JSON Schema of a job file: draft 7 without references, which every editor understands.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RawJob>().to_value();
    simplify(&mut schema);
    schema
}

/// Returns the page of all keys, in Markdown.
#[must_use]
pub fn page() -> String {
    let mut page = ReferencePage { text: BEGINNING.to_owned(), written: Vec::new() };
    page.section(&[], &schema());
    page.text
}

/// Removes null, which TOML does not have, and keywords that are of no use to a person.
fn simplify(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let is_null = |schema: &Value| schema["type"] == "null";
    if let Some(Value::Array(choices)) = object.get("anyOf")
        && choices.iter().any(is_null)
        && let Some(Value::Object(only)) = choices.iter().find(|choice| !is_null(choice)).cloned()
    {
        object.shift_remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    object.shift_remove("format");
    // The doc comment states the default better, also where it depends on other keys.
    object.shift_remove("default");
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            simplify(inner);
        }
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(Value::Array(choices)) = object.get_mut(key) {
            choices.iter_mut().for_each(simplify);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
}

/// How often a key's table may occur in a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occurrence {
    Once,
    /// Several times, as `[[key]]`.
    List,
    /// Several times, as `[key.<name>]`.
    Named,
}

/// Returns the keys of a section, or `None` if the key is not a section.
fn keys_of(schema: &Value) -> Option<(Occurrence, &Map<String, Value>)> {
    [
        (Occurrence::Once, schema),
        (Occurrence::List, &schema["items"]),
        (Occurrence::Named, &schema["additionalProperties"]),
    ]
    .into_iter()
    .find_map(|(times, schema)| Some((times, schema["properties"].as_object()?)))
}

fn inner(times: Occurrence, schema: &Value) -> &Value {
    match times {
        Occurrence::Once => schema,
        Occurrence::List => &schema["items"],
        Occurrence::Named => &schema["additionalProperties"],
    }
}

struct ReferencePage {
    text: String,
    /// Sections written so far. A later section with the same keys refers to them.
    written: Vec<(String, Map<String, Value>)>,
}

impl ReferencePage {
    fn section(&mut self, path: &[String], schema: &Value) {
        let Some(properties) = schema["properties"].as_object() else { return };
        self.text.push_str("\n| key | type | default | |\n| --- | --- | --- | --- |\n");
        let mut below = Vec::new();
        for (key, schema) in properties_in_order(properties) {
            let section = keys_of(schema).map(|(times, keys)| (heading(path, key, times), times, keys));
            let kind = section.as_ref().map_or_else(|| kind(schema), |(heading, ..)| format!("`{heading}`"));
            let (text, default) = split(schema["description"].as_str().unwrap_or_default());
            let text = format!("{text}{}", choices(schema)).replace('|', "\\|");
            self.text.push_str(&format!("| `{key}` | {kind} | {default} | {text} |\n"));
            below.extend(section.map(|section| (key, schema, section)));
        }
        for (key, schema, (heading, times, keys)) in below {
            self.text.push_str(&format!("\n## `{heading}`\n"));
            if let Some((twin, _)) = self.written.iter().find(|(_, written)| written == keys) {
                self.text.push_str(&format!("\nThe keys of `{twin}`.\n"));
                continue;
            }
            self.written.push((heading, keys.clone()));
            let mut path = path.to_vec();
            path.push(key.clone());
            if times == Occurrence::Named {
                path.push("<name>".to_owned());
            }
            self.section(&path, inner(times, schema));
        }
    }
}

/// Returns the plain keys first, as TOML requires, then the sections.
fn properties_in_order(properties: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let (sections, plain): (Vec<_>, Vec<_>) =
        properties.iter().partition(|(_, schema)| keys_of(schema).is_some());
    plain.into_iter().chain(sections).collect()
}

fn heading(path: &[String], key: &str, times: Occurrence) -> String {
    let path: Vec<&str> = path.iter().map(String::as_str).chain([key]).collect();
    let path = path.join(".");
    match times {
        Occurrence::Once => format!("[{path}]"),
        Occurrence::List => format!("[[{path}]]"),
        Occurrence::Named => format!("[{path}.<name>]"),
    }
}

/// Returns the type of a value in a word or two.
fn kind(schema: &Value) -> String {
    if let Some(title) = schema["title"].as_str() {
        return title.to_owned();
    }
    let values = |values: &Value| {
        let values = values.as_array().into_iter().flatten();
        values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" or ")
    };
    match (schema["type"].as_str(), &schema["additionalProperties"]["type"]) {
        (None, _) => schema["oneOf"].as_array().map_or_else(String::new, |choices| {
            values(&choices.iter().map(|choice| choice["const"].clone()).collect())
        }),
        (Some("string"), _) if schema["enum"].is_array() => values(&schema["enum"]),
        (Some("object"), Value::String(inner)) => format!("table of {inner}s"),
        (Some("object"), _) => "table".to_owned(),
        (Some(name), _) => name.to_owned(),
    }
}

/// Returns the meaning of each value of an enumeration.
fn choices(schema: &Value) -> String {
    let choices = schema["oneOf"].as_array().into_iter().flatten();
    let meanings = choices.filter_map(|choice| {
        let text = choice["description"].as_str()?;
        Some(format!(" `{}`: {text}", choice["const"]))
    });
    meanings.collect()
}

/// Splits a doc comment into its text and its default (or `required`).
fn split(text: &str) -> (&str, &str) {
    if let Some(text) = text.strip_suffix("Required.") {
        return (text.trim_end(), "required");
    }
    match text.rsplit_once("Default: ") {
        Some((text, default)) => (text.trim_end(), default.strip_suffix('.').unwrap_or(default)),
        None => (text, ""),
    }
}

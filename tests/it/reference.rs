//! The reference of the job file: as the code says, complete, and no stricter or laxer than the parser.

use std::fs;
use std::path::Path;

use enrich::config::{ConfigError, Job, reference};
use serde_json::{Map, Value};

use crate::support::shipped;

// For `pipelines`.
pub use crate::support::judge_text;

/// The parts of a schema that stand below a value's own: keys, elements, values of a map.
fn below(schema: &Value) -> Vec<(String, &Value)> {
    let keys = schema["properties"].as_object().into_iter().flatten();
    let keys = keys.map(|(key, schema)| (format!(".{key}"), schema));
    let inner = [("[]", &schema["items"]), (".<name>", &schema["additionalProperties"])];
    keys.chain(inner.map(|(name, schema)| (name.to_owned(), schema)))
        .filter(|(_, schema)| schema.is_object())
        .collect()
}

/// Every key of the schema with its dotted path and whether it is required.
fn keys<'a>(path: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value, bool)>) {
    for (name, inner) in below(schema) {
        let path = format!("{path}{name}");
        if let Some(key) = name.strip_prefix('.').filter(|key| *key != "<name>") {
            let required = schema["required"].as_array().into_iter().flatten().any(|name| name == key);
            found.push((path.clone(), inner, required));
        }
        keys(&path, inner, found);
    }
}

/// A value with everything that the schema knows.
fn whole(schema: &Value) -> Value {
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    match schema["type"].as_str() {
        None => schema["oneOf"][0]["const"].clone(),
        Some("boolean") => Value::Bool(true),
        Some("integer" | "number") if schema["maximum"].is_number() => schema["maximum"].clone(),
        Some("integer" | "number") => schema["minimum"].clone(),
        Some("array") => vec![whole(&schema["items"])].into(),
        Some("object") => {
            let named: Map<String, Value> = below(schema)
                .into_iter()
                .map(|(name, schema)| {
                    let key = name.strip_prefix('.').unwrap();
                    (if key == "<name>" { "any" } else { key }.to_owned(), whole(schema))
                })
                .collect();
            named.into()
        }
        Some("string") if schema["enum"].is_array() => schema["enum"][0].clone(),
        Some("string") if schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("simulator")) => {
            "simulator".into()
        }
        Some("string") => "any".into(),
        Some(other) => panic!("{other}"),
    }
}

#[test]
fn the_reference_in_config_is_what_the_code_says() {
    let schema = serde_json::to_string_pretty(&reference::schema()).unwrap() + "\n";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for (file, made) in [("README.md", reference::page()), ("job.schema.json", schema)] {
        let path = folder.join(file);
        let mut kept = fs::read_to_string(&path).unwrap_or_default();
        if kept != made && std::env::var_os("ENRICH_UPDATE").is_some() {
            fs::write(&path, &made).unwrap();
            kept.clone_from(&made);
        }
        assert!(
            kept == made,
            "config/{file} is not what the code says: ENRICH_UPDATE=1 cargo test reference"
        );
    }
}

#[test]
fn the_page_names_every_job() {
    let page = reference::page();
    for path in shipped() {
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("[`{file}`]({file})")), "{file} is not in config/README.md");
    }
}

#[test]
fn every_key_says_what_it_is_and_its_default_or_that_it_is_required() {
    let schema = reference::schema();
    let mut all = Vec::new();
    keys("", &schema, &mut all);
    assert!(all.len() > 60, "{}", all.len());
    for (path, schema, required) in all {
        let text = schema["description"].as_str().unwrap_or_else(|| panic!("{path} says nothing"));
        let default = text.rsplit_once("Default: ").map(|(_, default)| default);
        assert_eq!(text.ends_with("Required."), required, "{path}: {text}");
        assert_eq!(default.is_some_and(|default| default.ends_with('.')), !required, "{path}: {text}");
        assert!(
            schema["type"] != "object" || schema["additionalProperties"] != Value::Null,
            "{path} is open"
        );
    }
    for line in reference::page().lines().filter(|line| line.starts_with("| `")) {
        let line = line.replace("\\|", "/");
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells.len() == 6 && cells[1..5].iter().all(|cell| !cell.is_empty()), "{line}");
    }
}

#[test]
fn every_key_of_the_schema_is_read() {
    let mut job = whole(&reference::schema());
    // Names that must differ, keys of which one may be set, and a balance of one.
    job["source"]["path"] = "source".into();
    job["metrics"]["path"] = "metrics".into();
    job["metrics"]["enabled"] = true.into();
    job["target"]["metadata_column"] = "_any".into();
    job["provider"]["any"].as_object_mut().unwrap().shift_remove("api_key_file");
    for key in ["api_key_command", "ca_file", "client_certificate", "client_key"] {
        job["provider"]["any"].as_object_mut().unwrap().shift_remove(key);
    }
    for key in ["input_tokens_per_minute", "output_tokens_per_minute"] {
        job["provider"]["any"].as_object_mut().unwrap().shift_remove(key);
    }
    job["source"].as_object_mut().unwrap().shift_remove("starting_timestamp");
    job["step"][0]["balance"] = false.into();
    for key in ["classes", "schema", "dimensions", "encoding", "examples", "prompt_file", "on_error"] {
        job["step"][0].as_object_mut().unwrap().shift_remove(key);
    }
    job["step"][0]["kind"] = "chat".into();
    job["step"][0]["max_tokens_retry"] = 2.into();
    job["step"][0]["fields"] = serde_json::json!({ "any": "int" });
    // Urgent rows go to another provider than the others.
    job["provider"]["other"] = serde_json::json!({
        "base_url": "simulator",
        "model": "any",
        "price_per_million_input": 1,
        "price_per_million_output": 1,
    });
    job["step"][0]["provider"] = serde_json::json!(["any", "other"]);
    // A batch section and a budget do not go together, and a table's rows are no query.
    let (mut without_budget, mut without_batch) = (job.clone(), job);
    without_budget["source"]["table"]["any"].as_object_mut().unwrap().shift_remove("files");
    for key in ["query", "key", "table"] {
        without_batch["source"].as_object_mut().unwrap().shift_remove(key);
    }
    let described = ["format", "schema", "header", "delimiter", "quote", "null_values"];
    for key in ["path", "starting_version", "skip_change_commits", "where"].iter().chain(&described) {
        without_budget["source"].as_object_mut().unwrap().shift_remove(*key);
    }
    without_budget.as_object_mut().unwrap().shift_remove("budget");
    without_batch["provider"]["any"].as_object_mut().unwrap().shift_remove("batch");
    without_batch["step"][0].as_object_mut().unwrap().shift_remove("urgent_when");
    for job in [without_budget, without_batch] {
        let text = toml::to_string(&job).unwrap();
        judge_text(&text).unwrap();
        let read = Job::parse(Path::new("/job.toml"), &text, |_| Some("key".to_owned()));
        assert!(read.is_ok(), "{}\n{text}", read.unwrap_err());
    }
}

#[test]
fn the_shipped_jobs_fit_the_schema_and_mistakes_do_not() {
    let quickstart = shipped().into_iter().find(|path| path.ends_with("quickstart.toml")).unwrap();
    for path in shipped() {
        let text = fs::read_to_string(&path).unwrap();
        judge_text(&text).unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
    }
    let text = fs::read_to_string(&quickstart).unwrap();
    for (from, to) in [
        ("model = ", "modle = "),
        ("[batch]", "[batches]"),
        ("times = 1", "tmies = 1"),
        ("max_rows = 20", "max_rows = 0"),
        ("max_rows = 20", "max_rows = \"20\""),
        ("max_rows = 20", "max_bytes = \"some\""),
        ("app_id = \"quickstart\"", "app_id = \"a/b\""),
        ("app_id = \"quickstart\"", ""),
        ("\"simulator\"", "\"ftp://example.com\""),
        ("\"40ms\"", "\"40\""),
        ("output = ", "temperature = 3.0\noutput = "),
        ("output = ", "null_inputs = \"drop\"\noutput = "),
        ("[provider.local]", "[other.local]"),
    ] {
        assert!(text.contains(from), "{from}");
        let wrong = text.replacen(from, to, 1);
        assert!(judge_text(&wrong).is_err(), "the schema lets {to:?} pass");
        assert!(Job::parse(&quickstart, &wrong, |_| None).is_err(), "the parser lets {to:?} pass");
    }
}

#[test]
fn an_unknown_key_is_refused_in_every_section() {
    let quickstart = shipped().into_iter().find(|path| path.ends_with("quickstart.toml")).unwrap();
    let text = fs::read_to_string(&quickstart).unwrap();
    for section in ["[source]", "[target]", "[batch]", "[provider.local]", "[[step]]", "[simulator]"] {
        let wrong = text.replacen(section, &format!("{section}\nzzz = 1"), 1);
        assert!(judge_text(&wrong).unwrap_err().contains("unknown key zzz"), "{section}");
        let error = Job::parse(&quickstart, &wrong, |_| None).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { .. }), "{section}: {error}");
    }
}

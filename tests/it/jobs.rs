//! The jobs in `config/`: what each sends, byte for byte as far as its provider looks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use enrich::config::{BatchShape, BatchesSpec, Job, SimulatorSpec};
use enrich::simulator::Simulator;
use enrich::transport::BatchApi;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::endpoint::{plain, serve};
use crate::support::{Outcome, append_delta};

const PROMPT: &str = "Summarize the following review of kettle in one sentence.\n\nIt boils.";

/// What one job has to send.
struct Expected {
    file: &'static str,
    /// What the loopback server stands in for.
    host: &'static str,
    uri: &'static str,
    /// Variable, header, and what stands before the key.
    key: Option<(&'static str, &'static str, &'static str)>,
    headers: &'static [(&'static str, &'static str)],
    body: Value,
}

const BEARER: &str = "Bearer ";

fn asked(model: &str, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": PROMPT}]});
    let Value::Object(more) = more else { panic!("{more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}

fn expected() -> Vec<Expected> {
    let usual = Expected {
        file: "",
        host: "",
        uri: "/v1/chat/completions",
        key: None,
        headers: &[],
        body: Value::Null,
    };
    vec![
        Expected {
            file: "openai.toml",
            host: "https://api.openai.com",
            key: Some(("OPENAI_API_KEY", "authorization", BEARER)),
            body: asked("gpt-6-luna", json!({"max_completion_tokens": 200, "reasoning_effort": "none"})),
            ..usual
        },
        Expected {
            file: "openai-flex.toml",
            host: "https://api.openai.com",
            key: Some(("OPENAI_API_KEY", "authorization", BEARER)),
            body: asked(
                "gpt-5-mini",
                json!({"max_completion_tokens": 400, "reasoning_effort": "minimal", "service_tier": "flex"}),
            ),
            ..usual
        },
        Expected {
            file: "openrouter.toml",
            host: "https://openrouter.ai",
            uri: "/api/v1/chat/completions",
            key: Some(("OPENROUTER_API_KEY", "authorization", BEARER)),
            headers: &[
                ("http-referer", "https://example.com/reviews"),
                ("x-openrouter-title", "Review summaries"),
            ],
            body: asked(
                "mistralai/ministral-3b-2512",
                json!({
                    "max_tokens": 200,
                    "provider": {
                        "sort": "price",
                        "require_parameters": true,
                        "data_collection": "deny",
                        "max_price": {"prompt": 0.2, "completion": 0.2},
                    },
                }),
            ),
        },
        Expected {
            file: "mistral.toml",
            host: "https://api.mistral.ai",
            key: Some(("MISTRAL_API_KEY", "authorization", BEARER)),
            body: asked("ministral-3b-2512", json!({"max_tokens": 200, "random_seed": 7})),
            ..usual
        },
        Expected {
            file: "anthropic.toml",
            host: "https://api.anthropic.com",
            key: Some(("ANTHROPIC_API_KEY", "authorization", BEARER)),
            body: json!({
                "model": "claude-haiku-5-5",
                "messages": [
                    {
                        "role": "system",
                        "content": "You summarize reviews for a buyer who has little time. \
                                    Answer with the summary alone.",
                    },
                    {"role": "user", "content": PROMPT},
                ],
                "max_tokens": 1000,
            }),
            ..usual
        },
        Expected {
            file: "azure.toml",
            host: "https://my-resource.openai.azure.com",
            uri: "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21",
            key: Some(("AZURE_OPENAI_API_KEY", "api-key", "")),
            body: asked("my-deployment", json!({"max_tokens": 200})),
            ..usual
        },
        Expected {
            file: "gemini.toml",
            host: "https://generativelanguage.googleapis.com",
            uri: "/v1beta/openai/chat/completions",
            key: Some(("GEMINI_API_KEY", "authorization", BEARER)),
            body: asked("gemini-3.5-flash-lite", json!({"max_tokens": 500, "reasoning_effort": "low"})),
            ..usual
        },
        Expected {
            file: "ollama.toml",
            host: "http://localhost:11434",
            body: asked("llama3.2", json!({"max_tokens": 200, "temperature": 0.2})),
            ..usual
        },
        Expected {
            file: "vllm.toml",
            host: "http://localhost:8000",
            body: asked(
                "Qwen/Qwen3-8B",
                json!({
                    "max_tokens": 200,
                    "temperature": 0.2,
                    "top_k": 20,
                    "chat_template_kwargs": {"enable_thinking": false},
                }),
            ),
            ..usual
        },
        Expected {
            file: "llama-cpp.toml",
            host: "http://localhost:8080",
            body: asked("model.gguf", json!({"max_tokens": 200, "temperature": 0.2, "seed": 7})),
            ..usual
        },
    ]
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every job in `config/`.
pub fn shipped() -> Vec<PathBuf> {
    let files = fs::read_dir(project().join("config")).unwrap().map(|entry| entry.unwrap().path());
    let mut jobs: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    jobs.sort();
    jobs
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// A folder with a source of one row where the jobs look for theirs.
async fn with_one_review() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let columns: [(&str, ArrayRef); 2] = [
        ("product", Arc::new(StringArray::from(vec!["kettle"]))),
        ("review", Arc::new(StringArray::from(vec!["It boils."]))),
    ];
    let source = folder.path().join("examples/data/reviews");
    append_delta(&source, &RecordBatch::try_from_iter(columns).unwrap()).await;
    fs::create_dir(folder.path().join("config")).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_sends_what_its_provider_expects() {
    let folder = with_one_review().await;
    let (url, seen, _tasks) = serve(plain).await;
    for expected in expected() {
        let file = expected.file;
        let text = fs::read_to_string(project().join("config").join(file)).unwrap();
        let address = format!("base_url = \"{}/", expected.host);
        assert_eq!(text.matches(&address).count(), 1, "{file} asks at {}", expected.host);
        let job = folder.path().join("config").join(file);
        fs::write(&job, text.replace(&address, &format!("base_url = \"{url}/"))).unwrap();

        let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
        command.arg("run").arg(&job).current_dir("/").env_remove("RUST_LOG");
        if let Some((variable, ..)) = expected.key {
            command.env(variable, "key-of-the-test");
        }
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Outcome::of(&ran).assert_status(0).assert_says("done: 1 row written, 1 answer, 0 errors");

        let mut requests = seen.take();
        assert_eq!(requests.len(), 1, "{file}");
        let (uri, headers, body) = requests.remove(0);
        assert_eq!(uri, expected.uri, "{file}");
        assert_eq!(body, expected.body, "{file}");
        let key = expected.key.map(|(_, header, before)| (header, format!("{before}key-of-the-test")));
        for header in ["authorization", "api-key"] {
            let given = headers.get(header).map(|value| value.to_str().unwrap());
            let wanted = key.as_ref().filter(|(name, _)| *name == header).map(|(_, value)| value.as_str());
            assert_eq!(given, wanted, "{file}: {header}");
        }
        for (header, value) in expected.headers {
            assert_eq!(headers[*header], *value, "{file}: {header}");
        }
        let known = ["accept", "accept-encoding", "content-length", "content-type", "host", "user-agent"];
        let named = expected.headers.iter().map(|(header, _)| *header);
        let all: BTreeSet<&str> =
            known.into_iter().chain(named).chain(key.as_ref().map(|(header, _)| *header)).collect();
        let sent: BTreeSet<&str> = headers.keys().map(axum::http::HeaderName::as_str).collect();
        assert_eq!(sent, all, "{file}: nothing else is sent");
    }
}

/// Runs a job of one review that asks through the Batch API that a simulator plays. Returns the line that it has sent.
async fn sent_in_a_batch(file: &str, host: &str, key: &str, simulator: &Simulator) -> Value {
    let folder = with_one_review().await;
    let text = fs::read_to_string(project().join("config").join(file)).unwrap();
    let text = text.replace(host, simulator.url().as_str());
    let provider = file.trim_end_matches(".toml").replace('-', "_");
    let file = folder.path().join("config").join(file);
    fs::write(&file, &text).unwrap();

    let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
    command.arg("run").arg(&file).arg("--wait");
    for set in ["poll=\"100ms\"", "keep_files=true"] {
        command.arg("--set").arg(format!("provider.{provider}.batch.{set}"));
    }
    command.env(key, "key-of-the-test").env_remove("RUST_LOG");
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    Outcome::of(&ran).assert_status(0).assert_says("done: 1 row written, 1 answer, 0 errors");

    let job = Job::parse(&file, &text, |_| Some("key-of-the-test".to_owned())).unwrap();
    let api = BatchApi::new(&job.providers[0], simulator.url()).unwrap();
    let batch = api.list(None).await.unwrap().items.remove(0);
    let sent = folder.path().join("sent.jsonl");
    api.download(&batch.input_file_id.unwrap(), &sent).await.unwrap();
    serde_json::from_str(&fs::read_to_string(sent).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_in_batches_of_other_shapes_send_lines_as_their_providers_take_them() {
    let mistral = json!({"max_tokens": 200, "random_seed": 7});
    let together = json!({"max_tokens": 200});
    let together_model = "meta-llama/Llama-3.3-70B-Instruct-Turbo";
    for (shape, host, model, fields) in [
        (BatchShape::Mistral, "https://api.mistral.ai/v1", "ministral-3b-2512", mistral),
        (BatchShape::Together, "https://api.together.xyz/v1", together_model, together),
    ] {
        let batches =
            BatchesSpec { shape, signed_uploads: shape == BatchShape::Together, ..BatchesSpec::default() };
        let spec = SimulatorSpec {
            api_key: Some("key-of-the-test".to_owned()),
            model: Some(model.to_owned()),
            batches: Some(batches),
            ..SimulatorSpec::default()
        };
        let simulator = Simulator::start(spec, 0).await.unwrap();
        let file = format!("{}-batch.toml", shape.name());
        let key = format!("{}_API_KEY", shape.name().to_uppercase());
        let sent = sent_in_a_batch(&file, host, &key, &simulator).await;
        let counts = simulator.counts();
        assert_eq!((counts.batches.created, counts.requests, counts.answered), (1, 0, 1), "{file}");
        let mut body = asked(model, fields);
        if shape == BatchShape::Mistral {
            body.as_object_mut().unwrap().remove("model");
        }
        assert_eq!(sent, json!({"custom_id": sent["custom_id"], "body": body}), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_in_batches_sends_a_file_and_what_is_left_of_it_by_itself() {
    let body = asked("gpt-5-mini", json!({"max_completion_tokens": 400, "reasoning_effort": "minimal"}));
    for (missing_lines, own_requests) in [(0.0, 0), (1.0, 1)] {
        let spec = SimulatorSpec {
            api_key: Some("key-of-the-test".to_owned()),
            model: Some("gpt-5-mini".to_owned()),
            batches: Some(BatchesSpec { missing_lines, ..BatchesSpec::default() }),
            ..SimulatorSpec::default()
        };
        let simulator = Simulator::start(spec, 0).await.unwrap();
        let host = "https://api.openai.com/v1";
        let sent = sent_in_a_batch("openai-batch.toml", host, "OPENAI_API_KEY", &simulator).await;
        let counts = simulator.counts();
        assert_eq!((counts.batches.created, counts.requests, counts.answered), (1, own_requests, 1));
        assert_eq!((&sent["url"], &sent["body"]), (&json!("/v1/chat/completions"), &body));
    }
}

#[test]
fn no_job_is_shipped_without_an_expectation() {
    // The quickstarts ask the simulator; tests of their own are in `cli`, and those of the jobs in batches are above.
    let mut known: Vec<&str> = expected().iter().map(|expected| expected.file).collect();
    known.extend(["mistral-batch.toml", "openai-batch.toml", "together-batch.toml"]);
    known.extend(["quickstart-batch.toml", "quickstart.toml"]);
    known.sort_unstable();
    assert_eq!(shipped().iter().map(|path| name(path)).collect::<Vec<_>>(), known);
}

#[test]
fn every_job_reads_the_sample_and_writes_a_table_of_its_own() {
    let mut names = BTreeSet::new();
    let mut targets = BTreeSet::new();
    for path in shipped() {
        let text = fs::read_to_string(&path).unwrap();
        let job = Job::parse(&path, &text, |_| Some("key".to_owned())).unwrap();
        assert_eq!(
            job.source.location.path().unwrap(),
            project().join("examples/data/reviews").canonicalize().unwrap()
        );
        assert!(
            job.target.location.path().unwrap().starts_with(project().join("out")),
            "{}",
            job.target.location
        );
        assert!(names.insert(job.app_id.clone()), "{} stands in two jobs", job.app_id);
        assert!(targets.insert(job.target.location.to_string()), "{}", job.target.location);
        assert!(text.starts_with("#:schema job.schema.json\n"), "{}: editors are told", name(&path));
        assert!(!text.contains("sk-"), "{}: a key", name(&path));
    }
}

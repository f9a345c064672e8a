//! Servers that share no code with the simulator: llama.cpp's own with a model of random weights, and two that others
//! test their clients against.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use enrich::config::{BatchesSpec, SimulatorSpec};
use enrich::simulator::Simulator;

use crate::packages;
use crate::support::{Outcome, World, append_delta, rows};
use crate::tables::rows_of;

/// A server in a process of its own, which ends with this value.
struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Starts a server that listens at a port, and waits until it does.
async fn at_port(mut command: Command, port: u16) -> Server {
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let server = Server { process, address: format!("http://127.0.0.1:{port}") };
    for _ in 0..600 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return server;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody listens at {port}");
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/independent").join(name)
}

/// llama.cpp's server; none where it cannot be had.
fn llama(folder: &Path, settings: &[&str]) -> Option<Server> {
    let python = packages::of_pypi("xllamacpp", "--no-deps xllamacpp==2026.10.11549")?;
    let mut command = Command::new(python);
    command.arg(script("tiny_llama.py")).arg(folder).args(settings);
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let address = address.trim().to_owned();
    assert!(address.starts_with("http://"), "llama.cpp's server does not start: {address:?}");
    Some(Server { process, address })
}

async fn world(server: &Server, count: i64, provider: &str, step: &str) -> World {
    let world = World::new(SimulatorSpec::default()).await;
    append_delta(&world.path("source"), &rows(0..count)).await;
    let job =
        world.usual_job(provider).replace("output = \"answer\"", &format!("output = \"answer\"\n{step}"));
    let at = format!("{}/v1", server.address);
    world.write_text(&job.replace(world.simulator.url().as_str().trim_end_matches('/'), &at));
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_cpp_holds_classes_and_fields_to_its_grammar_and_says_what_is_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = llama(folder.path(), &["n_parallel=4", "n_ctx=4096"]) else { return };
    // A model of random weights says nothing but what a grammar makes it say.
    for step in ["classes = [\"good\", \"bad\"]", "fields = { mood = [\"good\", \"bad\"] }"] {
        let world = world(&server, 16, "", &format!("{step}\nmax_repairs = 0\nmax_tokens = 200")).await;
        world.run(&[]).await.assert_status(0).assert_says("16 answers, 0 errors");
        let column = if step.starts_with("classes") { "answer" } else { "answer['mood']" };
        let sql = format!("SELECT COUNT(*) FROM target WHERE {column} IN ('good', 'bad')");
        assert_eq!(rows_of(&world.path("target"), &sql).await[0], ["16"]);
    }
    // A slot holds 1,024 tokens.
    let long = world(&server, 4, "", "max_tokens = 8").await;
    let text = std::fs::read_to_string(long.job()).unwrap();
    long.write_text(&text.replace("{{ text }}", "{{ text * (90 if id == 2 else 1) }}"));
    long.run(&[]).await.assert_status(0).assert_says("1 error (too_long 1)");
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_cpp_gives_vectors_and_refuses_a_wrong_key() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["n_parallel=2", "n_ctx=2048", "embedding=1", "pooling_type=MEAN", "api_keys=right"];
    let Some(server) = llama(folder.path(), &settings) else { return };
    let world = world(&server, 12, "api_key_file = \"key\"", "kind = \"embedding\"").await;
    std::fs::write(world.path("key"), "wrong").unwrap();
    world.run(&[]).await.assert_status(4).assert_says("auth: HTTP 401");
    std::fs::write(world.path("key"), "right").unwrap();
    world.run(&[]).await.assert_status(0).assert_says("12 answers, 0 errors");
    let sql = "SELECT COUNT(*) FROM target WHERE array_length(answer) = 64";
    assert_eq!(rows_of(&world.path("target"), sql).await[0], ["12"]);
}

/// aimock, which takes the key `right`; none where it cannot be had.
async fn aimock(folder: &Path, settings: impl IntoIterator<Item = &str>) -> Option<Server> {
    let package = packages::of_npm("@copilotkit/aimock", "@copilotkit/aimock@1.43.0")?;
    let fixtures = folder.join("fixtures.json");
    let fixture =
        r#"{"fixtures":[{"match":{"userMessage":"Row"},"response":{"content":"a fixture's answer"}}]}"#;
    std::fs::write(&fixtures, fixture).unwrap();
    let port = free_port();
    let mut command = Command::new(package.parent().unwrap().parent().unwrap().join(".bin/llmock"));
    command
        .args(["-p", &port.to_string(), "-f"])
        .arg(&fixtures)
        .args(settings)
        .env("AIMOCK_API_KEYS", "right");
    Some(at_port(command, port).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn aimock_in_bad_weather_answers_every_row() {
    let folder = tempfile::tempdir().unwrap();
    // It states a limit of 60 a minute with each refusal, and has none.
    let weather = ["--chaos-drop", "0.05", "--chaos-ratelimit", "0.03", "--chaos-disconnect", "0.02"];
    let weather = weather.into_iter().chain(["--chaos-malformed", "0.01"]);
    let Some(server) = aimock(folder.path(), weather).await else { return };
    let world = world(&server, 400, "api_key_file = \"key\"", "").await;
    std::fs::write(world.path("key"), "wrong").unwrap();
    world.run(&[]).await.assert_status(4).assert_says("auth: HTTP 401 invalid_api_key");
    std::fs::write(world.path("key"), "right").unwrap();
    let ran = world.run(&["--summary", "json"]).await;
    ran.assert_status(0).assert_says("400 rows written");
    // A row that gets the same malformed body twice in a row is an error, of which one in ten thousand is.
    let is_whole = ["400 answers, 0 errors", "399 answers, 1 error (invalid_response 1)"];
    assert!(is_whole.iter().any(|says| ran.stderr.contains(says)), "{}", ran.stderr);
    let summary: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        summary["providers"]["sim"]["limits"],
        serde_json::json!([]),
        "nothing holds it to 60 a minute"
    );
}

/// Lines of a provider that asks aimock through its Batch API, whose batches end as this header has it.
fn by_batch(outcome: &str) -> String {
    format!(
        "api_key_file = \"key\"\nheaders = {{ X-AIMock-Batch-Outcome = \"{outcome}\" }}\n\
         [provider.sim.batch]\npoll = \"100ms\"\nmax_requests = 40\nmax_submissions = 1"
    )
}

/// Number of rows with this answer.
async fn answered(world: &World, answer: &str) -> String {
    let sql = format!("SELECT COUNT(*) FROM target WHERE answer = '{}'", answer.replace('\'', "''"));
    rows_of(&world.path("target"), &sql).await.remove(0).remove(0)
}

/// What aimock answers to every line of a batch.
const IN_BATCH: &str = "Mock batch completion";

#[tokio::test(flavor = "multi_thread")]
async fn aimock_takes_files_of_requests_and_answers_them_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = aimock(folder.path(), []).await else { return };
    let world = world(&server, 100, &by_batch("completed"), "").await;
    std::fs::write(world.path("key"), "wrong").unwrap();
    world.run(&["--wait"]).await.assert_status(4).assert_says("auth: HTTP 401 invalid_api_key");
    std::fs::write(world.path("key"), "right").unwrap();
    let ran = world.run(&["--wait"]).await;
    ran.assert_status(0).assert_says("100 rows written").assert_says("100 answers, 0 errors");
    assert_eq!(answered(&world, IN_BATCH).await, "100");
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_aimock_ends_without_answers_are_told_or_go_on_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = aimock(folder.path(), []).await else { return };
    let failing = world(&server, 20, &by_batch("failed"), "").await;
    std::fs::write(failing.path("key"), "right").unwrap();
    failing.run(&["--wait"]).await.assert_status(4).assert_says("failed in its validation: mock_failure");
    let text = std::fs::read_to_string(failing.job()).unwrap();
    failing.write_text(&text.replace("\"failed\"", "\"completed\""));
    failing.run(&["--wait"]).await.assert_status(0).assert_says("20 answers, 0 errors");
    assert_eq!(answered(&failing, IN_BATCH).await, "20");

    for outcome in ["expired", "cancelled"] {
        let ending = world(&server, 20, &by_batch(outcome), "provider = [\"sim\", \"online\"]").await;
        std::fs::write(ending.path("key"), "right").unwrap();
        let online = format!(
            "[provider.online]\nbase_url = \"{}/v1\"\nmodel = \"simulated\"\napi_key_file = \"key\"\n",
            server.address
        );
        let text = std::fs::read_to_string(ending.job()).unwrap();
        ending.write_text(&format!("{text}{online}"));
        let ran = ending.run(&["--wait"]).await;
        ran.assert_status(0).assert_says("20 not answered").assert_says("20 answers, 0 errors");
        assert_eq!(answered(&ending, "a fixture's answer").await, "20");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn llmock_in_bad_weather_answers_every_row_that_it_can_take() {
    let Some(python) = packages::of_pypi("llmock", "llmock==0.2.2") else { return };
    let port = free_port();
    let mut command = Command::new(python.parent().unwrap().join("llmock"));
    command.args(["serve", "--port", &port.to_string(), "--response-style", "echo"]);
    command.args(["--error-rate", "500=0.05", "--error-rate", "429=0.03", "--error-rate", "503=0.02"]);
    command.args(["--context-window", "400", "--log-level", "error"]);
    let server = at_port(command, port).await;
    let world = world(&server, 300, "", "").await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("{{ text }}", "{{ text * (90 if id == 7 else 1) }}"));
    world.run(&[]).await.assert_status(0).assert_says("299 answers, 1 error (too_long 1)");
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_own_client_finds_the_simulator_to_be_as_it_expects() {
    let Some(python) = packages::of_pypi("openai", "openai>=2") else { return };
    let spec = SimulatorSpec {
        api_key: Some("right".into()),
        model: Some("gpt-test".into()),
        batches: Some(BatchesSpec::default()),
        ..SimulatorSpec::default()
    };
    let simulator = Simulator::start(spec, 0).await.unwrap();
    let mut command = Command::new(python);
    command.arg(script("openai_client.py")).args([simulator.url().as_str(), "right", "gpt-test"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = Outcome::of(&output);
    said.assert_status(0);
    assert_eq!(said.stdout.trim(), "all is as it should be");
    assert!(simulator.counts().unknown_routes.is_empty(), "{:?}", simulator.counts().unknown_routes);
}

//! `status`, `check`, `init`, `completions`, and jobs that come from the command line.

use std::fs;
use std::time::Duration;

use enrich::config::{SimulatorSpec, Span};
use enrich::simulator::Simulator;
use serde_json::Value;

use crate::retry::{refusing, with_failed};
use crate::support::{Outcome, World, append_delta, rows};

async fn call(world: &World, arguments: &[&str]) -> Outcome {
    let mut command = world.command(arguments);
    command.env_remove("OPENAI_API_KEY").env_remove("OPENAI_BASE_URL").current_dir(world.folder.path());
    Outcome::of(&world.output(command).await)
}

async fn on_job(world: &World, command: &str, more: &[&str]) -> Outcome {
    let job = world.job();
    call(world, &[&[command, job.to_str().unwrap()], more].concat()).await
}

async fn status(world: &World) -> Value {
    let shown = on_job(world, "status", &["--format", "json"]).await;
    serde_json::from_str(&shown.assert_status(0).stdout).unwrap()
}

/// Takes out what differs from run to run.
fn steady(text: &str, world: &World) -> String {
    let text = text.replace(world.folder.path().to_str().unwrap(), "[folder]");
    let text = text.replace(world.simulator.url().as_str().trim_end_matches('/'), "[simulator]");
    let number =
        regex::Regex::new(r"process \d+|answered in \d+ ms|\d+\.\d+ KiB|[0-9a-f]{8}-[0-9a-f-]{27}").unwrap();
    let text = number.replace_all(&text, "[…]");
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d( UTC|Z)").unwrap();
    time.replace_all(&text, "[time]").into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_follows_a_job_through_its_life() {
    let world = World::with_rows(30, 3).await;
    let fresh = status(&world).await;
    assert_eq!((&fresh["target"], &fresh["last_run"]), (&Value::Null, &Value::Null));
    assert_eq!(fresh["source"], serde_json::json!({"versions": 4, "files": 3, "rows": 30}));
    assert!(!world.path("target").exists(), "looking changes nothing");

    let world = with_failed(30, 3, refusing([3, 17], 413, "x")).await;
    append_delta(&world.path("source"), &rows(30..42)).await;
    let behind = status(&world).await;
    assert_eq!(behind["source"], serde_json::json!({"versions": 1, "files": 1, "rows": 12}));
    assert_eq!(behind["target"]["rows"], 30);
    assert_eq!(behind["target"]["failed"][0]["class"], "too_large");
    assert_eq!(behind["last_run"]["end"], "complete");
    assert_eq!(behind["last_run"]["errors"]["too_large"], 2);
    assert_eq!((&behind["running"], &behind["journal_bytes"]), (&Value::Null, &0.into()));
    insta::assert_snapshot!("status", steady(&on_job(&world, "status", &[]).await.stdout, &world));

    // Killed in the middle of its calls.
    let fault = [("ENRICH_FAULT", "journal-append.after=kill@5")];
    assert_eq!(world.run_with(&[], &fault).await.status, None);
    let killed = status(&world).await;
    assert_eq!(killed["open_batches"][0]["rows"], 10);
    assert!(killed["journal_bytes"].as_u64().unwrap() > 0);
    assert_eq!((&killed["last_run"]["ended"], &killed["running"]), (&Value::Null, &Value::Null));
    on_job(&world, "status", &[]).await.assert_status(0);
    insta::assert_snapshot!("status_killed", steady(&on_job(&world, "status", &[]).await.stdout, &world));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_who_runs_the_job_and_stands_in_nobodys_way() {
    let world = World::with_rows(40, 1).await;
    let slow = SimulatorSpec { latency: Some(Span(Duration::from_millis(100))), ..SimulatorSpec::default() };
    let slow = Simulator::start(slow, 0).await.unwrap();
    world.write_text(&world.usual_job("").replace(world.simulator.url().as_str(), slow.url().as_str()));
    let mut running = world.command(&["run", world.job().to_str().unwrap(), "--quiet"]).spawn().unwrap();
    while slow.counts().requests == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let busy = status(&world).await;
    assert!(busy["running"].as_str().unwrap().contains(&format!("process {}", running.id())));
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(status(&world).await["running"], Value::Null);
    // Somebody looks all the time while a run begins.
    let mut looking = tokio::task::JoinSet::new();
    let folder = world.path("target/_checkpoints/test");
    looking.spawn(async move {
        loop {
            let _ = enrich::checkpoint::Lock::holder(&folder);
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..5 {
        world.run(&["--max-rows", "1"]).await.assert_status(0);
    }
    looking.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_shows_all_that_a_run_looks_at_and_changes_nothing() {
    let world = World::with_rows(12, 1).await;
    let fine = on_job(&world, "check", &["--live"]).await;
    insta::assert_snapshot!("check", steady(&fine.assert_status(0).stdout, &world));
    assert!(!world.path("target").exists());
    assert_eq!(world.simulator.counts().requests, 1, "one tiny request");
    world.run(&[]).await.assert_status(0);
    on_job(&world, "check", &[]).await.assert_status(0);

    world.write_text(&world.usual_job("").replace("{{ text }}", "{{ txt }}"));
    let wrong = on_job(&world, "check", &[]).await;
    assert!(wrong.assert_status(2).stdout.contains("wrong   templates:"), "{}", wrong.stdout);
    world.write_text(&world.usual_job("").replace("\"source\"", "\"nowhere\""));
    let wrong = on_job(&world, "check", &[]).await;
    assert!(wrong.assert_status(2).stdout.contains("wrong   source:"), "{}", wrong.stdout);

    let refused = SimulatorSpec { api_key: Some("another".into()), ..SimulatorSpec::default() };
    let refused = Simulator::start(refused, 0).await.unwrap();
    world.write_text(&world.usual_job("").replace(world.simulator.url().as_str(), refused.url().as_str()));
    on_job(&world, "check", &[]).await.assert_status(0);
    let wrong = on_job(&world, "check", &["--live"]).await;
    assert!(
        wrong.assert_status(4).stdout.contains("wrong   provider sim: provider sim: auth"),
        "{}",
        wrong.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_misses_files_of_the_target_that_were_deleted() {
    let world = World::with_rows(40, 1).await;
    world.run(&[]).await.assert_status(0);
    let fine = on_job(&world, "check", &[]).await;
    let says = "ok      target files: 4 in the log, all on the disk";
    assert!(fine.assert_status(0).stdout.contains(says), "{}", fine.stdout);
    let path = world.path("target");
    let files = enrich::table::Table::open(&path).await.unwrap().files().unwrap();
    for file in &files[1..3] {
        fs::remove_file(path.join(&file.path)).unwrap();
    }
    let wrong = on_job(&world, "check", &[]).await;
    let says = format!(
        "wrong   target files: of 4 data files of the target {}, 2 are not on the disk",
        path.display()
    );
    assert!(wrong.assert_status(1).stdout.contains(&says), "{}", wrong.stdout);
    let named = files[1..3].iter().any(|file| wrong.stdout.contains(&format!("for example {}", file.path)));
    assert!(named && wrong.stdout.contains("bring them back from a backup"), "{}", wrong.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_keeps_what_is_intact_and_says_what_it_did() {
    let world = World::with_rows(30, 1).await;
    on_job(&world, "check", &["--repair"]).await.assert_status(0);
    assert!(!world.path("target").exists());
    let fault = [("ENRICH_FAULT", "journal-append.after=kill@9")];
    assert_eq!(world.run_with(&[], &fault).await.status, None);
    crate::soak::settle(&world).await;
    let answered = world.simulator.counts().answered;

    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&checkpoint, bytes).unwrap();
    let journal = world.path("target/_checkpoints/test/journal/0000000000.journal");
    let written = enrich::journal::read_all(&journal).unwrap().len();
    let mut bytes = fs::read(&journal).unwrap();
    // Within the answer of the first record.
    bytes[54 + 12 + 100] ^= 1;
    fs::write(&journal, bytes).unwrap();

    world.run(&[]).await.assert_status(1).assert_says("is damaged");
    let wrong = on_job(&world, "check", &[]).await;
    assert!(wrong.assert_status(1).stdout.contains("wrong   checkpoint:"), "{}", wrong.stdout);
    assert!(wrong.stdout.contains("wrong   journal:"), "{}", wrong.stdout);
    let mended = on_job(&world, "check", &["--repair"]).await;
    mended.assert_status(0);
    assert!(mended.stdout.contains("put the damaged checkpoint aside"), "{}", mended.stdout);
    let kept = format!("kept {} answers of the damaged journal", written - 1);
    assert!(mended.stdout.contains(&kept), "{kept}: {}", mended.stdout);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
    let paid_again = world.simulator.counts().answered - 30;
    assert!(paid_again <= 1 + 4, "{paid_again} of {answered} were paid again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_made_by_init_passes_the_check_and_runs() {
    let world = World::with_rows(12, 1).await;
    let usual = [
        "init",
        "made.toml",
        "--source",
        "source",
        "--task",
        "Say \"what\" it is.",
        "--provider",
        "simulator",
    ];
    call(&world, &[&usual[..], &["--column", "txt"]].concat())
        .await
        .assert_status(2)
        .assert_says("did you mean \"text\"?");
    assert!(!world.path("made.toml").exists());
    call(&world, &usual).await.assert_status(2).assert_says("--column is missing");
    let arguments = [&usual[..], &["--column", "text"]].concat();
    call(&world, &arguments).await.assert_status(0).assert_says("next: enrich check made.toml --live");
    insta::assert_snapshot!("init", fs::read_to_string(world.path("made.toml")).unwrap());
    call(&world, &["check", "made.toml", "--live"]).await.assert_status(0);
    call(&world, &["run", "made.toml"]).await.assert_status(0).assert_says("12 answers");
    call(&world, &arguments).await.assert_status(2).assert_says("is there already");
    for provider in
        ["openai", "openrouter", "mistral", "anthropic", "azure", "gemini", "ollama", "vllm", "llama-cpp"]
    {
        let named = format!("{provider}.toml");
        let arguments =
            ["init", &named, "--source", "source", "--column", "text", "--task", "x", "--provider", provider];
        call(&world, &[&arguments[..], &["--model", "my-model"]].concat()).await.assert_status(0);
        let job = enrich::config::Job::load_without_keys(&world.path(&named)).unwrap();
        assert_eq!((job.providers.len(), job.providers[0].model.as_str()), (1, "my-model"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_needs_no_job_file_and_leaves_one_for_what_comes_after() {
    let world = World::with_rows(12, 1).await;
    let url = world.simulator.url().to_string();
    let direct = [
        "run",
        "--source",
        "source",
        "--target",
        "target",
        "--prompt",
        "Say something about:\n{{ text }}",
        "--model",
        "m",
        "--app-id",
        "test",
        "--output-column",
        "answer",
        "--base-url",
        &url,
    ];
    call(&world, &direct).await.assert_status(0).assert_says("12 answers");
    world.assert_target(0..12).await;
    call(&world, &direct).await.assert_status(0).assert_says("nothing to do");
    let job = world.path("target/_checkpoints/test/job.toml");
    call(&world, &["errors", job.to_str().unwrap()]).await.assert_status(0).assert_says("0 failed rows");
    call(&world, &["run", "--source", "source"]).await.assert_status(2).assert_says("--prompt <TEMPLATE>");
    call(&world, &["run"]).await.assert_status(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_can_be_set_on_the_command_line() {
    let world = World::with_rows(12, 1).await;
    world.write_text(&world.usual_job("").replace("simulated", "unheard-of"));
    let set = ["--set", "batch.max_rows=5", "--set", "provider.sim.model=simulated"];
    world.run(&set).await.assert_status(0);
    assert_eq!(world.target().await.iter().map(|row| row.batch).max(), Some(2));
    world.run(&["--set", "provider.sim.modle=x"]).await.assert_status(2).assert_says("did you mean `model`?");
    world.run(&["--set", "batch.max_rows=0"]).await.assert_status(2).assert_says("`batch.max_rows` is 0");
    world.run(&["--set", "batch"]).await.assert_status(2).assert_says("write it as KEY=VALUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_can_complete_commands() {
    let world = World::new(SimulatorSpec::default()).await;
    for shell in ["bash", "zsh", "fish"] {
        let script = call(&world, &["completions", shell]).await;
        assert!(script.assert_status(0).stdout.contains("retry"), "{shell}");
    }
}

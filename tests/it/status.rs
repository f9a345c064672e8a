//! `status`: what it says of a job through its life.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use enrich::config::SimulatorSpec;
use enrich::simulator::{Gate, Simulator};
use serde_json::Value;

use crate::support::{World, append_delta, refusals, rows, steady, wait};

async fn status(world: &World) -> Value {
    let shown = world.on_job("status", &["--format", "json"]).await;
    serde_json::from_str(&shown.assert_status(0).stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_follows_a_job_through_its_life() {
    let world = World::with_rows(30, 3).await;
    let fresh = status(&world).await;
    assert_eq!((&fresh["target"], &fresh["last_run"]), (&Value::Null, &Value::Null));
    assert_eq!(fresh["source"], serde_json::json!({"versions": 4, "files": 3, "rows": 30}));
    assert!(!world.path("target").exists(), "looking changes nothing");

    let world = World::with_failed(30, 3, refusals([3, 17], 413, "x")).await;
    append_delta(&world.path("source"), &rows(30..42)).await;
    let behind = status(&world).await;
    assert_eq!(behind["source"], serde_json::json!({"versions": 1, "files": 1, "rows": 12}));
    assert_eq!(behind["target"]["rows"], 30);
    assert_eq!(behind["target"]["failed"][0]["class"], "too_large");
    assert_eq!(behind["last_run"]["end"], "complete");
    assert_eq!(behind["last_run"]["errors"]["too_large"], 2);
    assert_eq!((&behind["running"], &behind["journal_bytes"]), (&Value::Null, &0.into()));
    insta::assert_snapshot!("status", steady(&world.on_job("status", &[]).await.stdout, &world));

    // Killed in the middle of its calls, before which everything is planned.
    let held = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    held.set_gate(Gate::ShutFrom(2));
    world.write_text(&world.job_at(&held));
    let mut command = world.job_command("run", &[]);
    let child = command.env("ENRICH_FAULT", "journal-append.after=kill@5").stderr(Stdio::null()).spawn();
    while status(&world).await["source"]["rows"] != 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    held.set_gate(Gate::Open);
    assert_eq!(wait(child.unwrap()).await.status, None);
    let killed = status(&world).await;
    assert_eq!(killed["open_batches"][0]["rows"], 10);
    let answered: u64 = killed["open_batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|open| open["answered"].as_u64().unwrap())
        .sum();
    // Those that came with the fifth are in one write with it.
    assert!((1..=8).contains(&answered), "{answered} rows are in the journal");
    assert_eq!((&killed["source"]["rows"], &killed["next"]), (&0.into(), &"run".into()));
    assert!(killed["journal_bytes"].as_u64().unwrap() > 0);
    assert_eq!((&killed["last_run"]["ended"], &killed["running"]), (&Value::Null, &Value::Null));
    let shown = world.on_job("status", &["--set", "batch.max_rows=10"]).await;
    let shown = steady(&shown.assert_status(0).stdout, &world);
    let open = regex::Regex::new(r"\d+ batch.* to be sent").unwrap();
    insta::assert_snapshot!("status_killed", open.replace(&shown, "[open batches]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_who_runs_the_job_and_stands_in_nobodys_way() {
    let world = World::with_rows(40, 1).await;
    world.simulator.set_gate(Gate::ShutFrom(1));
    let mut running = world.job_command("run", &["--quiet"]).spawn().unwrap();
    world.until_requests(1).await;
    let busy = status(&world).await;
    assert!(busy["running"].as_str().unwrap().contains(&format!("process {}", running.id())));
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(status(&world).await["running"], Value::Null);
    world.simulator.set_gate(Gate::Open);
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
async fn the_status_says_what_to_do_next_until_all_is_well() {
    let world = World::with_failed(20, 2, refusals([3, 17], 413, "x")).await;
    assert_eq!(status(&world).await["next"], "errors");
    let job = world.job().display().to_string();
    let shown = world.on_job("status", &["--set", "max_error_rate=1"]).await;
    let next = format!("next:       enrich errors {job} --set max_error_rate=1 --summary\n");
    assert!(shown.assert_status(0).stdout.ends_with(&next), "{}", shown.stdout);
    world.on_job("retry", &["--max-duration", "1ns"]).await.assert_status(0);
    let cut = status(&world).await;
    assert_eq!(
        (&cut["last_retry"]["end"], &cut["last_run"]["end"]),
        (&"max_duration".into(), &"complete".into())
    );
    world.on_job("retry", &[]).await.assert_status(0);
    let mended = status(&world).await;
    assert_eq!(
        (&mended["last_retry"]["end"], &mended["last_retry"]["rows"]),
        (&"complete".into(), &2.into())
    );
    assert_eq!((&mended["next"], &mended["checkpoint"]), (&Value::Null, &"good".into()));
    insta::assert_snapshot!("status_well", steady(&world.on_job("status", &[]).await.stdout, &world));
    append_delta(&world.path("source"), &rows(20..21)).await;
    assert_eq!(status(&world).await["next"], "run");
    fs::remove_dir_all(world.path("source")).unwrap();
    assert_eq!(status(&world).await["next"], "check");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_was_cut_short_is_seen() {
    let world = World::with_failed(20, 2, refusals([3, 17], 413, "x")).await;
    let mut command = world.job_command("retry", &[]);
    command.env("ENRICH_FAULT", "journal-append.after=kill@1");
    assert_eq!(world.output(command).await.status.code(), None);
    let killed = status(&world).await;
    assert_eq!((&killed["last_retry"]["ended"], &killed["next"]), (&Value::Null, &"retry".into()));
    assert_eq!(killed["open_retry_batches"][0]["rows"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_batches_are_not_open_whatever_the_checkpoint_still_says() {
    let world = World::with_rows(20, 1).await;
    let fault = [("ENRICH_FAULT", "delta-commit.after=kill@2")];
    assert_eq!(world.run_with(&[], &fault).await.status, None);
    let killed = status(&world).await;
    assert_eq!(killed["open_batches"], serde_json::json!([]));
    assert_eq!((&killed["source"]["rows"], &killed["next"]), (&0.into(), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_checkpoint_the_lag_is_what_the_target_tells() {
    let world = World::with_rows(20, 2).await;
    world.run(&[]).await.assert_status(0);
    let old = fs::read(world.path("target/_checkpoints/test/checkpoint.json")).unwrap();
    append_delta(&world.path("source"), &rows(20..35)).await;
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    for (lost, state) in [(None, "missing"), (Some(old), "old")] {
        let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
        match lost {
            None => fs::remove_file(checkpoint).unwrap(),
            Some(old) => fs::write(checkpoint, old).unwrap(),
        }
        let shown = status(&world).await;
        assert_eq!((&shown["checkpoint"], &shown["next"]), (&state.into(), &"run".into()));
        assert_eq!(shown["source"]["rows"], 5);
    }
    let shown = world.on_job("status", &[]).await;
    assert!(shown.stdout.contains("checkpoint  older than the target"), "{}", shown.stdout);
    world.run(&[]).await.assert_status(0);
    assert_eq!(status(&world).await["checkpoint"], "good");
    world.assert_target(0..35).await;
}

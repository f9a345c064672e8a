//! Jobs whose rows go through a provider's Batch API: submitted, waited for over several runs, collected and committed.

use std::time::Duration;

use enrich::config::{BatchFailure, BatchesSpec, FaultSpec, SimulatorSpec, Span, WrongForm};
use enrich::simulator::answer_to;
use serde_json::Value;

use crate::support::{Setup, World, prompt_of};

const BATCH: &str = "[provider.sim.batch]\npoll = \"100ms\"\nrecreate_after = \"1s\"";

fn spec(batches: BatchesSpec) -> SimulatorSpec {
    SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() }
}

/// A job of some rows in batches of ten, with a section for the Batch API.
async fn world(rows: i64, batches: BatchesSpec, section: &str) -> World {
    World::of(Setup { simulator: spec(batches), rows, provider: section, ..Setup::default() }).await
}

/// Runs until nothing waits any more; how many runs that took.
async fn run_to_the_end(world: &World) -> u32 {
    for runs in 1..200 {
        let run = world.run(&["--summary", "json"]).await;
        run.assert_status(0);
        let summary: Value = serde_json::from_str(&run.stdout).unwrap();
        if summary["end"] != "waiting" {
            assert_eq!(summary["end"], "complete", "{}", run.stderr);
            return runs;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it waits for ever");
}

/// Every row has the answer to its own prompt, and was paid for once.
async fn assert_answered_once(world: &World, rows: i64) {
    world.assert_target(0..rows).await;
    for row in world.target().await {
        assert_eq!(row.answer.as_deref(), Some(&*answer_to(&prompt_of(row.id))), "row {}", row.id);
    }
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (u64::try_from(rows).unwrap(), 0));
    assert_eq!(counts.requests, 0, "no row was asked by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_out_in_one_run_and_come_back_in_another() {
    let takes = Some(Span(Duration::from_millis(800)));
    let world = world(25, BatchesSpec { takes, ..BatchesSpec::default() }, BATCH).await;
    let first = world.run(&[]).await;
    first
        .assert_status(0)
        .assert_says("submitted   25 rows to sim")
        .assert_says("done for now: 25 rows are at sim in 1 batch");
    assert!(world.target().await.is_empty());
    assert_eq!(world.simulator.counts().batches.created, 1);
    assert!(run_to_the_end(&world).await > 1);
    assert_answered_once(&world, 25).await;
    assert_eq!(world.simulator.counts().batches.created, 1);
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_can_only_wait_reads_no_row() {
    let takes = Some(Span(Duration::from_millis(1_500)));
    let world = world(25, BatchesSpec { takes, ..BatchesSpec::default() }, BATCH).await;
    world.run(&[]).await.assert_status(0).assert_says("done for now");
    let files = || {
        let source = std::fs::read_dir(world.path("source")).unwrap().map(|entry| entry.unwrap().path());
        source.filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    let hidden = |file: &std::path::Path| file.with_extension("hidden");
    files().iter().for_each(|file| std::fs::rename(file, hidden(file)).unwrap());
    world.run(&[]).await.assert_status(0).assert_says("done for now: 25 rows are at sim");
    // A changed prompt is another question: the rows are read.
    let changed = ["--set", "step.0.prompt=\"Say little about {{ text }}\""];
    assert_ne!(world.run(&changed).await.status, Some(0));
    files().iter().for_each(|file| std::fs::rename(file, file.with_extension("parquet")).unwrap());
    world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
    assert_answered_once(&world, 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_stays_until_everything_is_there() {
    let takes = Some(Span(Duration::from_millis(300)));
    let section = format!("{BATCH}\nmax_requests = 12");
    let world = world(100, BatchesSpec { takes, ..BatchesSpec::default() }, &section).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("100 rows written");
    assert_answered_once(&world, 100).await;
    assert_eq!(world.simulator.counts().batches.created, 9, "files of twelve rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_answered_goes_again() {
    let batches = BatchesSpec {
        expired_lines: 0.3,
        missing_lines: 0.1,
        status_zero_lines: 0.05,
        throttled_lines: 0.1,
        twice_lines: 0.1,
        foreign_lines: 0.1,
        ..BatchesSpec::default()
    };
    let section = format!("{BATCH}\nmax_submissions = 100");
    let world = world(200, batches, &section).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("200 rows written");
    assert_answered_once(&world, 200).await;
    assert!(world.simulator.counts().batches.created > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_creation_is_looked_for_and_not_made_twice() {
    let batches = BatchesSpec { lost_creations: 0.7, lost_uploads: 0.5, ..BatchesSpec::default() };
    let section = format!("{BATCH}\nmax_requests = 20");
    let world = world(100, batches, &section).await;
    let run = world.run(&["--wait"]).await;
    run.assert_status(0).assert_says("was lost");
    assert_answered_once(&world, 100).await;
    let counts = world.simulator.counts().batches;
    assert_eq!(counts.created, 5);
    assert!(counts.by_id.values().all(|made| *made == 1), "{:?}", counts.by_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_never_answered_goes_to_the_next_provider() {
    let batches = BatchesSpec { missing_lines: 1.0, ..BatchesSpec::default() };
    let sections = "[provider.online]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\n";
    let setup = Setup {
        simulator: spec(batches),
        rows: 15,
        provider: BATCH,
        step: "provider = [\"sim\", \"online\"]",
        sections,
        ..Setup::default()
    };
    let world = World::of(setup).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("15 rows written");
    world.assert_target(0..15).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.answered, counts.batches.created), (15, 15, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_an_error_row_and_the_others_are_answered() {
    let fault = FaultSpec {
        contains: Some("Row 3 ".into()),
        status: Some(400),
        code: Some("content_filter".into()),
        ..crate::support::fault()
    };
    let simulator = SimulatorSpec { faults: vec![fault], ..spec(BatchesSpec::default()) };
    let world = World::of(Setup { simulator, rows: 25, provider: BATCH, ..Setup::default() }).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
    let target = world.target().await;
    let failed: Vec<i64> = target.iter().filter(|row| row.error_count > 0).map(|row| row.id).collect();
    assert_eq!((target.len(), failed), (25, vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_costs_nothing() {
    let points = ["spool", "upload", "batch-create", "download", "collect", "delta-commit"];
    let mut kills: Vec<(String, u32)> = points
        .iter()
        .flat_map(|point| ["before", "after"].map(|side| (format!("{point}.{side}"), 1)))
        .collect();
    for nth in 1..6 {
        kills.extend(["before", "after"].map(|side| (format!("submission-save.{side}"), nth)));
    }
    for (point, nth) in kills {
        let world = world(25, BatchesSpec::default(), BATCH).await;
        let fault = format!("{point}=kill@{nth}");
        let killed = world.run_with(&["--wait"], &[("ENRICH_FAULT", &fault)]).await;
        assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
        world.run(&["--wait"]).await.assert_status(0);
        assert_answered_once(&world, 25).await;
        let counts = world.simulator.counts().batches;
        assert!(counts.by_id.values().all(|made| *made == 1), "{fault}: {:?}", counts.by_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_does_not_go_with_is_refused_before_anything_is_sent() {
    let world = world(5, BatchesSpec::default(), BATCH).await;
    let job = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&job.replace("recreate_after = \"1s\"", "max_requests = 0"));
    world.run(&[]).await.assert_status(2).assert_says("provider.sim.batch.max_requests");
    assert_eq!(world.simulator.counts().batches.uploads, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_stops_the_run_and_costs_no_row_anything() {
    let failure = BatchFailure { code: Some("invalid_request".into()), line: None, times: Some(4) };
    let world = world(25, BatchesSpec { failure: Some(failure), ..BatchesSpec::default() }, BATCH).await;
    for _ in 0..4 {
        let run = world.run(&["--wait"]).await;
        run.assert_status(4).assert_says("failed in its validation: invalid_request");
        assert_eq!(world.simulator.counts().answered, 0);
    }
    world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
    assert_answered_once(&world, 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_takes_no_such_file_stops_the_run_with_what_to_do() {
    let small =
        BatchesSpec { max_bytes: Some(serde_json::from_str("100").unwrap()), ..BatchesSpec::default() };
    for (batches, advice) in [
        (None, "whether the provider has a Batch API of this shape"),
        (Some(small), "lower max_bytes of its section batch"),
    ] {
        let simulator = SimulatorSpec { batches, ..SimulatorSpec::default() };
        let world = World::of(Setup { simulator, rows: 5, provider: BATCH, ..Setup::default() }).await;
        world.run(&["--wait"]).await.assert_status(4).assert_says(advice);
        let counts = world.simulator.counts();
        assert_eq!((counts.answered, counts.batches.created), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_check_asks_for_the_batch_api_too() {
    let world = world(5, BatchesSpec::default(), BATCH).await;
    let found = world.on_job("check", &["--live"]).await;
    found.assert_status(0);
    assert!(found.stdout.contains("its Batch API answered, with 0 batches in its list"), "{}", found.stdout);
    let world = World::of(Setup { rows: 5, provider: BATCH, ..Setup::default() }).await;
    let found = world.on_job("check", &["--live"]).await;
    assert!(found.stdout.contains("provider sim, batches: "), "{} {}", found.stdout, found.stderr);
    assert_ne!(found.status, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_deleted_when_their_rows_are_in_the_table() {
    let world = world(25, BatchesSpec::default(), BATCH).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
    assert_eq!(world.simulator.counts().batches.files, 0);
    let keeping = self::world(5, BatchesSpec::default(), &format!("{BATCH}\nkeep_files = true")).await;
    keeping.run(&["--wait"]).await.assert_status(0);
    assert_eq!(keeping.simulator.counts().batches.files, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_answer_is_repaired_in_the_next_batch() {
    let wrong = FaultSpec { wrong: Some(WrongForm::Prose), times: Some(1), ..crate::support::fault() };
    let simulator = SimulatorSpec { faults: vec![wrong], ..spec(BatchesSpec::default()) };
    // An answer that is not valid is an answer all the same: the one batch that a row may be in without one is left.
    let section = format!("{BATCH}\nmax_submissions = 1");
    let step = "fields = { mood = [\"good\", \"bad\"] }";
    let world = World::of(Setup { simulator, rows: 15, provider: &section, step, ..Setup::default() }).await;
    let run = world.run(&["--wait", "--summary", "json"]).await;
    run.assert_status(0);
    let summary: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&summary["end"], &summary["errors"]),
        (&"complete".into(), &serde_json::json!({})),
        "{summary}"
    );
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.batches.created), (30, 2));
}

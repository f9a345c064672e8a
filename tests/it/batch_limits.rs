//! What a provider takes in batches at the same time, and batches that fail in its validation.

use std::collections::BTreeSet;
use std::time::Duration;

use enrich::config::{BatchFailure, BatchShape, BatchesSpec, FaultSpec, SimulatorSpec, Span};
use enrich::simulator::answer_to;

use crate::support::{Setup, World, append_delta, fault, prompt_of, rows};

const BATCH: &str = "[provider.sim.batch]\npoll = \"20ms\"\nrecreate_after = \"1s\"\nfirst_requests = 0";

async fn world_with(faults: Vec<FaultSpec>, rows: i64, batches: BatchesSpec, section: &str) -> World {
    let simulator = SimulatorSpec { batches: Some(batches), faults, ..SimulatorSpec::default() };
    World::of(Setup { simulator, rows, provider: section, ..Setup::default() }).await
}

async fn world(rows: i64, batches: BatchesSpec, section: &str) -> World {
    world_with(Vec::new(), rows, batches, section).await
}

/// Every row is in the table with the answer to its own prompt, except those with an error; their number.
async fn answered(world: &World, rows: i64) -> usize {
    let target = world.target().await;
    let ids: BTreeSet<i64> = target.iter().map(|row| row.id).collect();
    assert_eq!((ids, target.len() as i64), ((0..rows).collect(), rows));
    let mut failed = 0;
    for row in target {
        let answer = row.answer.unwrap();
        assert!(!answer.starts_with("ERROR:") || answer.contains("failed in its validation"), "{answer}");
        if answer.starts_with("ERROR:") {
            failed += 1;
        } else {
            assert_eq!(answer, answer_to(&prompt_of(row.id)));
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_batch_of_a_model_is_small_and_the_others_wait_for_its_validation() {
    let section = BATCH.replace("first_requests = 0", "first_requests = 7\nmax_requests = 50");
    let validation = Some(Span(Duration::from_millis(300)));
    let world = world(100, BatchesSpec { validation, ..BatchesSpec::default() }, &section).await;
    let waits = world.run(&[]).await;
    waits.assert_status(0).assert_says("7 rows to sim").assert_says("50 rows to sim");
    world.run(&["--wait"]).await.assert_status(0);
    assert_eq!((answered(&world, 100).await, world.simulator.counts().batches.created), (0, 3));
    // What has come through once is known.
    append_delta(&world.path("source"), &rows(100..160)).await;
    world.run(&["--wait"]).await.assert_status(0);
    assert_eq!((answered(&world, 160).await, world.simulator.counts().batches.created), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_model_costs_one_small_file() {
    let section = BATCH.replace("first_requests = 0", "first_requests = 5");
    let batches = BatchesSpec::default();
    let simulator = SimulatorSpec {
        batches: Some(batches),
        model: Some("another".to_owned()),
        ..SimulatorSpec::default()
    };
    let world = World::of(Setup { simulator, rows: 60, provider: &section, ..Setup::default() }).await;
    let stops = world.run(&["--wait"]).await;
    stops.assert_status(4).assert_says("model_not_found");
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.created, counts.answered), (1, 0));
    world.run(&["--wait", "--set", "provider.sim.model=another"]).await.assert_status(0);
    assert_eq!(answered(&world, 60).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_a_model_that_is_asked_no_longer_do_not_stop_the_run() {
    let validation = Some(Span(Duration::from_secs(5)));
    let simulator = SimulatorSpec {
        batches: Some(BatchesSpec { validation, ..BatchesSpec::default() }),
        model: Some("another".to_owned()),
        ..SimulatorSpec::default()
    };
    let section = format!("{BATCH}\nmax_requests = 20");
    let world = World::of(Setup { simulator, rows: 60, provider: &section, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("done for now: 60 rows are at sim in 3 batches");
    let run = world.run(&["--wait", "--set", "provider.sim.model=another"]).await;
    run.assert_status(0).assert_says("model_not_found").assert_says("is another model by now");
    assert_eq!((answered(&world, 60).await, world.simulator.counts().batches.created), (0, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_enqueued_tokens_is_learned_however_a_provider_states_it() {
    let takes = Some(Span(Duration::from_secs(1)));
    for (shape, refuses_enqueued) in [
        (BatchShape::Openai, true),
        (BatchShape::Together, false),
        (BatchShape::Together, true),
        (BatchShape::Mistral, false),
    ] {
        let batches = BatchesSpec {
            shape,
            refuses_enqueued,
            enqueued_tokens: Some(1_200),
            takes,
            ..BatchesSpec::default()
        };
        let section = format!("{BATCH}\nmax_requests = 20\nshape = \"{}\"", shape.name());
        let world = world(60, batches, &section).await;
        let run = world.run(&["--wait"]).await;
        run.assert_status(0).assert_says("too many tokens in its batches").assert_says("60 rows written");
        let (failed, counts) = (answered(&world, 60).await, world.simulator.counts());
        assert_eq!((failed, counts.answered, counts.paid_again()), (0, 60, 0), "{shape:?}");
        let refusals = run.stderr.matches("too many tokens in its batches").count();
        assert!(refusals <= 3, "{shape:?}: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_on_enqueued_tokens_is_learned_and_kept_to() {
    let takes = Some(Span(Duration::from_millis(100)));
    let batches = BatchesSpec { enqueued_tokens: Some(1_000), takes, ..BatchesSpec::default() };
    let section = format!("{BATCH}\nmax_requests = 20");
    let world = world(300, batches, &section).await;
    let run = world.run(&["--wait"]).await;
    run.assert_status(0).assert_says("too many tokens in its batches").assert_says("300 rows written");
    assert_eq!(answered(&world, 300).await, 0);
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (300, 0));
    let failed = counts.batches.created - counts.batches.by_id.len() as u64;
    assert_eq!(failed, 0, "each submission is made once: {:?} {}", counts.batches.by_id, run.stderr);
    let stated = format!("{section}\nenqueued_tokens = 300");
    let job = std::fs::read_to_string(world.job()).unwrap().replace(&section, &stated);
    assert!(job.contains("enqueued_tokens"));
    world.write_text(&job);
    append_delta(&world.path("source"), &rows(300..400)).await;
    let run = world.run(&["--wait"]).await;
    run.assert_status(0);
    assert!(!run.stderr.contains("too many tokens"), "{}", run.stderr);
    assert_eq!(answered(&world, 400).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_refused_fails_its_row_and_the_others_go_again() {
    let bad = FaultSpec { contains: Some("Row 17 ".to_owned()), status: Some(400), ..fault() };
    let batches = BatchesSpec { bad_line_fails_file: true, ..BatchesSpec::default() };
    let world = world_with(vec![bad], 40, batches, BATCH).await;
    let run = world.run(&["--wait"]).await;
    run.assert_status(0).assert_says("refuses 1 row of");
    assert_eq!((answered(&world, 40).await, world.simulator.counts().batches.created), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_that_nobody_names_is_found_by_halving() {
    let bad = FaultSpec { contains: Some("Row 17 ".to_owned()), status: Some(400), ..fault() };
    let batches = BatchesSpec { bad_line_fails_file: true, hides_errors: true, ..BatchesSpec::default() };
    let world = world_with(vec![bad], 64, batches, BATCH).await;
    let run = world.run(&["--wait"]).await;
    run.assert_status(0).assert_says("go out again in two files");
    assert_eq!(answered(&world, 64).await, 1);
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (63, 0));
    assert!(counts.batches.created <= 1 + 2 * 6, "{} batches", counts.batches.created);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_all_fail_without_a_word_stop_the_run() {
    let failure = BatchFailure { code: None, line: None, times: None };
    let batches = BatchesSpec { failure: Some(failure), hides_errors: true, ..BatchesSpec::default() };
    let world = world(64, batches, BATCH).await;
    world.run(&["--wait"]).await.assert_status(4).assert_says("failed in its validation: no reason");
    let made = world.simulator.counts().batches.created;
    assert!(made < 20, "{made} batches");
    assert!(world.target().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_lines_are_all_refused_alike_stops_the_run() {
    let refused = FaultSpec { status: Some(400), times: None, ..fault() };
    let world = world_with(vec![refused], 40, BatchesSpec::default(), BATCH).await;
    world.run(&["--wait"]).await.assert_status(4).assert_says("refused alike");
    assert!(world.target().await.is_empty(), "no row has failed");
}

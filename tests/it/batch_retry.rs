//! Failed rows that are retried through a Batch API, over several commands.

use std::time::Duration;

use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec, Span};

use crate::support::{PRICES, Setup, World, fault};

const BATCH: &str = "
tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }
[provider.sim.batch]
poll = \"50ms\"
recreate_after = \"500ms\"
first_requests = 0";

/// A job of 30 rows, of which those whose number begins with 1 failed in the first batch.
async fn with_failed_rows(sections: &str) -> World {
    let refused =
        FaultSpec { contains: Some("Row 1".to_owned()), status: Some(400), times: Some(1), ..fault() };
    let batches = BatchesSpec {
        takes: Some(Span(Duration::from_millis(400))),
        price_per_million_input: 1.0,
        price_per_million_output: 4.0,
        ..BatchesSpec::default()
    };
    let simulator =
        SimulatorSpec { batches: Some(batches), faults: vec![refused], ..SimulatorSpec::default() };
    let world = World::of(Setup {
        simulator,
        rows: 30,
        provider: &format!("{PRICES}{BATCH}"),
        step: "max_tokens = 50",
        sections,
        ..Setup::default()
    })
    .await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("30 rows written");
    assert_eq!(failed(&world).await, 11);
    world
}

async fn failed(world: &World) -> usize {
    world.target().await.iter().filter(|row| row.error_count > 0).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rows_go_out_in_one_retry_and_come_back_in_another() {
    let world = with_failed_rows("[budget]\nmax_cost_usd = 1").await;
    let first = world.on_job("retry", &[]).await;
    first.assert_status(0).assert_says("done for now: 11 rows are at sim in 1 batch");
    assert_eq!(failed(&world).await, 11);
    // A run goes on meanwhile, and takes the batch of the retry for nobody else's.
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    world.on_job("retry", &["--wait"]).await.assert_status(0);
    world.assert_target(0..30).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again(), counts.requests), (30, 0, 0));
    assert_eq!((failed(&world).await, counts.batches.created), (0, 2));
    let status = world.on_job("status", &["--format", "json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let spent = status["spent"]["cost_usd"].as_f64().unwrap();
    let billed = counts.billed_picodollars as f64 / 1e12;
    assert!((spent - billed).abs() < 1e-12, "{spent} is booked, and {billed} was billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_retries_are_listed_cancelled_and_given_up() {
    for (action, paid_again) in [(&["--cancel", "1"][..], 0), (&["--give-up", "1", "--yes"], 11)] {
        let world = with_failed_rows("").await;
        world.on_job("retry", &[]).await.assert_status(0).assert_says("done for now");
        let batches = async |more: &[&str]| world.on_job("batches", more).await;
        let listed = batches(&[]).await;
        let others = format!("of retries: 1 submission, listed by enrich batches {}", world.job().display());
        assert!(listed.assert_status(0).stdout.contains(&others), "{}", listed.stdout);
        let listed = batches(&["--retry", "--format", "json"]).await;
        let listed: serde_json::Value = serde_json::from_str(&listed.assert_status(0).stdout).unwrap();
        assert_eq!(
            (&listed["submissions"][0]["rows"], &listed["submissions"][0]["state"]),
            (&11.into(), &"created".into())
        );
        let acted = batches(&[&["--retry"], action].concat()).await;
        acted.assert_status(0).assert_says(&format!("enrich retry {}", world.job().display()));
        world.on_job("retry", &["--wait"]).await.assert_status(0);
        assert_eq!((failed(&world).await, world.simulator.counts().paid_again()), (0, paid_again));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_cannot_wait_asks_by_single_requests() {
    let world = with_failed_rows("").await;
    world.on_job("retry", &["--online"]).await.assert_status(0);
    let counts = world.simulator.counts();
    assert_eq!((failed(&world).await, counts.requests, counts.batches.created), (0, 11, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_killed_costs_no_row_anything() {
    for point in ["spool.after", "batch-create.after", "collect.after"] {
        let world = with_failed_rows("").await;
        let fault = format!("{point}=kill@1");
        let killed = world.on_job_with("retry", &["--wait"], &[("ENRICH_FAULT", &fault)]).await;
        assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
        world.on_job("retry", &["--wait"]).await.assert_status(0);
        let counts = world.simulator.counts();
        assert_eq!((failed(&world).await, counts.answered, counts.paid_again()), (0, 30, 0), "{fault}");
    }
}

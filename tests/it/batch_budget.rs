//! Budgets of jobs whose rows go through a Batch API: the worst case of a submission is set aside until it comes back, and
//! what it took is booked to the picodollar.

use std::time::Duration;

use enrich::config::{BatchesSpec, SimulatorSpec, Span};
use serde_json::Value;

use crate::support::{PRICES, Setup, World, dear};

const BATCH: &str = "
tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }
[provider.sim.batch]
poll = \"50ms\"
recreate_after = \"1s\"
max_requests = 20
max_submissions = 100";

fn batches() -> BatchesSpec {
    BatchesSpec { price_per_million_input: 1.0, price_per_million_output: 4.0, ..BatchesSpec::default() }
}

async fn world(batches: BatchesSpec, rows: i64, sections: &str) -> World {
    World::of(Setup {
        simulator: SimulatorSpec { batches: Some(batches), ..dear() },
        rows,
        provider: &format!("{PRICES}{BATCH}"),
        step: "max_tokens = 50",
        sections,
        ..Setup::default()
    })
    .await
}

/// What the job has spent, in dollars, by its own account.
async fn spent(world: &World) -> f64 {
    let status = world.on_job("status", &["--format", "json"]).await;
    status.assert_status(0);
    serde_json::from_str::<Value>(&status.stdout).unwrap()["spent"]["cost_usd"].as_f64().unwrap()
}

/// What the server has billed, in dollars.
fn billed(world: &World) -> f64 {
    world.simulator.counts().billed_picodollars as f64 / 1e12
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_budget_goes_out_when_something_has_come_back() {
    // A row takes at most some 280 microdollars, and far less.
    let takes = Some(Span(Duration::from_millis(600)));
    let world = world(BatchesSpec { takes, ..batches() }, 100, "[budget]\nmax_cost_usd = 0.012").await;
    let waits = world.run(&[]).await;
    waits.assert_status(0).assert_says("waiting for batches");
    let submitted = world.simulator.counts().batches.created;
    assert!(submitted < 5, "the worst case of all rows is not left: {submitted} batches");
    assert!(spent(&world).await <= 0.012);
    world.run(&["--wait"]).await.assert_status(0).assert_says("rows written");
    world.assert_target(0..100).await;
    assert!(world.simulator.counts().batches.created > submitted);
    assert_eq!(world.simulator.counts().paid_again(), 0);
    let (spent, billed) = (spent(&world).await, billed(&world));
    assert!(billed > 0.0 && billed <= 0.012, "{billed}");
    assert!((spent - billed).abs() < 1e-12, "{spent} is booked, and {billed} was billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_billed_and_lost_are_booked() {
    let lossy = BatchesSpec { lost_lines: 0.3, twice_lines: 0.2, foreign_lines: 0.1, ..batches() };
    let world = world(lossy, 100, "[budget]\nmax_cost_usd = 1").await;
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_target(0..100).await;
    let counts = world.simulator.counts();
    assert!(counts.answered > 100, "some were billed and lost");
    let (spent, billed) = (spent(&world).await, billed(&world));
    assert!((spent - billed).abs() < 1e-12, "{spent} is booked, and {billed} was billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_leaves_answers_to_be_collected() {
    let takes = Some(Span(Duration::from_millis(600)));
    let world = world(BatchesSpec { takes, ..batches() }, 100, "[budget]\nmax_requests = 40").await;
    world.run(&[]).await.assert_status(0).assert_says("waiting for batches");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ends = world.run(&["--wait"]).await;
    ends.assert_status(5).assert_says("budget.max_requests is 40");
    world.assert_target(0..40).await;
    assert_eq!(world.simulator.counts().answered, 40);
    world.run(&["--wait", "--set", "budget.max_requests=100"]).await.assert_status(0);
    world.assert_target(0..100).await;
    assert_eq!((world.simulator.counts().answered, world.simulator.counts().paid_again()), (100, 0));
}

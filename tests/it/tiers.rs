//! Service tiers: what an answer costs is decided by the tier that it states, and a tier without room costs no row an
//! attempt.

use std::collections::BTreeMap;
use std::fs;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use enrich::config::{LimitSpec, LimitWindow, SimulatorSpec, TierSpec};
use enrich::table::{Table, TableError};
use serde_json::Value;

use crate::support::{PRICES, Setup, World, dear};

/// Picodollars in a dollar.
const PICO: f64 = 1e12;
const ROWS: i64 = 60;

/// Prices of the usual provider, and half of them for the tier `flex`, which is requested.
const FLEX: &str = "service_tier = \"flex\"\nprice_per_million_input = 2.0\nprice_per_million_output = 8.0\n\
                    tier_prices.flex = { price_per_million_input = 1.0, price_per_million_output = 4.0 }\n\
                    max_backoff = \"50ms\"";

/// A simulator with the tier `flex` at half the price.
fn with_flex(flex: &TierSpec) -> SimulatorSpec {
    let flex = TierSpec { price_per_million_input: 1.0, price_per_million_output: 4.0, ..flex.clone() };
    SimulatorSpec { tiers: BTreeMap::from([("flex".to_owned(), flex)]), ..dear() }
}

async fn world(flex: &TierSpec, provider: &str) -> World {
    World::of(Setup {
        simulator: with_flex(flex),
        rows: ROWS,
        provider,
        step: "max_tokens = 50",
        sections: "[budget]\nmax_cost_usd = 1",
        ..Setup::default()
    })
    .await
}

/// Cost of the job in dollars. The first figure is the account of the job, the second the account of the server.
async fn spent(world: &World) -> (f64, f64) {
    let status = world.on_job("status", &["--format", "json"]).await;
    let status: Value = serde_json::from_str(&status.assert_status(0).stdout).unwrap();
    let billed = world.simulator.counts().billed_picodollars as f64 / PICO;
    (status["spent"]["cost_usd"].as_f64().unwrap(), billed)
}

/// Sum of a column of the target's metadata.
async fn sum(world: &World, field: &str) -> i64 {
    let mut sum = 0;
    let table = Table::open(&world.path("target")).await.unwrap();
    let sql = format!("SELECT CAST(_enrich['answer_step']['{field}'] AS BIGINT) FROM target");
    let read = table.query(&sql, |batch| {
        sum += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        Ok::<(), TableError>(())
    });
    read.await.unwrap();
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_by_flex_are_the_same_and_cost_half() {
    let online = World::of(Setup {
        simulator: dear(),
        rows: ROWS,
        provider: PRICES,
        step: "max_tokens = 50",
        sections: "[budget]\nmax_cost_usd = 1",
        ..Setup::default()
    })
    .await;
    online.run(&[]).await.assert_status(0);
    let flex = world(&TierSpec::default(), FLEX).await;
    flex.run(&[]).await.assert_status(0);
    assert_eq!(flex.simulator.counts().tiers, BTreeMap::from([("flex".to_owned(), ROWS as u64)]));
    // In both, each row has the answer to its own prompt.
    online.assert_target(0..ROWS).await;
    flex.assert_target(0..ROWS).await;
    let ((whole, _), (half, billed)) = (spent(&online).await, spent(&flex).await);
    assert!((half - billed).abs() < 1e-9 && (half - whole / 2.0).abs() < 1e-9, "{half} of {whole}");
    assert_eq!(sum(&flex, "cost_micro_usd").await, sum(&online, "cost_micro_usd").await / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_booked_at_the_price_of_the_tier_that_it_states() {
    let world = world(&TierSpec { by_standard: 0.3, ..TierSpec::default() }, FLEX).await;
    let outcome = world.run(&["--summary", "json"]).await;
    let text = "sim answers by the service tier \"default\", and \"flex\" was requested";
    outcome.assert_status(0).assert_says(text);
    assert_eq!(outcome.stderr.matches(text).count(), 1, "said once");
    let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let by_standard = world.simulator.counts().tiers["default"];
    assert!(by_standard > 5, "{by_standard}");
    assert_eq!(summary["other_tier"], by_standard);
    outcome.assert_says(&format!(", {by_standard} by another service tier, "));
    let (spent, billed) = spent(&world).await;
    assert!((spent - billed).abs() < 1e-9, "{spent}, and {billed} were billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_states_no_tier_is_booked_at_the_dearer_price() {
    let world = world(&TierSpec { silent: true, ..TierSpec::default() }, FLEX).await;
    world.run(&[]).await.assert_status(0);
    let (spent, billed) = spent(&world).await;
    assert!((spent - 2.0 * billed).abs() < 1e-9, "{spent}, and {billed} were billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn want_of_room_in_a_tier_takes_no_attempt_and_teaches_no_limit() {
    let world = world(&TierSpec { no_room: 0.6, ..TierSpec::default() }, FLEX).await;
    world.run(&["--set", "provider.sim.max_attempts=1"]).await.assert_status(0);
    world.assert_target(0..ROWS).await;
    let counts = world.simulator.counts();
    assert!(counts.statuses[&429] > 40, "{:?}", counts.statuses);
    assert_eq!(sum(&world, "attempts").await, ROWS);
    let learned = fs::read_to_string(world.path("target/_checkpoints/test/learned.json")).unwrap();
    let learned: Value = serde_json::from_str(&learned).unwrap();
    assert_eq!(learned["sim"]["requests_per_minute"], Value::Null, "{learned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_find_no_room_go_by_the_standard_tier_after_a_while() {
    let provider = format!("{FLEX}\ntier_fallback_after = \"300ms\"");
    let world = world(&TierSpec { no_room: 1.0, ..TierSpec::default() }, &provider).await;
    let outcome = world.run(&["--summary", "json"]).await;
    outcome.assert_status(0);
    world.assert_target(0..ROWS).await;
    let counts = world.simulator.counts();
    assert_eq!(counts.tiers, BTreeMap::from([("default".to_owned(), ROWS as u64)]));
    assert!(counts.statuses[&429] > 0);
    let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(summary["other_tier"], 0, "the standard tier was requested");
    let (spent, billed) = spent(&world).await;
    assert!((spent - billed).abs() < 1e-9, "{spent}, and {billed} were billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_may_not_be_used_stops_the_run_before_it_becomes_error_rows() {
    let forbidden = world(&TierSpec { forbidden: true, ..TierSpec::default() }, FLEX).await;
    let unknown = world(&TierSpec::default(), &FLEX.replace("\"flex\"", "\"scale\"")).await;
    for world in [forbidden, unknown] {
        let outcome = world.run(&["--summary", "json"]).await;
        outcome.assert_status(4).assert_says("is not available for this project");
        outcome.assert_says("change service_tier of this provider in the job file, or take it out");
        let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(summary["class"], "service_tier");
        assert_eq!((world.target().await.len(), world.simulator.counts().answered), (0, 0));
        world.run(&["--set", "provider.sim.service_tier=\"default\""]).await.assert_status(0);
        world.assert_target(0..ROWS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_answers_are_used_whatever_their_tier() {
    let provider = format!("{FLEX}\n[cache]\npath = \"cache.db\"");
    let world = world(&TierSpec::default(), &provider).await;
    world.run(&[]).await.assert_status(0);
    fs::remove_dir_all(world.path("target")).unwrap();
    world.run(&["--set", "provider.sim.service_tier=\"default\"", "--yes"]).await.assert_status(0);
    world.assert_target(0..ROWS).await;
    assert_eq!(world.simulator.counts().answered, ROWS as u64, "nothing was requested again");
}

/// Refusals in a run whose two steps use two sections of one key, whose lines end with these.
async fn refused(of_first: &str, of_second: &str) -> u64 {
    let limit = LimitSpec { per_minute: 1_200, window: LimitWindow::TokenBucket, seconds: None };
    let spec = SimulatorSpec { requests: Some(limit), ..SimulatorSpec::default() };
    let world = World::of(Setup {
        simulator: spec,
        rows: ROWS,
        provider: of_first,
        step: "provider = \"sim\"",
        sections: &format!(
            "[provider.other]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\nmin_backoff = \"10ms\"\n\
             {of_second}\n[[step]]\noutput = \"second\"\nprovider = \"other\"\nprompt = \"Again: {{{{ text }}}}\""
        ),
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0);
    let counts = world.simulator.counts();
    assert_eq!(counts.answered, 2 * ROWS as u64);
    counts.statuses.get(&429).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_that_share_a_key_keep_to_one_quota() {
    let limit = "requests_per_minute = 1200";
    let shared_limit = format!("limits = \"key\"\n{limit}");
    let (own, shared) = tokio::join!(refused(limit, limit), refused(&shared_limit, "limits = \"key\""));
    assert_eq!(shared, 0, "the limit of one section is that of both");
    assert!(own > 0, "two quotas are twice as much as the key has");
    let world = World::of(Setup {
        provider: "limits = \"key\"\nrequests_per_minute = 600",
        sections: "[provider.other]\nbase_url = \"SIMULATOR\"\nmodel = \"o\"\nlimits = \"key\"\nrequests_per_minute = 700",
        rows: 1,
        ..Setup::default()
    })
    .await;
    let outcome = world.run(&[]).await;
    outcome.assert_status(2).assert_says("both have the limits \"key\"; state it once");
}

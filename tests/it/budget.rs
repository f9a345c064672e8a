//! A budget is never exceeded, by the account of the server, and what is left of it is less than a request.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec, Span, TierSpec};
use enrich::simulator::Gate;
use enrich::table::{Table, TableError};
use serde_json::Value;

use crate::support::{PRICES, Setup, World, append_delta, dear, fault, rows};

/// Picodollars in a dollar.
const PICO: f64 = 1e12;

/// Answers of at most 50 tokens, from a provider that bills.
fn short() -> Setup<'static> {
    Setup { simulator: dear(), step: "max_tokens = 50", ..Setup::default() }
}

async fn spent(world: &World) -> Value {
    let status = world.on_job("status", &["--format", "json"]).await;
    status.assert_status(0);
    serde_json::from_str::<Value>(&status.stdout).unwrap()["spent"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_stops_with_status_5_and_a_larger_one_goes_on() {
    let world = World::of(Setup {
        rows: 60,
        provider: PRICES,
        sections: "[budget]\nmax_cost_usd = 0.006",
        ..short()
    })
    .await;
    let stopped = world.run(&["--summary", "json"]).await;
    stopped.assert_status(5).assert_says("the budget is spent: budget.max_cost_usd is $0.006");
    let summary: Value = serde_json::from_str(&stopped.stdout).unwrap();
    assert_eq!((&summary["end"], &summary["status"]), (&"budget".into(), &5.into()));
    let counts = world.simulator.counts();
    assert!(counts.answered > 5, "{}", counts.answered);
    let billed = counts.billed_picodollars as f64 / PICO;
    assert!(billed <= 0.006, "{billed}");
    // The next request might have taken all of this: its bytes, what a template adds, and `max_tokens`.
    let worst = ((80 + 32) as f64 * 2.0 + 50.0 * 8.0) / 1e6;
    assert!(billed > 0.006 - worst, "{billed} of 0.006");

    let again = world.run(&[]).await;
    again.assert_status(5);
    assert_eq!(world.simulator.counts().answered, counts.answered, "nothing is left to spend");
    let status = world.on_job("status", &[]).await;
    assert!(status.stdout.contains("next:       raise the budget, then enrich run"), "{}", status.stdout);
    assert!(status.stdout.contains(" of $0.006, "), "{}", status.stdout);
    let check = world.on_job("check", &["--set", "budget.max_cost_usd=0.005"]).await;
    check.assert_status(5);
    assert!(check.stdout.contains("the budget is spent: budget.max_cost_usd is $0.005"), "{}", check.stdout);
    let kept = world.target().await;
    assert!(!kept.is_empty());
    let none_left = ["--restart", "--yes", "--set", "budget.max_cost_usd=0.005"];
    world.run(&none_left).await.assert_status(5).assert_says("nothing was changed");
    assert_eq!(world.target().await, kept, "a target is not emptied that cannot be filled again");

    world.run(&["--set", "budget.max_cost_usd=1"]).await.assert_status(0).assert_says(", $0.0");
    world.assert_target(0..60).await;
    let counts = world.simulator.counts();
    assert_eq!(counts.answered, 60, "nothing is paid twice");
    let spent = spent(&world).await;
    assert_eq!(spent["requests"], 60);
    assert_eq!(spent["tokens"], counts.billed_tokens);
    assert_eq!(spent["cost_usd"].as_f64().unwrap(), counts.billed_picodollars as f64 / PICO);

    let mut written = 0;
    let table = Table::open(&world.path("target")).await.unwrap();
    let sql = "SELECT _enrich['answer_step']['cost_micro_usd'] FROM target";
    let summed = table.query(sql, |batch| {
        written += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        Ok::<(), TableError>(())
    });
    summed.await.unwrap();
    assert_eq!(written, i64::try_from(counts.billed_picodollars / 1_000_000).unwrap(), "in the table too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_a_budget_of_its_own() {
    let world = World::of(Setup { rows: 25, sections: "[budget.run]\nmax_requests = 10", ..short() }).await;
    for (nth, status) in [5, 5, 0].into_iter().enumerate() {
        world.run(&[]).await.assert_status(status);
        assert_eq!(world.simulator.counts().requests, [10, 20, 25][nth]);
    }
    world.assert_target(0..25).await;
    assert_eq!(spent(&world).await, Value::Null, "nothing is counted over runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_says_of_the_cost_counts() {
    // The price list is ten times what the provider bills.
    let spec = SimulatorSpec { tells_cost: true, ..dear() };
    let prices = "price_per_million_input = 20.0\nprice_per_million_output = 80.0";
    let world = World::of(Setup {
        simulator: spec,
        rows: 20,
        provider: prices,
        sections: "[budget]\nmax_cost_usd = 1",
        ..short()
    })
    .await;
    world.run(&[]).await.assert_status(0);
    let billed = world.simulator.counts().billed_picodollars as f64 / PICO;
    assert!((spent(&world).await["cost_usd"].as_f64().unwrap() - billed).abs() < 1e-9);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_budget_has_one_user_at_a_time() {
    // One row fails, for the retry to be about.
    let failing = FaultSpec { contains: Some("Row 3".into()), status: Some(400), ..fault() };
    let spec = SimulatorSpec { faults: vec![failing], ..SimulatorSpec::default() };
    let world =
        World::of(Setup { simulator: spec, rows: 5, sections: "[budget]\nmax_requests = 100", ..short() })
            .await;
    let job = world.job();
    world.run(&[]).await.assert_status(0).assert_says("1 error");
    append_delta(&world.path("source"), &rows(5..9)).await;
    let requests = world.simulator.counts().requests;
    world.simulator.set_gate(Gate::ShutFrom(requests + 1));
    let mut run = world
        .command(&["run", job.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.until_requests(requests + 1).await;
    let retry = world.on_job("retry", &[]).await;
    retry.assert_status(6).assert_says("another run holds this job");
    world.simulator.set_gate(Gate::Open);
    let ended = tokio::task::spawn_blocking(move || run.wait().unwrap()).await.unwrap();
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reckoned_with_is_refused_before_the_first_call() {
    let world = World::of(Setup { rows: 5, sections: "[budget]\nmax_cost_usd = 1", ..short() }).await;
    let refused = world.run(&[]).await;
    refused
        .assert_status(2)
        .assert_says("`provider.sim.price_per_million_input` is missing, and budget.max_cost_usd needs it");
    for (set, said) in [
        ("budget.max_cost_usd=-1", "`budget.max_cost_usd` is -1; it is US dollars"),
        ("budget.run.max_tokens=0", "`budget.run.max_tokens` is 0; it must be at least 1"),
        ("provider.sim.price_per_million_input=3", "`provider.sim.price_per_million_output` is missing"),
    ] {
        world.run(&["--set", set]).await.assert_status(2).assert_says(said);
    }
    let world = World::of(Setup {
        rows: 5,
        provider: "[provider.sim.extra_body]\nn = 3",
        sections: "[budget]\nmax_tokens = 9",
        ..short()
    })
    .await;
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("`provider.sim.extra_body` has \"n\", which budget.max_tokens cannot reckon with");
    let unused = "[provider.unused]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n[[step]]\nprovider = \"sim\"\n";
    let job = std::fs::read_to_string(world.job()).unwrap();
    let job =
        job.replace("[provider.sim.extra_body]\nn = 3", PRICES).replace("max_tokens = 9", "max_cost_usd = 1");
    world.write_text(&job.replace("[[step]]\n", unused));
    world.run(&[]).await.assert_status(2).assert_says("`provider.unused.price_per_million_input` is missing");
    world.write_text(&format!("{}[budget.run]\nmax_tokens = 9\n", world.usual_job("")));
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("`step[0].max_tokens` is missing, and budget.run.max_tokens needs it");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_account_is_told_and_nothing_is_asked() {
    let world = World::of(Setup {
        rows: 20,
        provider: PRICES,
        sections: "[budget]\nmax_cost_usd = 0.002",
        ..short()
    })
    .await;
    world.run(&[]).await.assert_status(5);
    let requests = world.simulator.counts().requests;
    let path = world.path("target/_checkpoints/test/journal/budget/spending");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    world
        .run(&["--set", "budget.max_cost_usd=1"])
        .await
        .assert_status(1)
        .assert_says("is damaged at byte 16")
        .assert_says("put that file aside");
    assert_eq!(world.simulator.counts().requests, requests);
}

/// Longer than requests to a troubled provider may take.
const TOO_LATE: Duration = Duration::from_millis(800);

/// Lines of a provider whose requests ask for a service tier.
const FLEX: &str = "\nservice_tier = \"flex\"\n\
                    tier_prices.flex = { price_per_million_input = 1.0, price_per_million_output = 4.0 }";
const PRIORITY: &str = "\nservice_tier = \"priority\"\n\
                        tier_prices.priority = { price_per_million_input = 4.0, price_per_million_output = 16.0 }";

/// The section of a provider that is asked through its Batch API.
const BATCH: &str = "
tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }
[provider.sim.batch]
poll = \"50ms\"
recreate_after = \"300ms\"
max_requests = 90
max_submissions = 100
first_requests = 0
deadline = \"2s\"";

/// Batches that are lost, late, refused, answered in part, and paid for without an answer.
fn batches() -> BatchesSpec {
    BatchesSpec {
        takes: Some(Span(Duration::from_millis(100))),
        takes_sigma: 1.0,
        lost_creations: 0.1,
        refused_creations: 0.1,
        lost_uploads: 0.1,
        failing_requests: 0.02,
        expired_lines: 0.02,
        lost_lines: 0.02,
        twice_lines: 0.02,
        window: Some(Span(Duration::from_millis(600))),
        price_per_million_input: 1.0,
        price_per_million_output: 4.0,
        ..BatchesSpec::default()
    }
}

/// Tiers that have no room for some requests and answer others by the standard tier.
fn tiers() -> BTreeMap<String, TierSpec> {
    let tier = |price: f64| TierSpec {
        price_per_million_input: price,
        price_per_million_output: 4.0 * price,
        no_room: 0.05,
        by_standard: 0.1,
        ..TierSpec::default()
    };
    BTreeMap::from([("flex".to_owned(), tier(1.0)), ("priority".to_owned(), tier(4.0))])
}

/// A provider whose answers come too late, break off, are junk, or are refused.
fn troubled(seed: u64) -> SimulatorSpec {
    let with_share = |share: f64, fault: FaultSpec| FaultSpec { share, ..fault };
    SimulatorSpec {
        latency: Some(Span(Duration::from_millis(4))),
        latency_sigma: 0.8,
        completion_tokens: Some(40),
        completion_sigma: 1.0,
        seed,
        tiers: tiers(),
        batches: Some(batches()),
        tells_cost: seed.is_multiple_of(2),
        bills_the_gone: true,
        faults: vec![
            with_share(0.03, FaultSpec { status: Some(500), times: Some(2), ..fault() }),
            with_share(0.02, FaultSpec { hang_up: true, times: Some(1), ..fault() }),
            with_share(0.02, FaultSpec { body: Some("no JSON".into()), times: Some(1), ..fault() }),
            with_share(0.02, FaultSpec { status: Some(400), ..fault() }),
            with_share(0.01, FaultSpec { delay: Some(Span(TOO_LATE)), times: Some(1), ..fault() }),
        ],
        ..dear()
    }
}

/// Runs with a budget that grows, killed at random moments; says how often it was spent.
async fn spend_all(seed: u64, sessions: u32) -> u32 {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let concurrency = random.u32(1..24);
    let lane = ["", FLEX, PRIORITY, BATCH][usize::try_from(seed % 4).unwrap()];
    let prices = format!("{PRICES}\nrequest_timeout = \"600ms\"")
        + if random.bool() { "\nmax_attempts = 2" } else { "" }
        + lane;
    let world = World::of(Setup {
        simulator: troubled(seed),
        rows: 1_000,
        provider: &prices,
        sections: "[budget]\nmax_cost_usd = 0",
        ..short()
    })
    .await;
    if seed % 4 == 1 && lane != BATCH {
        // Two providers draw on one account.
        let job = std::fs::read_to_string(world.job()).unwrap();
        let url = world.simulator.url();
        let second = format!(
            "[provider.other]\nbase_url = \"{url}\"\nmodel = \"other\"\n{prices}\n[[step]]\nprovider = [\"sim\", \"other\"]\nbalance = true\n"
        );
        world.write_text(&job.replace("[[step]]\n", &second));
    }
    let (mut budget, mut stops) = (0.01, 0);
    for session in 0..sessions {
        let more = format!("budget.max_cost_usd={budget:.6}");
        let places = format!("provider.sim.max_concurrency={concurrency}");
        let set = ["--wait", "--set", &more, "--set", &places];
        let mut run = world
            .job_command("run", &set[usize::from(random.bool())..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if lane == BATCH && random.bool() {
            tokio::time::sleep(Duration::from_millis(random.u64(20..1_500))).await;
            run.kill().unwrap();
        } else if random.bool() {
            let (before, requests) = (world.simulator.counts().requests, random.u64(10..120));
            while run.try_wait().unwrap().is_none() && world.simulator.counts().requests < before + requests {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            run.kill().unwrap();
        }
        let ended = tokio::task::spawn_blocking(move || run.wait().unwrap());
        let status = ended.await.unwrap().code();
        world.settle().await;
        let billed = world.simulator.counts().billed_picodollars as f64 / PICO;
        assert!(
            billed <= budget + 1e-9,
            "session {session} with {concurrency} in flight: {billed} of {budget}"
        );
        match status {
            // Killed: what is left is asked for by the next one.
            None => {}
            Some(5) => {
                stops += 1;
                budget += f64::from(random.u32(1..30_000)) / 1e6;
            }
            // Rows wait for batches, or all is done.
            status => {
                assert_eq!(status, Some(0));
                if world.target().await.len() == 1_000 {
                    return stops;
                }
            }
        }
    }
    stops
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_never_exceeded_whatever_happens() {
    let mut stops = 0;
    for seed in 0..4 {
        stops += spend_all(seed, 12).await;
    }
    assert!(stops >= 4, "budgets were spent {stops} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_never_answered_gets_a_second_one_and_both_are_booked() {
    let never = FaultSpec {
        contains: Some("Row 7 ".to_owned()),
        times: Some(1),
        delay: Some(Span(Duration::from_secs(3_600))),
        ..fault()
    };
    let world = World::of(Setup {
        simulator: SimulatorSpec { faults: vec![never], ..dear() },
        rows: 60,
        provider: PRICES,
        sections: "[budget]\nmax_cost_usd = 1",
        ..short()
    })
    .await;
    let outcome = world.run(&["--summary", "json"]).await;
    outcome.assert_status(0).assert_says("0 retries, 1 second request, ");
    world.assert_target(0..60).await;
    let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&summary["hedged"], &summary["retries"]), (&1.into(), &0.into()));
    let counts = world.simulator.counts();
    assert_eq!((counts.requests, counts.answered), (61, 60), "the other one was cut off");
    let spent = spent(&world).await;
    assert_eq!(spent["requests"], 61);
    let billed = counts.billed_picodollars as f64 / PICO;
    let worst = (counts.billed_tokens + 400, billed + (50.0 * 8.0 + 300.0 * 2.0) / 1e6);
    let (tokens, cost) = (spent["tokens"].as_u64().unwrap(), spent["cost_usd"].as_f64().unwrap());
    assert!(tokens > counts.billed_tokens && tokens < worst.0, "{tokens} of {}", counts.billed_tokens);
    assert!(cost > billed && cost < worst.1, "{cost} of {billed}");
    let mut attempts = Vec::new();
    let table = Table::open(&world.path("target")).await.unwrap();
    let sql = "SELECT CAST(_enrich['answer_step']['attempts'] AS BIGINT) FROM target WHERE id = 7";
    let read = table.query(sql, |batch| {
        attempts.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        Ok::<(), TableError>(())
    });
    read.await.unwrap();
    assert_eq!(attempts, [2]);
}

//! Several providers for a step: who is asked when one of them fails, and what rows say of it.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use enrich::config::{FaultSpec, PhaseSpec, SimulatorSpec, Span};
use enrich::simulator::{Gate, Simulator};
use enrich::table::{Table, TableError};

use crate::support::{Setup, World, fault, prompt_of, slow, until, wait};

/// The usual job with a second provider beside the first, and both named by the step.
fn write_job(world: &World, other: &Simulator, provider: &str, step: &str) {
    let both = format!(
        "[provider.other]\nbase_url = \"{}\"\nmodel = \"another\"\nmax_concurrency = 4\nmin_backoff = \"10ms\"\n\
         {provider}\n[[step]]\nprovider = [\"sim\", \"other\"]\n{step}\n",
        other.url()
    );
    world.write_text(&world.usual_job(provider).replace("[[step]]\n", &both));
}

/// How many rows each provider answered, as the rows say.
async fn answered_by(world: &World) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let table = Table::open(&world.path("target")).await.unwrap();
    table
        .query("SELECT _enrich['answer_step']['provider'] FROM target", |batch| {
            let names = cast(batch.column(0), &DataType::Utf8).unwrap();
            for name in names.as_string::<i32>() {
                *found.entry(name.unwrap_or("nobody").to_owned()).or_default() += 1;
            }
            Ok::<(), TableError>(())
        })
        .await
        .unwrap();
    found
}

/// A phase in which connections break.
fn down(after_ms: u64, lasts_ms: u64) -> PhaseSpec {
    PhaseSpec {
        after: Span(Duration::from_millis(after_ms)),
        lasts: Some(Span(Duration::from_millis(lasts_ms))),
        status: Some(0),
        retry_after: None,
        limits: None,
        other_client: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_the_next_provider_while_the_first_fails_and_come_back_to_it() {
    let world = World::with_rows(1_500, 1).await;
    let other = Simulator::start(slow(60), 0).await.unwrap();
    write_job(&world, &other, "", "");
    world.simulator.set_gate(Gate::ShutFrom(151));
    let run = world.start(&["--summary", "json"]);
    // It answers for a while, is gone until the other one has answered some rows, and comes back.
    world.until_requests(154).await;
    world.simulator.set_gate(Gate::Broken);
    until(&other, |counts| counts.answered > 60).await;
    world.simulator.set_gate(Gate::Open);
    let ran = wait(run).await;
    ran.assert_status(0)
        .assert_says("0 errors")
        .assert_says("sim fails: its rows go to the next provider until it answers")
        .assert_says("sim answers again, and takes its rows back");
    world.assert_target(0..1_500).await;
    let by = answered_by(&world).await;
    println!("{by:?}");
    assert!(by["sim"] > 100 && by["other"] > 50, "both answered: {by:?}");
    assert_eq!(by["sim"] + by["other"], 1_500, "{by:?}");
    let (a, b) = (world.simulator.counts(), other.counts());
    assert_eq!(a.answered + b.answered, 1_500, "every row is paid for once");
    assert_eq!(a.answers_to(&prompt_of(1_499)), 1, "the last rows went back to the first provider");
    // Ten rows that fail, some of them more than once, open the breaker; then one row at a time finds out.
    let broken = a.statuses.get(&0).copied().unwrap_or_default();
    assert!(broken <= 45, "{broken} requests into the outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_provider_fails_no_row_and_stops_no_run() {
    let world = World::of(Setup {
        simulator: SimulatorSpec { phases: vec![down(0, 3_600_000)], ..slow(1) },
        rows: 60,
        ..Setup::default()
    })
    .await;
    let other = Simulator::start(slow(1), 0).await.unwrap();
    write_job(&world, &other, "outage_deadline = \"200ms\"", "");
    world.run(&[]).await.assert_status(0).assert_says("60 answers, 0 errors");
    world.assert_target(0..60).await;
    assert_eq!(answered_by(&world).await["other"], 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_quota_moves_the_rows_and_is_told() {
    let world = World::of(Setup {
        simulator: SimulatorSpec { quota: Some(20), ..slow(1) },
        rows: 60,
        ..Setup::default()
    })
    .await;
    let other = Simulator::start(slow(1), 0).await.unwrap();
    write_job(&world, &other, "", "");
    let ran = world.run(&[]).await;
    ran.assert_status(0)
        .assert_says("60 answers, 0 errors")
        .assert_says("no more rows are sent to sim in this run");
    let by = answered_by(&world).await;
    assert!((20..=24).contains(&by["sim"]) && by["sim"] + by["other"] == 60, "{by:?}");
    // When nobody is left, the run stops and the rows stay pending.
    let world = World::of(Setup {
        simulator: SimulatorSpec { quota: Some(20), ..slow(1) },
        rows: 60,
        ..Setup::default()
    })
    .await;
    let other = Simulator::start(SimulatorSpec { quota: Some(10), ..slow(1) }, 0).await.unwrap();
    write_job(&world, &other, "", "");
    world.run(&[]).await.assert_status(4).assert_says("quota");
    let answered = world.simulator.counts().answered + other.counts().answered;
    assert!((30..=38).contains(&answered), "what was in flight may still be answered: {answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_one_provider_chokes_on_is_asked_at_the_next() {
    let choking = FaultSpec { contains: Some("Row 7 ".into()), status: Some(500), ..fault() };
    let world = World::of(Setup {
        simulator: SimulatorSpec { faults: vec![choking], ..slow(1) },
        rows: 30,
        ..Setup::default()
    })
    .await;
    let other = Simulator::start(slow(1), 0).await.unwrap();
    write_job(&world, &other, "max_attempts = 2", "");
    world.run(&[]).await.assert_status(0).assert_says("30 answers, 0 errors");
    world.assert_target(0..30).await;
    assert_eq!(answered_by(&world).await, [("other".to_owned(), 1), ("sim".to_owned(), 29)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_balance_all_providers_are_asked_at_once() {
    let world = World::of(Setup { simulator: slow(20), rows: 400, ..Setup::default() }).await;
    let other = Simulator::start(slow(20), 0).await.unwrap();
    write_job(&world, &other, "", "balance = true");
    world.run(&[]).await.assert_status(0).assert_says("400 answers, 0 errors");
    world.assert_target(0..400).await;
    let by = answered_by(&world).await;
    assert!(by["sim"] > 100 && by["other"] > 100, "{by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_answers_of_any_of_the_providers_are_used() {
    let world = World::of(Setup { simulator: slow(1), rows: 40, ..Setup::default() }).await;
    let other = Simulator::start(slow(1), 0).await.unwrap();
    write_job(&world, &other, "", "balance = true");
    // The first run ends before its last batch is full: its answers wait in the journal.
    world.run(&["--max-rows", "25"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..40).await;
    assert_eq!(world.simulator.counts().answered + other.counts().answered, 40, "no row is paid for twice");
}

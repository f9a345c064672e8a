//! Rows that go through a Batch API are in the table once, are paid for once, and none is lost, wherever a run is killed,
//! stopped or fails: rows A1 to A4 of the plan of tests of submissions, in a short form.
//!
//! - A1: each fault point of `BATCH_ACTIONS`, killed, failed and on a full disk, with one step and with two.
//! - A2, A3: kills and stops at random, with answers to creations that are lost or come late.
//! - A4: a list that does not show a batch, or shows it late, and a lost answer to its creation.

use std::process::{Child, Stdio};
use std::time::Duration;

use enrich::clock;
use enrich::config::{BatchesSpec, SimulatorSpec, StuckIn};
use enrich::faultpoint::BATCH_ACTIONS;
use enrich::simulator::answer_to;
use futures::{StreamExt, stream};
use serde_json::Value;

use crate::support::batches::{BATCH, end_of, millis, with_batches};
use crate::support::{Outcome, PRICES, Setup, World, dear, prompt_of, rows_of, send, stop, until};

const ROWS: i64 = 25;
/// The section of a Batch API with what it costs, and a budget for the worst case of one file and a half.
const PRICED: &str = "price_per_million_input = 2.0\nprice_per_million_output = 8.0\n\
                      tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }\n\
                      [provider.sim.batch]\npoll = \"50ms\"\nrecreate_after = \"1s\"\nfirst_requests = 0";
const BUDGET: &str = "[budget]\nmax_cost_usd = 0.0045";
const VERDICT: &str = "[provider.other]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\n\
                       [[step]]\noutput = \"verdict\"\nprovider = \"other\"\nprompt = \"Judge {{ answer }}\"";

/// Runs a job with a fault, then to its end.
async fn cross(fault: String, has_two_steps: bool) {
    // Only a lost answer leads to a look.
    let lost_creations = if fault.starts_with("batch-look") { 1.0 } else { 0.0 };
    let batches = BatchesSpec {
        lost_creations,
        price_per_million_input: 1.0,
        price_per_million_output: 4.0,
        ..BatchesSpec::default()
    };
    let section = format!("{PRICED}\nmax_requests = 10");
    let setup = Setup {
        simulator: SimulatorSpec { batches: Some(batches), ..dear() },
        rows: ROWS,
        provider: &section,
        step: "provider = \"sim\"\nmax_tokens = 50",
        sections: if has_two_steps { VERDICT } else { BUDGET },
        ..Setup::default()
    };
    let world = World::of(setup).await;
    let faulty = world.run_in_time(&["--wait"], &[("ENRICH_FAULT", &fault)]).await;
    assert_ne!(faulty.status, Some(0), "{fault}: {}", faulty.stderr);
    if fault.contains("full") {
        faulty.assert_says("no space left on device").assert_says("hint: make room on that disk");
    }
    world.run_in_time(&["--wait"], &[]).await.assert_status(0);
    world.assert_paid_once(ROWS, &fault).await;
    if has_two_steps {
        let verdicts = rows_of(&world.path("target"), "SELECT id, verdict FROM target").await;
        let counts = world.simulator.counts();
        for row in verdicts {
            let question = format!("Judge {}", answer_to(&prompt_of(row[0].parse().unwrap())));
            assert_eq!(row[1], answer_to(&question), "{fault}");
            assert!(counts.answers_to(&question) >= 1, "{fault}");
        }
        // What was in flight to the other provider when the process died.
        let most = if fault.contains("kill") { 8 } else { 0 };
        assert!(counts.paid_again() <= most, "{fault}: {}", counts.paid_again());
    }
    if !has_two_steps {
        let (spent, billed) = (spent(&world).await, billed(&world));
        assert!(billed > 0.0 && (spent - billed).abs() < 1e-12, "{fault}: {spent} is booked of {billed}");
    }
    let version = world.target_version().await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    assert_eq!(world.target_version().await, version);
    let batches = world.simulator.counts().batches;
    assert_eq!(batches.files, 0, "{fault}: no file is left at the provider");
}

/// What the job has spent, in dollars, by its own account.
async fn spent(world: &World) -> f64 {
    let status = world.on_job("status", &["--format", "json"]).await;
    let status: Value = serde_json::from_str(&status.assert_status(0).stdout).unwrap();
    status["spent"]["cost_usd"].as_f64().unwrap()
}

/// What the server has billed, in dollars.
fn billed(world: &World) -> f64 {
    world.simulator.counts().billed_picodollars as f64 / 1e12
}

async fn cross_all(effect: &str, has_two_steps: bool) {
    let faults = BATCH_ACTIONS.iter().flat_map(|action| {
        ["before", "after"].into_iter().flat_map(move |side| {
            let hits: &[u32] = if *action == "submission-save" { &[1, 2, 4, 6, 9] } else { &[2] };
            hits.iter().map(move |hit| format!("{action}.{side}={effect}@{hit}"))
        })
    });
    let crossed = stream::iter(faults).map(|fault| cross(fault, has_two_steps));
    crossed.buffer_unordered(3).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_point_loses_nothing_and_pays_for_nothing_again() {
    cross_all("kill", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_every_point_loses_nothing_and_pays_for_nothing_again() {
    cross_all("io", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_every_point_is_told_and_costs_nothing() {
    cross_all("full", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_step_goes_on_after_a_kill_at_every_point() {
    cross_all("kill", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_step_goes_on_after_a_failure_at_every_point() {
    cross_all("io", true).await;
}

/// How a run is ended before its time.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Kill,
    /// It is asked to stop, and once more in half of the cases.
    Stop,
}

/// Waits for the end of a process for half a minute. One that goes on is killed.
async fn has_ended(mut child: Child) -> bool {
    let give_up = clock::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if clock::now() > give_up {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// Runs a job from cron whose runs are ended at random, at a provider that loses answers: 16 times, or as often as
/// `ENRICH_BATCH_ENDINGS` says, with 100 rows for each.
async fn soak(ending: Ending) {
    let endings: i64 = std::env::var("ENRICH_BATCH_ENDINGS").map_or(16, |text| text.parse().unwrap());
    let (rows, seed) = (100 * endings, fastrand::u64(..));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let batches = BatchesSpec {
        takes: millis(25 * endings.unsigned_abs()),
        takes_sigma: 0.8,
        lost_creations: 0.2,
        late_creations: 0.1,
        late_by: millis(300),
        lost_uploads: 0.1,
        failing_requests: 0.05,
        cut_downloads: 0.2,
        ..BatchesSpec::default()
    };
    let section = format!("{BATCH}\nmax_requests = {}", rows / 40);
    let setup = Setup {
        simulator: SimulatorSpec { seed, ..with_batches(batches) },
        rows,
        commits: 24,
        provider: &section,
        batch_rows: u32::try_from(rows / 25).unwrap(),
        ..Setup::default()
    };
    let world = World::of(setup).await;
    let mut in_time = 0;
    for _ in 0..endings {
        let mut command = world.job_command("run", if random.bool() { &["--wait"] } else { &[] });
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(random.u64(50..700))).await;
        let is_running = child.try_wait().unwrap().is_none();
        in_time += u32::from(is_running && world.simulator.counts().answered < rows.unsigned_abs());
        match ending {
            Ending::Kill => child.kill().unwrap(),
            Ending::Stop if is_running => {
                send(&child, "INT");
                if random.bool() {
                    tokio::time::sleep(Duration::from_millis(random.u64(0..100))).await;
                    if child.try_wait().unwrap().is_none() {
                        send(&child, "INT");
                    }
                }
            }
            Ending::Stop => {}
        }
        assert!(has_ended(child).await, "{ending:?}, seed {seed}: a run does not end");
    }
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_paid_once(rows, &format!("{ending:?}, seed {seed}")).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.requests), (rows.unsigned_abs(), 0));
    println!(
        "{} batches, {} looks, {endings} endings, {in_time} before the last answer",
        counts.batches.created, counts.batches.lists
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_pay_for_nothing_again_although_creations_are_lost_or_late() {
    soak(Ending::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_at_random_pay_for_nothing_again_although_creations_are_lost_or_late() {
    soak(Ending::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_no_list_shows_is_made_again_only_after_a_while_and_once_for_each_lost_answer() {
    let batches = BatchesSpec { list_lag: millis(3_600_000), lost_creations: 0.5, ..BatchesSpec::default() };
    let section = format!("{BATCH}\nmax_requests = 10").replace("\"1s\"", "\"1000h\"");
    let setup = Setup { simulator: with_batches(batches), rows: 60, provider: &section, ..Setup::default() };
    let world = World::of(setup).await;
    let mut lost = 0;
    for _ in 0..3 {
        let run = world.run(&["--summary", "json"]).await;
        lost += run.stderr.matches("was lost").count() as u64;
        assert_eq!(end_of(&run), "waiting", "{}", run.stderr);
    }
    let batches = world.simulator.counts().batches;
    assert!(lost > 0 && lost < 6, "{lost} answers were lost");
    assert_eq!(batches.created, 6, "none is made again before its time");
    let job = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&job.replace("\"1000h\"", "\"1s\""));
    for _ in 0..100 {
        let run = world.run(&["--summary", "json"]).await;
        lost += run.stderr.matches("was lost").count() as u64;
        if end_of(&run) == "complete" {
            break;
        }
    }
    world.assert_target(0..60).await;
    let counts = world.simulator.counts();
    assert_eq!(counts.batches.created, 6 + lost, "one more for each lost answer");
    assert!(counts.paid_again() <= 10 * lost, "{}", counts.paid_again());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_that_turns_up_is_cancelled_told_and_booked() {
    // The list shows a batch after it is made again, and before it ends.
    let batches = BatchesSpec {
        list_lag: millis(1_500),
        lost_creations: 1.0,
        takes: millis(4_000),
        expired_lines: 0.3,
        price_per_million_input: 1.0,
        price_per_million_output: 4.0,
        ..BatchesSpec::default()
    };
    let prices = "tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }";
    let section = format!("{PRICES}\n{prices}\n{BATCH}\nmax_submissions = 100");
    let world = World::of(Setup {
        simulator: SimulatorSpec { batches: Some(batches), ..dear() },
        rows: 40,
        provider: &section,
        step: "max_tokens = 50",
        sections: "[budget]\nmax_cost_usd = 1",
        ..Setup::default()
    })
    .await;
    let run = world.run(&["--wait", "--summary", "json"]).await;
    run.assert_status(0).assert_says("exists twice");
    let summary: Value = serde_json::from_str(&run.stdout).unwrap();
    let counts = world.simulator.counts();
    let duplicates = counts.batches.created - counts.batches.by_id.len() as u64;
    assert!(duplicates > 0 && counts.batches.cancellations > 0);
    assert_eq!(summary["duplicates"], duplicates, "{summary}");
    world.assert_target(0..40).await;
    let (spent, billed) = (spent(&world).await, billed(&world));
    assert!((spent - billed).abs() < 1e-12, "{spent} is booked, and {billed} was billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_that_turns_up_late_is_told_and_booked_by_the_next_run() {
    let batches = BatchesSpec {
        list_lag: millis(6_000),
        lost_creations: 0.5,
        price_per_million_input: 1.0,
        price_per_million_output: 4.0,
        ..BatchesSpec::default()
    };
    let prices = "tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }";
    let section = format!("{PRICES}\n{prices}\n{BATCH}\nmax_requests = 10");
    let world = World::of(Setup {
        simulator: SimulatorSpec { batches: Some(batches), ..dear() },
        rows: 40,
        provider: &section,
        step: "max_tokens = 50",
        sections: "[budget]\nmax_cost_usd = 1",
        ..Setup::default()
    })
    .await;
    let first = world.run(&["--wait", "--summary", "json"]).await;
    assert_eq!(end_of(&first), "complete", "{}", first.stderr);
    world.assert_target(0..40).await;
    let batches = world.simulator.counts().batches;
    let duplicates = batches.created - batches.by_id.len() as u64;
    assert!(duplicates > 0, "no creation was made again");
    tokio::time::sleep(Duration::from_millis(6_500)).await;
    let second = world.run(&["--summary", "json"]).await;
    assert_eq!(end_of(&second), "complete", "{}", second.stderr);
    let told = |run: &Outcome| -> u64 {
        serde_json::from_str::<Value>(&run.stdout).unwrap()["duplicates"].as_u64().unwrap()
    };
    assert!(told(&second) > 0, "{}", second.stderr);
    assert_eq!(told(&first) + told(&second), duplicates, "{} {}", first.stderr, second.stderr);
    let (spent, billed) = (spent(&world).await, billed(&world));
    assert!((spent - billed).abs() < 1e-12, "{spent} is booked, and {billed} was billed");
    let third = world.run(&["--summary", "json"]).await;
    assert_eq!(told(&third), 0, "each is told once");
    assert_eq!(world.simulator.counts().batches.files, 0, "no file is left at the provider");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_twice_ends_although_batches_are_out() {
    let batches = BatchesSpec { stuck: Some(StuckIn::InProgress), ..BatchesSpec::default() };
    let setup = Setup { simulator: with_batches(batches), rows: 5, provider: BATCH, ..Setup::default() };
    let world = World::of(setup).await;
    for created in [1, 1] {
        let mut child = world.start(&["--wait"]);
        until(&world.simulator, |counts| counts.batches.created == created && counts.connections > 0).await;
        stop(&mut child, "INT").await;
        if child.try_wait().unwrap().is_none() {
            send(&child, "INT");
        }
        assert!(has_ended(child).await, "it does not end");
    }
}

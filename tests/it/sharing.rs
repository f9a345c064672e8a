//! Rows with the same question share one answer: within a run, across kills, runs and jobs.

use crate::support::text_of;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use enrich::config::{FaultSpec, SimulatorSpec};
use enrich::simulator::{Simulator, answer_to};

use crate::support::{World, append_delta, fault, prompt_of, rows_about, rows_of, slow};

/// So many rows about so many texts, in a random order that is always the same.
fn repeated(count: i64, distinct: i64, seed: u64) -> RecordBatch {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut about: Vec<i64> = (0..count).map(|id| id % distinct).collect();
    chance.shuffle(&mut about);
    rows_about(about.into_iter().map(text_of))
}

async fn world(spec: SimulatorSpec, count: i64, distinct: i64, change: impl Fn(String) -> String) -> World {
    let world = World::new(spec).await;
    append_delta(&world.path("source"), &repeated(count, distinct, 1)).await;
    world.write_text(&change(world.usual_job("")));
    world
}

/// Whether every row has the answer to its own text.
async fn assert_answers(world: &World, count: usize) {
    let rows = rows_of(&world.path("target"), "SELECT id, text, answer FROM target").await;
    assert_eq!(rows.len(), count);
    for row in rows {
        assert_eq!(row[2], answer_to(&format!("Say something about:\n{}", row[1])), "row {}", row[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_the_same_question_share_one_answer_and_say_so() {
    let priced = |text: String| {
        text.replace("min_backoff", "price_per_million_input = 1\nprice_per_million_output = 1\nmin_backoff")
    };
    let world = world(slow(20), 100, 5, priced).await;
    world.run(&[]).await.assert_status(0).assert_says("100 rows written").assert_says("0 errors");
    assert_answers(&world, 100).await;
    assert_eq!(world.simulator.counts().requests, 5);
    let sql = "SELECT _enrich['answer_step']['shared'], count(*), count(DISTINCT _enrich['answer_step']['cost_micro_usd'] = 0), \
               sum(_enrich['answer_step']['prompt_tokens']) = 0, sum(_enrich['answer_step']['attempts']) FROM target GROUP BY 1";
    let mut groups = rows_of(&world.path("target"), sql).await;
    groups.sort();
    assert_eq!(groups, [["false", "5", "1", "false", "5"], ["true", "95", "1", "true", "0"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_vary_is_asked_for_each_row_unless_it_is_to_be_shared() {
    for (step, requests) in [
        ("temperature = 0.7", 30),
        ("temperature = 0.7\nshare = true", 3),
        ("share = false", 30),
        ("temperature = 0.0", 3),
    ] {
        let step = format!("output = \"answer\"\n{step}");
        let world = world(slow(20), 30, 3, |text| text.replace("output = \"answer\"", &step)).await;
        world.run(&[]).await.assert_status(0).assert_says("0 errors");
        assert_answers(&world, 30).await;
        assert_eq!(world.simulator.counts().requests, requests, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_question_is_refused_ask_for_themselves_and_none_is_left_waiting() {
    let refused = |times| FaultSpec { status: Some(400), contains: Some("Row 1 ".into()), times, ..fault() };
    let once = world(SimulatorSpec { faults: vec![refused(Some(1))], ..slow(20) }, 40, 4, |text| text).await;
    once.run(&[]).await.assert_status(0).assert_says("1 error (bad_request 1)");
    let always = world(SimulatorSpec { faults: vec![refused(None)], ..slow(20) }, 40, 4, |text| text).await;
    always.run(&[]).await.assert_status(0).assert_says("10 errors (bad_request 10)");
    // All rows have the one question, and it is refused: the run stops as it would without sharing.
    let all = FaultSpec { contains: None, ..refused(None) };
    let none = world(SimulatorSpec { faults: vec![all], ..slow(20) }, 200, 1, |text| text).await;
    none.run(&[]).await.assert_status(4).assert_says("the first rows of step \"answer\" were all refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_to_nothing_is_paid_for_once_for_all_rows_with_its_question() {
    let bad =
        FaultSpec { status: None, text: Some("no class".into()), contains: Some("Row 1 ".into()), ..fault() };
    let spec = SimulatorSpec { faults: vec![bad], answers: vec!["yes".into()], ..slow(20) };
    let classes = |text: String| {
        text.replace("output = \"answer\"", "output = \"answer\"\nclasses = [\"yes\", \"no\"]")
    };
    let world = world(spec, 80, 4, classes).await;
    world.run(&[]).await.assert_status(0).assert_says("20 errors (invalid_output 20)");
    // Three questions, and one three times; those that waited for it while nothing had been answered yet ask for
    // themselves.
    let requests = world.simulator.counts().requests;
    assert!((6..6 + 20 * 3).contains(&requests), "{requests}");
    let again = world.run(&[]).await;
    again.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_answers_other_runs_and_other_jobs_of_the_same_model() {
    let cached = |text: String| text.replace("[batch]", "[cache]\npath = \"answers.cache\"\n[batch]");
    let world = world(SimulatorSpec::default(), 60, 6, cached).await;
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.simulator.counts().requests, 6);
    let text = std::fs::read_to_string(world.job()).unwrap();
    // Another job, with another name for the provider.
    let other = text
        .replace("\"test\"", "\"other\"")
        .replace("\"target\"", "\"target2\"")
        .replace("provider.sim", "provider.own");
    world.write_text(&other);
    world.run(&[]).await.assert_status(0).assert_says("60 rows written");
    assert_eq!(world.simulator.counts().requests, 6, "nothing was paid for again");
    let sql = "SELECT count(*) FROM target WHERE _enrich['answer_step']['shared'] AND _enrich['answer_step']['provider'] = 'own'";
    assert_eq!(rows_of(&world.path("target2"), sql).await, [["60"]]);
    // Another model, another address, another question.
    let second = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    let elsewhere = other.replace(world.simulator.url().as_str(), second.url().as_str());
    for (nth, text) in [
        other.replace("\"simulated\"", "\"simulated-2\""),
        elsewhere,
        other.replace("Say something", "Tell something"),
    ]
    .into_iter()
    .enumerate()
    {
        world.write_text(
            &text.replace("target2", &format!("more{nth}")).replace("\"other\"", &format!("\"more{nth}\"")),
        );
        world.run(&[]).await.assert_status(0);
    }
    assert_eq!((world.simulator.counts().requests, second.counts().requests), (6 + 6 + 6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_none_is_refused_before_the_first_call() {
    let cached = |text: String| text.replace("[batch]", "[cache]\npath = \"answers.cache\"\n[batch]");
    let world = world(SimulatorSpec::default(), 4, 2, cached).await;
    std::fs::write(world.path("answers.cache"), "this is no cache, and somebody may want it".repeat(100))
        .unwrap();
    let refused = world.run(&[]).await;
    assert_ne!(refused.status, Some(0));
    refused.assert_says("answers.cache");
    let checked = world.on_job("check", &[]).await;
    assert!(checked.status != Some(0) && checked.stdout.contains("answers.cache"), "{}", checked.stdout);
    assert_eq!(world.simulator.counts().requests, 0);
}

/// Runs a job to its end; says how much memory that took at its peak, in MB.
async fn peak_of_run(world: &World) -> u64 {
    let mut child = world.job_command("run", &[]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kb.unwrap_or_default() / 1_000);
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success());
            return peak;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `ENRICH_CACHE_ROWS=100000 ENRICH_CACHE_KILLS=10` for the long one: a hundred rows to a question.
#[tokio::test(flavor = "multi_thread")]
async fn each_question_is_paid_for_once_whatever_is_killed() {
    const IN_FLIGHT: u64 = 8;
    let set = |name: &str, default: i64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (count, kills) = (set("ENRICH_CACHE_ROWS", 4_000), set("ENRICH_CACHE_KILLS", 3));
    let distinct = count / 100;
    let spec = slow(30);
    let many = |text: String| {
        text.replace("[batch]", "[cache]\npath = \"answers.cache\"\n[batch]")
            .replace("max_rows = 10", "max_rows = 500")
            .replace("max_concurrency = 4", &format!("max_concurrency = {IN_FLIGHT}"))
    };
    let world = world(spec, count, distinct, many).await;
    let mut in_flight = 0;
    let mut chance = fastrand::Rng::with_seed(7);
    for _ in 0..kills {
        let before = world.simulator.counts().answered;
        let mut child = world.job_command("run", &[]).stderr(std::process::Stdio::null()).spawn().unwrap();
        let wanted = before + chance.u64(1..=(distinct.unsigned_abs() / kills.unsigned_abs()).max(2));
        loop {
            if world.simulator.counts().answered >= wanted || child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        in_flight += world.simulator.counts().in_flight;
        child.kill().unwrap();
        child.wait().unwrap();
        world.settle().await;
    }
    let peak = peak_of_run(&world).await;
    assert_answers(&world, usize::try_from(count).unwrap()).await;
    let counts = world.simulator.counts();
    assert_eq!(counts.answered_prompts, distinct.unsigned_abs());
    println!(
        "{count} rows, {distinct} questions, {} answers, {} of them again, {in_flight} in flight at {kills} kills, peak {peak} MB",
        counts.answered,
        counts.paid_again()
    );
    // What was in flight: at most so many requests go on at once.
    let most = u64::try_from(kills).unwrap() * IN_FLIGHT;
    assert!(
        counts.paid_again() <= most,
        "{} paid again, and {most} can have been in flight",
        counts.paid_again()
    );
    assert!((0..distinct).all(|id| counts.answers_to(&prompt_of(id)) >= 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stays_cut_after_its_retry_is_shared_like_any_other() {
    let world = World::with_rows(40, 1).await;
    let step = "output = \"answer\"\nmax_tokens = 3\nmax_tokens_retry = 4";
    let job = world.usual_job("").replace("output = \"answer\"", step);
    world.write_text(&job.replace("{{ text }}", "{{ 'the same for every row' if id >= 0 }}"));
    world.run(&[]).await.assert_status(0).assert_says("40 answers, 0 errors");
    assert_eq!(world.simulator.counts().requests, 2, "once, and once more with room");
}

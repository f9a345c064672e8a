//! `enrich plan`: what a run would take, before it is spent, and as it then turns out.

use enrich::config::FaultSpec;
use std::process::Stdio;

use arrow::array::StringArray;
use arrow::record_batch::RecordBatch;
use enrich::clock;
use enrich::config::{Job, SimulatorSpec};
use enrich::event::Voice;
use enrich::inspect::{ForecastOptions, forecast};
use enrich::run::StopRequest;
use enrich::simulator::{Gate, SimulatedModel};
use serde_json::Value;
use tokio::sync::watch;

use crate::support::{
    Outcome, PRICES, Setup, World, append_delta, dear, fault, faulty, rows, rows_about, rows_of, schema, stop,
};

async fn planned(world: &World, more: &[&str]) -> Value {
    let more: Vec<&str> = more.iter().copied().chain(["--format", "json"]).collect();
    let told = world.on_job("plan", &more).await;
    told.assert_status(0);
    serde_json::from_str(&told.stdout).unwrap()
}

/// Answers of at most 50 tokens, from a provider that bills.
fn short() -> Setup<'static> {
    Setup { simulator: dear(), step: "max_tokens = 50", ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pilot_nothing_is_asked_or_written_and_bounds_are_told() {
    let provider = format!("{PRICES}\nrequests_per_minute = 60");
    let world = World::of(Setup { rows: 300, provider: &provider, ..short() }).await;
    let told = world.on_job("plan", &[]).await;
    told.assert_status(0);
    for said in [
        "outstanding  300 rows, ",
        "in 30 batches",
        "sampled      300 rows",
        "step answer at sim (simulated)",
        "rows       300\n",
        "output     up to 15,000 tokens",
        "time         5m, by requests_per_minute of sim",
        "answers of step \"answer\" may have up to 50 tokens each: --pilot shows how long they are",
        "the tokens of simulated are counted as OpenAI's newer models count them",
        "prompt of step answer, row ",
        "    Say something about:\n    Row ",
    ] {
        assert!(told.stdout.contains(said), "{said:?} is missing in\n{}", told.stdout);
    }
    let forecast = planned(&world, &["--sample", "50"]).await;
    let cost = &forecast["cost_usd"];
    let (low, high) = (cost["low"].as_f64().unwrap(), cost["high"].as_f64().unwrap());
    assert_eq!(world.simulator.counts().requests, 0);
    assert!(!world.path("target").exists(), "nothing is made");
    world.run(&["--set", "provider.sim.requests_per_minute=100000"]).await.assert_status(0);
    let billed = world.simulator.counts().billed_picodollars as f64 / 1e12;
    // The server counts four bytes a token, and here it is counted otherwise.
    assert!(low * 0.5 < billed && billed < high * 1.5, "{low} to {high}, and it was {billed}");
    let done = world.on_job("plan", &[]).await;
    assert!(done.stdout.contains("nothing to do"), "{}", done.stdout);

    let unknown = World::of(Setup { simulator: SimulatorSpec::default(), rows: 3, ..short() }).await;
    let told = unknown.on_job("plan", &[]).await;
    let said = "the price of simulated is not known: set price_per_million_input and price_per_million_output of \
                provider \"sim\"";
    assert!(told.stdout.contains(said) && told.stdout.contains("cost         unknown"), "{}", told.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_longer_than_the_source_keeps_its_files_is_warned_of() {
    let world = World::of(Setup {
        simulator: SimulatorSpec::default(),
        rows: 40,
        provider: "requests_per_minute = 1",
        ..short()
    })
    .await;
    let job = world.job();
    let told = world.on_job("plan", &[]).await;
    assert!(!told.stdout.contains("VACUUM"), "forty minutes are less than a week: {}", told.stdout);
    std::fs::remove_dir_all(world.path("source")).unwrap();
    let retention = [("delta.deletedFileRetentionDuration", "interval 30 minutes".to_owned())];
    enrich::table::Table::create(world.path("source"), &schema(), &[], &retention).await.unwrap();
    append_delta(&world.path("source"), &rows(0..40)).await;
    let told = world.on_job("plan", &[]).await;
    let said = "this takes longer than the source keeps files that were removed from it (30m, ";
    assert!(told.stdout.contains(said), "{job:?}: {}", told.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pilots_answers_are_shown_and_not_paid_for_again() {
    let world = World::of(Setup { rows: 120, provider: PRICES, ..short() }).await;
    let told = world.on_job("plan", &["--pilot", "30"]).await;
    told.assert_status(0);
    for said in [
        "30 of them sent for $0.0",
        "sent         30 rows: 30 answers, 0 errors",
        "  → answer:\n    In short: Row ",
        "so few rows (30) hold the truth within these bounds some 85 times in 100",
        "the answers are kept: enrich run",
    ] {
        assert!(told.stdout.contains(said), "{said:?} is missing in\n{}", told.stdout);
    }
    assert_eq!(world.simulator.counts().answered, 30);
    // The same rows again: nobody is asked.
    let again = planned(&world, &["--pilot", "30"]).await;
    assert_eq!(world.simulator.counts().answered, 30);
    let cost = &again["cost_usd"];
    world.run(&[]).await.assert_status(0).assert_says("30 from the journal");
    world.assert_target(0..120).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (120, 0));
    let billed = counts.billed_picodollars as f64 / 1e12;
    let bounds = (cost["low"].as_f64().unwrap(), cost["high"].as_f64().unwrap());
    assert!(bounds.0 * 0.98 <= billed && billed <= bounds.1 * 1.02, "{bounds:?}, and it was {billed}");
    let left = std::fs::read_dir(world.path("target/_checkpoints/test/journal")).unwrap();
    assert_eq!(left.count(), 0, "no journal is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pilot_that_was_killed_paid_for_is_not_paid_for_again() {
    let world = World::of(Setup { rows: 100, provider: PRICES, ..short() }).await;
    world.simulator.set_gate(Gate::ShutFrom(35));
    let mut child = world
        .job_command("plan", &["--pilot", "100"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Four of them are in flight.
    world.until_requests(38).await;
    child.kill().unwrap();
    child.wait().unwrap();
    world.settle().await;
    let answered = world.simulator.counts().answered;
    assert!((30..80).contains(&answered), "{answered}");
    world.simulator.set_gate(Gate::Open);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..100).await;
    let again = world.simulator.counts().paid_again();
    assert!(again <= 4, "{again} answers were paid again, and four were in flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pilot_keeps_to_the_budget_and_holds_the_job() {
    let world = World::of(Setup { rows: 60, provider: PRICES, ..short() }).await;
    let broke = world.on_job("plan", &["--pilot", "60", "--set", "budget.max_cost_usd=0.006"]).await;
    broke.assert_status(5).assert_says("the budget is spent");
    let counts = world.simulator.counts();
    assert!(counts.billed_picodollars <= 6_000_000_000, "{}", counts.billed_picodollars);
    let told = world.on_job("plan", &["--pilot", "5", "--set", "budget.max_cost_usd=0.0085"]).await;
    assert!(
        told.stdout.contains(" is left of the budget of $0.0085: it may not be enough"),
        "{}",
        told.stdout
    );
    // What the pilot has paid for is not held against what is left.
    let all = world.on_job("plan", &["--pilot", "60", "--set", "budget.max_cost_usd=0.05"]).await;
    assert!(!all.assert_status(0).stdout.contains("is left of the budget"), "{}", all.stdout);
    let paid = world.simulator.counts().billed_picodollars as f64 / 1e12;
    let tight = format!("budget.max_cost_usd={:.4}", paid * 1.2);
    let all = world.on_job("plan", &["--pilot", "60", "--set", &tight]).await;
    assert!(!all.assert_status(0).stdout.contains("is left of the budget"), "{}", all.stdout);
    world.run(&["--set", "budget.max_cost_usd=1"]).await.assert_status(0);
    world.assert_target(0..60).await;
    assert_eq!(world.simulator.counts().paid_again(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_wait_for_others_are_told_by_a_pilot() {
    let second = "[provider.other]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\n[[step]]\noutput = \"more\"\n\
                  provider = \"other\"\nwhen = \"answer LIKE '%7%'\"\nprompt = \"More of {{ answer }}\"\n";
    let refusal = FaultSpec { status: Some(400), contains: Some("about:\nRow 9 ".into()), ..fault() };
    let world = World::of(Setup {
        simulator: faulty(refusal),
        rows: 60,
        step: "provider = \"sim\"\nmax_tokens = 50",
        sections: second,
        ..Setup::default()
    })
    .await;
    let told = world.on_job("plan", &[]).await;
    let said = "the requests of step \"more\" depend on answers of other steps: --pilot shows";
    assert!(told.stdout.contains(said), "{}", told.stdout);
    let forecast = planned(&world, &["--pilot", "60"]).await;
    let part = |step: &str| {
        let parts = forecast["parts"].as_array().unwrap();
        parts.iter().find(|part| part["step"] == step).unwrap()["rows"]["expected"].as_f64().unwrap()
    };
    world.run(&[]).await.assert_status(0);
    let count = "SELECT COUNT(*) FROM target WHERE _enrich['more_step']['attempts'] > 0";
    let asked = rows_of(&world.path("target"), count).await.remove(0).remove(0);
    assert_eq!((part("answer"), part("more").to_string()), (60.0, asked));
}

/// Texts whose lengths are log-normal.
fn long_tailed(count: i64, seed: u64) -> RecordBatch {
    let mut random = fastrand::Rng::with_seed(seed);
    let texts = (0..count).map(|id| {
        let (u, v) = (1.0 - random.f64(), random.f64());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let words = (30.0 * (0.7 * normal).exp()).round().max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundred at most")]
        let words = words as usize;
        format!("Row {id} {}", "word ".repeat(words))
    });
    rows_about(texts)
}

/// The interval holds what the whole run costs at the server as often as it says, and is narrow enough to decide by.
/// Lengths of prompts and of answers are log-normal, with sigmas of 0.7: one in twenty is three times the median.
#[tokio::test(flavor = "multi_thread")]
async fn nine_in_ten_intervals_of_a_pilot_hold_the_truth() {
    const ROWS: i64 = 3_000;
    const SIMULATIONS: u64 = 100;
    let spec = |seed| SimulatorSpec { completion_tokens: Some(120), completion_sigma: 0.7, seed, ..dear() };
    let source = World::new(SimulatorSpec::default()).await;
    let batch = long_tailed(ROWS, 1);
    append_delta(&source.path("source"), &batch).await;
    let texts = batch.column(1);
    let texts: &StringArray = texts.as_any().downcast_ref().unwrap();
    let prompts: Vec<String> =
        texts.iter().flatten().map(|text| format!("Say something about:\n{text}")).collect();
    let (mut held, mut widest) = (0, 0.0_f64);
    for seed in 0..SIMULATIONS {
        let world = World::new(spec(seed)).await;
        let job = world.usual_job(PRICES).replace(
            "path = \"source\"",
            &format!("path = {:?}", source.path("source").display().to_string()),
        );
        world.write_text(&job.replace("max_concurrency = 4", "max_concurrency = 32"));
        let job = Job::load(&world.job()).unwrap();
        let (_stop, stop) = watch::channel(StopRequest::None);
        let options = ForecastOptions { sample: 1_000, pilot: Some(200), seed, prompts: 0 };
        let told = forecast(&job, options, stop, None, Voice::default()).await.unwrap();
        let cost = told.cost_usd.unwrap();
        let (expected, high) = (cost.expected.unwrap(), cost.high.unwrap());
        let truth = truth_of(&spec(seed), &prompts);
        held += u64::from(cost.low <= truth && truth <= high);
        widest = widest.max((high - cost.low) / 2.0 / expected);
        assert_eq!(world.simulator.counts().answered, 200);
        if seed == 0 {
            // What the truth is reckoned to be is what a run is billed.
            let run = world.run(&["--set", "batch.max_rows=1000"]).await;
            run.assert_status(0).assert_says("200 from the journal");
            let counts = world.simulator.counts();
            assert_eq!(counts.answered, ROWS.unsigned_abs());
            let billed = counts.billed_picodollars as f64 / 1e12;
            assert!((billed - truth).abs() < 1e-9, "{billed} and {truth}");
        }
    }
    println!("{held} of {SIMULATIONS} intervals hold the truth; the widest is ±{:.1} %", widest * 100.0);
    assert!(held >= 85, "{held} of {SIMULATIONS}");
    assert!(widest <= 0.15, "±{:.1} %", widest * 100.0);
}

/// What a run over these prompts is billed, in dollars.
fn truth_of(spec: &SimulatorSpec, prompts: &[String]) -> f64 {
    let model = SimulatedModel::new(spec, clock::now());
    let cost = prompts.iter().map(|prompt| {
        let output = model.completion_tokens(prompt, 0, None).unwrap();
        let input = (prompt.len() as u64).div_ceil(4);
        input as f64 * 2.0 + output as f64 * 8.0
    });
    cost.sum::<f64>() / 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pilot_asks_nothing_that_a_run_would_refuse_and_shares_what_it_knows() {
    let world = World::of(Setup { rows: 40, provider: PRICES, ..short() }).await;
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    let asked = world.simulator.counts().requests;
    append_delta(&world.path("elsewhere"), &rows(0..1)).await;
    let refused = world.on_job("plan", &["--pilot", "5", "--set", "target.path=elsewhere"]).await;
    refused.assert_status(2).assert_says("elsewhere");
    assert_eq!(world.simulator.counts().requests, asked, "nothing was paid");

    // Five questions, a hundred rows: the pilot asks some, and the run asks the others.
    let alike = World::new(dear()).await;
    let batch = rows_about((0..100).map(|id| format!("text {}", id % 5)));
    append_delta(&alike.path("source"), &batch).await;
    alike.write_job(PRICES);
    let told = alike.on_job("plan", &["--pilot", "20"]).await;
    let said = "of 100 prompts that were counted 95 are alike: rows with the same prompt share one answer";
    assert!(told.stdout.contains(said), "{}", told.stdout);
    alike.run(&[]).await.assert_status(0);
    assert_eq!(alike.simulator.counts().answered, 5, "no question is paid for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pilot_that_is_interrupted_says_so_and_keeps_what_it_has() {
    let world = World::of(Setup { rows: 100, provider: PRICES, ..short() }).await;
    world.simulator.set_gate(Gate::ShutFrom(9));
    let mut child = world
        .job_command("plan", &["--pilot", "100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Four of them are in flight.
    world.until_requests(12).await;
    stop(&mut child, "INT").await;
    world.simulator.set_gate(Gate::Open);
    let ended = Outcome::of(&child.wait_with_output().unwrap());
    ended.assert_status(130).assert_says("the rows that were to be sent first were not all answered");
    ended.assert_says("what was answered is kept, and is not paid for again");
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.simulator.counts().paid_again(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pilot_earlier_batches_tell_what_is_expected() {
    let second =
        "[[step]]\noutput = \"more\"\nwhen = \"answer LIKE '%7%'\"\nprompt = \"More of {{ answer }}\"\n";
    let world = World::of(Setup {
        rows: 200,
        provider: &format!("{PRICES}\nrequests_per_minute = 100000"),
        ..short()
    })
    .await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&format!("{text}{second}max_tokens = 50\n"));
    let before = planned(&world, &[]).await;
    assert_eq!(before["cost_usd"]["expected"], Value::Null, "nothing tells yet");
    world.run(&["--max-rows", "100"]).await.assert_status(0);
    let paid = world.simulator.counts().billed_picodollars;
    let told = world.on_job("plan", &[]).await;
    let said = "expected are answers as they were in earlier batches, of 100 rows: --pilot shows bounds";
    assert!(told.stdout.contains(said) && told.stdout.contains(" perhaps"), "{}", told.stdout);
    let after = planned(&world, &[]).await;
    let expected = after["cost_usd"]["expected"].as_f64().unwrap();
    let step = after["parts"].as_array().unwrap().iter().find(|part| part["step"] == "more").unwrap();
    assert!(step["rows"]["expected"].as_f64().unwrap() > 10.0 && !step["seconds"].is_null(), "{step}");
    world.run(&[]).await.assert_status(0);
    let truth = (world.simulator.counts().billed_picodollars - paid) as f64 / 1e12;
    // The prompts are counted as another model counts them.
    assert!((truth / 1.6..truth * 1.6).contains(&expected), "{expected} was expected, and it was {truth}");
}

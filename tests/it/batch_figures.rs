//! What a run tells about batches at a provider: its last line and its summary, the figures of batches and those for
//! Prometheus, held against the server's own account; and how bad answers that come in a batch end a run.

use std::time::Duration;

use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec, Span, WrongForm};
use enrich::ident::Money;
use enrich::metrics::MetricsRow;
use serde_json::{Value, json};

use crate::support::{Outcome, Setup, World, fault, figures, rows_of};

/// A provider at twice the price of its Batch API, and the section for that.
const BATCH: &str = "price_per_million_input = 2.0\nprice_per_million_output = 8.0\n\
                     tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }\n\
                     [provider.sim.batch]\npoll = \"100ms\"\nrecreate_after = \"1s\"\nmax_submissions = 100\nfirst_requests = 0";

/// A simulator that bills what [`BATCH`] says, with faults.
fn spec(batches: BatchesSpec, faults: Vec<FaultSpec>) -> SimulatorSpec {
    let batches = BatchesSpec { price_per_million_input: 1.0, price_per_million_output: 4.0, ..batches };
    SimulatorSpec { batches: Some(batches), faults, ..SimulatorSpec::default() }
}

/// Batches in which a third of the rows is not answered, and some lines are strange.
fn uneven() -> BatchesSpec {
    BatchesSpec {
        expired_lines: 0.2,
        missing_lines: 0.1,
        throttled_lines: 0.1,
        twice_lines: 0.1,
        foreign_lines: 0.1,
        ..BatchesSpec::default()
    }
}

async fn world(rows: i64, batches: BatchesSpec) -> World {
    World::of(Setup { simulator: spec(batches, Vec::new()), rows, provider: BATCH, ..Setup::default() }).await
}

fn summary(run: &Outcome) -> Value {
    serde_json::from_str(&run.stdout).unwrap()
}

/// Tokens of prompts and answers together.
fn tokens(summary: &Value) -> u64 {
    ["prompt", "completion"].iter().map(|kind| summary["tokens"][kind].as_u64().unwrap()).sum()
}

#[track_caller]
fn assert_cost(summary: &Value, picodollars: u64) {
    let told = summary["cost_usd"].as_f64().unwrap();
    let billed = Money::picodollars(picodollars).dollars();
    assert!(billed > 0.0 && (told - billed).abs() < 1e-12, "{told} of {billed}");
}

/// The value of a figure for Prometheus.
#[track_caller]
fn figure(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn sum(all: &[MetricsRow], of: impl Fn(&MetricsRow) -> u64) -> u64 {
    all.iter().map(of).sum()
}

/// The figures of batches hold what the server counted.
async fn assert_figures(world: &World, rows: u64) {
    let (all, counts) = (figures(world).await, world.simulator.counts());
    assert_eq!((sum(&all, |row| row.rows), sum(&all, |row| row.answers)), (rows, rows));
    assert_eq!(sum(&all, MetricsRow::requests), counts.batches.lines);
    assert_eq!(sum(&all, |row| row.attempts), counts.batches.lines);
    assert_eq!(sum(&all, |row| row.tokens.total()), counts.billed_tokens);
    assert_eq!(sum(&all, |row| row.cost.unwrap_or_default()), counts.billed_picodollars);
    assert!(all.iter().all(|row| row.latency.is_none()), "{all:?}");
    let sql = "SELECT COUNT(*), COUNT(h['latency_ms']), SUM(h['cost_micro_usd']) FROM \
               (SELECT _enrich['answer_step'] AS h FROM target)";
    let held = rows_of(&world.path("target"), sql).await.remove(0);
    assert_eq!(held[..2], [rows.to_string(), "0".to_owned()]);
    let micros = counts.billed_picodollars / 1_000_000;
    assert!(held[2].parse::<u64>().unwrap().abs_diff(micros) <= rows, "{held:?} and {micros}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_leaves_rows_at_the_provider_says_how_many_and_what_they_cost_at_most() {
    for (step, is_bounded) in [("max_tokens = 50", true), ("", false)] {
        let takes = Some(Span(Duration::from_secs(3_600)));
        let simulator = spec(BatchesSpec { takes, ..BatchesSpec::default() }, Vec::new());
        let world = World::of(Setup { simulator, rows: 25, provider: BATCH, step, ..Setup::default() }).await;
        let file = world.path("enrich.prom");
        let run = world.run(&["--summary", "json", "--metrics-file", file.to_str().unwrap()]).await;
        run.assert_status(0).assert_says("submitted   25 rows to sim, ");
        run.assert_says("done for now: 25 rows are at sim in 1 batch, 0 written; run again, or use --wait");
        // Without max_tokens nobody knows what an answer may cost.
        assert_eq!(run.stderr.contains("(at most $"), is_bounded, "{}", run.stderr);
        let told = summary(&run);
        assert_eq!((&told["end"], &told["status"]), (&json!("waiting"), &json!(0)));
        assert_eq!((&told["submitted"]["rows"], &told["submitted"]["submissions"]), (&json!(25), &json!(1)));
        assert_eq!(told["submitted"]["worst_usd"].as_f64().is_some_and(|dollars| dollars > 0.0), is_bounded);
        assert_eq!(
            (&told["collected"], &told["duplicates"], &told["answers"]),
            (&json!(0), &json!(0), &json!(0))
        );
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(figure(&text, "enrich_submitted_rows{app_id=\"test\",provider=\"sim\"}"), 25.0);
        let submissions = |state| {
            figure(
                &text,
                &format!("enrich_submissions{{app_id=\"test\",provider=\"sim\",state=\"{state}\"}}"),
            )
        };
        assert_eq!((submissions("created"), submissions("unclear")), (1.0, 0.0));
        assert!(figure(&text, "enrich_submission_age_seconds{app_id=\"test\",provider=\"sim\"}") >= 0.0);
        assert_eq!(figure(&text, "enrich_batch_lines_total{app_id=\"test\",outcome=\"answered\"}"), 0.0);
        // The next one finds it as it is.
        let again = summary(&world.run(&["--summary", "json"]).await);
        assert_eq!((&again["end"], &again["submitted"]["rows"]), (&json!("waiting"), &json!(25)));
        assert_eq!(world.simulator.counts().batches.created, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_counts_once_however_often_its_rows_are_read() {
    let world = world(200, uneven()).await;
    let file = world.path("enrich.prom");
    let run = world.run(&["--wait", "--summary", "json", "--metrics-file", file.to_str().unwrap()]).await;
    run.assert_status(0).assert_says("collected   ").assert_says(" not answered").assert_says(" go again");
    run.assert_says("200 rows written, 200 answers, 0 errors, 200 from batches");
    let (told, counts) = (summary(&run), world.simulator.counts());
    assert_eq!(told["end"], "complete");
    assert_eq!(
        (&told["answers"], &told["collected"], &told["recovered"]),
        (&json!(200), &json!(200), &json!(0))
    );
    assert_eq!(told["submitted"], json!({"rows": 0, "submissions": 0, "worst_usd": 0.0}));
    assert_eq!(tokens(&told), counts.billed_tokens);
    assert_cost(&told, counts.billed_picodollars);
    assert_figures(&world, 200).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = |outcome| {
        figure(&text, &format!("enrich_batch_lines_total{{app_id=\"test\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((lines("answered"), lines("refused")), (200.0, 0.0));
    assert!(
        [lines("unanswered"), lines("foreign"), lines("repeated")].iter().all(|count| *count > 0.0),
        "{text}"
    );
    assert_eq!(figure(&text, "enrich_outcomes_total{app_id=\"test\",outcome=\"answer\"}"), 200.0);
    assert_eq!(figure(&text, "enrich_recovered_total{app_id=\"test\"}"), 0.0);
    assert_eq!(figure(&text, "enrich_submitted_rows{app_id=\"test\",provider=\"sim\"}"), 0.0);
    let page = world.on_job("report", &[]).await;
    assert!(page.assert_status(0).stdout.contains("nothing is known of latency"), "{}", page.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_runs_that_come_one_after_another_add_up() {
    let takes = Some(Span(Duration::from_millis(200)));
    let world = world(200, BatchesSpec { takes, ..uneven() }).await;
    let mut all = Vec::new();
    while all.last().is_none_or(|told: &Value| told["end"] == "waiting") {
        assert!(all.len() < 400, "it waits for ever");
        let run = world.run(&["--summary", "json"]).await;
        all.push(summary(run.assert_status(0)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(all.last().unwrap()["end"], "complete");
    let count = |of: &dyn Fn(&Value) -> u64| -> u64 { all.iter().map(of).sum() };
    assert_eq!(count(&|told| told["collected"].as_u64().unwrap()), 200, "{all:?}");
    assert_eq!(count(&|told| told["rows_written"].as_u64().unwrap()), 200);
    assert_eq!(count(&tokens), world.simulator.counts().billed_tokens);
    assert_figures(&world, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_after_a_kill_counts_what_it_finds_collected() {
    let world = world(25, BatchesSpec::default()).await;
    let killed = world.run_with(&["--wait"], &[("ENRICH_FAULT", "collect.after=kill@1")]).await;
    assert_eq!(killed.status, None, "{}", killed.stderr);
    let run = world.run(&["--wait", "--summary", "json"]).await;
    let told = summary(run.assert_status(0));
    assert_eq!((&told["collected"], &told["recovered"]), (&json!(25), &json!(0)));
    assert_eq!(tokens(&told), world.simulator.counts().billed_tokens);
    assert_figures(&world, 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_repaired_row_counts() {
    let wrong = FaultSpec { wrong: Some(WrongForm::Prose), times: Some(1), ..fault() };
    let simulator = spec(BatchesSpec::default(), vec![wrong]);
    let step = "fields = { mood = [\"good\", \"bad\"] }";
    let world = World::of(Setup { simulator, rows: 15, provider: BATCH, step, ..Setup::default() }).await;
    let run = world.run(&["--wait", "--summary", "json"]).await;
    let told = summary(run.assert_status(0));
    assert_eq!((&told["answers"], &told["collected"]), (&json!(15), &json!(15)));
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.lines, tokens(&told)), (30, counts.billed_tokens));
    assert_cost(&told, counts.billed_picodollars);
    assert_figures(&world, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_refused_rows_in_a_batch_stop_the_run_and_pause_the_job() {
    let refused = FaultSpec { status: Some(400), share: 0.7, ..fault() };
    let simulator = spec(BatchesSpec::default(), vec![refused]);
    let setup = Setup { simulator, rows: 1_200, batch_rows: 200, provider: BATCH, ..Setup::default() };
    let world = World::of(setup).await;
    let run = world.run(&["--wait", "--summary", "json"]).await;
    run.assert_status(3)
        .assert_says("too many errors: ")
        .assert_says(" of the last 1000 rows of step \"answer\"");
    assert_eq!(summary(&run)["end"], "error_rate");
    let answered = world.simulator.counts().answered;
    world.run(&["--wait"]).await.assert_status(3).assert_says("the job is paused since 20");
    // Who allows it gets what is paid for, and asks nothing again.
    world.run(&["--wait", "--set", "max_error_rate=1"]).await.assert_status(0);
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.created, counts.batches.lines, counts.answered), (1, 1_200, answered));
    let target = world.target().await;
    let failed = target.iter().filter(|row| row.error_count > 0).count() as u64;
    assert_eq!((target.len(), failed), (1_200, 1_200 - answered));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_batch_that_make_little_sense_stop_the_run_and_pause_the_job() {
    let empty = FaultSpec {
        finish_reason: Some("stop".into()),
        contains: Some("about:\nRow 1".into()),
        share: 0.7,
        ..fault()
    };
    let simulator = spec(BatchesSpec::default(), vec![empty]);
    let sections = "[anomalies]\nrows = 50";
    let world =
        World::of(Setup { simulator, rows: 200, provider: BATCH, sections, ..Setup::default() }).await;
    let run = world.run(&["--wait", "--summary", "json"]).await;
    run.assert_status(3).assert_says("came back without text").assert_says("; for example row ");
    assert_eq!(summary(&run)["end"], "anomaly");
    world.run(&["--wait"]).await.assert_status(3).assert_says("the job is paused since 20");
    assert_eq!(world.simulator.counts().batches.created, 1);
    let allowed = ["--wait", "--set", "anomalies.max_empty_rate=1", "--set", "max_error_rate=1"];
    world.run(&allowed).await.assert_status(0);
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.created, counts.answered, counts.requests), (1, 200, 0));
    assert_eq!(world.target().await.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answers_make_little_sense_stops_the_run_before_all_rows_are_sent() {
    // With room for what comes back, and with a window that is full of rows that wait to be sent.
    for window in [600, 600, 120, 120] {
        let empty = FaultSpec { finish_reason: Some("stop".into()), share: 0.7, ..fault() };
        let simulator = spec(BatchesSpec::default(), vec![empty]);
        let provider = format!("{BATCH}\nmax_requests = 60\nmax_outstanding = 60");
        let sections = &format!("[anomalies]\nrows = 50\n[window]\nmax_rows = {window}");
        let setup = Setup {
            simulator,
            rows: 600,
            batch_rows: 100,
            provider: &provider,
            sections,
            ..Setup::default()
        };
        let world = World::of(setup).await;
        let run = world.run(&["--wait"]).await;
        run.assert_status(3).assert_says("came back without text");
        // Nothing more is made before what has come back is looked at.
        assert_eq!(world.simulator.counts().batches.created, 1, "{window}: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_which_every_row_is_refused_is_no_success() {
    let refused = FaultSpec { status: Some(400), ..fault() };
    let simulator = spec(BatchesSpec::default(), vec![refused]);
    let world = World::of(Setup { simulator, rows: 15, provider: BATCH, ..Setup::default() }).await;
    let run = world.run(&["--wait"]).await;
    run.assert_status(3).assert_says("no row was answered, all that were sent ended as errors: 15 errors");
    assert_eq!(world.target().await.len(), 15);
}

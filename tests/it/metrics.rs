//! The figures of batches add up: to the target row by row, and to what the server counted, whatever was killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use arrow::record_batch::RecordBatch;
use enrich::config::{FaultSpec, LimitSpec, LimitWindow, SimulatorSpec, Span};
use enrich::ident::Tokens;
use enrich::metrics::{MetricsRow, RunKind};
use enrich::simulator::Gate;
use enrich::table::{Table, TableError};

use crate::support::{Setup, World, append_delta, dear, fault, figures, rows, rows_of};

fn sum(all: &[MetricsRow], of: impl Fn(&MetricsRow) -> u64) -> u64 {
    all.iter().map(of).sum()
}

/// Errors by step and class, as figures and as the target have them.
fn by_class(all: &[MetricsRow]) -> BTreeMap<(String, String), u64> {
    let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
    for row in all {
        for (class, count) in &row.errors {
            *found.entry((row.step.clone(), class.clone())).or_default() += count;
        }
    }
    found
}

async fn classes_of(target: &Path) -> BTreeMap<(String, String), u64> {
    let mut found = BTreeMap::new();
    for step in ["answer", "verdict"] {
        let sql = format!(
            "SELECT _enrich['{step}_step']['error'], COUNT(*) FROM target WHERE _enrich['{step}_step']['error'] IS NOT NULL \
             GROUP BY 1"
        );
        for row in rows_of(target, &sql).await {
            found.insert((step.to_owned(), row[0].clone()), row[1].parse().unwrap());
        }
    }
    found
}

/// Figures of runs hold what the target holds.
async fn assert_adds_up(world: &World, all: &[MetricsRow], count: u64) {
    let target = world.path("target");
    for step in ["answer", "verdict"] {
        let own: Vec<MetricsRow> = all.iter().filter(|row| row.step == step).cloned().collect();
        assert_eq!(sum(&own, |row| row.rows), count, "{step}");
        let ended = sum(&own, |row| row.answers + row.skipped + row.error_count());
        assert_eq!(ended, count, "{step}");
        let sql = format!(
            "SELECT COALESCE(SUM(h['prompt_tokens']), 0), COALESCE(SUM(h['completion_tokens']), 0), SUM(h['attempts']), \
             COALESCE(SUM(h['cost_micro_usd']), 0) FROM (SELECT _enrich['{step}_step'] AS h FROM target)"
        );
        let held = rows_of(&target, &sql).await.remove(0);
        assert_eq!(held[0], sum(&own, |row| row.tokens.prompt).to_string(), "{step}");
        assert_eq!(held[1], sum(&own, |row| row.tokens.completion).to_string(), "{step}");
        assert_eq!(held[2], sum(&own, |row| row.attempts).to_string(), "{step}");
        // The target has whole microdollars of each row.
        let micros = sum(&own, |row| row.cost.unwrap_or_default()) / 1_000_000;
        assert!(held[3].parse::<u64>().unwrap().abs_diff(micros) <= count, "{step}: {held:?} and {micros}");
    }
    assert_eq!(by_class(all), classes_of(&target).await);
    let mut keys: Vec<_> =
        all.iter().map(|row| (row.lineage, row.batch_id, &row.step, &row.provider)).collect();
    keys.sort();
    let rows = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), rows, "one row a batch, step and provider");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_add_up_to_the_table_and_to_the_servers_counts_after_twenty_kills() {
    const KILLS: u64 = 20;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let spec = SimulatorSpec {
        latency: Some(Span(Duration::from_millis(5))),
        latency_sigma: 0.8,
        seed,
        requests: Some(LimitSpec { per_minute: 24_000, window: LimitWindow::FixedWindow, seconds: Some(1) }),
        faults: vec![
            FaultSpec { share: 0.05, status: Some(400), contains: Some("Judge".into()), ..fault() },
            FaultSpec { share: 0.05, status: Some(503), times: Some(1), ..fault() },
        ],
        ..dear()
    };
    let count = 1_000;
    let world = World::of(Setup { simulator: spec, rows: count, ..Setup::of_two_steps() }).await;
    for _ in 0..KILLS {
        let wanted = world.simulator.counts().answered + chance.u64(1..90);
        let mut child =
            world.job_command("run", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while world.simulator.counts().answered < wanted && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(0..60))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        world.settle().await;
    }
    world.run(&[]).await.assert_status(0);
    let all = figures(&world).await;
    let count = count.unsigned_abs();
    assert_adds_up(&world, &all, count).await;
    let counts = world.simulator.counts();
    // Two providers, each with so many requests in flight at a kill.
    let in_flight = KILLS * Setup::of_two_steps().concurrency * 2;
    let requests = sum(&all, |row| row.load.requests);
    assert!(
        (counts.requests..=counts.requests + in_flight).contains(&requests),
        "{requests} requests counted before they were sent, and {} came",
        counts.requests
    );
    let refused = counts.statuses.get(&429).copied().unwrap_or_default();
    let throttled = sum(&all, |row| row.load.throttled);
    // A 503 without a delay is a failure, not a limit.
    assert!(throttled <= refused && refused <= throttled + in_flight, "{throttled} of {refused}");
    let tokens = |row: &MetricsRow| row.tokens.total();
    let most = counts.billed_tokens / counts.answered * 2;
    let billed = counts.billed_tokens;
    let told = sum(&all, tokens);
    assert!(told <= billed && billed <= told + in_flight * most, "{told} of {billed} tokens");
    let told = sum(&all, |row| row.cost.unwrap_or_default());
    let billed = counts.billed_picodollars;
    let most = billed / counts.answered * 2;
    assert!(told <= billed && billed <= told + in_flight * most, "{told} of {billed} picodollars");
    println!("{requests} requests of {}, {throttled} of {refused} refused", counts.requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_kill_figures_are_what_the_server_counted_to_the_picodollar() {
    let spec = SimulatorSpec {
        faults: vec![
            FaultSpec { share: 0.1, status: Some(400), contains: Some("Judge".into()), ..fault() },
            FaultSpec {
                share: 0.2,
                status: Some(429),
                retry_after: Some("0.01".into()),
                times: Some(1),
                ..fault()
            },
        ],
        ..dear()
    };
    let world = World::of(Setup { simulator: spec, rows: 60, ..Setup::of_two_steps() }).await;
    world.run(&[]).await.assert_status(0);
    let all = figures(&world).await;
    assert_adds_up(&world, &all, 60).await;
    let counts = world.simulator.counts();
    assert_eq!(sum(&all, |row| row.load.requests), counts.requests);
    assert_eq!(sum(&all, |row| row.load.throttled), counts.statuses[&429]);
    assert_eq!(sum(&all, |row| row.tokens.total()), counts.billed_tokens);
    assert_eq!(sum(&all, |row| row.cost.unwrap_or_default()), counts.billed_picodollars);
    assert!(all.iter().any(|row| row.load.waited_ms[2] > 0), "pauses are waited for");
    for row in all.iter().filter(|row| row.answers > 0) {
        let latency = row.latency.unwrap();
        assert!(latency.p50 <= latency.p90 && latency.p90 <= latency.p99 && latency.p99 <= latency.max);
        assert!(row.started_at <= row.committed_at && row.kind == RunKind::Run, "{row:?}");
    }

    // Whoever reads Delta reads them, and a retry has rows of its own.
    let table = world.path("target_metrics");
    let sql =
        "SELECT step, SUM(rows), SUM(errors), SUM(errors_by_class['bad_request']) FROM target GROUP BY step";
    let told = rows_of(&table, sql).await;
    let refused = by_class(&all)[&("verdict".to_owned(), "bad_request".to_owned())].to_string();
    assert_eq!(told[0], ["answer", "60", "0", "NULL"]);
    assert_eq!(told[1], ["verdict", "60", &refused, &refused]);
    world.on_job("retry", &[]).await.assert_status(0);
    let after = figures(&world).await;
    let again: Vec<MetricsRow> = after.iter().filter(|row| row.kind == RunKind::Retry).cloned().collect();
    assert_eq!(sum(&again, |row| row.rows).to_string(), refused, "{again:?}");
    assert_eq!(after.len() - again.len(), all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_figures_has_none_and_a_place_that_holds_something_else_is_refused() {
    let world = World::of(Setup { rows: 20, ..Setup::of_two_steps() }).await;
    world.run(&["--set", "metrics.enabled=false"]).await.assert_status(0);
    assert!(!world.path("target_metrics").exists());
    append_delta(&world.path("source"), &rows(20..30)).await;
    append_delta(&world.path("elsewhere"), &rows(0..1)).await;
    append_delta(&world.path("target_metrics"), &rows(0..1)).await;
    for (set, told) in [
        (
            "metrics.path=elsewhere",
            "which is no table of figures: it has no column \"app_id\": name another place with metrics.path",
        ),
        ("batch.max_rows=10", "target_metrics, which is no table of figures: it has no column \"app_id\""),
        ("metrics.path=job.toml", "is no Delta table"),
        ("metrics.path=target", "`metrics.path` and target.path lie one inside the other"),
        ("metrics.path=source/metrics", "`metrics.path` and source.path lie one inside the other"),
    ] {
        let refused = world.run(&["--set", set]).await;
        refused.assert_status(2).assert_says(told);
    }
    assert_eq!(world.simulator.counts().answered, 40, "nothing was asked in between");
    world.run(&["--set", "metrics.path=figures"]).await.assert_status(0);
    assert_eq!(Table::open(&world.path("figures")).await.unwrap().version(), 1);
}

/// Rows of a query in types that a Delta table takes.
fn with_plain_texts(rows: &RecordBatch) -> RecordBatch {
    let plain = |(field, column): (&FieldRef, &ArrayRef)| {
        let is_view = *field.data_type() == DataType::Utf8View;
        let to = if is_view { DataType::Utf8 } else { field.data_type().clone() };
        (field.name().clone(), cast(column, &to).unwrap(), true)
    };
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(plain);
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_an_earlier_version_gets_the_columns_that_it_lacks() {
    let world = World::of(Setup { rows: 20, ..Setup::of_two_steps() }).await;
    world.run(&[]).await.assert_status(0);
    // The table as a version had made it that counted no refusals.
    let (path, whole) = (world.path("target_metrics"), world.path("whole"));
    fs::rename(&path, &whole).unwrap();
    let mut old = Vec::new();
    let sql = "SELECT * EXCEPT (throttled) FROM target";
    let table = Table::open(&whole).await.unwrap();
    let keep = |rows| {
        old.push(rows);
        Ok::<(), TableError>(())
    };
    table.query(sql, keep).await.unwrap();
    assert_eq!(old.len(), 1);
    append_delta(&path, &with_plain_texts(&old[0])).await;
    append_delta(&world.path("source"), &rows(20..30)).await;
    world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    let all = figures(&world).await;
    assert_eq!(sum(&all, |row| row.rows), 60, "two steps of thirty rows");
    let told = "SELECT count(*), count(throttled) FROM target";
    assert_eq!(rows_of(&path, told).await, [["6", "2"]], "null in the rows that were there");
    world.on_job("report", &[]).await.assert_status(0);
}

#[test]
fn tokens_that_were_thought_are_counted_apart() {
    let body = br#"{"usage":{"prompt_tokens":3,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":5}}}"#;
    let facts = enrich::decode::facts(&enrich::decode::parse(body).unwrap());
    assert_eq!(facts.tokens, Some(Tokens { prompt: 3, cached: 0, completion: 9, reasoning: 5 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_figures_of_a_run_while_it_goes_on_and_when_it_has_ended() {
    let world = World::of(Setup { rows: 400, ..Setup::of_two_steps() }).await;
    world.simulator.set_gate(Gate::ShutFrom(200));
    let file = world.path("enrich.prom");
    let mut command = world.job_command("run", &["--metrics-addr", "127.0.0.1:0"]);
    command.args(["--metrics-file", file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let url = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some((_, url)) = line.split_once("figures are at ") {
            break url.to_owned();
        }
    };
    let figure = |text: &str, name: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    let live = loop {
        let response = reqwest::get(&url).await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let text = response.text().await.unwrap();
        let answers = figure(&text, "enrich_outcomes_total{app_id=\"test\",outcome=\"answer\"}");
        let in_flight = figure(&text, "enrich_requests_in_flight{");
        if answers.is_some_and(|answers| answers > 20.0) && in_flight.is_some_and(|some| some > 0.0) {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(figure(&live, "enrich_requests_in_flight{").unwrap() > 0.0, "{live}");
    assert!(figure(&live, "enrich_last_run").is_none(), "it goes on: {live}");
    world.simulator.set_gate(Gate::Open);
    for line in lines {
        line.unwrap();
    }
    assert!(child.wait().unwrap().success());
    let text = std::fs::read_to_string(&file).unwrap();
    let counts = world.simulator.counts();
    let requests = figure(&text, "enrich_requests_total{app_id=\"test\",provider=\"other\"}").unwrap()
        + figure(&text, "enrich_requests_total{app_id=\"test\",provider=\"sim\"}").unwrap();
    assert_eq!(requests, counts.requests as f64);
    let tokens = figure(&text, "enrich_tokens_total{app_id=\"test\",kind=\"completion\"}").unwrap()
        + figure(&text, "enrich_tokens_total{app_id=\"test\",kind=\"prompt\"}").unwrap();
    assert_eq!(tokens, counts.billed_tokens as f64);
    assert_eq!(figure(&text, "enrich_committed_rows_total{"), Some(400.0));
    assert_eq!(figure(&text, "enrich_last_run_exit_status{"), Some(0.0));

    // A run that fails says so too, and one that cannot listen does not begin.
    let set = format!("provider.sim.base_url={}", world.simulator.url().as_str().replace("/v1", "/nowhere"));
    append_delta(&world.path("source"), &rows(400..430)).await;
    let stopped = world.run(&["--metrics-file", file.to_str().unwrap(), "--set", &set]).await;
    assert_ne!(stopped.status, Some(0));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(figure(&text, "enrich_last_run_exit_status{"), stopped.status.map(f64::from), "{text}");
    let refused = world.run(&["--metrics-addr", "192.0.2.1:9"]).await;
    refused.assert_status(1).assert_says("--metrics-addr: cannot listen at 192.0.2.1:9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_figures_that_cannot_be_written_keeps_no_data_from_being_written() {
    let world = World::of(Setup { rows: 60, ..Setup::of_two_steps() }).await;
    // Below a file nothing can be made.
    let nowhere = ["--set", "metrics.path=job.toml/figures"];
    let told = "figures of batches wait beside the checkpoint, since their table cannot be written: ";
    world.run(&nowhere).await.assert_status(0).assert_says(told).assert_says("metrics.enabled = false");
    append_delta(&world.path("source"), &rows(60..80)).await;
    world.run(&nowhere).await.assert_status(0).assert_says(told);
    let mut check = world.job_command("check", &[]);
    check.args(nowhere);
    let checked = world.outcome(check).await;
    assert!(checked.status != Some(0) && checked.stdout.contains("wrong   metrics: "), "{}", checked.stdout);
    // What waited comes in with the next run that can write it.
    append_delta(&world.path("source"), &rows(80..90)).await;
    world.run(&[]).await.assert_status(0);
    let all = figures(&world).await;
    assert_adds_up(&world, &all, 90).await;
    assert_eq!(sum(&all, |row| row.load.requests), world.simulator.counts().requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_told_once_also_where_what_was_told_is_damaged_or_a_provider_comes_back() {
    let world = World::of(Setup { rows: 40, ..Setup::of_two_steps() }).await;
    world.run(&["--max-rows", "20"]).await.assert_status(0);
    let file = world.path("target/_checkpoints/test/metrics.jsonl");
    std::fs::write(&file, "garbage").unwrap();
    world.run(&[]).await.assert_status(0);
    let requests = || async { sum(&figures(&world).await, |row| row.load.requests) };
    assert_eq!(requests().await, world.simulator.counts().requests);
    let text = std::fs::read_to_string(world.job()).unwrap();
    let other = text.replace("[provider.other]", "[provider.third]").replace("\"other\"", "\"third\"");
    for (text, more) in [(&other, 40..50), (&text, 50..60)] {
        world.write_text(text);
        append_delta(&world.path("source"), &rows(more)).await;
        world.run(&[]).await.assert_status(0);
    }
    assert_eq!(requests().await, world.simulator.counts().requests);
    // A pilot's requests are told with the first batch of the run that uses its answers, also where it counts anew.
    std::fs::remove_file(world.path("target/_checkpoints/test/counters")).unwrap();
    append_delta(&world.path("source"), &rows(60..80)).await;
    world.on_job("plan", &["--pilot", "10"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
    assert_eq!(requests().await, world.simulator.counts().requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_figures_is_short_to_read_however_many_runs_there_were() {
    let world = World::of(Setup { rows: 12, ..Setup::of_two_steps() }).await;
    for _ in 0..12 {
        world.run(&["--max-rows", "1"]).await.assert_status(0);
    }
    let log = world.path("target_metrics/_delta_log");
    let last: serde_json::Value =
        serde_json::from_slice(&std::fs::read(log.join("_last_checkpoint")).unwrap()).unwrap();
    assert!(last["version"].as_u64().is_some_and(|version| version > 12 - 10), "{last}");
    // Bounds are kept of the columns that rows are looked for by.
    let commit = std::fs::read_to_string(log.join("00000000000000000011.json")).unwrap();
    assert!(commit.contains("committed_at") && !commit.contains("latency_ms_max"), "{commit}");
    assert_adds_up(&world, &figures(&world).await, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_costs_stays_unknown_when_others_share_it() {
    let world = World::new(SimulatorSpec::default()).await;
    // Of each row a second one that has its answer.
    for _ in 0..2 {
        append_delta(&world.path("source"), &rows(0..5)).await;
    }
    world.write_job("");
    let ended = world.run(&["--summary", "json"]).await;
    ended.assert_status(0);
    assert!(!ended.stdout.contains("cost_usd"), "{}", ended.stdout);
    let found = figures(&world).await;
    assert_eq!((sum(&found, |row| row.shared), sum(&found, |row| row.answers)), (5, 10));
    assert!(found.iter().all(|row| row.cost.is_none()), "{found:?}");
    let job = world.job();
    let page = world.path("page.html");
    let made = ["report", job.to_str().unwrap(), "--output", page.to_str().unwrap()];
    let made = world.output(world.command(&made)).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("No price is known") && !page.contains("Nothing was paid"));
}

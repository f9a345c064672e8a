//! What a run says while it goes on and when it ends: progress, log formats, the summary for scripts, and the
//! share of errors that ends it.

use std::fs;
use std::process::Stdio;

use enrich::config::{FaultSpec, SimulatorSpec};
use enrich::simulator::{Gate, Simulator};
use serde_json::Value;

use crate::support::{
    Outcome, PATIENT, Setup, World, append_delta, fault, faulty, plain, rows, rows_of, slow, until_said,
    wait, with_faults, without_times,
};

/// Takes out what differs from run to run: times, ids, folders.
fn steady(text: &str, world: &World) -> String {
    let folder = world.folder.path().canonicalize().unwrap();
    let text = plain(text).replace(folder.to_str().unwrap(), "[folder]");
    let text = text.replace(world.folder.path().to_str().unwrap(), "[folder]");
    without_times(&text)
}

/// The only line of standard output, as JSON with steady values.
#[track_caller]
fn summary(outcome: &Outcome, world: &World) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "one object: {:?}", outcome.stdout);
    let mut summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(summary["duration_seconds"].is_f64());
    summary["duration_seconds"] = "[time]".into();
    if summary["run_id"].is_string() {
        summary["run_id"] = "[run]".into();
    }
    for provider in summary["providers"].as_object_mut().into_iter().flatten().map(|(_, figures)| figures) {
        // What is known of limits depends on how quickly answers came.
        assert!(provider["concurrency"].is_u64() && provider["limits"].is_array());
        provider["concurrency"] = "[some]".into();
        provider["limits"] = "[some]".into();
    }
    serde_json::from_str(&steady(&summary.to_string(), world)).unwrap()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

/// Refuses two of three prompts.
fn mostly_refusing() -> SimulatorSpec {
    // Rows, and no harmless question.
    let contains = Some("Row ".to_owned());
    let message = Some("Bad characters.".into());
    faulty(FaultSpec { contains, share: 0.67, status: Some(400), message, ..fault() })
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_progress_is_a_line_now_and_then_and_quiet_takes_it_away() {
    let world = World::of(Setup { simulator: slow(100), rows: 40, ..Setup::default() }).await;
    let ran = world.run(&["--progress-interval", "250ms"]).await;
    ran.assert_status(0).assert_says("done: 40 rows written");
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("progress")).collect();
    assert!(!lines.is_empty(), "{}", ran.stderr);
    for line in &lines {
        assert!(line.contains(" INFO progress rows="), "{line}");
        assert!(line.contains(" of=40 ") && line.contains(" in_flight="), "{line}");
    }
    assert_eq!(ran.stderr.lines().count(), lines.len() + 2, "{}", ran.stderr);

    let world = World::of(Setup { simulator: slow(100), rows: 20, ..Setup::default() }).await;
    let quiet = world.run(&["--progress-interval", "50ms", "--quiet"]).await;
    assert_eq!((quiet.assert_status(0).stderr.as_str(), quiet.stdout.as_str()), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_has_every_figure_and_says_what_the_run_waits_for() {
    // The first row is answered, and the others wait for the second minute.
    let world = World::of(Setup { rows: 40, provider: "requests_per_minute = 1", ..Setup::default() }).await;
    let ran =
        world.run(&["--progress-interval", "400ms", "--max-duration", "10s", "--log-format", "json"]).await;
    ran.assert_status(0);
    let lines: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut progress = lines.iter().find(|line| line["rows"] == 1).unwrap().clone();
    for moving in ["rows_per_second", "left"] {
        progress.as_object_mut().unwrap().remove(moving);
    }
    assert!(progress["timestamp"].as_str().unwrap().ends_with('Z'));
    progress["timestamp"] = "[time]".into();
    insta::assert_snapshot!("progress", pretty(&progress));
    let last = lines.last().unwrap();
    assert_eq!((&last["level"], &last["summary"]["end"]), (&"INFO".into(), &"max_duration".into()));
    assert!(last["message"].as_str().unwrap().starts_with("stopped after --max-duration: 0 rows written"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_row_that_fills_the_window_is_what_the_run_waits_for() {
    let world = World::of(Setup { rows: 60, provider: PATIENT, ..Setup::default() }).await;
    world.simulator.set_gate(Gate::ShutFor("Row 3 ".into()));
    let mut child = world.start(&["--progress-interval", "500ms"]);
    until_said(&mut child, "rows=39 of=60 ").await;
    until_said(&mut child, "waiting=\"slow rows of batch 0, the window is full\"").await;
    world.simulator.set_gate(Gate::Open);
    wait(child).await.assert_status(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_attempts_are_counted_apart_from_retries() {
    let only = |id: i64, fault: FaultSpec| FaultSpec { contains: Some(format!("Row {id} ")), ..fault };
    let spec = SimulatorSpec {
        faults: vec![
            only(
                2,
                FaultSpec { status: Some(429), retry_after: Some("0.05".into()), times: Some(3), ..fault() },
            ),
            only(5, FaultSpec { status: Some(500), times: Some(2), ..fault() }),
            only(7, FaultSpec { status: Some(400), ..fault() }),
        ],
        ..SimulatorSpec::default()
    };
    let world = World::of(Setup { simulator: spec, rows: 20, ..Setup::default() }).await;
    let ran = world.run(&["--summary", "json"]).await;
    ran.assert_status(0);
    insta::assert_snapshot!("summary_complete", pretty(&summary(&ran, &world)));
    let again = world.run(&["--summary", "json", "--quiet"]).await;
    assert_eq!(again.assert_status(0).stderr, "");
    assert_eq!(summary(&again, &world)["end"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_says_how_a_run_ended() {
    let refusal = FaultSpec {
        status: Some(401),
        code: Some("invalid_api_key".into()),
        message: Some("No.".into()),
        ..fault()
    };
    let world = World::of(Setup { simulator: faulty(refusal), rows: 20, ..Setup::default() }).await;
    let stopped = world.run(&["--summary", "json"]).await;
    insta::assert_snapshot!("summary_provider", pretty(&summary(stopped.assert_status(4), &world)));

    let world = World::with_rows(20, 1).await;
    let limited = world.run(&["--summary", "json", "--max-rows", "5"]).await;
    assert_eq!(summary(limited.assert_status(0), &world)["end"], "max_rows");
    std::fs::write(world.path("target/_checkpoints/test/checkpoint.json"), "{}").unwrap();
    let broken = world.run(&["--summary", "json"]).await;
    let told = summary(broken.assert_status(1), &world);
    assert_eq!((&told["end"], &told["run_id"]), (&"error".into(), &Value::Null));
    broken.assert_says(&format!(
        "error: {}",
        told["message"].as_str().unwrap().replace("[folder]", world.folder.path().to_str().unwrap())
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_all_there_is_on_stderr_when_it_is_asked_for() {
    let world = World::of(Setup { simulator: mostly_refusing(), rows: 20, ..Setup::default() }).await;
    for arguments in [vec![], vec!["--fail-on-errors"], vec!["--max-rows", "2"]] {
        let mut arguments = arguments;
        arguments.extend(["--log-format", "json"]);
        let ran = world.run_with(&arguments, &[("RUST_LOG", "enrich=debug")]).await;
        assert!(ran.stderr.lines().count() > 1);
        for line in ran.stderr.lines() {
            let object: Value = serde_json::from_str(line).unwrap();
            assert!(object["message"].is_string() && object["level"].is_string(), "{line}");
        }
    }
    world.write_text("app_id = 7");
    let wrong = world.run(&["--log-format", "json"]).await;
    let object: Value = serde_json::from_str(wrong.assert_status(2).stderr.trim_end()).unwrap();
    assert_eq!(object["level"], "ERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_in_a_log_say_when_and_of_which_job_and_each_reason_for_a_retry_once() {
    let busy = |id: &str, message: &str| FaultSpec {
        contains: Some(format!("Row {id}")),
        message: Some(message.into()),
        ..FaultSpec { status: Some(503), times: Some(1), ..fault() }
    };
    let faults = vec![busy("1", "busy, 17 wait"), busy("2", "busy, 4 wait"), busy("3", "restarting")];
    let world = World::of(Setup { simulator: with_faults(faults), rows: 40, ..Setup::default() }).await;
    let in_log = |outcome: &Outcome, level: &str, text: &str| {
        let line = format!(r"(?m)^\d{{4}}-\d\d-\d\dT[0-9:.]+Z +{level} \[test\] {text}");
        assert!(regex::Regex::new(&line).unwrap().is_match(&outcome.stderr), "{text}:\n{}", outcome.stderr);
    };
    let ran = world.run(&[]).await;
    in_log(ran.assert_status(0), "INFO", "done: 40 rows written");
    let reasons =
        ran.stderr.lines().filter(|line| line.contains("an attempt failed and is repeated")).count();
    assert_eq!(reasons, 2, "numbers make no other reason:\n{}", ran.stderr);
    in_log(world.run(&[]).await.assert_status(0), "INFO", "nothing to do: ");
    fs::remove_dir_all(world.path("source")).unwrap();
    in_log(world.run(&[]).await.assert_status(2), "ERROR", "error: the source ");
    world.write_text("app_id = 7");
    let wrong = world.run(&[]).await;
    let line = regex::Regex::new(r"^\d{4}-\d\d-\d\dT[0-9:.]+Z ERROR error: ").unwrap();
    assert!(line.is_match(&wrong.assert_status(2).stderr), "{}", wrong.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_follows_a_log_knows_how_many_rows_are_left() {
    let world = World::with_rows(20, 1).await;
    world.run(&[]).await.assert_status(0);
    for commit in 0..3 {
        append_delta(&world.path("source"), &rows(20 + 10 * commit..30 + 10 * commit)).await;
    }
    let outstanding = |outcome: &Outcome| {
        let line = outcome.stderr.lines().find(|line| line.contains("outstanding"));
        line.unwrap_or_default().to_owned()
    };
    let debug = [("RUST_LOG", "enrich=debug")];
    // In the middle of the first commit.
    let part = world.run_with(&["--max-rows", "4"], &debug).await;
    assert!(outstanding(part.assert_status(0)).contains("rows=30 "), "{}", outstanding(&part));
    let rest = world.run_with(&[], &debug).await;
    assert!(outstanding(rest.assert_status(0)).contains("rows=26"), "{}", outstanding(&rest));
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_log_says_what_is_logged() {
    let world = World::with_rows(20, 1).await;
    let ran = world.run_with(&[], &[("RUST_LOG", "enrich=debug")]).await;
    ran.assert_status(0).assert_says("DEBUG batch committed");
    assert!(!ran.stderr.contains('\u{1b}'), "no colours where there is no terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_for_most_rows_stops_and_keeps_what_was_answered() {
    let world = World::of(Setup { simulator: mostly_refusing(), rows: 3_000, ..Setup::default() }).await;
    let text = world.usual_job("").replace("max_rows = 10", "max_rows = 100");
    world.write_text(&text);
    let stopped = world.run(&["--summary", "json"]).await;
    stopped.assert_status(3);
    let told = summary(&stopped, &world);
    assert_eq!(
        (&told["end"], &told["class"], &told["step"]),
        (&"error_rate".into(), &"bad_request".into(), &"answer".into())
    );
    let shown = steady(&stopped.stderr, &world);
    let digits = |c: char| c.is_ascii_digit();
    // Which of the rows are among the last depends on when they came back.
    let shown: Vec<String> = shown
        .lines()
        .map(|line| {
            line.split(' ')
                .map(|word| if word.starts_with(digits) { "[n]" } else { word })
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|line| !line.contains("INFO"))
        .collect();
    insta::assert_snapshot!("too_many_errors", shown.join("\n"));
    let (requests, written) = (world.simulator.counts().requests, world.target().await.len());
    assert!((1_000..1_200).contains(&requests), "{requests} requests");
    assert!(written >= 900 && written % 100 == 0, "{written} rows: full batches are committed");

    // Cron comes again: nothing is asked until somebody has acted.
    let paused = world.run(&[]).await;
    paused.assert_status(3).assert_says("the job is paused since").assert_says("failed, ");
    paused.assert_says(&format!("to go on as it is: enrich run {} --unpause", world.job().display()));
    assert_eq!(world.simulator.counts().requests, requests);
    // What is in the journal is not judged again, and the rows that are left are asked.
    world.write_text(&format!("max_error_rate = 1\n{text}"));
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.target().await.len(), 3_000);
    // Harmless questions come on top: so many refusals in a row may be the provider's.
    let requests = world.simulator.counts().requests;
    assert!((3_000..3_010).contains(&requests), "{requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_step_that_fails_for_most_rows_is_not_outweighed_by_the_first() {
    let refusal = FaultSpec { contains: Some("Second:".into()), share: 0.8, status: Some(400), ..fault() };
    let world = World::of(Setup { simulator: faulty(refusal), rows: 2_000, ..Setup::default() }).await;
    let step = "[[step]]\noutput = \"more\"\nprompt = \"Second: {{ text }}\"\n";
    world.write_text(&(world.usual_job("").replace("max_rows = 10", "max_rows = 500") + step));
    world.run(&[]).await.assert_status(3).assert_says("of the last 1000 rows of step \"more\" failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_texts_may_stand_apart_from_them() {
    let refusal = FaultSpec { contains: Some("Row 4 ".into()), status: Some(400), ..fault() };
    let world = World::of(Setup { simulator: faulty(refusal), rows: 12, ..Setup::default() }).await;
    world.write_text(
        &world.usual_job("").replace("output = \"answer\"", "output = \"answer\"\non_error = \"null\""),
    );
    world.run(&[]).await.assert_status(0).assert_says("1 error (bad_request 1)");
    let sql = "SELECT id, answer IS NULL, answer_error FROM target WHERE answer IS NULL OR answer_error IS NOT NULL";
    let rows = rows_of(&world.path("target"), sql).await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0][0].as_str(), rows[0][1].as_str()), ("4", "true"));
    assert!(rows[0][2].starts_with("ERROR: bad_request: HTTP 400"), "{}", rows[0][2]);
    let job = world.job();
    let listed = world.output(world.job_command("errors", &[])).await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains("bad_request: HTTP 400"));
    // What is mended has no error any more.
    let good = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    let text = fs::read_to_string(&job).unwrap();
    world.write_text(&text.replace(
        world.simulator.url().as_str().trim_end_matches('/'),
        good.url().as_str().trim_end_matches('/'),
    ));
    let retried = world.on_job("retry", &[]).await;
    retried.assert_status(0).assert_says("1 answer, 0 errors");
    assert!(rows_of(&world.path("target"), sql).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_fail_a_run_where_that_is_asked_for() {
    let refusal = FaultSpec { contains: Some("Row 4 ".into()), status: Some(400), ..fault() };
    let world = World::of(Setup { simulator: faulty(refusal), rows: 20, ..Setup::default() }).await;
    let ran = world.run(&["--fail-on-errors"]).await;
    ran.assert_status(3).assert_says("error: 1 error, and --fail-on-errors is given");
    ran.assert_says("done: 20 rows written, 19 answers, 1 error (");
    world.run(&["--fail-on-errors"]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("source"), &rows(20..30)).await;
    world.run(&["--fail-on-errors"]).await.assert_status(0).assert_says("done: 10 rows written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_errors_that_cannot_be_is_a_mistake_in_the_job() {
    let world = World::with_rows(1, 1).await;
    for wrong in ["0", "0.0", "-0.5", "1.01", "nan", "inf"] {
        world.write_text(&format!("max_error_rate = {wrong}\n{}", world.usual_job("")));
        world
            .run(&[])
            .await
            .assert_status(2)
            .assert_says("`max_error_rate` is ")
            .assert_says("more than 0 and at most 1");
    }
    world.write_text(&format!("max_error_rate = \"half\"\n{}", world.usual_job("")));
    world.run(&[]).await.assert_status(2).assert_says("job.toml:1: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_does_not_fail_a_run_that_has_a_summary() {
    let world = World::with_rows(20, 1).await;
    let mut command = world.job_command("run", &["--summary", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

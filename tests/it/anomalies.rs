//! A run whose answers make little sense stops with samples, keeps what it has, and goes on when that is wanted.

use std::time::Duration;

use enrich::config::{FaultSpec, Span};
use serde_json::Value;

use crate::support::{Setup, World, append_delta, fault, faulty, rows, send, stop, until, wait, with_faults};

const HOUR: Duration = Duration::from_secs(3_600);

const WINDOW: &str = "[anomalies]\nrows = 50";

/// From row 100 on, seven of ten answers are of a kind.
fn late(change: FaultSpec) -> Setup<'static> {
    let late = FaultSpec { contains: Some("about:\nRow 1".into()), share: 0.7, ..change };
    Setup { simulator: faulty(late), rows: 200, sections: WINDOW, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_answers_of_a_kind_pause_the_job_with_samples() {
    let empty = FaultSpec { finish_reason: Some("stop".into()), ..fault() };
    let refused = FaultSpec { finish_reason: Some("content_filter".into()), ..fault() };
    let invalid = FaultSpec { text: Some("perhaps".into()), ..fault() };
    let classes = "classes = [\"yes\", \"no\"]\nmax_repairs = 0";
    for (change, step, key, told, sample) in [
        (empty, "", "max_empty_rate", "came back without text", "no text came"),
        (refused, "", "max_refusal_rate", "were declined", "the provider's filter cut the answer"),
        (invalid, classes, "max_invalid_rate", "came back in another form than was requested", "perhaps"),
    ] {
        let world = World::of(Setup { step, ..late(change) }).await;
        let stopped = world.run(&["--summary", "json"]).await;
        stopped.assert_status(3).assert_says(told).assert_says(sample).assert_says("; for example row ");
        stopped.assert_says(&format!("or raise anomalies.{key}"));
        let summary: Value = serde_json::from_str(&stopped.stdout).unwrap();
        assert_eq!((&summary["end"], &summary["step"]), (&"anomaly".into(), &"answer".into()));
        let asked = world.simulator.counts().requests;
        assert!((110..200).contains(&asked), "{asked}");
        // Who only comes again pays for nothing.
        let version = world.target_version().await;
        world.run(&[]).await.assert_status(3).assert_says("the job is paused since 20").assert_says(told);
        assert_eq!((world.simulator.counts().requests, world.target_version().await), (asked, version));
        // What is answered stays answered, and who wants the rest gets it.
        world
            .run(&["--set", &format!("anomalies.{key}=1"), "--set", "max_error_rate=1"])
            .await
            .assert_status(0);
        assert_eq!(world.target().await.len(), 200);
        assert_eq!(world.simulator.counts().requests, 200, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_goes_on_when_somebody_has_acted() {
    let empty = || FaultSpec { finish_reason: Some("stop".into()), ..fault() };
    let world = World::of(late(empty())).await;
    world.run(&[]).await.assert_status(3).assert_says("--unpause");
    let asked = world.simulator.counts().requests;
    // It is told wherever one looks.
    let summary = world.run(&["--summary", "json"]).await.stdout;
    assert_eq!(serde_json::from_str::<Value>(&summary).unwrap()["end"], "paused");
    let status = world.on_job("status", &["--format", "json"]).await.stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["next"], &status["last_run"]["end"]), (&"unpause".into(), &"anomaly".into()));
    assert!(status["paused"]["why"].as_str().unwrap().contains("came back without text"), "{status}");
    let text = world.on_job("status", &[]).await.stdout;
    assert!(text.contains("paused      since 20") && text.contains("as it is, with --unpause"), "{text}");
    let page = world.on_job("report", &[]).await.stdout;
    assert!(page.contains("UTC: anomaly: 11 of the last 50 rows of step &quot;answer&quot;"), "{page}");
    let check = world.on_job("check", &[]).await;
    assert!(check.assert_status(3).stdout.contains("the job is paused since 20"), "{}", check.stdout);
    let plan = world.on_job("plan", &["--pilot", "5"]).await;
    assert!(plan.assert_status(0).stdout.contains("sends nothing without --unpause"), "{}", plan.stdout);
    let asked = asked + 5;
    assert_eq!(world.simulator.counts().requests, asked);

    // Whoever wants it as it is pays for as much as is looked at, and it is paused again.
    world.run(&["--unpause"]).await.assert_status(3).assert_says("something is wrong with the answers");
    let again = world.simulator.counts().requests;
    assert!(again > asked && again < 200, "{again}");
    world.run(&[]).await.assert_status(3).assert_says("the job is paused");
    assert_eq!(world.simulator.counts().requests, again);

    // A trial with other bounds is an act of its own, and the job as it stands is none.
    let trial = ["--set", "anomalies.max_empty_rate=1", "--set", "max_error_rate=1", "--max-rows", "10"];
    world.run(&trial).await.assert_status(0);
    let again = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(3).assert_says("the job is paused");
    assert_eq!(world.simulator.counts().requests, again);

    // Another prompt is an act, and one that ends well leaves no pause.
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("{{ text }}", "{{ text }}!").replace("about:", "of:"));
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.target().await.len(), 200);
    append_delta(&world.path("source"), &rows(200..210)).await;
    world.write_text(&text);
    world.run(&["--set", "max_error_rate=1"]).await.assert_status(0);
    assert_eq!(world.target().await.len(), 210);

    let world = World::of(late(empty())).await;
    world.run(&[]).await.assert_status(3);
    let begun_anew = world.run(&["--restart", "--yes", "--max-rows", "60"]).await;
    begun_anew.assert_status(0);
    assert!(world.on_job("status", &["--format", "json"]).await.stdout.contains("\"paused\":null"));
}

#[tokio::test(flavor = "multi_thread")]
async fn most_rows_that_come_back_empty_pause_the_job_also_where_that_is_too_many_errors() {
    let empty = FaultSpec { finish_reason: Some("stop".into()), share: 0.7, ..fault() };
    let world =
        World::of(Setup { simulator: faulty(empty), rows: 1_500, batch_rows: 100, ..Setup::default() }).await;
    let stopped = world.run(&["--summary", "json"]).await;
    let summary: Value = serde_json::from_str(&stopped.assert_status(3).stdout).unwrap();
    assert_eq!(summary["end"], "anomaly");
    let asked = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(3).assert_says("the job is paused");
    assert_eq!(world.simulator.counts().requests, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_fewer_rows_than_the_window_is_judged_at_its_end() {
    let empty = FaultSpec { finish_reason: Some("stop".into()), share: 0.8, ..fault() };
    for (count, status, next) in [(40, 0, 0), (120, 3, 3)] {
        let simulator = faulty(empty.clone());
        let world = World::of(Setup { simulator, rows: count, ..Setup::default() }).await;
        let ended = world.run(&[]).await;
        ended.assert_status(status);
        assert_eq!(world.target().await.len() as i64, count, "all of it is written");
        if status == 3 {
            ended.assert_says("of the last 120 rows of step \"answer\" came back without text");
        }
        append_delta(&world.path("source"), &rows(count..count + 10)).await;
        world.run(&[]).await.assert_status(next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_paused_at_once_and_not_when_its_slowest_row_is_back() {
    let empty = FaultSpec { finish_reason: Some("stop".into()), share: 0.7, ..fault() };
    let never = FaultSpec { contains: Some("Row 20".into()), delay: Some(Span(HOUR)), ..fault() };
    let simulator = with_faults(vec![never, empty]);
    let setup = Setup { simulator, rows: 90, sections: WINDOW, batch_rows: 90, ..Setup::default() };
    let world = World::of(setup).await;
    let mut run = world.start(&[]);
    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    let is_paused =
        || std::fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("came back without text"));
    while !is_paused() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until(&world.simulator, |counts| counts.in_flight <= 1).await;
    assert_eq!(world.simulator.counts().in_flight, 1, "the slow row is still out");
    stop(&mut run, "INT").await;
    send(&run, "INT");
    wait(run).await.assert_status(3).assert_says("until then no run sends anything");
    let asked = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(3).assert_says("the job is paused");
    assert_eq!(world.simulator.counts().requests, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_cut_off_count_where_that_is_asked_for() {
    let body = r#"{"choices":[{"message":{"content":"and so it went on and"},"finish_reason":"length"}]}"#;
    let cut = || FaultSpec { body: Some(body.into()), ..fault() };
    let allowed = World::of(late(cut())).await;
    allowed.run(&[]).await.assert_status(0);
    let counted =
        World::of(Setup { sections: "[anomalies]\nrows = 50\nmax_cut_rate = 0.4", ..late(cut()) }).await;
    let stopped = counted.run(&[]).await;
    stopped.assert_status(3).assert_says("were cut off at max_tokens").assert_says("and so it went on and");
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_that_are_none_are_refused() {
    for (bounds, told) in [
        ("rows = 5", "`anomalies.rows` is 5; it must be 20 to 1000000"),
        ("max_cut_rate = 0.0", "`anomalies.max_cut_rate` is 0; it must be more than 0"),
        ("max_empty_rate = 2", "`anomalies.max_empty_rate` is 2; it must be more than 0 and at most 1"),
        ("max_empty = 0.1", "did you mean `max_empty_rate`?"),
    ] {
        let world = World::of(late(fault())).await;
        let text = std::fs::read_to_string(world.job()).unwrap();
        world.write_text(&text.replace("rows = 50", bounds));
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
}

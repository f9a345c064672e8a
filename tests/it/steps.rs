//! Several steps: outputs in templates and conditions, failures upstream, retries that know what depends on what.

use std::process::Stdio;
use std::time::Duration;

use enrich::config::{FaultSpec, SimulatorSpec, WrongForm};

use crate::support::{Setup, World, fault, faulty, rows_of, with_faults, wrong};

const STEPS: &str = r#"
[[step]]
output = "triage"
prompt = "Triage {{ text }}"
fields = { urgent = "bool", topic = ["bill", "bug", "praise"] }

[[step]]
output = "plan"
when = "triage.urgent AND id >= 0"
prompt = "Plan for {{ triage.topic }}: {{ text }}"

[[step]]
output = "mail"
prompt = "Mail about {{ triage.topic }}{% if plan %} with {{ plan }}{% endif %}: {{ text }}"
"#;

async fn world(simulator: SimulatorSpec, rows: i64, steps: &str) -> World {
    let world = World::of(Setup { simulator, rows, ..Setup::default() }).await;
    let job = world.usual_job("");
    let (head, _) = job.split_once("[[step]]").unwrap();
    world.write_text(&format!("{head}{steps}"));
    world
}

async fn table(world: &World) -> Vec<Vec<String>> {
    let sql = "SELECT id, triage['urgent'], triage['topic'], triage_error, plan, mail, _enrich['error_count'], \
               _enrich['plan_step']['error'], _enrich['mail_step']['error'] FROM target ORDER BY id";
    let mut rows = rows_of(&world.path("target"), sql).await;
    rows.sort_by_key(|row| row[0].parse::<i64>().unwrap());
    rows
}

/// Whether a row is as it should be where nothing failed.
fn assert_whole(row: &[String]) {
    let is_urgent = row[1] == "true";
    assert_eq!(row[4] != "NULL", is_urgent, "{row:?}");
    assert!(row[5].contains(&format!("Mail about {}", row[2])), "{row:?}");
    assert_eq!(row[5].contains("with"), is_urgent, "{row:?}");
    assert_eq!((row[3].as_str(), row[6].as_str()), ("NULL", "0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_step_sees_what_earlier_ones_gave_and_only_rows_that_meet_its_condition() {
    let world = world(SimulatorSpec::default(), 40, STEPS).await;
    world.run(&[]).await.assert_status(0).assert_says("40 rows written").assert_says("0 errors");
    let table = table(&world).await;
    table.iter().for_each(|row| assert_whole(row));
    let urgent = table.iter().filter(|row| row[1] == "true").count();
    assert!((8..32).contains(&urgent), "{urgent}");
    assert_eq!(world.simulator.counts().requests, 80 + urgent as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_skips_those_that_need_it_and_a_retry_asks_them_all() {
    let refused =
        FaultSpec { status: Some(400), contains: Some("Triage Row 3 ".into()), times: Some(1), ..fault() };
    let mail = FaultSpec { status: Some(400), contains: Some(": Row 5 ".into()), times: Some(1), ..fault() };
    let world = world(with_faults(vec![refused, mail]), 12, STEPS).await;
    world.run(&[]).await.assert_status(0).assert_says("upstream 2");
    let before = table(&world).await;
    assert!(before[3][3].starts_with("ERROR: bad_request"), "{:?}", before[3]);
    assert_eq!(before[3][4], "ERROR: upstream: the step \"triage\" failed, whose output this one needs");
    assert_eq!([&before[3][6], &before[3][7], &before[3][8]], ["3", "upstream", "upstream"]);
    let listed = world.on_job("errors", &["--step", "mail"]).await;
    assert!(listed.assert_status(0).stdout.contains("upstream"), "{}", listed.stdout);
    // The step that failed is named; what depends on it comes along, and what it gave is read from the table for the rest.
    world.on_job("retry", &["--step", "triage"]).await.assert_status(0);
    assert_whole(&table(&world).await[3]);
    let asked = world.simulator.counts().requests;
    world.on_job("retry", &[]).await.assert_status(0);
    table(&world).await.iter().for_each(|row| assert_whole(row));
    // One row failed in one or two steps of its own: its triage stays as it was.
    let again = world.simulator.counts().requests - asked;
    assert!((1..=2).contains(&again), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_upstream_errors_gets_what_they_come_from() {
    let refused =
        FaultSpec { status: Some(400), contains: Some("Triage Row 1 ".into()), times: Some(1), ..fault() };
    let world = world(faulty(refused), 4, STEPS).await;
    world.run(&[]).await.assert_status(0);
    world.on_job("retry", &["--class", "upstream"]).await.assert_status(0);
    table(&world).await.iter().for_each(|row| assert_whole(row));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_do_not_fit_together_are_refused_before_the_first_call() {
    for (from, to, told) in [
        (
            "{{ triage.topic }}: {{ text }}",
            "{{ mail }}",
            "name \"mail\", which is the output of a later step",
        ),
        ("{{ triage.topic }}: {{ text }}", "{{ triagee }}", "did you mean \"triage\"?"),
        ("Triage {{ text }}", "Triage {{ triage }}", "the output of the step itself"),
        ("{{ triage.topic }}: {{ text }}", "{{ triage.topick }}", "did you mean \"topic\"?"),
        ("triage.urgent AND", "mail = 'x' AND", "\"mail\" is the output of a later step"),
        ("triage.urgent AND", "plan = 'x' AND", "\"plan\" is the output of the step itself"),
        ("triage.urgent AND", "triage.urgence AND", "urgence"),
        ("triage.urgent AND id >= 0", "triage.topic", "it is of type Utf8, not true or false"),
        ("triage.urgent AND id >= 0", "triage.urgent AND", "the condition \"triage.urgent AND\" is wrong"),
        ("id >= 0", "random() > 0.5", "gives another value each time"),
    ] {
        assert!(STEPS.contains(from), "{from}");
        let world = world(SimulatorSpec::default(), 2, &STEPS.replace(from, to)).await;
        world.run(&[]).await.assert_status(2).assert_says(told);
        let checked = world.on_job("check", &[]).await;
        assert!(checked.stdout.contains(told), "{}", checked.stdout);
        assert_eq!(world.simulator.counts().requests, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_for_in_each_step_is_not_paid_for_again_after_kills() {
    let faults = || vec![wrong(WrongForm::ExtraField, 0.3, Some(1))];
    let whole = world(with_faults(faults()), 30, STEPS).await;
    whole.run(&[]).await.assert_status(0);
    let expected = table(&whole).await;
    let asked = whole.simulator.counts().requests;
    for at in [7, 25, 41, 60] {
        let world = world(with_faults(faults()), 30, STEPS).await;
        let killed =
            world.run_with(&[], &[("ENRICH_FAULT", &format!("journal-append.after=kill@{at}"))]).await;
        assert_ne!(killed.status, Some(0));
        world.settle().await;
        world.run(&[]).await.assert_status(0);
        assert_eq!(table(&world).await, expected);
        let again = world.simulator.counts().requests;
        assert!(again <= asked + 4, "{again} requests, and {asked} without a kill");
    }
}

/// `ENRICH_STEPS_KILLS=200` for the long one.
#[tokio::test(flavor = "multi_thread")]
async fn a_soak_of_steps_and_repairs_loses_and_doubles_nothing() {
    const IN_FLIGHT: u64 = 8;
    const ROWS_PER_KILL: i64 = 40;
    let kills: i64 = std::env::var("ENRICH_STEPS_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let count = kills * ROWS_PER_KILL;
    // A plain answer would be taken as it is, and be another one when it is lost.
    let spoilt =
        |form, share, times| FaultSpec { contains: Some("Triage".into()), ..wrong(form, share, times) };
    let spec = || SimulatorSpec {
        latency: Some(enrich::config::Span(Duration::from_millis(5))),
        latency_sigma: 0.8,
        ..with_faults(vec![
            spoilt(WrongForm::ExtraField, 0.3, Some(1)),
            spoilt(WrongForm::Prose, 0.1, Some(2)),
        ])
    };
    let more = |world: &World| {
        let text = std::fs::read_to_string(world.job()).unwrap();
        let text = text.replace("max_concurrency = 4", &format!("max_concurrency = {IN_FLIGHT}"));
        world.write_text(&text.replace("max_rows = 10", "max_rows = 20"));
    };
    let whole = world(spec(), count, STEPS).await;
    more(&whole);
    whole.run(&[]).await.assert_status(0).assert_says("0 errors");
    let expected = table(&whole).await;
    let asked = whole.simulator.counts().answered;
    assert!(asked > u64::try_from(count).unwrap() * 2 + asked / 10, "{asked}");

    let world = world(spec(), count, STEPS).await;
    more(&world);
    let mut chance = fastrand::Rng::new();
    println!("seed {}", chance.get_seed());
    for _ in 0..kills {
        let wanted = world.simulator.counts().answered + chance.u64(1..=asked / kills.unsigned_abs());
        let mut child = world.job_command("run", &[]).stderr(Stdio::null()).spawn().unwrap();
        while world.simulator.counts().answered < wanted && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        world.settle().await;
    }
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    let other = table(&world).await.into_iter().zip(&expected).find(|(row, expected)| row != *expected);
    assert_eq!(other, None, "row by row as without a kill");
    assert_eq!(table(&world).await.len(), expected.len());
    let answered = world.simulator.counts().answered;
    let most = asked + kills.unsigned_abs() * IN_FLIGHT;
    println!("{count} rows, {kills} kills: {answered} answers, and {asked} without a kill");
    assert!(answered <= most, "{answered} answers, and {most} are explained");
}

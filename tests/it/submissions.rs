//! `enrich batches`, and what `status` and `plan` say of rows that go through a Batch API.

use std::process::Stdio;
use std::time::Duration;

use enrich::config::{BatchesSpec, SimulatorSpec, StuckIn};
use serde_json::{Value, json};

use crate::support::{PRICES, Setup, World, dear, everything_below, until};

/// Files of ten rows, at a provider that a row may be submitted to as often as it takes.
const BATCH: &str = "[provider.sim.batch]\npoll = \"100ms\"\nrecreate_after = \"1s\"\nmax_requests = 10\n\
                     max_submissions = 100";

/// A job whose provider states prices.
async fn world(rows: i64, batches: BatchesSpec) -> World {
    let simulator = SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() };
    let provider = format!("{PRICES}\n{BATCH}");
    World::of(Setup { simulator, rows, provider: &provider, ..Setup::default() }).await
}

/// A job of 25 rows in three submissions, of whose rows the provider answers half until they are cancelled.
async fn stuck() -> World {
    let world = world(25, BatchesSpec { stuck: Some(StuckIn::InProgress), ..BatchesSpec::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("waiting for batches");
    world
}

/// A job of five rows whose first run is killed at a fault point.
async fn killed(point: &str) -> World {
    let world = world(5, BatchesSpec::default()).await;
    let fault = [("ENRICH_FAULT", point)];
    assert_eq!(world.run_with(&["--wait"], &fault).await.status, None);
    world
}

async fn json_of(world: &World, command: &str) -> Value {
    let shown = world.on_job(command, &["--format", "json"]).await;
    serde_json::from_str(&shown.assert_status(0).stdout).unwrap()
}

async fn listed(world: &World) -> Value {
    json_of(world, "batches").await
}

fn states(report: &Value) -> Vec<&str> {
    let submissions = report["submissions"].as_array().unwrap();
    submissions.iter().map(|submission| submission["state"].as_str().unwrap()).collect()
}

/// Runs until the list shows so many requests as answered.
async fn until_completed(world: &World, number: u64) -> Value {
    for _ in 0..200 {
        world.run(&[]).await.assert_status(0);
        let report = listed(world).await;
        let submissions = report["submissions"].as_array().unwrap();
        let completed =
            |submission: &Value| submission["remote"][0]["completed"].as_u64().unwrap_or_default();
        if submissions.iter().map(completed).sum::<u64>() == number {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{number} are never answered: {}", listed(world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_are_listed_and_looking_changes_nothing() {
    let world = stuck().await;
    let report = until_completed(&world, 5 + 5 + 3).await;
    let before = everything_below(&world.path("target"));
    assert_eq!((&report["app_id"], &report["providers"]), (&json!("test"), &json!(["sim"])));
    assert_eq!(report["closed"], json!({"submissions": 0, "rows": 0, "cost_usd": null}));
    let submissions = report["submissions"].as_array().unwrap();
    for (submission, (number, rows, completed)) in submissions.iter().zip([(1, 10, 5), (2, 10, 5), (3, 5, 3)])
    {
        assert_eq!((&submission["number"], &submission["rows"]), (&number.into(), &rows.into()));
        assert_eq!((&submission["provider"], &submission["state"]), (&json!("sim"), &json!("created")));
        assert_eq!((&submission["model"], &submission["steps"]), (&json!("simulated"), &json!(["answer"])));
        assert!(submission["max_cost_usd"].as_f64().unwrap() > 0.0);
        assert_eq!(submission["cost_usd"], Value::Null);
        let remote = &submission["remote"][0];
        assert_eq!((&remote["status"], &remote["completed"]), (&json!("in_progress"), &completed.into()));
        assert!(remote["expires_at"].is_string() && remote["cancelled_at"].is_null(), "{remote}");
    }
    assert_eq!(submissions.len(), 3);
    // Nobody needs a key to look.
    let shown = world.on_job("batches", &["--set", "provider.sim.api_key_env=NO_SUCH_KEY"]).await;
    let line = regex::Regex::new(
        r"(?m)^ *3 +5 +sim +at the provider +[\dhms ]+ up to \$0\.\d+ +batch_\w+: in_progress, 3 completed, 0 failed, expires ",
    );
    assert!(line.unwrap().is_match(&shown.assert_status(0).stdout), "{}", shown.stdout);

    let status = json_of(&world, "status").await;
    assert_eq!((&status["submissions"], &status["next"]), (&report["submissions"], &json!("run")));
    let shown = world.on_job("status", &[]).await;
    let line = regex::Regex::new(
        r"(?m)^submitted   25 rows in 3 batches at sim, oldest since [-0-9]+ [:0-9]+ UTC \(in_progress, 5 of 10\), \$0\.\d+ set aside$",
    );
    assert!(line.unwrap().is_match(&shown.assert_status(0).stdout), "{}", shown.stdout);
    let open = "25 rows: 0 answered and to be written, 25 submitted or to be sent";
    assert!(shown.stdout.contains(open), "{}", shown.stdout);
    assert!(everything_below(&world.path("target")) == before, "looking changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_batch_has_answered_is_used_and_the_rest_is_sent_again() {
    let world = stuck().await;
    until_completed(&world, 13).await;
    let cancelled = world.on_job("batches", &["--cancel", "2"]).await;
    cancelled.assert_status(0).assert_says("submission 2: sim was asked to cancel it");
    assert_eq!(world.simulator.counts().batches.cancellations, 1);
    let report = listed(&world).await;
    let is_cancelled = |at: usize| report["submissions"][at]["remote"][0]["cancelled_at"].is_string();
    assert_eq!([0, 1, 2].map(is_cancelled), [false, true, false]);
    let shown = world.on_job("batches", &[]).await;
    assert!(
        shown.stdout.contains("being cancelled") && shown.stdout.contains(": cancelling"),
        "{}",
        shown.stdout
    );
    for _ in 0..200 {
        let cancelled = world.on_job("batches", &["--cancel", "all", "--format", "json"]).await;
        assert_eq!(cancelled.assert_status(0).stdout.lines().count(), 1, "the list is printed, too");
        let ran = world.run(&["--summary", "json"]).await;
        let summary: Value = serde_json::from_str(&ran.assert_status(0).stdout).unwrap();
        if summary["end"] == "complete" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.assert_target(0..25).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (25, 0));
    let none = world.on_job("batches", &["--cancel", "all"]).await;
    none.assert_status(0).assert_says("nothing to cancel: no submission is under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_submission_that_is_given_up_are_sent_and_paid_for_again() {
    let world = killed("batch-create.after=kill@1").await;
    until(&world.simulator, |counts| counts.answered == 5).await;
    let report = listed(&world).await;
    assert_eq!(states(&report), ["creating"]);
    let worst = report["submissions"][0]["max_cost_usd"].as_f64().unwrap();
    let shown = world.on_job("status", &[]).await;
    let says = "the answer to the creation of its batch at sim was lost; enrich run looks for it, and makes it again \
                once the provider's list has not shown it for 1s";
    assert!(shown.stdout.contains("submitted   5 rows of submission 1, $0.0"), "{}", shown.stdout);
    assert!(shown.stdout.contains(says), "{}", shown.stdout);
    for choice in ["1", "all"] {
        let refused = world.on_job("batches", &["--cancel", choice]).await;
        refused.assert_status(2).assert_says("it is not known whether sim has a batch of it");
        refused.assert_says(&format!("hint: enrich run {} looks for it", world.job().display()));
    }
    assert_eq!(world.simulator.counts().batches.cancellations, 0);

    let refused = world.on_job("batches", &["--give-up", "1"]).await;
    refused.assert_status(2).assert_says("--give-up 1 has 5 rows sent again").assert_says("say --yes");
    assert_eq!(states(&listed(&world).await), ["creating"]);
    let given_up = world.on_job("batches", &["--give-up", "1", "--yes"]).await;
    given_up
        .assert_status(0)
        .assert_says("submission 1 is given up: $0.0")
        .assert_says("sends its 5 rows again");
    assert_eq!(states(&listed(&world).await), ["given_up"]);
    let twice = world.on_job("batches", &["--give-up", "1", "--yes"]).await;
    twice.assert_status(2).assert_says("submission 1 was given up already");

    world.run(&["--wait"]).await.assert_status(0).assert_says("5 rows written");
    world.assert_target(0..5).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.created, counts.answered, counts.paid_again()), (2, 10, 5));
    let report = listed(&world).await;
    assert!(states(&report).is_empty(), "both are closed once their rows are in the table");
    let refused = world.on_job("batches", &["--give-up", "2", "--yes"]).await;
    refused.assert_status(2);

    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    let closed = &listed(&world).await["closed"];
    assert_eq!((&closed["submissions"], &closed["rows"]), (&2.into(), &10.into()));
    let cost = closed["cost_usd"].as_f64().unwrap();
    let took = cost - worst;
    assert!(took > 0.0 && took < worst, "{cost} is not {worst} and what five answers cost");
    let shown = world.on_job("batches", &[]).await;
    assert!(shown.stdout.contains("no submissions: no rows are at a Batch API"), "{}", shown.stdout);
    assert!(shown.stdout.contains("done with: 2 submissions of 10 rows, $0.0"), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_is_not_at_the_provider_is_dropped_and_costs_nothing() {
    let world = killed("upload.before=kill@1").await;
    assert_eq!(states(&listed(&world).await), ["sealed"]);
    let shown = world.on_job("status", &[]).await;
    let says = "submitted   5 rows in 1 file for sim: enrich run hands them in";
    assert!(shown.stdout.contains(says), "{}", shown.stdout);
    let refused = world.on_job("batches", &["--give-up", "1", "--yes"]).await;
    refused.assert_status(2).assert_says("is not at the provider yet and costs nothing");
    let dropped = world.on_job("batches", &["--cancel", "1"]).await;
    dropped.assert_status(0).assert_says("submission 1 was not at sim yet and is dropped");
    assert_eq!(states(&listed(&world).await), ["dropped"]);
    let refused = world.on_job("batches", &["--cancel", "1"]).await;
    refused.assert_status(2).assert_says("submission 1 cannot be cancelled: it is dropped");
    let refused = world.on_job("batches", &["--give-up", "1", "--yes"]).await;
    refused.assert_status(2).assert_says("submission 1 was dropped before a provider had it");
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_target(0..5).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.created, counts.answered, counts.batches.cancellations), (1, 5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cancelled_or_given_up_while_a_run_goes_on_or_that_is_not_there() {
    let world = stuck().await;
    let mut running = world.job_command("run", &["--wait"]).stderr(Stdio::null()).spawn().unwrap();
    while json_of(&world, "status").await["running"].is_null() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for action in [&["--cancel", "all"][..], &["--cancel", "1"], &["--give-up", "1", "--yes"]] {
        world.on_job("batches", action).await.assert_status(6).assert_says("nothing was changed");
    }
    assert_eq!(states(&listed(&world).await), ["created"; 3]);
    running.kill().unwrap();
    running.wait().unwrap();

    for action in [&["--cancel", "7"][..], &["--give-up", "7", "--yes"]] {
        let refused = world.on_job("batches", action).await;
        refused.assert_status(2).assert_says("there is no submission 7: there are 1, 2 and 3");
        refused.assert_says(&format!("hint: enrich batches {} lists those of runs", world.job().display()));
    }
    world
        .on_job("batches", &["--cancel", "some"])
        .await
        .assert_status(2)
        .assert_says("write a number, or all");
    let both = world.on_job("batches", &["--cancel", "1", "--give-up", "1"]).await;
    both.assert_status(2).assert_says("cannot be used with");

    world.write_job("");
    let refused = world.on_job("batches", &["--cancel", "1"]).await;
    refused.assert_status(2).assert_says("the job has no provider \"sim\" with a section for its Batch API");
    let shown = world.on_job("batches", &[]).await;
    assert!(
        shown.stdout.starts_with("no provider of the job is asked through its Batch API"),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("up to $0."), "they are listed all the same: {}", shown.stdout);
    assert_eq!(world.simulator.counts().batches.cancellations, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_find_a_batch_is_told_and_the_list_stays_as_it_is() {
    let world = stuck().await;
    let other =
        World::new(SimulatorSpec { batches: Some(BatchesSpec::default()), ..SimulatorSpec::default() }).await;
    let elsewhere = format!("provider.sim.base_url={}", other.simulator.url());
    let failed = world.on_job("batches", &["--cancel", "1", "--set", &elsewhere]).await;
    failed.assert_status(4).assert_says("submission 1: provider sim: not_found").assert_says("--give-up 1");
    assert_eq!(listed(&world).await["submissions"][0]["remote"][0]["cancelled_at"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_submits_nothing_says_so() {
    let world = World::with_rows(5, 1).await;
    let shown = world.on_job("batches", &[]).await;
    let says =
        "no provider of the job is asked through its Batch API: none has a section [provider.<name>.batch]\n";
    assert_eq!(shown.assert_status(0).stdout, says);
    let nothing = json!({
        "app_id": "test",
        "providers": [],
        "submissions": [],
        "closed": {"submissions": 0, "rows": 0, "cost_usd": null},
    });
    assert_eq!(listed(&world).await, nothing);
    world.on_job("batches", &["--cancel", "all"]).await.assert_status(0).assert_says("nothing to cancel");
    let refused = world.on_job("batches", &["--give-up", "1"]).await;
    refused.assert_status(2).assert_says("there is no submission 1: there is none");
    assert_eq!(json_of(&world, "status").await.get("submissions"), None);
    assert!(!world.path("target").exists(), "nothing is made");

    world.write_job(BATCH);
    let shown = world.on_job("batches", &[]).await;
    assert_eq!(shown.assert_status(0).stdout, "no submissions: no rows are at a Batch API\n");
    assert_eq!(json_of(&world, "status").await["submissions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_what_batches_cost_and_how_long_they_may_take() {
    let half = "tier_prices.batch = { price_per_million_input = 1.0, price_per_million_output = 4.0 }";
    let section = "[provider.sim.batch]\nmax_requests = 100";
    let provider = format!("{PRICES}\n{half}\n{section}");
    let setup = || Setup {
        simulator: dear(),
        rows: 250,
        provider: &provider,
        step: "max_tokens = 50",
        ..Setup::default()
    };
    let world = World::of(setup()).await;
    let shown = world.on_job("plan", &[]).await;
    let line = regex::Regex::new(
        r"(?m)^by batch     up to \$[.0-9]+ \(half of \$[.0-9]+\), 3 files at sim, within 24h$",
    );
    assert!(line.unwrap().is_match(&shown.assert_status(0).stdout), "{}", shown.stdout);
    assert!(shown.stdout.contains("time         up to 1day, by the batches of sim\n"), "{}", shown.stdout);
    for more in [&["--format", "json"][..], &["--format", "json", "--pilot", "20"]] {
        let shown = world.on_job("plan", more).await;
        let forecast: Value = serde_json::from_str(&shown.assert_status(0).stdout).unwrap();
        let batch = &forecast["batch"][0];
        assert_eq!(
            (&batch["provider"], &batch["steps"], &batch["window"]),
            (&json!("sim"), &1.into(), &json!("24h"))
        );
        assert_eq!(
            (&batch["files"]["high"], &batch["cost_usd"]),
            (&json!(3.0), &forecast["cost_usd"]),
            "{batch}"
        );
        let high = |key: &str| batch[key]["high"].as_f64().unwrap();
        let (cost, online) = (high("cost_usd"), high("online_cost_usd"));
        assert!(cost > 0.0 && (cost * 2.0 - online).abs() < online * 0.01, "{cost} is not half of {online}");
    }

    // The answers of the first step are not known, and its rows may take as long again in the second.
    let sections = "[[step]]\noutput = \"verdict\"\nprompt = \"Judge {{ answer }}\"\n";
    let world = World::of(Setup { sections, ..setup() }).await;
    let shown = world.on_job("plan", &[]).await;
    let says = "by batch     at an unknown cost, up to 6 files at sim, up to 2 x 24h\n";
    assert!(shown.assert_status(0).stdout.contains(says), "{}", shown.stdout);
    assert!(shown.stdout.contains("time         up to 2days, by the batches of sim\n"), "{}", shown.stdout);

    // Without a price of its own a batch is reckoned at the price of single requests.
    let provider = format!("{PRICES}\n{section}");
    let world = World::of(Setup { provider: &provider, ..setup() }).await;
    let shown = world.on_job("plan", &[]).await;
    assert!(!shown.assert_status(0).stdout.contains("half of"), "{}", shown.stdout);
    let says = "what sim costs in a batch is not stated: it is reckoned at the standard price; set \
                [provider.sim.tier_prices.batch]";
    assert!(shown.stdout.contains(says), "{}", shown.stdout);
}

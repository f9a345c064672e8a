//! Stores as they are: slow, away for a while, with keys that expire, with thousands of files, and not only Amazon's.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use enrich::config::SimulatorSpec;
use enrich::simulator::Gate;

use crate::support::gateway::{Gateway, Passage, Trouble};
use crate::support::store::Store;

use crate::support::{Outcome, World, append_delta, everything_below, rows, slow, write_parquet};
use crate::support::{send, stop, wait};

/// A job with everything in the store, over so many rows that are asked in some seconds.
async fn world(store: &Store, count: i64) -> World {
    let world = World::new(slow(100)).await;
    for part in 0..2 {
        append_delta(&world.path("local"), &rows(part * count / 2..(part + 1) * count / 2)).await;
    }
    store.upload(&world.path("local"), "tables/source").await;
    let text = world.usual_job("");
    let at = |name: &str| format!("path = \"{}\"", store.url(&format!("tables/{name}")));
    let text = text.replace("path = \"source\"", &at("source")).replace("path = \"target\"", &at("target"));
    world.write_text(&text.replace("[batch]", "[journal]\ncopy_every = \"300ms\"\n[batch]"));
    world
}

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.job_command(arguments[0], &arguments[1..]);
    command.env("XDG_STATE_HOME", world.path("state"));
    command
}

async fn run(world: &World, environment: &[(&str, String)]) -> Outcome {
    let mut command = command(world, &["run"]);
    command.envs(environment.iter().cloned());
    world.outcome(command).await
}

/// A run that goes on by itself.
fn started(world: &World, environment: &[(&str, String)]) -> Child {
    let mut command = command(world, &["run"]);
    command.envs(environment.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn assert_all(world: &World, store: &Store, count: i64) {
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(0..count).await;
    assert_eq!(world.simulator.counts().requests, u64::try_from(count).unwrap(), "each row is asked once");
}

/// The environment of a store, with its requests going through a gateway.
fn through(store: &Store, gateway: &Gateway) -> Vec<(&'static str, String)> {
    let mut environment = store.environment();
    environment.retain(|(name, _)| *name != "AWS_ENDPOINT_URL");
    environment.push(("AWS_ENDPOINT_URL", gateway.url.clone()));
    environment
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_that_refuses_requests_and_loses_answers_costs_time_alone() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 60).await;
    // Whichever request it meets.
    for every in [5, 4, 3] {
        let trouble = Trouble {
            delay: Duration::from_millis(10),
            refused: Some(7),
            lost: Some(every),
            ..Trouble::default()
        };
        let gateway = Gateway::start(store.endpoint(), trouble).await;
        let mut command = command(&world, &["run", "--max-rows", "10"]);
        command.envs(through(&store, &gateway));
        let ended = world.outcome(command).await;
        ended.assert_status(0).assert_says("10 rows written");
        assert!(gateway.turned_away() > 20, "{}", gateway.turned_away());
    }
    run(&world, &store.environment()).await.assert_status(0);
    assert_all(&world, &store, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_some_seconds_is_waited_for() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 160).await;
    let gateway = Gateway::start(store.endpoint(), Trouble::default()).await;
    world.simulator.set_gate(Gate::ShutFrom(41));
    let child = started(&world, &through(&store, &gateway));
    world.until_requests(41).await;
    gateway.set_passage(Passage::Barred);
    world.simulator.set_gate(Gate::Open);
    while gateway.turned_away() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    gateway.set_passage(Passage::Free);
    wait(child).await.assert_status(0).assert_says("160 rows written");
    assert!(gateway.turned_away() > 0);
    assert_all(&world, &store, 160).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_run_whose_store_does_not_answer_any_more() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 400).await;
    let gateway = Gateway::start(store.endpoint(), Trouble::default()).await;
    world.simulator.set_gate(Gate::ShutFrom(41));
    let mut child = started(&world, &through(&store, &gateway));
    let pid = child.id().to_string();
    world.until_requests(41).await;
    gateway.set_passage(Passage::Endless);
    // Answers that are not in the store come, and the run is about to copy them.
    world.simulator.set_gate(Gate::Open);
    while gateway.hanging() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.until_requests(45).await;
    stop(&mut child, "INT").await;
    send(&child, "INT");
    // The store never answers: without an end of its own the run would stay for many minutes.
    let Ok(ended) = tokio::time::timeout(Duration::from_secs(90), wait(child)).await else {
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
        panic!("the run does not end");
    };
    ended.assert_status(130).assert_says("are not copied to the store");
    run(&world, &store.environment()).await.assert_status(0);
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(0..400).await;
    assert!((400..=404).contains(&world.simulator.counts().requests));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_instance_that_expire_on_the_way_are_renewed() {
    for forced in [false, true] {
        let Some(store) = Store::start() else { return };
        let world = world(&store, 160).await;
        let keys_last = Some(Duration::from_secs(2));
        let gateway = Gateway::start(store.endpoint(), Trouble { keys_last, ..Trouble::default() }).await;
        let mut environment = through(&store, &gateway);
        environment.retain(|(name, _)| !name.ends_with("KEY_ID") && !name.ends_with("ACCESS_KEY"));
        environment.push(("AWS_METADATA_ENDPOINT", gateway.url.clone()));
        if forced {
            // As Amazon's own programs look for them.
            environment.push(("AWS_FORCE_CREDENTIAL_LOAD", "true".into()));
            environment.push(("AWS_EC2_METADATA_SERVICE_ENDPOINT", gateway.url.clone()));
        }
        run(&world, &environment).await.assert_status(0).assert_says("160 rows written");
        assert!(gateway.keys() > 1, "{} keys were given out", gateway.keys());
        assert_all(&world, &store, 160).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_a_profile() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 4).await;
    let gateway = Gateway::start(store.endpoint(), Trouble::default()).await;
    let file = world.path("credentials");
    std::fs::write(&file, "[mine]\naws_access_key_id = OFPROFILE\naws_secret_access_key = secret\n").unwrap();
    let mut environment = through(&store, &gateway);
    environment.retain(|(name, _)| !name.ends_with("KEY_ID") && !name.ends_with("ACCESS_KEY"));
    environment.push(("AWS_FORCE_CREDENTIAL_LOAD", "true".into()));
    environment.push(("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string()));
    environment.push(("AWS_PROFILE", "mine".into()));
    run(&world, &environment).await.assert_status(0);
    let seen = gateway.seen();
    let is_signed = |(_, _, headers): &(_, _, axum::http::HeaderMap)| {
        headers["authorization"].to_str().unwrap().contains("Credential=OFPROFILE/")
    };
    assert!(!seen.is_empty() && seen.iter().all(is_signed));
    // Keys are in nothing that is written or said.
    store.download("tables/target", &world.path("target")).await;
    for folder in ["target", "state"] {
        for (path, bytes) in everything_below(&world.path(folder)) {
            assert!(!String::from_utf8_lossy(&bytes).contains("OFPROFILE"), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditions_is_refused_before_anything_is_asked() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 4).await;
    let gateway =
        Gateway::start(store.endpoint(), Trouble { ignores_conditions: true, ..Trouble::default() }).await;
    let ended = run(&world, &through(&store, &gateway)).await;
    ended.assert_status(1).assert_says("the store does not keep to the conditions of a put");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_tls_is_told_from_one_that_does_not_answer() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&world.usual_job("").replace("path = \"source\"", "path = \"s3://bucket/source\""));
    let endpoint = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned());
    let keys = [("AWS_ACCESS_KEY_ID", "key".to_owned()), ("AWS_SECRET_ACCESS_KEY", "secret".to_owned())];
    let mut environment = [&[endpoint][..], &keys].concat();
    run(&world, &environment).await.assert_status(1).assert_says("AWS_ALLOW_HTTP=true is not set");
    environment.push(("AWS_ALLOW_HTTP", "true".to_owned()));
    run(&world, &environment).await.assert_status(1).assert_says("error sending request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_more_files_than_a_page_of_a_listing_is_read_whole() {
    const FILES: i64 = 1_010;
    let Some(store) = Store::start() else { return };
    let world = World::new(SimulatorSpec::default()).await;
    for at in 0..FILES {
        let folder = world.path("local").join(format!("part={}", at % 7));
        std::fs::create_dir_all(&folder).unwrap();
        write_parquet(&folder.join(format!("{at}.parquet")), &rows(at..at + 1), 10);
    }
    store.upload(&world.path("local"), "tables/source").await;
    let text = world.usual_job("").replace("path = \"source\"", "path = \"s3://bucket/tables/source\"");
    world.write_text(&text.replace("max_rows = 10", "max_rows = 500"));
    run(&world, &store.environment()).await.assert_status(0).assert_says("1,010 rows written");
    let mut ids: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..FILES).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanished_with_its_checkpoint_is_remembered_on_the_machine() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 20).await;
    run(&world, &store.environment()).await.assert_status(0);
    // A run that had nothing to do writes no rows, and knows the target all the same.
    run(&world, &store.environment()).await.assert_status(0).assert_says("nothing to do");
    store.remove("tables/target").await;
    let refused = run(&world, &store.environment()).await;
    refused.assert_status(2).assert_says("/target is gone, and there was a run of");
    assert_eq!(world.simulator.counts().requests, 20);
    let mut restart = command(&world, &["run", "--restart", "--yes"]);
    restart.envs(store.environment());
    world.outcome(restart).await.assert_status(0);
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_lies_in_azures_store() {
    let Some(store) = Store::azure() else { return };
    let world = world(&store, 120).await;
    for fault in ["journal-append.after=kill@5", "delta-commit.after=kill@2", "checkpoint.before=kill@2"] {
        let mut killed = command(&world, &["run"]);
        killed.envs(store.environment()).env("ENRICH_FAULT", fault);
        assert_ne!(world.outcome(killed).await.status, Some(0), "{fault}");
    }
    run(&world, &store.environment()).await.assert_status(0);
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(0..120).await;
    assert!((120..=120 + 3 * 4).contains(&world.simulator.counts().requests));
    run(&world, &store.environment()).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_azures_store_go_to_the_account_that_the_url_names() {
    let gateway = Gateway::start("http://127.0.0.1:9".to_owned(), Trouble::default()).await;
    for (url, path) in [
        ("abfss://lake@acme.dfs.core.windows.net/tables/source", "/lake?"),
        ("az://lake/tables/source", "/lake?"),
    ] {
        let world = World::new(SimulatorSpec::default()).await;
        world.write_text(&world.usual_job("").replace("path = \"source\"", &format!("path = \"{url}\"")));
        let environment = [
            ("AZURE_STORAGE_ENDPOINT", gateway.url.clone()),
            ("AZURE_STORAGE_ACCOUNT_NAME", "acme".to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0".to_owned()),
            ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ];
        let before = gateway.seen().len();
        let ended = run(&world, &environment).await;
        ended.assert_says(url).assert_says("hint: see to the store, its credentials and the network");
        let seen = gateway.seen();
        let (_, asked, headers) = &seen[before];
        assert!(asked.starts_with(path) && asked.contains("prefix=tables%2Fsource"), "{asked}");
        assert!(headers["authorization"].to_str().unwrap().starts_with("SharedKey acme:"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_lies_in_googles_store() {
    let Some(store) = Store::start() else { return };
    let world = world(&store, 60).await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("s3://", "gs://"));
    let gateway = Gateway::google(store.endpoint()).await;
    let account = serde_json::json!({
        "gcs_base_url": gateway.url, "disable_oauth": true, "client_email": "", "private_key": "",
        "private_key_id": "",
    });
    let environment = [("GOOGLE_SERVICE_ACCOUNT_KEY", account.to_string())];
    let mut killed = command(&world, &["run"]);
    killed.envs(environment.clone()).env("ENRICH_FAULT", "delta-commit.after=kill@2");
    assert_ne!(world.outcome(killed).await.status, Some(0));
    run(&world, &environment).await.assert_status(0);
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(0..60).await;
    assert!((60..=60 + 4).contains(&world.simulator.counts().requests));
    let conditions = gateway.seen();
    let conditions =
        conditions.iter().filter_map(|(_, _, headers)| headers.get("x-goog-if-generation-match"));
    let (created, replaced): (Vec<_>, Vec<_>) = conditions.partition(|wanted| *wanted == "0");
    assert!(!created.is_empty() && !replaced.is_empty());
}

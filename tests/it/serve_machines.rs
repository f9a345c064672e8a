//! `enrich serve` where things around it fail: its disk, its provider, its clients' certificates. `F` numbers are those
//! of the table in `examples/spark/README.md`.

use std::process::{Command, Stdio};
use std::time::Duration;

use enrich::clock;
use enrich::config::SimulatorSpec;
use enrich::simulator::{Gate, answer_to};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Method;
use serde_json::Value;

use crate::support::served::{Served, id_of, served_job};
use crate::support::store::Store;
use crate::support::{PATIENT, World, prompt_of, rows, send, slow, until, wait};

fn expected(ids: std::ops::Range<i64>) -> Vec<Option<String>> {
    ids.map(|id| Some(answer_to(&prompt_of(id)))).collect()
}

/// The server on a machine with local folders of its own.
fn serve_on(world: &World, store: &Store, machine: &str) -> Command {
    let mut command = world.job_command("serve", &["--listen", "127.0.0.1:0"]);
    command.envs(store.environment()).env("XDG_STATE_HOME", world.path(machine));
    command
}

/// F13: the disk of the server is lost, and its checkpoint is in a store.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_lost_with_its_disk_pays_again_for_what_was_not_copied_alone() {
    let Some(store) = Store::start() else { return };
    let world = World::new(slow(20)).await;
    let job = served_job(&world, "", 1_000);
    let at = "path = \"s3://bucket/served\"\nlease = \"1s\"\n[journal]\ncopy_every = \"100ms\"";
    world.write_text(&job.replace("path = \"state\"", at));
    let mut served = Served::of(serve_on(&world, &store, "a"));
    assert_eq!(served.answers(&id_of(1), 5, &rows(0..60)).await, expected(0..60));
    assert_eq!(served.put(&id_of(2), 5, 0, &rows(60..900)).await.status(), 202);
    until(&world.simulator, |counts| counts.answered > 100).await;
    // Long enough for a round of copying.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let copied = world.simulator.counts().answered;
    until(&world.simulator, |counts| counts.answered > copied + 50).await;
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    std::fs::remove_dir_all(world.path("a")).unwrap();
    let give_up = clock::now() + Duration::from_secs(60);
    let served = loop {
        let served = Served::of(serve_on(&world, &store, "b"));
        if !served.url.is_empty() {
            break served;
        }
        // The lease of the machine that is gone runs out.
        wait(served.child).await.assert_status(6);
        assert!(clock::now() < give_up, "the lease does not run out");
    };
    let before = world.simulator.counts().answered;
    assert_eq!(served.answers(&id_of(1), 5, &rows(0..60)).await, expected(0..60));
    assert_eq!(world.simulator.counts().answered, before, "what was copied is there");
    assert_eq!(served.answers(&id_of(2), 5, &rows(60..900)).await, expected(60..900));
    assert!(world.simulator.counts().paid_again() < 900 - copied, "{:?}", world.simulator.counts());
    served.committed(5).await;
    send(&served.child, "TERM");
    wait(served.child).await.assert_status(0);
    // The epoch is gone from the store, too.
    let served = Served::of(serve_on(&world, &store, "c"));
    assert!(served.json("/v1/status").await["epochs"].as_object().unwrap().is_empty());
    send(&served.child, "TERM");
    wait(served.child).await.assert_status(0);
}

/// F10: the provider is away for a while, or for longer than the job waits.
#[tokio::test(flavor = "multi_thread")]
async fn clients_wait_out_an_outage_and_are_told_when_it_is_too_long() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, "outage_deadline = \"3s\"", 1_000));
    let served = Served::start(&world, &[]);
    assert_eq!(served.answers(&id_of(1), 0, &rows(0..5)).await, expected(0..5));
    world.simulator.set_gate(Gate::Broken);
    assert_eq!(served.put(&id_of(2), 0, 1, &rows(5..10)).await.status(), 202);
    world.simulator.set_gate(Gate::Open);
    assert_eq!(served.answers(&id_of(2), 0, &rows(5..10)).await, expected(5..10));
    world.simulator.set_gate(Gate::Broken);
    let mut response = served.put(&id_of(3), 0, 25, &rows(10..15)).await;
    while response.status() == 202 {
        response = served.put(&id_of(3), 0, 25, &rows(10..15)).await;
    }
    let told: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!((&told["end"], &told["status"]), (&Value::from("provider"), &Value::from(4)));
    // What is answered can still be fetched.
    let fetched = served.request(Method::GET, &format!("/v1/batches/{}", id_of(2))).send().await.unwrap();
    assert_eq!(fetched.status(), 200);
    send(&served.child, "TERM");
    wait(served.child).await.assert_status(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_talk_tls_to_a_server_with_a_certificate() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, PATIENT, 1_000));
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (world.path("cert.pem"), world.path("key.pem"));
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let mut served = Served::start(&world, &["--tls-cert", certificate, "--tls-key", key]);
    let root = reqwest::Certificate::from_pem(cert.pem().as_bytes()).unwrap();
    served.client = reqwest::Client::builder().add_root_certificate(root).build().unwrap();
    served.url = served.url.replace("127.0.0.1", "localhost");
    assert!(served.url.starts_with("https://"));
    assert_eq!(served.answers(&id_of(1), 0, &rows(0..5)).await, expected(0..5));
    // One who does not know the certificate, and one without TLS, get nothing and keep nobody from being served.
    assert!(reqwest::get(format!("{}/v1/job", served.url)).await.is_err());
    assert!(reqwest::get(format!("{}/v1/job", served.url.replace("https", "http"))).await.is_err());
    assert_eq!(served.json("/v1/job").await["app_id"], "test");
    send(&served.child, "TERM");
    wait(served.child).await.assert_status(0);
    let mut swapped = world.job_command("serve", &["--tls-cert", key, "--tls-key", certificate]);
    swapped.stdin(Stdio::null());
    world.outcome(swapped).await.assert_status(2).assert_says(".pem");
}

//! Tables in an object store: moto's server of S3's interface, with conditional puts, beside the run.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use enrich::config::SimulatorSpec;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::python;
use crate::support::{Outcome, World, append_delta, read_target, rows, write_parquet};

/// A server with one bucket; it ends with this value.
struct Store {
    child: Child,
    port: u16,
}

impl Store {
    fn start() -> Option<Store> {
        let python = python::with("moto.server, flask", "moto[server]>=5.1")?;
        // Free a moment ago: nobody else on this machine asks for a port between.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let store = Store { child, port };
        let mut tries = 0;
        while store.put_bucket().is_err() {
            tries += 1;
            assert!(tries < 300, "the store does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(store)
    }

    fn put_bucket(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let host = format!("127.0.0.1:{}", self.port);
        write!(
            stream,
            "PUT /bucket HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(std::io::Error::other(answer)),
        }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a command finds in its environment.
    fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    fn objects(&self) -> impl ObjectStore {
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .with_region("us-east-1")
            .with_bucket_name("bucket")
            .build()
            .unwrap()
    }

    /// Puts everything below a folder into the bucket.
    async fn upload(&self, folder: &Path, to: &str) {
        let store = self.objects();
        for (path, bytes) in crate::support::everything_below(folder) {
            let below = path.strip_prefix(folder).unwrap().to_str().unwrap();
            let at = object_store::path::Path::parse(format!("{to}/{below}")).unwrap();
            store.put(&at, bytes.into()).await.unwrap();
        }
    }

    /// Brings everything below a prefix into a folder.
    async fn download(&self, from: &str, folder: &Path) {
        let _ = std::fs::remove_dir_all(folder);
        let store = self.objects();
        let prefix = object_store::path::Path::parse(from).unwrap();
        let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
        for object in objects {
            let below = object.location.as_ref().strip_prefix(from).unwrap().trim_start_matches('/');
            let place = folder.join(below);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
            std::fs::write(place, bytes).unwrap();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A job with its source and target in the store, and its checkpoint on the disk.
fn job(world: &World) -> String {
    let text = world.usual_job("");
    text.replace("path = \"source\"", "path = \"s3://bucket/tables/source\"").replace(
        "path = \"target\"",
        "path = \"s3://bucket/tables/target\"\n[checkpoint]\npath = \"checkpoint\"",
    )
}

async fn run(world: &World, store: &Store, command: &str, more: &[&str], fault: &str) -> Outcome {
    let job = world.job();
    let mut arguments = vec![command, job.to_str().unwrap()];
    arguments.extend(more);
    let mut command = world.command(&arguments);
    command.envs(store.environment());
    if !fault.is_empty() {
        command.env("ENRICH_FAULT", fault);
    }
    Outcome::of(&world.output(command).await)
}

async fn assert_rows(world: &World, store: &Store, ids: std::ops::Range<i64>) {
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_table_in_a_store_is_enriched_into_another_exactly_once_whatever_is_killed() {
    let Some(store) = Store::start() else { return };
    let world = World::new(SimulatorSpec::default()).await;
    append_delta(&world.path("local"), &rows(0..40)).await;
    append_delta(&world.path("local"), &rows(40..60)).await;
    store.upload(&world.path("local"), "tables/source").await;
    world.write_text(&job(&world));
    for fault in [
        "plan.after=kill@2",
        "parquet-file.after=kill@2",
        "delta-commit.before=kill",
        "delta-commit.after=kill@2",
    ] {
        let killed = run(&world, &store, "run", &[], fault).await;
        assert_ne!(killed.status, Some(0), "{fault}: {}", killed.stderr);
    }
    let ended = run(&world, &store, "run", &[], "").await;
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    ended.assert_says("result: s3://bucket/tables/target");
    assert_rows(&world, &store, 0..60).await;
    let asked = world.simulator.counts().requests;
    // At most what was in flight at each kill is asked again.
    assert!((60..=60 + 4 * 4).contains(&asked), "{asked}");
    run(&world, &store, "run", &[], "").await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("local"), &rows(60..65)).await;
    store.upload(&world.path("local"), "tables/source").await;
    run(&world, &store, "run", &[], "").await.assert_status(0).assert_says("5 rows written");
    assert_rows(&world, &store, 0..65).await;
    run(&world, &store, "check", &[], "").await.assert_status(0);
    let status = run(&world, &store, "status", &["--format", "json"], "").await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&status["source"]["rows"], &status["target"]["rows"]), (&0.into(), &65.into()), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rows_in_a_store_are_listed_and_mended() {
    let Some(store) = Store::start() else { return };
    let fault = enrich::config::FaultSpec {
        status: Some(400),
        contains: Some("Row 1".into()),
        times: Some(1),
        ..crate::stops::fault()
    };
    let world = World::new(crate::stops::faulty(fault)).await;
    append_delta(&world.path("local"), &rows(0..20)).await;
    store.upload(&world.path("local"), "tables/source").await;
    world.write_text(&job(&world));
    run(&world, &store, "run", &[], "").await.assert_status(0).assert_says("11 errors");
    let listed = run(&world, &store, "errors", &["--format", "csv"], "").await;
    assert_eq!(listed.stdout.lines().count(), 12, "{}", listed.stdout);
    let killed = run(&world, &store, "retry", &[], "delta-commit.before=kill").await;
    assert_ne!(killed.status, Some(0));
    run(&world, &store, "retry", &[], "").await.assert_status(0);
    assert_rows(&world, &store, 0..20).await;
    assert_eq!(world.simulator.counts().requests, 20 + 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_in_a_store_are_read_with_their_folders_and_conditions() {
    let Some(store) = Store::start() else { return };
    let world = World::new(SimulatorSpec::default()).await;
    let local = world.path("local");
    for (folder, ids) in [("lang=de", 0..300), ("lang=en", 300..700)] {
        std::fs::create_dir_all(local.join(folder)).unwrap();
        write_parquet(&local.join(folder).join("a.parquet"), &rows(ids), 100);
    }
    std::fs::write(local.join("lang=en/b.parquet"), "PAR1 and no end").unwrap();
    store.upload(&local, "tables/source").await;
    let text =
        job(&world).replace("tables/source\"", "tables/source\"\nwhere = \"lang = 'en' AND id % 100 < 7\"");
    world.write_text(&text);
    let ended = run(&world, &store, "run", &[], "").await;
    ended.assert_status(0).assert_says("28 rows written").assert_says("b.parquet is no whole Parquet file");
    store.download("tables/target", &world.path("target")).await;
    let ids: Vec<i64> = read_target(&world.path("target")).await.iter().map(|row| row.id).collect();
    assert_eq!(ids, (300..700).filter(|id| id % 100 < 7).collect::<Vec<_>>());
    // One object is a source too.
    let other = World::new(SimulatorSpec::default()).await;
    let text = job(&other)
        .replace("tables/source\"", "tables/source/lang=de/a.parquet\"")
        .replace("tables/target", "tables/one");
    other.write_text(&text);
    run(&other, &store, "run", &["--max-rows", "25"], "")
        .await
        .assert_status(0)
        .assert_says("25 rows written");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_other_engines_in_a_store_come_through_once() {
    let Some(store) = Store::start() else { return };
    for name in ["table-with-dv-small", "table_with_column_mapping", "delta-0.8.0-special-partition"] {
        let table = crate::tables::tables().join(name);
        let world = crate::tables::world_over(&table, "").await;
        store.upload(&table, &format!("tables/{name}")).await;
        let text = std::fs::read_to_string(world.job()).unwrap();
        let at = format!("path = {table:?}");
        let text = text.replace(&at, &format!("path = \"s3://bucket/tables/{name}\""));
        world.write_text(&text);
        let ended = run(&world, &store, "run", &[], "").await;
        assert_eq!(ended.status, Some(0), "{name}: {}", ended.stderr);
        let schema = enrich::table::Table::open(&table).await.unwrap().schema().unwrap();
        let columns: Vec<String> =
            schema.fields().iter().map(|field| format!("\"{}\"", field.name())).collect();
        let sql = format!("SELECT {} FROM target", columns.join(", "));
        let wanted = crate::tables::rows_of(&table, &sql).await;
        assert_eq!(crate::tables::rows_of(&world.path("target"), &sql).await, wanted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_or_lets_nobody_in_is_told() {
    let Some(store) = Store::start() else { return };
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&job(&world));
    let ended = run(&world, &store, "run", &[], "").await;
    ended.assert_status(2).assert_says("the source s3://bucket/tables/source is not there");
    world.write_text(&job(&world).replace("[checkpoint]\npath = \"checkpoint\"", ""));
    run(&world, &store, "run", &[], "").await.assert_status(2).assert_says("`checkpoint.path` is missing");
    world.write_text(&job(&world).replace("path = \"checkpoint\"", "path = \"s3://bucket/checkpoint\""));
    run(&world, &store, "run", &[], "").await.assert_status(2).assert_says("it must be a local folder");
    assert_eq!(world.simulator.counts().requests, 0);
}

//! Tables in an object store: sources, targets and checkpoints.

use enrich::config::SimulatorSpec;

use crate::support::store::Store;

use crate::support::{
    Outcome, World, append_delta, read_target, refusing, rows, rows_of, tables, world_over, write_parquet,
};

/// A job with its source, target and checkpoint in the store.
fn job(world: &World) -> String {
    let text = world.usual_job("");
    text.replace("path = \"source\"", "path = \"s3://bucket/tables/source\"")
        .replace("path = \"target\"", "path = \"s3://bucket/tables/target\"")
}

/// Its checkpoint on the disk.
fn with_local_checkpoint(job: &str) -> String {
    job.replace("[batch]", "[checkpoint]\npath = \"checkpoint\"\n[batch]")
}

async fn run(world: &World, store: &Store, command: &str, more: &[&str], fault: &str) -> Outcome {
    let mut command = world.job_command(command, more);
    command.envs(store.environment()).env("XDG_STATE_HOME", world.path("state"));
    if !fault.is_empty() {
        command.env("ENRICH_FAULT", fault);
    }
    world.outcome(command).await
}

async fn assert_rows(world: &World, store: &Store, ids: std::ops::Range<i64>) {
    store.download("tables/target", &world.path("target")).await;
    world.assert_target(ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_table_in_a_store_is_enriched_into_another_exactly_once_whatever_is_killed() {
    let Some(store) = Store::start() else { return };
    whatever_is_killed(&store, job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_checkpoint_on_the_disk_too() {
    let Some(store) = Store::start() else { return };
    whatever_is_killed(&store, |world| with_local_checkpoint(&job(world))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_checkpoint_alone_in_the_store_too() {
    let Some(store) = Store::start() else { return };
    let world = World::with_rows(60, 3).await;
    let text = world.usual_job("");
    world.write_text(
        &text.replace("[batch]", "[checkpoint]\npath = \"s3://bucket/checkpoints/a job\"\n[batch]"),
    );
    let faults = ["journal-append.after=kill@7", "checkpoint.before=kill@3", "delta-commit.after=kill"];
    for (first, fault) in (60..).step_by(20).zip(faults) {
        // Each run has something to do, however far the one before it came.
        append_delta(&world.path("source"), &rows(first..first + 20)).await;
        let killed = run(&world, &store, "run", &[], fault).await;
        assert_ne!(killed.status, Some(0), "{fault}: {}", killed.stderr);
    }
    run(&world, &store, "run", &[], "").await.assert_status(0);
    world.assert_target(0..120).await;
    assert!((120..=120 + 3 * 4).contains(&world.simulator.counts().requests));
    store.download("checkpoints", &world.path("store")).await;
    assert!(
        world.path("store/a job/checkpoint.json").exists()
            && !world.path("target/_checkpoints/test/checkpoint.json").exists()
    );
    let damaged = store.objects();
    let at = object_store::path::Path::from("checkpoints/a job/checkpoint.json");
    object_store::ObjectStoreExt::put(&damaged, &at, "{}".into()).await.unwrap();
    let ended = run(&world, &store, "run", &[], "").await;
    ended.assert_says("s3://bucket/checkpoints/a%20job/checkpoint.json is damaged").assert_says("--repair");
    let repaired = run(&world, &store, "check", &["--repair"], "").await;
    repaired.assert_status(0);
    assert!(repaired.stdout.contains("a%20job/checkpoint.damaged"), "{}", repaired.stdout);
    run(&world, &store, "run", &[], "").await.assert_status(0).assert_says("rebuilt from the target");
    world.assert_target(0..120).await;
}

async fn whatever_is_killed(store: &Store, job: impl Fn(&World) -> String) {
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
        let killed = run(&world, store, "run", &[], fault).await;
        assert_ne!(killed.status, Some(0), "{fault}: {}", killed.stderr);
    }
    let ended = run(&world, store, "run", &[], "").await;
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    ended.assert_says("result: s3://bucket/tables/target");
    assert_rows(&world, store, 0..60).await;
    let asked = world.simulator.counts().requests;
    // At most what was in flight at each kill is asked again.
    assert!((60..=60 + 4 * 4).contains(&asked), "{asked}");
    run(&world, store, "run", &[], "").await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("local"), &rows(60..65)).await;
    store.upload(&world.path("local"), "tables/source").await;
    run(&world, store, "run", &[], "").await.assert_status(0).assert_says("5 rows written");
    assert_rows(&world, store, 0..65).await;
    run(&world, store, "check", &[], "").await.assert_status(0);
    let status = run(&world, store, "status", &["--format", "json"], "").await;
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&status["source"]["rows"], &status["target"]["rows"]), (&0.into(), &65.into()), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rows_in_a_store_are_listed_and_mended() {
    let Some(store) = Store::start() else { return };
    let world = World::new(refusing("Row 1", Some(1))).await;
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
    ended.assert_status(0).assert_says("28 rows written").assert_says("b.parquet is no whole file");
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
        let table = tables().join(name);
        let world = world_over(&table, "").await;
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
        let wanted = rows_of(&table, &sql).await;
        assert_eq!(rows_of(&world.path("target"), &sql).await, wanted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_or_lets_nobody_in_is_told() {
    let Some(store) = Store::start() else { return };
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&job(&world));
    let ended = run(&world, &store, "run", &[], "").await;
    ended.assert_status(2).assert_says("the source s3://bucket/tables/source is not there");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_a_store_starts_over() {
    let Some(store) = Store::start() else { return };
    let world = World::new(SimulatorSpec::default()).await;
    append_delta(&world.path("local"), &rows(0..20)).await;
    store.upload(&world.path("local"), "tables/source").await;
    world.write_text(&job(&world));
    run(&world, &store, "run", &[], "").await.assert_status(0);
    run(&world, &store, "run", &["--restart", "--yes"], "")
        .await
        .assert_status(0)
        .assert_says("20 rows written");
    assert_rows(&world, &store, 0..20).await;
    assert_eq!(world.simulator.counts().requests, 40);
    let killed = run(&world, &store, "run", &["--restart", "--yes"], "delta-commit.after=kill").await;
    assert_ne!(killed.status, Some(0));
    run(&world, &store, "run", &[], "").await.assert_status(0);
    assert_rows(&world, &store, 0..20).await;
}

//! Jobs without the metadata column: exactly once all the same, and what cannot be had is refused.

use std::fs;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use enrich::faultpoint::ACTIONS;
use enrich::simulator::{Simulator, answer_to};
use enrich::table::{Table, TableError};

use crate::support::{
    Setup, World, append_delta, clean_log, nth, prompt_of, refusals, rows, with_faults, write_parquet,
};

/// The line of a target that switches metadata off.
const BARE: &str = "metadata = false";

/// The job that asks a simulator.
fn job_at(simulator: &Simulator) -> String {
    Setup { target: BARE, ..Setup::default() }.job(simulator.url())
}

/// Every row once, with its own answer, and no further column.
async fn assert_target(world: &World, ids: std::ops::Range<i64>) {
    let table = Table::open(&world.path("target")).await.unwrap();
    let columns: Vec<String> =
        table.schema().unwrap().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(columns, ["id", "text", "answer"]);
    let mut found = Vec::new();
    table
        .query("SELECT id, answer FROM target ORDER BY id", |batch| {
            let answers = cast(batch.column(1), &DataType::Utf8).unwrap();
            let answers = answers.as_string::<i32>();
            for (at, id) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                assert!(answers.is_valid(at) && answers.value(at) == answer_to(&prompt_of(*id)), "row {id}");
                found.push(*id);
            }
            Ok::<(), TableError>(())
        })
        .await
        .unwrap();
    assert_eq!(found, ids.collect::<Vec<_>>(), "each row once");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_survives_a_kill_without_metadata() {
    for action in ACTIONS {
        for fault in ["before", "after"].map(|side| format!("{action}.{side}=kill@{}", nth(action))) {
            let world = World::of(Setup { rows: 35, target: BARE, ..Setup::default() }).await;
            let killed = world.run_with(&[], &[("ENRICH_FAULT", &fault)]).await;
            assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
            world.settle().await;
            world.run(&[]).await.assert_status(0);
            assert_target(&world, 0..35).await;
            let counts = world.simulator.counts();
            assert!(counts.paid_again() <= 4, "{fault}: {} answers were paid again", counts.paid_again());
            world.run(&[]).await.assert_status(0).assert_says("nothing to do");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_checkpoint_is_rebuilt_from_the_newest_commit_whatever_the_source() {
    for is_parquet in [false, true] {
        let world = World::of(Setup { is_parquet, target: BARE, ..Setup::default() }).await;
        let source = world.path("source");
        if is_parquet {
            write_parquet(&source.join("a.parquet"), &rows(0..15), 5);
            write_parquet(&source.join("b.parquet"), &rows(15..35), 5);
        } else {
            append_delta(&source, &rows(0..35)).await;
        }
        let killed = world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.after=kill@2")]).await;
        assert_eq!(killed.status, None, "{}", killed.stderr);
        world.settle().await;
        fs::remove_file(world.path("target/_checkpoints/test/checkpoint.json")).unwrap();
        world.run(&[]).await.assert_status(0).assert_says("rebuilt from the target");
        assert_target(&world, 0..35).await;
        assert!(world.simulator.counts().paid_again() <= 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_checkpoint_and_newest_commit_are_gone_no_row_is_read_a_second_time() {
    let world = World::of(Setup { rows: 25, target: BARE, ..Setup::default() }).await;
    world.run(&["--max-rows", "14"]).await.assert_status(0);
    clean_log(&world).await;
    fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    let before = (world.simulator.counts().requests, world.target_version().await);
    for more in [&[][..], &["--restart", "--yes"]] {
        let refused = world.run(more).await;
        refused.assert_status(2).assert_says("target.metadata is off").assert_says("another target.path");
    }
    world.run(&[]).await.assert_says("nothing says any more which rows of the source are in it");
    let check = world.on_job("check", &[]).await;
    assert!(check.assert_status(2).stdout.contains("wrong   checkpoint: "), "{}", check.stdout);
    assert_eq!((world.simulator.counts().requests, world.target_version().await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_from_a_backup_is_refused_when_the_newest_commit_is_gone() {
    let world = World::of(Setup { rows: 25, target: BARE, ..Setup::default() }).await;
    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    world.run(&["--max-rows", "7"]).await.assert_status(0);
    let backup = fs::read(&checkpoint).unwrap();
    world.run(&["--max-rows", "7"]).await.assert_status(0);
    let newest = fs::read(&checkpoint).unwrap();
    clean_log(&world).await;
    fs::write(&checkpoint, backup).unwrap();
    world.run(&[]).await.assert_status(2).assert_says("the checkpoint is lost or too old");
    let check = world.on_job("check", &[]).await;
    assert!(check.assert_status(2).stdout.contains("wrong   checkpoint: "), "{}", check.stdout);
    assert_eq!(world.simulator.counts().requests, 14);
    fs::write(&checkpoint, newest).unwrap();
    world.run(&[]).await.assert_status(0);
    assert_target(&world, 0..25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_listed_by_their_text_and_a_retry_is_refused_before_it_asks() {
    let world = World::of(Setup { rows: 30, target: BARE, ..Setup::default() }).await;
    let mut faults = refusals([3, 17], 400, "content_filter");
    faults.extend(refusals([20], 413, "x"));
    let broken = Simulator::start(with_faults(faults), 0).await.unwrap();
    world.write_text(&job_at(&broken));
    world.run(&[]).await.assert_status(0).assert_says("3 errors");
    world.write_text(&job_at(&world.simulator));
    let listed = world.on_job("errors", &["--format", "csv", "--columns", "id"]).await;
    let mut ids: Vec<&str> =
        listed.assert_status(0).stdout.lines().map(|line| line.split(',').next().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["17", "20", "3", "id"]);
    world.on_job("errors", &["--class", "too_large"]).await.assert_status(0).assert_says("1 such failed row");
    for (filter, why) in [
        (["--provider", "sim"], "target.metadata is off, so nothing says which provider a row was sent to"),
        (["--batch", "1"], "target.metadata is off, so nothing says which batch a row is in"),
        (["--since", "1h"], "target.metadata is off, so nothing says when a row was sent"),
    ] {
        world.on_job("errors", &filter).await.assert_status(2).assert_says(why);
    }
    let version = world.target_version().await;
    let refused = world.on_job("retry", &[]).await;
    refused.assert_status(2).assert_says("nothing says which source row a row is");
    refused.assert_says("hint: enrich errors lists them");
    assert_eq!((world.simulator.counts().requests, world.target_version().await), (0, version));
    world.on_job("status", &[]).await.assert_status(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_says_otherwise_is_refused_with_both_ways_out() {
    let on = World::with_rows(5, 1).await;
    on.run(&["--max-rows", "2"]).await.assert_status(0);
    on.write_text(&job_at(&on.simulator));
    let refused = on.run(&[]).await;
    refused.assert_status(2).assert_says("its column \"_enrich\" says where rows came from");
    refused.assert_says("take target.metadata = false out").assert_says("another target.path");
    on.write_job("");
    on.run(&[]).await.assert_status(0);
    on.assert_target(0..5).await;

    let off = World::of(Setup { rows: 5, target: BARE, ..Setup::default() }).await;
    off.run(&["--max-rows", "2"]).await.assert_status(0);
    off.write_job("");
    let refused = off.run(&[]).await;
    refused.assert_status(2).assert_says("it has no column \"_enrich\", and target.metadata is on");
    refused.assert_says("set target.metadata = false").assert_says("another target.path");
    assert_eq!(off.simulator.counts().requests, 2);
    off.run(&["--set", "target.metadata=false"]).await.assert_status(0);
    assert_target(&off, 0..5).await;

    let both = ["--set", "target.metadata=false", "--set", "target.metadata_column=_m"];
    off.run(&both).await.assert_status(2).assert_says("keep one of the two");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_of_an_earlier_job_is_a_column_like_others() {
    let world = World::with_rows(4, 1).await;
    world.run(&[]).await.assert_status(0);
    let second = world
        .usual_job("")
        .replace("path = \"target\"", "path = \"second\"\nmetadata = false")
        .replace("path = \"source\"", "path = \"target\"")
        .replace("output = \"answer\"", "output = \"more\"");
    world.write_text(&second);
    world.run(&[]).await.assert_status(0).assert_says("4 answers");
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_empties_only_what_the_log_shows_to_be_the_jobs_own() {
    let world = World::of(Setup { rows: 12, target: BARE, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0);
    world.run(&["--restart", "--yes"]).await.assert_status(0).assert_says("12 answers");
    assert_target(&world, 0..12).await;
    // A restart that is cut short after the table was emptied goes on.
    let fault = [("ENRICH_FAULT", "delta-commit.after=kill@1")];
    assert_eq!(world.run_with(&["--restart", "--yes"], &fault).await.status, None);
    world.run(&[]).await.assert_status(0).assert_says("12 answers");
    assert_target(&world, 0..12).await;
    let job = job_at(&world.simulator);
    world.write_text(&job.replace("app_id = \"test\"", "app_id = \"other\""));
    world.run(&["--max-rows", "3"]).await.assert_status(0);
    let version = world.target_version().await;
    world.run(&["--restart", "--yes"]).await.assert_status(2).assert_says("may hold rows of others");
    assert_eq!(world.target_version().await, version);
}

//! A target that was taken back to an earlier version, or lacks rows for another reason.

use std::fs;
use std::path::Path;

use deltalake::{DeltaTable, DeltaTableBuilder, ensure_table_uri};

use crate::stops::{send, wait};
use crate::support::{World, append_delta, rows, write_parquet};
use crate::targets::until_stopped;

async fn delta(path: &Path) -> DeltaTable {
    let url = ensure_table_uri(path.to_string_lossy()).unwrap();
    DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap()
}

async fn restore(world: &World, version: u64) {
    delta(&world.path("target")).await.restore().with_version_to_restore(version).await.unwrap();
}

/// The target has each of these rows once, in whatever order.
async fn assert_each_once(world: &World, ids: impl IntoIterator<Item = i64>) {
    let mut found: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
    found.sort_unstable();
    assert_eq!(found, ids.into_iter().collect::<Vec<_>>());
}

/// A job over a Delta table, or over the same Parquet files, of so many rows in three commits.
async fn world_of(count: i64, is_delta: bool) -> World {
    let world = World::with_rows(count, 3).await;
    if !is_delta {
        fs::remove_dir_all(world.path("source/_delta_log")).unwrap();
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_restore_took_out_are_asked_about_on_demand() {
    for is_delta in [true, false] {
        for is_checkpoint_lost in [false, true] {
            let world = world_of(45, is_delta).await;
            world.run(&[]).await.assert_status(0);
            world.assert_target(0..45).await;
            restore(&world, 2).await;
            assert_eq!(world.target().await.len(), 20);
            if is_checkpoint_lost {
                fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
            }
            let job = world.job();
            let path = job.to_str().unwrap();
            let said =
                String::from_utf8(world.output(world.command(&["status", path])).await.stdout).unwrap();
            assert!(said.contains("restored    to an earlier version, by version"), "{said}");
            let run = world.run(&[]).await;
            if is_checkpoint_lost && !is_delta {
                run.assert_status(2).assert_says("the checkpoint is lost, and the target ");
                run.assert_says(
                    "enrich run --refill asks about every row of the source that is not in the target",
                );
            } else {
                run.assert_status(0).assert_says("was restored to an earlier version (its version 6)");
                run.assert_says("enrich run --refill asks about those that are missing");
            }
            assert_eq!(world.simulator.counts().requests, 45, "nothing is asked before it is wanted");
            // It is killed in the middle, and goes on where it was.
            let fault = [("ENRICH_FAULT", "delta-commit.after=kill@2")];
            let killed = world.run_with(&["--refill"], &fault).await;
            assert_eq!(killed.status, None, "{}", killed.stderr);
            killed.assert_says("25 rows that were read are not in");
            world.run(&["--refill"]).await.assert_status(0);
            world.assert_target(0..45).await;
            assert_eq!(world.simulator.counts().requests, 70);
            // It is as before now, and what is new is read.
            let again = world.run(&[]).await;
            again.assert_status(0).assert_says("nothing to do");
            assert!(!again.stderr.contains("restored"), "{}", again.stderr);
            world.run(&["--refill"]).await.assert_status(0).assert_says("no row that was read is missing");
            if is_delta {
                append_delta(&world.path("source"), &rows(45..50)).await;
                world.run(&[]).await.assert_status(0);
                world.assert_target(0..50).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_the_middle_that_somebody_deleted_are_found_with_those_of_a_condition_left_out() {
    let world = World::with_rows(40, 2).await;
    let job = world.usual_job("").replace("path = \"source\"", "path = \"source\"\nwhere = \"id % 3 <> 0\"");
    world.write_text(&job);
    world.run(&["--max-rows", "20"]).await.assert_status(0);
    let table = delta(&world.path("target")).await;
    table.delete().with_predicate("id IN (1, 2, 7, 25)").await.unwrap();
    assert_eq!(world.target().await.len(), 16);
    world.run(&["--refill"]).await.assert_status(0).assert_says("4 rows that were read are not in");
    assert_each_once(&world, (0..40).filter(|id| id % 3 != 0)).await;
    assert_eq!(world.simulator.counts().requests, 26 + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_not_guessed() {
    // The source's files are others now: nobody knows which of their rows the target has.
    let world = World::with_rows(30, 3).await;
    world.run(&[]).await.assert_status(0);
    restore(&world, 2).await;
    delta(&world.path("source")).await.optimize().await.unwrap();
    world.run(&[]).await.assert_status(0);
    let refused = world.run(&["--refill"]).await;
    refused.assert_status(2).assert_says("was compacted, or changed, since the target got its rows");
    // Rows without keys.
    let world = World::with_rows(30, 3).await;
    let job = world.usual_job("").replace("path = \"target\"", "path = \"target\"\nmetadata = false");
    world.write_text(&job);
    world.run(&[]).await.assert_status(0);
    restore(&world, 2).await;
    world.run(&["--refill"]).await.assert_status(2).assert_says("have no keys (target.metadata is off)");
    assert_eq!(world.simulator.counts().requests, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_during_a_run_stops_it() {
    for point in ["delta-commit.before", "metrics.before", "delta-commit.after"] {
        let world = World::with_rows(60, 1).await;
        let mut command = world.command(&["run", world.job().to_str().unwrap()]);
        command.env("ENRICH_FAULT", format!("{point}=stop@4"));
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        until_stopped(&child).await;
        restore(&world, 1).await;
        send(&child, "CONT");
        wait(child).await.assert_status(2).assert_says("was restored to an earlier version");
        world.run(&[]).await.assert_says("was restored to an earlier version");
        world.run(&["--refill"]).await.assert_status(0);
        assert_each_once(&world, 0..60).await;
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_starts_over_after_a_restore_lacks_nothing() {
    let world = World::with_rows(30, 3).await;
    world.run(&[]).await.assert_status(0);
    restore(&world, 2).await;
    world.run(&["--restart", "--yes"]).await.assert_status(0);
    world.assert_target(0..30).await;
    for _ in 0..2 {
        let again = world.run(&[]).await;
        again.assert_status(0).assert_says("nothing to do");
        assert!(!again.stderr.contains("restored"), "{}", again.stderr);
    }
    let path = world.job();
    let said = world.output(world.command(&["status", path.to_str().unwrap()])).await;
    assert!(!String::from_utf8(said.stdout).unwrap().contains("restored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_missing_here_and_there_are_read_in_one_go() {
    for is_delta in [true, false] {
        let world = world_of(300, is_delta).await;
        world.run(&[]).await.assert_status(0);
        let table = delta(&world.path("target")).await;
        table.delete().with_predicate("id % 3 = 1 OR id BETWEEN 120 AND 180").await.unwrap();
        world.run(&["--refill"]).await.assert_status(0).assert_says("141 rows that were read are not in");
        assert_each_once(&world, 0..300).await;
        assert_eq!(world.simulator.counts().requests, 300 + 141);
        for row in world.target().await {
            assert_eq!(row.text.as_deref(), Some(crate::support::text_of(row.id).as_str()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_first_version_is_not_missing() {
    let world = World::with_rows(30, 3).await;
    let job = world.usual_job("").replace("path = \"source\"", "path = \"source\"\nstarting_version = 3");
    world.write_text(&job);
    world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    delta(&world.path("target")).await.delete().with_predicate("id = 25").await.unwrap();
    world.run(&["--refill"]).await.assert_status(0).assert_says("1 row that");
    assert_each_once(&world, 20..30).await;
    // A compaction puts rows from before and after into one file.
    delta(&world.path("source")).await.optimize().await.unwrap();
    world.run(&[]).await.assert_status(0);
    delta(&world.path("target")).await.delete().await.unwrap();
    let refused = world.run(&["--refill"]).await;
    refused.assert_status(2).assert_says("was compacted since the version that the job begins with");
    assert_eq!(world.simulator.counts().requests, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_written_anew_is_refused_before_its_rows_are_asked_about() {
    let world = world_of(30, false).await;
    world.run(&[]).await.assert_status(0);
    delta(&world.path("target")).await.delete().with_predicate("id < 25").await.unwrap();
    let file = fs::read_dir(world.path("source")).unwrap().flatten().map(|entry| entry.path());
    let file = file.filter(|path| path.extension().is_some_and(|ending| ending == "parquet")).min().unwrap();
    write_parquet(&file, &rows(100..150), 10);
    world.run(&["--refill"]).await.assert_says("a file is read once, give new data a new name");
    assert_eq!(world.simulator.counts().requests, 30);
}

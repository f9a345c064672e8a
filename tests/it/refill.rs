//! A target that was taken back to an earlier version, or lacks rows for another reason.

use std::fs;

use crate::support::{Setup, World, append_delta, delta, rows, send, text_of, wait, write_parquet};

async fn restore(world: &World, version: u64) {
    delta(&world.path("target")).await.restore().with_version_to_restore(version).await.unwrap();
}

/// The target has each of these rows once, in whatever order.
async fn assert_each_once(world: &World, ids: impl IntoIterator<Item = i64>) {
    let mut found: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
    found.sort_unstable();
    assert_eq!(found, ids.into_iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_restore_took_out_are_asked_about_on_demand() {
    for is_delta in [true, false] {
        for is_checkpoint_lost in [false, true] {
            let world =
                World::of(Setup { rows: 45, commits: 3, is_parquet: !is_delta, ..Setup::default() }).await;
            world.run(&[]).await.assert_status(0);
            world.assert_target(0..45).await;
            restore(&world, 2).await;
            assert_eq!(world.target().await.len(), 20);
            if is_checkpoint_lost {
                fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
            }
            let said = world.on_job("status", &[]).await.stdout;
            assert!(said.contains("restored    to an earlier version, by version"), "{said}");
            let run = world.run(&[]).await;
            if is_checkpoint_lost && !is_delta {
                run.assert_status(2).assert_says("the checkpoint is lost, and the target ");
                run.assert_says(
                    "enrich run --refill sends every row of the source that is not in the target",
                );
            } else {
                run.assert_status(0).assert_says("was restored to an earlier version (its version 6)");
                run.assert_says("enrich run --refill sends those that are missing");
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
    let world =
        World::of(Setup { rows: 40, commits: 2, source: "where = \"id % 3 <> 0\"", ..Setup::default() })
            .await;
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
    let world =
        World::of(Setup { rows: 30, commits: 3, target: "metadata = false", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0);
    restore(&world, 2).await;
    world.run(&["--refill"]).await.assert_status(2).assert_says("have no keys (target.metadata is off)");
    assert_eq!(world.simulator.counts().requests, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_during_a_run_stops_it() {
    for point in ["delta-commit.before", "metrics.before", "delta-commit.after"] {
        let world = World::with_rows(60, 1).await;
        let child = world.stopped("run", &format!("{point}=stop@4")).await;
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
    let said = world.on_job("status", &[]).await;
    assert!(!said.stdout.contains("restored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_missing_here_and_there_are_read_in_one_go() {
    for is_delta in [true, false] {
        let world =
            World::of(Setup { rows: 300, commits: 3, is_parquet: !is_delta, ..Setup::default() }).await;
        world.run(&[]).await.assert_status(0);
        let table = delta(&world.path("target")).await;
        table.delete().with_predicate("id % 3 = 1 OR id BETWEEN 120 AND 180").await.unwrap();
        world.run(&["--refill"]).await.assert_status(0).assert_says("141 rows that were read are not in");
        assert_each_once(&world, 0..300).await;
        assert_eq!(world.simulator.counts().requests, 300 + 141);
        for row in world.target().await {
            assert_eq!(row.text.as_deref(), Some(text_of(row.id).as_str()));
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
    let world = World::of(Setup { rows: 30, commits: 3, is_parquet: true, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0);
    delta(&world.path("target")).await.delete().with_predicate("id < 25").await.unwrap();
    let file = fs::read_dir(world.path("source")).unwrap().flatten().map(|entry| entry.path());
    let file = file.filter(|path| path.extension().is_some_and(|ending| ending == "parquet")).min().unwrap();
    write_parquet(&file, &rows(100..150), 10);
    world.run(&["--refill"]).await.assert_says("a file is read once, give new data a new name");
    assert_eq!(world.simulator.counts().requests, 30);
}

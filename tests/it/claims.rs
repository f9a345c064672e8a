//! What would be paid twice or lost without a word is said, or refused, before anything is asked.

use std::fs;

use enrich::table::Table;

use crate::support::{Setup, World, append_delta, prompt_of, rows, write_parquet};

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_made_again_is_asked_about_from_its_beginning_or_not_at_all() {
    let world = World::with_rows(10, 1).await;
    world.run(&[]).await.assert_status(0);
    fs::remove_dir_all(world.path("source")).unwrap();
    append_delta(&world.path("source"), &rows(100..105)).await;
    let refused = world.run(&[]).await;
    refused
        .assert_status(2)
        .assert_says("dropped and made again")
        .assert_says("enrich run --restart empties the target");
    // Without the checkpoint, too.
    fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("from another source")
        .assert_says("enrich run --restart");
    assert_eq!(world.simulator.counts().requests, 10);
    world.run(&["--restart", "--yes"]).await.assert_status(0);
    world.assert_target(100..105).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_target_has_under_another_app_id_are_not_added_again_unless_that_is_meant() {
    for is_delta in [true, false] {
        let world = World::with_rows(10, 1).await;
        if !is_delta {
            fs::remove_dir_all(world.path("source/_delta_log")).unwrap();
        }
        world.run(&[]).await.assert_status(0);
        let other = world.usual_job("").replace("app_id = \"test\"", "app_id = \"renamed\"");
        world.write_text(&other);
        let refused = world.run(&[]).await;
        refused.assert_status(2).assert_says("holds 10 rows of this source under the app_id \"test\"");
        refused.assert_says("say --yes if the rows are meant to be there twice");
        assert_eq!(world.simulator.counts().requests, 10);
        world.run(&["--yes"]).await.assert_status(0).assert_says("10 rows written");
        // Said once: it goes on by itself then.
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    }
    // Rows of another source are another matter.
    let world = World::with_rows(10, 1).await;
    world.run(&[]).await.assert_status(0);
    append_delta(&world.path("more"), &rows(10..15)).await;
    let other = world.usual_job("").replace("app_id = \"test\"", "app_id = \"second\"");
    world.write_text(&other.replace("path = \"source\"", "path = \"more\""));
    world.run(&[]).await.assert_status(0).assert_says("but none of the app_id \"second\"");
    world.assert_target(0..15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_had_rows_and_is_gone_is_not_made_anew_without_a_word() {
    let world =
        World::of(Setup { rows: 20, sections: "[checkpoint]\npath = \"state\"", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0);
    fs::rename(world.path("target"), world.path("away")).unwrap();
    let refused = world.run(&[]).await;
    refused
        .assert_status(2)
        .assert_says("/target is gone, and the checkpoint ")
        .assert_says("says that it held 2 batches");
    refused.assert_says("enrich run --restart");
    assert!(!world.path("target").exists() && world.simulator.counts().requests == 20);
    // It comes back, as from a folder that is mounted.
    fs::rename(world.path("away"), world.path("target")).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    fs::remove_dir_all(world.path("target")).unwrap();
    world.run(&["--restart", "--yes"]).await.assert_status(0);
    world.assert_target(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_must_exist_is_not_made() {
    let world = World::of(Setup { rows: 20, target: "must_exist = true", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(2).assert_says("is not there, and target.must_exist is set");
    assert!(!world.path("target/_delta_log").exists() && world.simulator.counts().requests == 0);
    world.run(&["--set", "target.must_exist=false"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_starts_over_asks_about_all_rows_unless_what_was_paid_is_to_be_kept() {
    for keep_paid in [false, true] {
        let world = World::with_rows(20, 1).await;
        let job = world.usual_job("") + "\n[cache]\npath = \"cache.db\"\n";
        world.write_text(&job);
        world.run(&[]).await.assert_status(0);
        // Of these the answers are in the journal alone.
        append_delta(&world.path("source"), &rows(20..30)).await;
        let killed = world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill@1")]).await;
        assert_eq!((killed.status, world.simulator.counts().requests), (None, 30), "{}", killed.stderr);
        let more: &[&str] = if keep_paid { &["--keep-paid"] } else { &[] };
        let restart = [&["--restart", "--yes"], more].concat();
        if !keep_paid {
            // Also where the run that starts over is cut short.
            let fault = [("ENRICH_FAULT", "delta-commit.before=kill@2")];
            assert_eq!(world.run_with(&restart, &fault).await.status, None);
            world.run(&[]).await.assert_status(0);
        } else {
            world.run(&restart).await.assert_status(0);
        }
        world.assert_target(0..30).await;
        let counts = world.simulator.counts();
        let wanted = if keep_paid { 1 } else { 2 };
        let asked: Vec<u32> = (0..30).map(|row| counts.answers_to(&prompt_of(row))).collect();
        // What was in flight when it was cut short is asked again.
        let again = if keep_paid { 0 } else { 4 };
        let all: u32 = asked.iter().sum();
        assert!(asked.iter().all(|asked| *asked >= wanted) && all <= wanted * 30 + again, "{asked:?}");
    }
    let world = World::with_rows(5, 1).await;
    world.run(&["--keep-paid"]).await.assert_status(2).assert_says("--restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_the_source_has_are_not_filled_with_nulls_by_leaving_them_out() {
    let world = World::with_rows(10, 1).await;
    world.run(&[]).await.assert_status(0);
    append_delta(&world.path("source"), &rows(10..15)).await;
    let job = world.usual_job("").replace("path = \"source\"", "path = \"source\"\ncolumns = [\"text\"]");
    world.write_text(&job);
    let refused = world.run(&[]).await;
    refused
        .assert_status(2)
        .assert_says("its column \"id\" is one of the source's that source.columns leaves out");
    refused.assert_says("target.on_missing_columns = \"null\"");
    assert_eq!(world.simulator.counts().requests, 10);
    world
        .run(&["--set", "target.on_missing_columns=null"])
        .await
        .assert_status(0)
        .assert_says("5 rows written");
    let table = Table::open(&world.path("target")).await.unwrap();
    let mut nulls = 0;
    let sql = "SELECT id FROM target WHERE id IS NULL";
    table
        .query(sql, |batch| {
            nulls += batch.num_rows();
            Ok::<(), enrich::table::TableError>(())
        })
        .await
        .unwrap();
    assert_eq!(nulls, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_says_that_its_target_is_there() {
    let world = World::with_rows(5, 1).await;
    world.run(&[]).await.assert_status(0);
    for (app_id, said) in
        [("test", "has batches of the app_id \"test\""), ("other", "this job adds its rows to them")]
    {
        let file = format!("{app_id}.toml");
        let mut command = world.command(&[
            "init",
            &file,
            "--source",
            "source",
            "--target",
            "target",
            "--column",
            "text",
            "--task",
            "Sum it up.",
            "--provider",
            "simulator",
            "--app-id",
            app_id,
        ]);
        command.current_dir(world.path("."));
        let ended = world.output(command).await;
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            ended.status.success() && told.contains("target is there, with 5 rows") && told.contains(said),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_its_own_are_not_left_out_by_a_job_whose_source_has_them_too() {
    let world = World::with_rows(10, 1).await;
    world.run(&[]).await.assert_status(0);
    let second = world
        .usual_job("")
        .replace("path = \"target\"", "path = \"second\"")
        .replace("path = \"source\"", "path = \"target\"\ncolumns = [\"id\", \"text\"]");
    world.write_text(&second);
    world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_pilot_say_what_a_run_would_refuse_before_anything_is_paid() {
    let world = World::of(Setup {
        rows: 20,
        commits: 2,
        sections: "[checkpoint]\npath = \"state\"",
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0);
    fs::rename(world.path("target"), world.path("away")).unwrap();
    let told = "is gone, and the checkpoint ";
    world.run(&[]).await.assert_status(2).assert_says(told);
    for (command, more) in [("check", &[][..]), ("plan", &["--pilot", "5"])] {
        let refused = world.on_job(command, more).await;
        assert_eq!(refused.status, Some(2), "{command} {more:?}");
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains(told), "{said}");
    }
    // A lock may be left there.
    let _ = fs::remove_dir_all(world.path("target"));
    fs::rename(world.path("away"), world.path("target")).unwrap();
    world.write_text(&world.usual_job("").replace("app_id = \"test\"", "app_id = \"other\""));
    for (command, more) in [("check", &[][..]), ("plan", &["--pilot", "5"])] {
        let refused = world.on_job(command, more).await;
        assert_eq!(refused.status, Some(2), "{command} {more:?}");
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("holds 20 rows of this source under the app_id \"test\""), "{said}");
    }
    assert_eq!(world.simulator.counts().requests, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_same_name_in_another_folder_is_another_file() {
    let world = World::of(Setup::default()).await;
    for (folder, ids) in [("one", 0..10), ("two", 10..20)] {
        fs::create_dir(world.path(folder)).unwrap();
        write_parquet(&world.path(folder).join("part-0.parquet"), &rows(ids), 10);
    }
    for (folder, app_id) in [("one", "first"), ("two", "second")] {
        let job = world.usual_job("").replace("app_id = \"test\"", &format!("app_id = \"{app_id}\""));
        world.write_text(&job.replace("path = \"source\"", &format!("path = \"{folder}\"")));
        world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    }
    world.assert_target(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pilot_paid_after_a_restart_that_was_cut_short_is_used() {
    let world = World::with_rows(30, 1).await;
    world.run(&[]).await.assert_status(0);
    let fault = [("ENRICH_FAULT", "delta-commit.after=kill@1")];
    world.run_with(&["--restart", "--yes"], &fault).await;
    let asked = world.simulator.counts().requests;
    let pilot = world.output(world.job_command("plan", &["--pilot", "12"])).await;
    assert!(pilot.status.success(), "{}", String::from_utf8_lossy(&pilot.stderr));
    assert_eq!(world.simulator.counts().requests, asked + 12);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
    assert_eq!(world.simulator.counts().requests, asked + 30, "of the old answers none, of the new ones all");
}

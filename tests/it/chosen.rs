//! What of a source is read: chosen rows, chosen columns, from a version on.

use std::fs;
use std::time::Duration;

use deltalake::protocol::SaveMode;
use enrich::config::SimulatorSpec;
use enrich::table::Table;

use crate::support::{Setup, World, append_delta, clean_log, delta, rows, write_parquet};

/// The usual job with more lines for its source.
fn job(world: &World, source: &str) -> String {
    world.usual_job("").replace("path = \"source\"", &format!("path = \"source\"\n{source}"))
}

fn every(step: usize, ids: std::ops::Range<i64>) -> Vec<i64> {
    ids.step_by(step).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_meet_a_condition_are_asked_under_their_own_keys_in_full_batches() {
    let world =
        World::of(Setup { rows: 100, commits: 4, source: "where = \"id % 3 = 0\"", ..Setup::default() })
            .await;
    world.run(&[]).await.assert_status(0).assert_says("34 rows written");
    world.assert_target(every(3, 0..100)).await;
    let target = world.target().await;
    // 25 rows a file: id 27 is row 2 of the second one.
    assert_eq!((target[9].id, target[9].row), (27, 2));
    let sizes: Vec<usize> = target.chunk_by(|a, b| a.batch == b.batch).map(<[_]>::len).collect();
    assert_eq!(sizes, [10, 10, 10, 4]);
    assert_eq!(world.simulator.counts().requests, 34);
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("source"), &rows(100..110)).await;
    world.run(&["--max-rows", "2"]).await.assert_status(0).assert_says("2 rows written");
    world.run(&[]).await.assert_status(0).assert_says("1 row written");
    world.assert_target(every(3, 0..110)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_row_groups_that_statistics_rule_out_are_not_opened() {
    let world = World::with_rows(80, 4).await;
    // A file that is opened would be found to be junk.
    let files = Table::open(&world.path("source")).await.unwrap().files().await.unwrap();
    for file in [&files[0], &files[3]] {
        let path = world.path("source").join(&file.path);
        let junk = vec![b'x'; fs::metadata(&path).unwrap().len().try_into().unwrap()];
        fs::write(path, junk).unwrap();
    }
    world.write_text(&job(&world, "where = \"id BETWEEN 25 AND 44\""));
    world.run(&[]).await.assert_status(0).assert_says("20 rows written");
    world.assert_target(25..45).await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");

    // And of a Parquet file, the row groups: pages of the others are damaged.
    let world = World::new(SimulatorSpec::default()).await;
    write_parquet(&world.path("source"), &rows(0..300), 100);
    let mut bytes = fs::read(world.path("source")).unwrap();
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new()
        .parse_and_finish(&bytes::Bytes::from(bytes.clone()))
        .unwrap();
    for group in [0, 2] {
        for column in metadata.row_group(group).columns() {
            let (start, length) = column.byte_range();
            bytes[usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap()].fill(0xff);
        }
    }
    fs::write(world.path("source"), bytes).unwrap();
    world.write_text(&job(&world, "where = \"id > 120 AND id <= 130\""));
    world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    world.assert_target(121..131).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_keeps_the_condition_that_it_was_planned_with() {
    let world =
        World::of(Setup { rows: 60, commits: 2, source: "where = \"id % 2 = 0\"", ..Setup::default() }).await;
    world.run_with(&["--max-rows", "10"], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    assert!(!world.path("target/_delta_log/00000000000000000001.json").exists(), "nothing is committed");
    world.write_text(&job(&world, "where = \"id % 5 = 0\""));
    world.run(&[]).await.assert_status(0);
    // Ten even ones, 0 to 18, were planned; what follows them is chosen anew.
    world.assert_target(every(2, 0..20).into_iter().chain(every(5, 20..60))).await;
    assert_eq!(world.simulator.counts().requests, 10 + 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_checkpoint_is_rebuilt_where_a_condition_chose_the_rows() {
    for is_delta in [true, false] {
        let setup = Setup { is_parquet: !is_delta, source: "where = \"id % 4 = 1\"", ..Setup::default() };
        let world = World::of(setup).await;
        if is_delta {
            append_delta(&world.path("source"), &rows(0..40)).await;
            append_delta(&world.path("source"), &rows(40..100)).await;
        } else {
            write_parquet(&world.path("source/a.parquet"), &rows(0..40), 7);
            write_parquet(&world.path("source/b.parquet"), &rows(40..100), 7);
        }
        world.run(&["--max-rows", "13"]).await.assert_status(0);
        clean_log(&world).await;
        fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
        world.run(&[]).await.assert_status(0).assert_says("rebuilt from the target");
        world.assert_target((1..100).step_by(4)).await;
        assert_eq!(world.simulator.counts().requests, 25);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_carried_in_the_order_in_which_they_are_named() {
    let world =
        World::of(Setup { rows: 20, source: "columns = [\"text\"]\nwhere = \"id < 7\"", ..Setup::default() })
            .await;
    world.run(&[]).await.assert_status(0).assert_says("7 rows written");
    let schema = Table::open(&world.path("target")).await.unwrap().schema().unwrap();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["text", "answer", "_enrich"]);

    world.write_text(&job(&world, "columns = [\"txt\"]"));
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("source.columns names \"txt\"")
        .assert_says("did you mean \"text\"?");
    world.write_text(&job(&world, "columns = [\"id\"]"));
    world.run(&[]).await.assert_status(2).assert_says("text");
    world.write_text(&job(&world, "columns = []"));
    world.run(&[]).await.assert_status(2).assert_says("`source.columns` is empty");
    world.write_text(&job(&world, "columns = [\"id\", \"text\", \"id\"]"));
    world.run(&[]).await.assert_status(2).assert_says("names \"id\" twice");
    assert_eq!(world.simulator.counts().requests, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_condition_is_told_before_anything_is_asked() {
    let world = World::with_rows(20, 1).await;
    for (condition, told) in [
        ("id >", "source.where = \"id >\" is wrong: "),
        ("idd > 3", "No field named idd"),
        ("id + 3", "it is of type Int64, not true or false"),
        ("id > 3; DROP TABLE x", "nothing may follow the condition"),
        ("random() < 0.1", "random() gives another value each time"),
    ] {
        world.write_text(&job(&world, &format!("where = {condition:?}")));
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
    assert_eq!(world.simulator.counts().requests, 0);
    assert!(!world.path("target").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_with_the_version_that_it_names_and_then_follows_its_checkpoint() {
    let world =
        World::of(Setup { rows: 40, commits: 4, source: "starting_version = 3", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("20 rows written");
    world.assert_target(20..40).await;
    append_delta(&world.path("source"), &rows(40..50)).await;
    // Ignored from now on, whatever it says.
    world.write_text(&job(&world, "starting_version = 1"));
    world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    world.assert_target(20..50).await;

    let world = World::of(Setup { rows: 10, source: "starting_version = 2", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("source"), &rows(10..15)).await;
    world.run(&[]).await.assert_status(0).assert_says("5 rows written");
    world.assert_target(10..15).await;
    let world = World::of(Setup { rows: 10, source: "starting_version = 3", ..Setup::default() }).await;
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("source.starting_version")
        .assert_says("3 is after the newest version, 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_with_the_first_version_made_at_a_time() {
    let world = World::with_rows(40, 4).await;
    let log = world.path("source/_delta_log");
    let day = |day: u64| std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + day * 86_400);
    for version in 0..=4 {
        let file = fs::File::options().append(true).open(log.join(format!("{version:020}.json"))).unwrap();
        file.set_modified(day(version)).unwrap();
    }
    // Version 3 was made on the 4th of January 2026 at midnight.
    world.write_text(&job(&world, "starting_timestamp = \"2026-01-03T00:00:01Z\""));
    world.run(&[]).await.assert_status(0).assert_says("20 rows written");
    world.assert_target(20..40).await;

    let other = World::of(Setup {
        rows: 40,
        commits: 4,
        source: "starting_timestamp = \"2126-01-01\"",
        ..Setup::default()
    })
    .await;
    other
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("no version was made at 2126-01-01 00:00:00 UTC or later");
    other.write_text(&job(&other, "starting_timestamp = \"soon\""));
    other
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("`source.starting_timestamp` is \"soon\", neither a time");
    other.write_text(&job(&other, "starting_version = 1\nstarting_timestamp = \"2026-01-01\""));
    other.run(&[]).await.assert_status(2).assert_says("both set");
    assert_eq!(other.simulator.counts().requests, 0);

    let files = World::new(SimulatorSpec::default()).await;
    write_parquet(&files.path("source"), &rows(0..3), 3);
    files.write_text(&job(&files, "starting_version = 1"));
    files.run(&[]).await.assert_status(2).assert_says("files have no versions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_by_in_commit_timestamps_where_a_table_has_them() {
    let world = World::with_rows(40, 4).await;
    let log = world.path("source/_delta_log");
    for version in 0..=4_i64 {
        let file = log.join(format!("{version:020}.json"));
        let text = fs::read_to_string(&file).unwrap();
        let actions = text.lines().map(|line| {
            let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(info) = action.get_mut("commitInfo") {
                info["inCommitTimestamp"] = (1_767_225_600_000 + version * 86_400_000).into();
            }
            if let Some(metadata) = action.get_mut("metaData") {
                metadata["configuration"]["delta.enableInCommitTimestamps"] = "true".into();
            }
            if action.get("protocol").is_some() {
                action["protocol"] = serde_json::json!({
                    "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["inCommitTimestamp"],
                });
            }
            action.to_string()
        });
        // The commit's information comes first.
        let mut actions: Vec<String> = actions.collect();
        actions.sort_by_key(|action| !action.contains("\"commitInfo\""));
        fs::write(&file, actions.join("\n") + "\n").unwrap();
    }
    world.write_text(&job(&world, "starting_timestamp = \"2026-01-04\""));
    world.run(&[]).await.assert_status(0).assert_says("20 rows written");
    world.assert_target(20..40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_fails_for_a_row_is_told_with_the_row_unless_it_guards_itself() {
    let world =
        World::of(Setup { rows: 20, source: "where = \"id <> 0 AND 100 / id > 10\"", ..Setup::default() })
            .await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(1..10).await;
    let world = World::of(Setup { rows: 20, source: "where = \"100 / id > 10\"", ..Setup::default() }).await;
    let ended = world.run(&[]).await;
    ended.assert_status(2).assert_says("source.where = \"100 / id > 10\" is wrong: for row 0 of");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_condition_leaves_out_count_nowhere() {
    let world = World::of(Setup { rows: 400, source: "where = \"id % 10 = 0\"", ..Setup::default() }).await;
    world.run_with(&["--max-rows", "10"], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    let status = world.output(world.job_command("status", &["--format", "json"])).await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["open_batches"][0]["rows"], 10, "{status}");
    world.run(&["--max-rows", "25"]).await.assert_status(0).assert_says("25 rows written");
    world.run(&[]).await.assert_status(0).assert_says("15 rows written");
    world.assert_target(every(10, 0..400)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_names_the_value_of_a_column_that_its_files_have_too() {
    let world = World::new(SimulatorSpec::default()).await;
    let folder = world.path("source/text=en");
    fs::create_dir_all(&folder).unwrap();
    write_parquet(&folder.join("a.parquet"), &rows(0..5), 5);
    world.write_text(&job(&world, "where = \"text = 'en'\""));
    world.run(&[]).await.assert_status(0).assert_says("5 rows written");
    assert!(world.target().await.iter().all(|row| row.text.as_deref() == Some("en")));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_passed_over_are_counted_and_named_wherever_a_job_says_how_it_stands() {
    // Two files of 20 rows. Statistics rule one of them out, and rows of the other are looked at.
    let world = World::with_rows(40, 2).await;
    let text = job(&world, "where = \"id < 15\"\nskip_change_commits = true");
    world.write_text(&text);
    let passed = "rows of the source that were passed over: 25 by source.where";
    world.run(&["--max-rows", "4"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0).assert_says("11 rows written").assert_says(passed);
    world.write_text(&text.replace("where = \"id < 15\"", ""));
    world
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("nothing to do: the source has no new rows")
        .assert_says(passed);
    // A table that is overwritten.
    let source = delta(&world.path("source")).await;
    source.write(vec![rows(100..130)]).with_save_mode(SaveMode::Overwrite).await.unwrap();
    append_delta(&world.path("source"), &rows(200..203)).await;
    let ended = world.run(&["--summary", "json"]).await;
    let passed = "25 by source.where, up to 30 by source.skip_change_commits";
    ended.assert_status(0).assert_says("3 rows written").assert_says(passed);
    let summary: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let counted =
        serde_json::json!({"where": 25, "skip_change_commits": 30, "starting_version": 0, "or_more": false});
    assert_eq!(summary["passed_over"], counted);
    for command in ["status", "check"] {
        let said = world.output(world.job_command(command, &[])).await;
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(passed) && !said.contains("every row"), "{said}");
    }
    // Without its checkpoint nobody knows, and nothing is claimed.
    fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    let ended = world.run(&["--summary", "json"]).await;
    ended.assert_status(0).assert_says("nothing to do: the source has no new rows");
    assert!(
        !ended.stdout.contains("passed_over") && !ended.stderr.contains("passed over"),
        "{}",
        ended.stderr
    );

    let other =
        World::of(Setup { rows: 30, commits: 3, source: "starting_version = 2", ..Setup::default() }).await;
    other
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("20 rows written")
        .assert_says("10 by source.starting_version");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_for_one_run_has_to_be_meant() {
    let world = World::with_rows(20, 1).await;
    world
        .run(&["--set", "source.where=id < 5"])
        .await
        .assert_status(2)
        .assert_says("passes over the other rows for good");
    assert_eq!(world.simulator.counts().requests, 0);
    world
        .run(&["--set", "source.where=id < 5", "--yes"])
        .await
        .assert_status(0)
        .assert_says("5 rows written");
    // As it stands in the file it is no news.
    append_delta(&world.path("source"), &rows(20..30)).await;
    world.write_text(&job(&world, "where = \"id < 25\""));
    world.run(&["--set", "source.where=id < 25"]).await.assert_status(0).assert_says("5 rows written");
}

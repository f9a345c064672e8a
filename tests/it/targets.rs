//! Targets: partitions, file sizes, what a table demands of its rows, tables of other engines, others who write.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use enrich::config::Job;
use enrich::simulator::{Gate, answer_to};
use enrich::sink::check_columns;
use enrich::table::Table;

use crate::support::{
    PATIENT, Setup, World, append_delta, copy_of, delta, prompt_of, refusing, rows, rows_of, schema, send,
    tables, wait, world_over,
};

// For `features`.
pub use crate::support::make_target;

/// The usual job with more lines for its target.
fn job(world: &World, target: &str) -> String {
    world.usual_job("").replace("path = \"target\"", &format!("path = \"target\"\n{target}"))
}

async fn constrain(world: &World, constraints: &[(&str, &str)]) {
    let constraints: HashMap<String, String> =
        constraints.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned())).collect();
    let table = delta(&world.path("target")).await;
    table.add_constraint().with_constraints(constraints).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_partitioned_and_its_errors_are_found_and_mended() {
    let world = World::of(Setup {
        simulator: refusing("Row 7 ", Some(1)),
        rows: 24,
        commits: 3,
        target: "partition_by = [\"id\"]",
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0).assert_says("1 error");
    let table = Table::open(&world.path("target")).await.unwrap();
    assert_eq!(table.partition_columns().unwrap(), ["id"]);
    assert!(world.path("target/id=23").is_dir());
    assert_eq!(table.files().await.unwrap().len(), 24);
    let listed = world.output(world.job_command("errors", &["--format", "csv"])).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("\n7,Row 7 "), "{listed}");
    let mended = world.output(world.job_command("retry", &[])).await;
    assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stderr));
    world.assert_target(0..24).await;
    // A table keeps its partitions, whatever a job leaves out; another list is refused.
    world.write_job("");
    append_delta(&world.path("source"), &rows(24..30)).await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
    world.write_text(&job(&world, "partition_by = [\"text\"]"));
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("it is partitioned by [\"id\"], and target.partition_by is [\"text\"]");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_cannot_partition_a_target_are_refused() {
    let world = World::with_rows(5, 1).await;
    for (columns, told) in [
        ("[\"idd\"]", "names \"idd\", and the target has no such column; did you mean \"id\"?"),
        ("[\"answer\"]", "names \"answer\", an output"),
        ("[\"_enrich\"]", "names \"_enrich\", which is of type"),
        ("[]", "is empty"),
    ] {
        world.write_text(&job(&world, &format!("partition_by = {columns}")));
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
    assert_eq!(world.simulator.counts().requests, 0);
    assert!(!world.path("target").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_makes_several_files_with_statistics_of_their_own() {
    let world = World::of(Setup {
        simulator: refusing("Row 3 ", None),
        rows: 300,
        commits: 6,
        target: "file_size = \"1kB\"",
        batch_rows: 300,
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0).assert_says("1 error");
    let mut table = Table::open(&world.path("target")).await.unwrap();
    assert_eq!(table.version(), 1, "one commit");
    let files = table.files().await.unwrap().len();
    assert!(files > 2, "{files} files");
    assert_eq!(table.files_above_zero("_enrich", "error_count").await.unwrap().len(), 1, "of {files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_constraint_does_not_allow_becomes_an_error() {
    let world = World::with_rows(30, 2).await;
    make_target(&world, |field| field).await;
    // The simulator's answer to row 5 is told apart by its beginning.
    let forbidden = answer_to(&prompt_of(5));
    let allowed = format!("answer <> '{}' AND id >= 0", forbidden.replace('\'', "''"));
    constrain(&world, &[("polite", &allowed)]).await;
    let ended = world.run(&["--summary", "json"]).await;
    ended.assert_status(0);
    assert!(ended.stdout.contains("\"answers\":29"), "{}", ended.stdout);
    assert!(ended.stdout.contains("\"errors\":{\"constraint\":1}"), "{}", ended.stdout);
    let target = world.target().await;
    assert_eq!(target.iter().map(|row| row.id).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    let of_five = &target[5];
    assert!(of_five.answer.as_deref().unwrap().starts_with("ERROR: constraint: the constraint polite ("));
    assert_eq!(target.iter().map(|row| row.error_count).sum::<i64>(), 1);
    // It is a failed row like others: listed, and asked again on demand, with the same end.
    let retried = world.output(world.job_command("retry", &[])).await;
    assert!(retried.status.success());
    assert_eq!(world.simulator.counts().requests, 31);
    assert_eq!(world.target().await.iter().map(|row| row.error_count).sum::<i64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_cut_short_where_a_constraint_leaves_little_room() {
    let world = World::of(Setup { simulator: refusing("Row 3 ", None), rows: 8, ..Setup::default() }).await;
    make_target(&world, |field| field).await;
    set_property(&world, "delta.constraints.short", "length(answer) < 20");
    world.run(&[]).await.assert_status(3);
    let answers: Vec<String> = world.target().await.into_iter().map(|row| row.answer.unwrap()).collect();
    assert_eq!(answers[3], "ERROR: bad_request");
    assert!(
        answers.iter().enumerate().all(|(at, answer)| at == 3 || answer == "ERROR: constraint"),
        "{answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_could_not_be_written_as_an_error_either_stops_the_run_before_it_is_asked() {
    for (constraint, told) in [
        (("known", "id <> 12"), "the constraint known (id <> 12) holds, which row 2 of"),
        (
            ("closed", "answer IN ('yes', 'no')"),
            "the constraint closed (answer IN ('yes', 'no')) holds, which row 0 of",
        ),
        (("odd", "array_sum(id) > 3"), "it cannot be checked here"),
    ] {
        let world = World::with_rows(20, 2).await;
        make_target(&world, |field| field).await;
        let key = format!("delta.constraints.{}", constraint.0);
        set_property(&world, &key, constraint.1);
        let ended = world.run(&[]).await;
        ended.assert_status(2).assert_says(told);
        let asked = world.simulator.counts().requests;
        // The batch before it may have been asked.
        assert!(asked == 0 || (constraint.0 == "known" && asked <= 10), "{asked}: {}", constraint.0);
    }
}

/// Sets a property as another engine would, without a look at what it says.
fn set_property(world: &World, key: &str, value: &str) {
    let log = world.path("target/_delta_log/00000000000000000000.json");
    let text = fs::read_to_string(&log).unwrap();
    let mut lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        if let Some(metadata) = line.get_mut("metaData") {
            metadata["configuration"][key] = value.into();
        }
        if let Some(protocol) = line.get_mut("protocol") {
            protocol["minWriterVersion"] = 3.into();
        }
    }
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    fs::write(&log, text.join("\n") + "\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_added_during_a_run_holds_from_the_next_commit_on() {
    // The process stands still between a look at the table and the commit; or before either.
    for point in ["delta-commit.before", "metrics.before"] {
        let world = World::with_rows(40, 1).await;
        let child = world.stopped("run", &format!("{point}=stop@2")).await;
        assert_eq!(world.target().await.len(), 10);
        constrain(&world, &[("small", "id < 10 OR answer LIKE 'ERROR: constraint%' OR id = 35")]).await;
        send(&child, "CONT");
        let ended = wait(child).await;
        ended.assert_status(0);
        let target = world.target().await;
        assert_eq!(target.iter().map(|row| row.id).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
        for row in &target {
            let answer = row.answer.as_deref().unwrap();
            let is_free = row.id < 10 || row.id == 35;
            assert_eq!(answer.starts_with("ERROR: constraint: the constraint small"), !is_free, "{answer}");
        }
        assert_eq!(world.simulator.counts().paid_again(), 0);
        assert_eq!(world.simulator.counts().requests, 40);
    }
    // One that no row can meet stops the run; the answers are kept until it is gone.
    let world = World::with_rows(40, 1).await;
    let child = world.stopped("run", "delta-commit.before=stop@2").await;
    constrain(&world, &[("small", "id < 10")]).await;
    send(&child, "CONT");
    wait(child).await.assert_status(2).assert_says("the constraint small (id < 10) holds, which row 10 of");
    assert_eq!(world.target().await.len(), 10);
    world.run(&[]).await.assert_status(2).assert_says("the constraint small (id < 10) holds");
    let table = delta(&world.path("target")).await;
    table.drop_constraints().with_constraint("small").await.unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..40).await;
    assert_eq!(world.simulator.counts().paid_again(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_given_other_columns_during_a_run_takes_no_more_rows_of_it() {
    let world = World::with_rows(40, 1).await;
    let child = world.stopped("run", "delta-commit.before=stop@2").await;
    let table = delta(&world.path("target")).await;
    let write = table.write([rows(0..3)]).with_save_mode(deltalake::protocol::SaveMode::Overwrite);
    write.with_schema_mode(deltalake::operations::write::SchemaMode::Overwrite).await.unwrap();
    send(&child, "CONT");
    let ended = wait(child).await;
    ended.assert_status(2).assert_says("its column \"answer\" was removed or changed during the run");
    let now = Table::open(&world.path("target")).await.unwrap();
    assert_eq!(now.files().await.unwrap().iter().filter_map(|file| file.rows).sum::<u64>(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_added_during_a_retry_holds() {
    let world =
        World::of(Setup { simulator: refusing("Row 7 ", Some(1)), rows: 10, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("1 error");
    let child = world.stopped("retry", "delta-commit.before=stop@1").await;
    constrain(&world, &[("seven", "id <> 7 OR answer LIKE 'ERROR%'")]).await;
    send(&child, "CONT");
    wait(child).await.assert_status(0);
    let target = world.target().await;
    assert!(target[7].answer.as_deref().unwrap().starts_with("ERROR: constraint: the constraint seven"));
    assert_eq!(world.simulator.counts().requests, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_never_null_are_seen_to() {
    // A row with nothing to say is skipped, which leaves its output null.
    let world = World::with_rows(6, 1).await;
    let job = world.usual_job("").replace("{{ text }}", "{{ text if id != 4 else none }}");
    world.write_text(&job.replace("Say something about:\n", ""));
    make_target(&world, |field| if field.name() == "answer" { field.with_nullable(false) } else { field })
        .await;
    let ended = world.run(&[]).await;
    ended.assert_status(0);
    let target = world.target().await;
    assert_eq!(target.len(), 6);
    assert!(target.iter().all(|row| row.answer.is_some()));

    let world = World::with_rows(6, 1).await;
    make_target(&world, |field| field).await;
    let columns = Schema::new(vec![Field::new("extra", DataType::Utf8, true)]);
    Table::open(&world.path("target")).await.unwrap().add_columns(&columns).await.unwrap();
    constrain(&world, &[("filled", "extra IS NOT NULL")]).await;
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("the constraint filled (extra IS NOT NULL) holds, which row 0 of");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_that_cannot_be_written_is_refused_by_name() {
    for feature in
        ["rowTracking", "identityColumns", "clustering", "inCommitTimestamp", "typeWidening", "columnMapping"]
    {
        let world = World::with_rows(6, 1).await;
        make_target(&world, |field| field).await;
        let log = world.path("target/_delta_log/00000000000000000000.json");
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<String> = text
            .lines()
            .map(|line| {
                let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
                if line.get("protocol").is_some() {
                    let mut features = vec!["appendOnly", "invariants", feature];
                    // Columns are mapped only where a property says so.
                    let mut reader = Vec::new();
                    if feature == "columnMapping" || feature == "typeWidening" {
                        reader.push(feature);
                    }
                    features.sort_unstable();
                    line["protocol"] = serde_json::json!({
                        "minReaderVersion": 3, "minWriterVersion": 7,
                        "readerFeatures": reader, "writerFeatures": features,
                    });
                }
                line.to_string()
            })
            .collect();
        fs::write(&log, lines.join("\n") + "\n").unwrap();
        let ended = world.run(&[]).await;
        if feature == "columnMapping" {
            ended.assert_status(0);
            world.assert_target(0..6).await;
            continue;
        }
        ended
            .assert_status(2)
            .assert_says(&format!("has the table feature {feature}, which cannot be written"));
        assert_eq!(world.simulator.counts().requests, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_other_engines_are_written_or_refused_by_name() {
    let mut outcomes = BTreeMap::new();
    for entry in fs::read_dir(tables()).unwrap() {
        let source = entry.unwrap().path();
        if !source.is_dir() {
            continue;
        }
        let name = source.file_name().unwrap().to_str().unwrap().to_owned();
        let world = world_over(&source, "").await;
        copy_of(&source, &world.path("target"));
        let target = Table::open(&world.path("target")).await.unwrap();
        if let Some(feature) = target.unwritable_feature().unwrap() {
            let told = format!("has the table feature {feature}, which cannot be written");
            world.run(&[]).await.assert_status(2).assert_says(&told);
            outcomes.insert(name, feature);
            continue;
        }
        let schema = target.schema().unwrap();
        let job = Job::load_without_keys(&world.job()).unwrap();
        let wanted = check_columns(&job, &schema).unwrap();
        let own = wanted.fields().iter().filter(|field| schema.field_with_name(field.name()).is_err());
        let own = Schema::new(own.map(|field| field.as_ref().clone()).collect::<Vec<_>>());
        target.add_columns(&own).await.unwrap();
        let ended = world.run(&[]).await;
        assert_eq!(ended.status, Some(0), "{name}: {}", ended.stderr);
        let columns: Vec<String> =
            schema.fields().iter().map(|field| format!("\"{}\"", field.name())).collect();
        let sql = |condition: &str| format!("SELECT {} FROM target WHERE {condition}", columns.join(", "));
        let original = rows_of(&source, &sql("TRUE")).await;
        assert_eq!(rows_of(&world.path("target"), &sql("answer IS NULL")).await, original, "{name}");
        assert_eq!(rows_of(&world.path("target"), &sql("answer IS NOT NULL")).await, original, "{name}");
        outcomes.insert(name, "written".to_owned());
    }
    let told: Vec<String> = outcomes.iter().map(|(name, outcome)| format!("{name}: {outcome}")).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_may_append_compact_and_vacuum_beside_a_run() {
    let world = World::of(Setup { rows: 300, provider: PATIENT, ..Setup::default() }).await;
    make_target(&world, |field| field).await;
    let path = world.path("target");
    // Of nobody, and old enough for a VACUUM that keeps an hour.
    let orphan = path.join("orphan.parquet");
    let kept = path.join("_checkpoints/test/kept");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    for old in [&orphan, &kept] {
        let file = fs::File::create(old).unwrap();
        file.set_modified((enrich::clock::wall() - Duration::from_secs(7_200)).into()).unwrap();
    }
    world.simulator.set_gate(Gate::ShutFrom(100));
    let mut child = world.job_command("run", &["--quiet"]).spawn().unwrap();
    let mut appended = 0;
    // A hundred rows more with each append.
    let rows_for = |appends: usize| Gate::ShutFrom(100 * (appends as u64 + 1));
    while child.try_wait().unwrap().is_none() {
        // Somebody else's rows, without our columns.
        append_delta_of(&path, appended).await;
        appended += 1;
        // Each may lose a race against a commit; none may harm one.
        let _ = delta(&path).await.optimize().await;
        let vacuum = delta(&path).await.vacuum().with_retention_period(chrono::TimeDelta::hours(1));
        let vacuum = vacuum.with_mode(deltalake::operations::vacuum::VacuumMode::Full);
        let _ = vacuum.with_enforce_retention_duration(false).await;
        world.simulator.set_gate(rows_for(appended));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(child.wait().unwrap().success());
    assert!(appended > 2, "{appended} appends beside the run");
    assert!(
        !orphan.exists() && kept.exists(),
        "VACUUM takes what is nobody's and leaves the job's own folder alone"
    );
    let own = rows_of(&path, "SELECT id, count(*) FROM target WHERE answer IS NOT NULL GROUP BY id").await;
    assert_eq!(own.len(), 300);
    assert!(own.iter().all(|row| row[1] == "1"));
    let others = rows_of(&path, "SELECT id FROM target WHERE answer IS NULL").await;
    assert_eq!(others.len(), appended);
    assert_eq!(world.simulator.counts().requests, 300);
}

async fn append_delta_of(path: &Path, row: usize) {
    use arrow::array::new_null_array;
    let table = Table::open(path).await.unwrap();
    let schema = table.schema().unwrap();
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "id" => std::sync::Arc::new(arrow::array::Int64Array::from(vec![-1 - row as i64])) as _,
        _ => new_null_array(field.data_type(), 1),
    });
    let batch = arrow::record_batch::RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    append_delta(path, &batch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_not_planned_so_that_a_condition_can_leave_it_out() {
    let world = World::with_rows(20, 1).await;
    make_target(&world, |field| field).await;
    constrain(&world, &[("known", "id <> 3")]).await;
    world.run(&[]).await.assert_status(2).assert_says("hint: where the row itself breaks it");
    let text = world.usual_job("").replace("path = \"source\"", "path = \"source\"\nwhere = \"id <> 3\"");
    world.write_text(&text);
    world.run(&[]).await.assert_status(0);
    world.assert_target((0..20).filter(|id| *id != 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_that_fail_for_a_row_or_follow_from_each_other_are_kept() {
    // One cannot be evaluated for an error without a number in it, one is about the length of every error.
    for (name, constraint, told) in [
        ("guarded", "answer LIKE 'ERROR: c%' OR CAST(answer AS INT) BETWEEN 1 AND 5", "ERROR: constraint"),
        ("exact", "answer = 'ERROR: constraint'", "ERROR: constraint"),
    ] {
        let world =
            World::of(Setup { simulator: refusing("Row 3 ", None), rows: 8, ..Setup::default() }).await;
        make_target(&world, |field| field).await;
        set_property(&world, &format!("delta.constraints.{name}"), constraint);
        world.run(&[]).await.assert_status(3);
        for row in world.target().await {
            let answer = row.answer.unwrap();
            assert!(answer.starts_with(told), "{name}: {answer}");
            assert_eq!(row.error_count, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demand_that_is_broken_by_what_another_made_of_a_row_is_kept_too() {
    let sections = "[[step]]\noutput = \"second\"\nprompt = \"{{ text }}\"";
    let world = World::of(Setup { rows: 6, sections, ..Setup::default() }).await;
    make_target(&world, |field| field).await;
    let forbidden = answer_to(&prompt_of(2)).replace('\'', "''");
    set_property(&world, "delta.constraints.a1", "answer NOT LIKE 'ERROR%' OR second LIKE 'ERROR%'");
    set_property(&world, "delta.constraints.b2", &format!("answer <> '{forbidden}'"));
    world.run(&[]).await.assert_status(0);
    let rows = rows_of(&world.path("target"), "SELECT id, answer, second FROM target ORDER BY id").await;
    for row in rows {
        let has_failed = row[0] == "2";
        assert!(row[1].starts_with("ERROR: constraint") == has_failed, "{row:?}");
        assert!(row[2].starts_with("ERROR: constraint") == has_failed, "{row:?}");
    }
    // A retry of one step alone could not tell whether such a demand is met.
    let retried = world.output(world.job_command("retry", &[])).await;
    assert_eq!(retried.status.code(), Some(2));
    let told = String::from_utf8(retried.stderr).unwrap();
    assert!(told.contains("it is about several outputs"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_a_target_does_not_take_stop_a_run_like_other_errors() {
    let setup = Setup { rows: 3_000, batch_rows: 100, concurrency: 32, ..Setup::default() };
    let world = World::of(setup).await;
    make_target(&world, |field| field).await;
    set_property(&world, "delta.constraints.never", "answer LIKE 'ERROR%'");
    let ended = world.run(&[]).await;
    ended
        .assert_status(3)
        .assert_says("of the last 1000 rows of step \"answer\" failed")
        .assert_says("constraint");
    assert!(world.simulator.counts().requests < 2_900, "{}", world.simulator.counts().requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_no_folder_can_be_named_by_is_told_before_anything_is_asked() {
    let target = "partition_by = [\"text\"]";
    let world = World::of(Setup { rows: 3, target, ..Setup::default() }).await;
    let long = "語".repeat(30);
    let columns = vec![
        std::sync::Arc::new(arrow::array::Int64Array::from(vec![3])) as _,
        std::sync::Arc::new(arrow::array::StringArray::from(vec![long])) as _,
    ];
    let batch = arrow::record_batch::RecordBatch::try_new(schema(), columns).unwrap();
    append_delta(&world.path("source"), &batch).await;
    let ended = world.run(&[]).await;
    ended.assert_status(2).assert_says("a folder can be named text=<value> in at most 255 bytes");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_kept_of_columns_that_every_engine_allows_them_for() {
    let world = World::of(Setup { rows: 4, target: "partition_by = [\"id\"]", ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0);
    let properties = Table::open(&world.path("target")).await.unwrap().properties().unwrap();
    assert_eq!(properties["delta.dataSkippingStatsColumns"], "`text`,`answer`,`_enrich`.`error_count`");
}

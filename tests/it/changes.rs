//! Jobs that change: other prompts, starting over, columns that the target does not have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use enrich::config::SimulatorSpec;
use enrich::simulator::answer_to;
use enrich::table::{Table, TableError};

use crate::support::{
    World, append_delta, copy_of, delta, project, prompt_of, rows, rows_of, tables, text_of, world_over,
    write_parquet,
};

/// What a query says of the target, as texts.
async fn query(world: &World, sql: &str) -> Vec<Vec<Option<String>>> {
    let table = Table::open(&world.path("target")).await.unwrap();
    let mut found = Vec::new();
    table
        .query(sql, |batch| {
            let columns: Vec<_> =
                batch.columns().iter().map(|column| cast(column, &DataType::Utf8).unwrap()).collect();
            for at in 0..batch.num_rows() {
                let text = |column: &arrow::array::ArrayRef| {
                    let column = column.as_string::<i32>();
                    arrow::array::Array::is_valid(column, at).then(|| column.value(at).to_owned())
                };
                found.push(columns.iter().map(text).collect());
            }
            Ok::<(), TableError>(())
        })
        .await
        .unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_changes_in_the_middle_is_told_and_can_be_told_apart() {
    let world = World::with_rows(20, 1).await;
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    let other = world.usual_job("").replace("Say something about:", "Say it otherwise:");
    world.write_text(&other);
    world.run(&[]).await.assert_status(0).assert_says("step answer has changed");
    let again = world.run(&[]).await;
    assert!(!again.assert_status(0).stderr.contains("otherwise"), "it is told once: {}", again.stderr);
    let sql = "SELECT _enrich['answer_step']['template'], MIN(id), MAX(id) FROM target GROUP BY 1 ORDER BY 2";
    let templates = query(&world, sql).await;
    assert_eq!(templates.len(), 2);
    assert_ne!(templates[0][0], templates[1][0]);
    assert_eq!(templates[0][1..], [Some("0".to_owned()), Some("9".to_owned())]);
    let target = world.target().await;
    assert_eq!(target[3].answer, Some(answer_to(&prompt_of(3))));
    assert_eq!(target[15].answer, Some(answer_to(&format!("Say it otherwise:\n{}", text_of(15)))));
    // Commands that ask nothing say it, too, and how many rows are meant.
    let _job = world.job();
    let older =
        "10 rows of the step \"answer\" were sent with another prompt, model or parameters than the job has";
    for command in ["status", "check", "plan"] {
        let said = world.output(world.job_command(command, &[])).await;
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(older), "{command}: {said}");
    }
    // Another model is another step, also while nothing is to be asked.
    world.write_text(&other.replace("\"simulated\"", "\"another\""));
    let idle = world.run(&[]).await;
    idle.assert_status(0).assert_says("nothing to do").assert_says("differ from the 20 rows in the target");
    append_delta(&world.path("source"), &rows(20..22)).await;
    world.run(&[]).await.assert_status(0).assert_says("step answer has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_asks_first_and_begins_anew_in_the_same_table() {
    let world = World::with_rows(20, 2).await;
    world.run(&[]).await.assert_status(0);
    let (id, version) = {
        let table = Table::open(&world.path("target")).await.unwrap();
        (table.id().unwrap(), table.version())
    };
    world
        .run(&["--restart"])
        .await
        .assert_status(2)
        .assert_says("there is no terminal to ask at")
        .assert_says("--yes");
    assert_eq!(world.target_version().await, version);
    world.run(&["--restart", "--yes"]).await.assert_status(0).assert_says("20 answers");
    world.assert_target(0..20).await;
    assert_eq!(Table::open(&world.path("target")).await.unwrap().id().unwrap(), id);
    for row in 0..20 {
        assert_eq!(world.simulator.counts().answers_to(&prompt_of(row)), 2);
    }
    append_delta(&world.path("source"), &rows(20..25)).await;
    world.run(&[]).await.assert_status(0).assert_says("5 answers");
    world.assert_target(0..25).await;
    // The rows of another job are not this one's to remove.
    let other = world.usual_job("").replace("app_id = \"test\"", "app_id = \"other\"");
    world.write_text(&other);
    world.run(&["--max-rows", "3", "--yes"]).await.assert_status(0);
    let version = world.target_version().await;
    world.run(&["--restart", "--yes"]).await.assert_status(2).assert_says("25 rows of other jobs");
    assert_eq!(world.target_version().await, version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_killed_leaves_every_row_once() {
    for fault in [
        "checkpoint.before=kill@1",
        "checkpoint.after=kill@1",
        "delta-commit.before=kill@1",
        "delta-commit.after=kill@1",
        "checkpoint.before=kill@2",
        "journal-append.after=kill@3",
    ] {
        let world = World::with_rows(20, 1).await;
        world.run(&[]).await.assert_status(0);
        let killed = world.run_with(&["--restart", "--yes"], &[("ENRICH_FAULT", fault)]).await;
        assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
        world.run(&[]).await.assert_status(0);
        world.assert_target(0..20).await;
        let again = world.run(&[]).await;
        again.assert_status(0).assert_says("nothing to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_whose_checkpoint_is_lost_still_starts_over() {
    let world = World::with_rows(20, 1).await;
    world.run(&[]).await.assert_status(0);
    let fault = [("ENRICH_FAULT", "delta-commit.after=kill@1")];
    assert_eq!(world.run_with(&["--restart", "--yes"], &fault).await.status, None);
    std::fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("20 answers");
    world.assert_target(0..20).await;
}

/// Adds a column to the source, and rows that have it.
async fn widen_source(world: &World) {
    let table = delta(&world.path("source")).await;
    let field = deltalake::kernel::StructField::nullable("stars", deltalake::kernel::DataType::LONG);
    table.add_columns().with_fields([field]).await.unwrap();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("stars", DataType::Int64, true),
    ]));
    let texts: StringArray = (10..14).map(|id| Some(text_of(id))).collect();
    let columns = vec![
        Arc::new(Int64Array::from_iter_values(10..14)) as _,
        Arc::new(texts) as _,
        Arc::new(Int64Array::from(vec![1, 2, 3, 4])) as _,
    ];
    append_delta(&world.path("source"), &RecordBatch::try_new(schema, columns).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_stops_the_run_is_ignored_or_is_added() {
    for (on_new, stars) in [("ignore", None), ("add", Some(4))] {
        let world = World::with_rows(10, 1).await;
        world.run(&[]).await.assert_status(0);
        widen_source(&world).await;
        let calls = world.simulator.counts().requests;
        world
            .run(&[])
            .await
            .assert_status(2)
            .assert_says("it has no column \"stars\"")
            .assert_says("target.on_new_columns");
        assert_eq!(world.simulator.counts().requests, calls);
        world.run(&["--set", &format!("target.on_new_columns={on_new}")]).await.assert_status(0);
        world.assert_target(0..14).await;
        let table = Table::open(&world.path("target")).await.unwrap();
        assert_eq!(table.schema().unwrap().field_with_name("stars").is_ok(), stars.is_some());
        if stars.is_some() {
            let found: BTreeMap<String, Option<String>> = query(&world, "SELECT id, stars FROM target")
                .await
                .into_iter()
                .map(|mut row| (row.remove(0).unwrap(), row.remove(0)))
                .collect();
            assert_eq!((&found["3"], &found["13"]), (&None, &Some("4".to_owned())));
        }
    }
}

/// Appends a commit that another engine could have written.
fn commit(table: &Path, version: u64, actions: &[serde_json::Value]) {
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    std::fs::write(table.join(format!("_delta_log/{version:020}.json")), lines.join("\n")).unwrap();
}

/// The newest action of a kind in a commit.
fn action(table: &Path, version: u64, kind: &str) -> serde_json::Value {
    let log = std::fs::read_to_string(table.join(format!("_delta_log/{version:020}.json"))).unwrap();
    let actions = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    actions.rev().find(|action| action.get(kind).is_some()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_renamed_under_column_mapping_is_a_new_column() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    copy_of(&tables().join("table_with_column_mapping"), &source);
    let world = world_over(&source, "").await;
    world.run(&[]).await.assert_status(0);
    // The rows of the last file once more, as new ones, in a table whose column has another name now.
    let mut add = action(&source, 0, "add");
    let path = add["add"]["path"].as_str().unwrap().to_owned();
    std::fs::copy(source.join(&path), source.join("again.parquet")).unwrap();
    add["add"]["path"] = "again.parquet".into();
    let mut metadata = action(&source, 0, "metaData");
    let schema =
        metadata["metaData"]["schemaString"].as_str().unwrap().replace("\"Super Name\"", "\"Name now\"");
    metadata["metaData"]["schemaString"] = schema.into();
    commit(&source, 1, &[metadata, add]);
    let calls = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(2).assert_says("it has no column \"Name now\"");
    assert_eq!(world.simulator.counts().requests, calls);
    world.run(&["--set", "target.on_new_columns=add"]).await.assert_status(0);
    let sql = "SELECT \"Super Name\" IS NULL, \"Name now\" IS NULL, count(*) FROM target GROUP BY 1, 2";
    let found = rows_of(&world.path("target"), sql).await;
    let rows = |old: &str, new: &str| found.iter().any(|row| row[0] == old && row[1] == new);
    assert!(rows("false", "true") && rows("true", "false") && found.len() == 2, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_whose_type_is_widened_is_read_in_its_new_type() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("source");
    let batch = |column: arrow::array::ArrayRef, ids: std::ops::Range<i64>| {
        let rows = rows(ids);
        let mut fields = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new("n", column.data_type().clone(), true)));
        let columns = rows.columns().iter().cloned().chain([column]).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    };
    append_delta(&source, &batch(Arc::new(arrow::array::Int32Array::from(vec![1, 2, 3])), 0..3)).await;
    world.write_job("");
    world.run(&["--max-rows", "2"]).await.assert_status(0);
    // As Spark's ALTER COLUMN … TYPE BIGINT leaves it.
    let wide = batch(Arc::new(Int64Array::from(vec![1_i64 << 40, 5])), 3..5);
    write_parquet(&source.join("wide.parquet"), &wide, 10);
    let mut metadata = action(&source, 0, "metaData");
    let mut schema: serde_json::Value =
        serde_json::from_str(metadata["metaData"]["schemaString"].as_str().unwrap()).unwrap();
    schema["fields"][2]["type"] = "long".into();
    schema["fields"][2]["metadata"] =
        serde_json::json!({ "delta.typeChanges": [{ "fromType": "integer", "toType": "long" }] });
    metadata["metaData"]["schemaString"] = schema.to_string().into();
    metadata["metaData"]["configuration"] = serde_json::json!({ "delta.enableTypeWidening": "true" });
    let protocol = serde_json::json!({ "protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["typeWidening"],
        "writerFeatures": ["typeWidening", "appendOnly", "invariants"],
    }});
    let size = std::fs::metadata(source.join("wide.parquet")).unwrap().len();
    let add = serde_json::json!({ "add": {
        "path": "wide.parquet", "partitionValues": {}, "size": size, "modificationTime": 1_700_000_000_000_i64,
        "dataChange": true,
    }});
    commit(&source, 2, &[protocol, metadata, add]);
    // The target's column is the narrow one, and no feature that is written here widens it.
    let calls = world.simulator.counts().requests;
    world.run(&[]).await.assert_status(2).assert_says("\"n\"");
    assert_eq!(world.simulator.counts().requests, calls);
    world.run(&["--set", "target.path=wide"]).await.assert_status(0);
    let found = rows_of(&world.path("wide"), "SELECT id, n FROM target ORDER BY id").await;
    let numbers: Vec<&str> = found.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(numbers, ["1", "2", "3", "1099511627776", "5"]);
}

/// A job with its source and its target as the program of November 2026 left them.
async fn job_of_november_2026(more: &str) -> World {
    let world = World::new(SimulatorSpec::default()).await;
    copy_of(&project().join("tests/frozen/enriched-2026-11"), &world.path("."));
    let job = std::fs::read_to_string(world.job()).unwrap();
    std::fs::write(world.job(), job.replace("[simulator]", &format!("{more}\n[simulator]"))).unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_an_older_program_made_is_written_on() {
    let world = job_of_november_2026("").await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&world.path("source"), &rows(8..12)).await;
    // Without its checkpoint, too, it is known what is there.
    std::fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("4 rows written");
    let sql = "SELECT count(*), count(DISTINCT id), count(answer), count(kind), count(triage), count(vector), \
               count(_enrich['answer']['fingerprint']), count(_enrich['vector']['fingerprint']) FROM target";
    assert_eq!(rows_of(&world.path("target"), sql).await, [["12"; 8]]);
    let listed = world.output(world.job_command("errors", &["--format", "csv"])).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("content_filter") && listed.lines().count() == 2, "{listed}");
    // A retry writes into its structs, too.
    let job = std::fs::read_to_string(world.job()).unwrap();
    std::fs::write(world.job(), job.replace("contains = \"something of Row 5 \"", "contains = \"no row\""))
        .unwrap();
    let retried = world.output(world.job_command("retry", &[])).await;
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    let sql = "SELECT id, _enrich['answer']['error'], _enrich['error_count'] FROM target WHERE id = 5";
    assert_eq!(query(&world, sql).await, [[Some("5".to_owned()), None, Some("0".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_gets_the_columns_of_new_steps_and_keeps_those_of_steps_that_are_gone() {
    let step = "[[step]]\noutput = \"more\"\nprompt = \"More of {{ text }}\"\n";
    let world = job_of_november_2026(step).await;
    append_delta(&world.path("source"), &rows(8..12)).await;
    let checked = world.on_job("check", &[]).await.stdout;
    assert!(checked.contains("takes the job's columns; the next run adds more"), "{checked}");
    world
        .run(&[])
        .await
        .assert_status(0)
        .assert_says("has new columns: more; they are null in the rows that were there");
    let sql = "SELECT count(*), count(more), count(_enrich['more_step']['fingerprint']), \
               count(_enrich['answer']['fingerprint']) FROM target";
    assert_eq!(rows_of(&world.path("target"), sql).await, [["12", "4", "4", "12"]]);
    // Steps that are taken out of the job.
    let text = std::fs::read_to_string(world.job()).unwrap();
    let (before, _) = text.split_once("[[step]]").unwrap();
    std::fs::write(world.job(), format!("{before}{step}\n[simulator]\n")).unwrap();
    append_delta(&world.path("source"), &rows(12..16)).await;
    world.run(&[]).await.assert_status(0);
    let sql =
        "SELECT count(*), count(more), count(answer), count(_enrich['answer']) FROM target WHERE id >= 12";
    assert_eq!(rows_of(&world.path("target"), sql).await, [["4", "4", "0", "0"]]);
    // A typed answer gets another field.
    let fields = "[[step]]\noutput = \"triage\"\nfields = { urgent = \"bool\", cause = \"string\" }\nprompt = \"Why {{ text }}\"\n";
    std::fs::write(world.job(), format!("{before}{fields}\n[simulator]\n")).unwrap();
    append_delta(&world.path("source"), &rows(16..20)).await;
    world.run(&[]).await.assert_status(0);
    let sql = "SELECT count(triage['urgent']), count(triage['cause']), count(triage['topic']) FROM target WHERE id >= 16";
    assert_eq!(rows_of(&world.path("target"), sql).await, [["4", "4", "0"]]);
    // What has another type is refused.
    std::fs::write(world.job(), format!("{before}{}\n[simulator]\n", fields.replace("\"bool\"", "\"int\"")))
        .unwrap();
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("its column \"triage.urgent\" has the type Boolean, and Int64 is to be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_rows_becomes_that_of_the_job_as_it_is_now() {
    let world = World::with_rows(10, 1).await;
    let asked = world.usual_job("");
    let nobody = asked.replace(world.simulator.url().as_str(), "http://127.0.0.1:9/v1");
    world.write_text(&nobody.replace("prompt = ", "fields = { a = \"int\" }\nprompt = "));
    world.run(&["--set", "provider.sim.outage_deadline=1s"]).await;
    let table = Table::open(&world.path("target")).await.unwrap();
    assert_eq!(table.version(), 0, "the run that asked in vain made it");
    world.write_text(&asked);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_column_can_be_unnested_beside_the_outputs() {
    let world = World::with_rows(3, 1).await;
    world.run(&[]).await.assert_status(0);
    let table = Table::open(&world.path("target")).await.unwrap();
    let schema = table.schema().unwrap();
    let DataType::Struct(fields) = schema.field_with_name("_enrich").unwrap().data_type() else {
        panic!("{schema:?}");
    };
    assert!(fields.find("answer_step").is_some());
    for field in fields {
        assert!(schema.field_with_name(field.name()).is_err(), "{} is there twice", field.name());
    }
    // Two steps one of which has the other's struct as its name.
    let job = world.usual_job("");
    let (before, step) = job.split_once("[[step]]").unwrap();
    let second = step.replace("output = \"answer\"", "output = \"answer_step\"");
    world.write_text(&format!("{before}[[step]]{step}\n[[step]]{second}"));
    world
        .run(&[])
        .await
        .assert_status(2)
        .assert_says("the output \"answer_step\" has the name that _enrich has for the step");
}

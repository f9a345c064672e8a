//! `enrich errors`: the failed rows, in every form, without opening the files that have none.

use enrich::config::FaultSpec;
use enrich::simulator::Simulator;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use enrich::sink::FailedRows;
use enrich::table::{Scan, Table, TableError};

use crate::support::{Outcome, World, append_delta, fault, faulty, refusals, without_files};

/// The ids in a listing as JSON lines.
fn ids(listed: &Outcome) -> Vec<i64> {
    listed.assert_status(0);
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_i64().unwrap();
    listed.stdout.lines().map(id).collect()
}

/// Two kinds of failure in five files, one of which is clean.
async fn sample() -> World {
    let mut faults = refusals([3, 4, 17, 18, 19, 44], 400, "content_filter");
    faults.extend(refusals([20, 21], 413, "x"));
    World::with_failed(50, 5, faults).await
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_rows_are_chosen_by_class_batch_time_condition_and_number() {
    let world = sample().await;
    let listed =
        async |more: &[&str]| ids(&world.on_job("errors", &[&["--format", "json"], more].concat()).await);
    assert_eq!(listed(&[]).await, [3, 4, 17, 18, 19, 20, 21, 44]);
    assert_eq!(listed(&["--class", "too_large"]).await, [20, 21]);
    assert_eq!(listed(&["--class", "too_large,content_filter"]).await.len(), 8);
    assert_eq!(listed(&["--batch", "1"]).await, [17, 18, 19]);
    assert_eq!(listed(&["--provider", "sim", "--limit", "2"]).await, [3, 4]);
    assert!(listed(&["--provider", "other"]).await.is_empty());
    assert_eq!(listed(&["--step", "answer", "--where", "id % 2 = 0"]).await, [4, 18, 20, 44]);
    assert_eq!(listed(&["--since", "1h"]).await.len(), 8);
    assert!(listed(&["--since", "2999-01-01"]).await.is_empty());
    world.on_job("errors", &["--since", "soon"]).await.assert_status(2).assert_says("is neither a time");
    world.on_job("errors", &["--class", "tooo_large"]).await.assert_status(2).assert_says("'too_large'");
    world
        .on_job("errors", &["--columns", "txt"])
        .await
        .assert_status(2)
        .assert_says("did you mean \"text\"?");
    for escape in ["1=1) OR (1=1", "TRUE; DROP TABLE target", "TRUE UNION ALL SELECT 1"] {
        world.on_job("errors", &["--where", escape]).await.assert_status(2).assert_says("nothing may follow");
    }
    world
        .on_job("errors", &["--where", "id ="])
        .await
        .assert_status(2)
        .assert_says("the condition \"id =\" is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_holds_the_same_rows() {
    let world = sample().await;
    let table = world.on_job("errors", &["--columns", "id"]).await;
    table.assert_status(0).assert_says("8 failed rows");
    insta::assert_snapshot!("errors_table", without_files(&table.stdout, "part-00000-[id]"));
    let json = world.on_job("errors", &["--format", "json", "--class", "too_large"]).await;
    let line: serde_json::Value = serde_json::from_str(json.stdout.lines().next().unwrap()).unwrap();
    let names: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "id",
            "text",
            "_step",
            "_class",
            "_error",
            "_provider",
            "_model",
            "_attempts",
            "_batch",
            "_run",
            "_file",
            "_row"
        ]
    );
    assert_eq!(line["_class"], "too_large");
    assert_eq!((&line["_step"], &line["_batch"]), (&"answer".into(), &2.into()));
    let csv = world.on_job("errors", &["--format", "csv", "--columns", "id"]).await;
    let firsts: Vec<&str> = csv.stdout.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(firsts, ["id", "3", "4", "17", "18", "19", "20", "21", "44"]);
    let file = world.path("failed.parquet");
    let named = ["--format", "parquet", "--output", file.to_str().unwrap()];
    world.on_job("errors", &named).await.assert_status(0);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(&file).unwrap(),
    );
    let read: Vec<RecordBatch> = reader.unwrap().build().unwrap().map(Result::unwrap).collect();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 8);
    let summary = world.on_job("errors", &["--summary"]).await;
    insta::assert_snapshot!("errors_summary", without_files(&summary.stdout, "part-00000-[id]"));
    let summary = world.on_job("errors", &["--summary", "--format", "json"]).await;
    let counts: Vec<u64> = summary
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["rows"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [6, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_files_are_not_opened() {
    let world = World::with_failed(500, 50, refusals([123, 477], 413, "x")).await;
    let job = enrich::config::Job::load_without_keys(&world.job()).unwrap();
    let failed = FailedRows::open(&job).await.unwrap().unwrap();
    let opened: BTreeSet<&String> = failed.files().iter().collect();
    assert_eq!(opened.len(), 2, "of fifty files");
    // Whoever opened another would fail.
    let mut spoilt = 0;
    for entry in std::fs::read_dir(world.path("target")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|ending| ending == "parquet") && !opened.contains(&name) {
            std::fs::write(entry.path(), "spoilt").unwrap();
            spoilt += 1;
        }
    }
    assert_eq!(spoilt, 48);
    assert_eq!(ids(&world.on_job("errors", &["--format", "json"]).await), [123, 477]);
    world.on_job("errors", &["--summary"]).await.assert_status(0).assert_says("2 failed rows");
    world.on_job("retry", &[]).await.assert_status(0).assert_says("2 answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_begins_like_an_error_is_none() {
    let world = World::with_rows(3, 1).await;
    let body = r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"ERROR: said the model"}}]}"#;
    let mut fault = refusals([1], 200, "").remove(0);
    fault.body = Some(body.to_owned());
    let spec = faulty(fault);
    let simulator = Simulator::start(spec, 0).await.unwrap();
    world.write_text(&world.job_at(&simulator));
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.target().await[1].answer.as_deref(), Some("ERROR: said the model"));
    let listed = world.on_job("errors", &[]).await;
    listed.assert_status(0).assert_says("0 failed rows");
    assert_eq!(listed.stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_only_the_string_is_read_too() {
    let world = World::with_rows(3, 1).await;
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("answer", DataType::Utf8, true),
    ]));
    let answers = ["fine", "ERROR: timeout: no answer", "ERROR: something of its own"];
    let columns = vec![
        Arc::new(StringArray::from(vec!["a", "b", "c"])) as _,
        Arc::new(StringArray::from(answers.to_vec())) as _,
    ];
    append_delta(&world.path("target"), &RecordBatch::try_new(schema, columns).unwrap()).await;
    let listed = world.on_job("errors", &["--format", "csv"]).await;
    listed.assert_status(0).assert_says("2 failed rows");
    assert!(listed.stdout.contains("b,answer,timeout,ERROR: timeout: no answer,"), "{}", listed.stdout);
    world.on_job("errors", &["--summary"]).await.assert_status(0);
    world
        .on_job("errors", &["--batch", "1"])
        .await
        .assert_status(2)
        .assert_says("the target has no column \"_enrich\", so nothing says which batch a row is in");
    world.on_job("retry", &[]).await.assert_status(2).assert_says("failed rows cannot be sent again");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_target_there_is_nothing_to_list() {
    let world = World::with_rows(3, 1).await;
    world
        .on_job("errors", &[])
        .await
        .assert_status(2)
        .assert_says("there is no target")
        .assert_says("enrich run makes it");
    assert!(Table::open(&world.path("target")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_part_are_found_whatever_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b#c ü");
    std::fs::create_dir(&path).unwrap();
    let url = deltalake::ensure_table_uri(path.to_str().unwrap()).unwrap();
    let kind = deltalake::kernel::DataType::STRING;
    let made = deltalake::operations::create::CreateBuilder::new()
        .with_location(url.as_str())
        .with_column("id", kind.clone(), true, None)
        .with_column("kind", kind, true, None)
        .with_partition_columns(["kind"]);
    made.await.unwrap();
    let mut table = Table::open(&path).await.unwrap();
    let kinds = ["100% #1?", "50%25", "ü/ö", " "];
    let columns = ["a", "b", "c", "d"].to_vec();
    let columns =
        vec![Arc::new(StringArray::from(columns)) as _, Arc::new(StringArray::from(kinds.to_vec())) as _];
    let mut staging = table.stage(u64::MAX).await.unwrap();
    staging.write(RecordBatch::try_new(table.schema().unwrap(), columns).unwrap()).await.unwrap();
    let staged = staging.finish().await.unwrap();
    table.append(&staged, &[], serde_json::Map::new()).await.unwrap();
    let files = table.paths().await.unwrap();
    assert_eq!(files.len(), 4);
    let on_disk = table.on_disk().await.unwrap();
    assert_eq!((on_disk.files, on_disk.missing), (4, 0), "{:?}", on_disk.example);
    let mut found = BTreeSet::new();
    for file in &files {
        let part = [file.clone()];
        let names = table.file_names(&part);
        let scan = Scan { files: Some(&part), file_column: Some("place") };
        let sql = "SELECT CAST(id AS VARCHAR), CAST(kind AS VARCHAR), CAST(place AS VARCHAR) FROM target";
        let read = table.scan(scan, sql, |batch| {
            let texts: Vec<ArrayRef> =
                batch.columns().iter().map(|column| cast(column, &DataType::Utf8).unwrap()).collect();
            let text = |column: usize| texts[column].as_string::<i32>().value(0).to_owned();
            assert_eq!(batch.num_rows(), 1);
            assert_eq!(names.get(&text(2)), Some(&0), "{}", text(2));
            found.insert((text(0), text(1)));
            Ok::<(), TableError>(())
        });
        read.await.unwrap();
    }
    let expected = ["a", "b", "c", "d"].into_iter().zip(kinds);
    assert_eq!(found, expected.map(|(id, kind)| (id.to_owned(), kind.to_owned())).collect());
    let gone = ["kind=x/gone.parquet".to_owned()];
    let scan = Scan { files: Some(&gone), file_column: None };
    let error = table.stream(scan, "SELECT id FROM target").await.err().unwrap();
    assert!(error.to_string().contains("is no longer in the table"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_texts_of_others_hold_is_shown_harmless_and_a_comment_takes_nothing_with_it() {
    let texts = ["=HYPERLINK(\"http://a\")", "red \u{1b}[31m and \u{202e}back", "plain"];
    let tags = arrow::array::ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>(
        (0..3).map(|id| Some([Some(id), None])),
    );
    let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(0..3));
    let columns: Vec<ArrayRef> = vec![numbers, Arc::new(StringArray::from(texts.to_vec())), Arc::new(tags)];
    let fields = ["id", "text", "tags"].into_iter().zip(&columns);
    let fields: Vec<Field> =
        fields.map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let refusal = FaultSpec { status: Some(400), ..fault() };
    let world = World::new(faulty(refusal)).await;
    append_delta(&world.path("source"), &batch).await;
    world.write_job("");
    world.run(&[]).await.assert_status(3);
    let table = world.on_job("errors", &["--columns", "id,text"]).await;
    let shown = &table.assert_status(0).stdout;
    assert!(!shown.contains(['\u{1b}', '\u{202e}']) && shown.contains("red [31m and back"), "{shown}");
    let json = world.on_job("errors", &["--format", "json"]).await;
    let raw = &json.assert_status(0).stdout;
    assert!(!raw.contains(['\u{1b}', '\u{202e}']) && raw.contains(r"\u001b[31m and \u202eback"), "{raw}");
    let read: serde_json::Value = serde_json::from_str(raw.lines().nth(1).unwrap()).unwrap();
    assert_eq!(read["text"], texts[1], "it is the same text");
    // Texts as they are, and what has parts as JSON.
    let csv = world.on_job("errors", &["--format", "csv"]).await;
    let lines: Vec<&str> = csv.assert_status(0).stdout.lines().collect();
    assert!(lines[1].starts_with("0,\"=HYPERLINK(\"\"http://a\"\")\",\"[0,null]\","), "{}", lines[1]);
    assert!(lines[2].contains(texts[1]), "{}", lines[2]);
    let safe = world.on_job("errors", &["--format", "csv", "--escape-formulas"]).await;
    assert!(safe.assert_status(0).stdout.contains("0,\"'=HYPERLINK("), "{}", safe.stdout);
    world.on_job("errors", &["--escape-formulas", "--format", "json"]).await.assert_status(2);
    // Nothing that follows is swallowed: not the limit to this job's own rows, nor that to its errors.
    for condition in ["id > 0 -- all of them", "id > 0 /* all"] {
        let listed = world.on_job("errors", &["--format", "json", "--where", condition]).await;
        match condition.contains("--") {
            true => assert_eq!(ids(&listed), [1, 2]),
            false => drop(listed.assert_status(2).assert_says("is wrong")),
        }
    }
}

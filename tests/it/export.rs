//! `enrich export`: the target as files, read back by others; written whole or not at all.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Float32Array, Int64Array, Int64Builder, ListArray, ListBuilder,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{Field, Fields, Float32Type, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use enrich::config::SimulatorSpec;
use enrich::faultpoint::EXPORT_ACTIONS;
use enrich::table::{Scan, Table, TableError};
use flate2::read::GzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::store::Store;
use crate::support::{
    Outcome, Setup, World, append_delta, packages, refusals, rows, rows_about, rows_of, send, tables,
    until_stopped, wait, with_faults,
};

/// Rows 3, 4, 17, 18, 19 and 44 of fifty have failed, in five batches.
async fn sample() -> World {
    World::with_failed(50, 5, refusals([3, 4, 17, 18, 19, 44], 400, "content_filter")).await
}

async fn export(world: &World, to: &Path, more: &[&str]) -> Outcome {
    world.on_job("export", &[&["--to", to.to_str().unwrap()], more].concat()).await
}

/// The rows of a Parquet file.
fn parquet(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

/// The ids in Parquet files, in their order.
fn parquet_ids(paths: &[PathBuf]) -> Vec<i64> {
    let batches = paths.iter().flat_map(|path| parquet(path));
    batches.flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// The first cells of a CSV text after its header, in their order.
fn csv_ids(text: &str) -> Vec<i64> {
    text.lines().skip(1).map(|line| line.split([',', '\t']).next().unwrap().parse().unwrap()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder for exports.
fn exports(world: &World) -> PathBuf {
    let folder = world.path("exports");
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_the_order_of_batch_and_source_row_though_a_retry_rewrote_files() {
    let world = sample().await;
    world.on_job("retry", &["--batch", "1"]).await.assert_status(0);
    let version = world.target_version().await;
    let file = exports(&world).join("a.csv");
    let told = export(&world, &file, &[]).await;
    let says = format!("done: 50 of 50 rows of version {version} of {}", world.path("target").display());
    told.assert_status(0).assert_says(&says).assert_says(&format!("exported to {}, ", file.display()));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(csv_ids(&text), (0..50).collect::<Vec<_>>());
    assert!(text.starts_with("id,text,answer\n"), "without the metadata: {text}");
    // In the order of their times it would be the last one.
    let table = Table::open(&world.path("target")).await.unwrap();
    let newest = table.paths().await.unwrap().split_off(4);
    let scan = Scan { files: Some(&newest), file_column: None };
    let mut first = None;
    let read = table.scan(scan, "SELECT MIN(id) FROM target", |batch| {
        first = Some(batch.column(0).as_primitive::<Int64Type>().value(0));
        Ok::<(), TableError>(())
    });
    read.await.unwrap();
    assert_eq!(first, Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_and_those_of_other_engines_are_exported() {
    let target = "partition_by = [\"id\"]";
    let world = World::of(Setup { rows: 25, target, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0);
    let file = exports(&world).join("a.csv");
    export(&world, &file, &[]).await.assert_status(0);
    assert_eq!(csv_ids(&fs::read_to_string(&file).unwrap()), (0..25).collect::<Vec<_>>());
    for name in ["table-with-dv-small", "table_with_column_mapping", "delta-0.8.0-special-partition"] {
        let table = tables().join(name);
        world.write_text(&world.usual_job("").replace("path = \"target\"", &format!("path = {table:?}")));
        let file = exports(&world).join(format!("{name}.parquet"));
        let rows = rows_of(&table, "SELECT * FROM target").await;
        let says = format!("done: {} ", rows.len());
        export(&world, &file, &[]).await.assert_status(0).assert_says(&says);
        let options = FormatOptions::default().with_null("NULL");
        let mut found: Vec<Vec<String>> = Vec::new();
        for batch in parquet(&file) {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
                .collect();
            let row = |at| columns.iter().map(|column| column.value(at).to_string()).collect();
            found.extend((0..batch.num_rows()).map(row));
        }
        found.sort();
        assert_eq!(found, rows, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_conditions_and_errors_are_chosen() {
    let world = sample().await;
    let stdout = async |more: &[&str]| {
        let told = export(&world, Path::new("-"), &[&["--format", "csv"], more].concat()).await;
        told.assert_status(0);
        (told.stdout.clone(), told.stderr.clone())
    };
    let failed = [3, 4, 17, 18, 19, 44];
    let (text, told) = stdout(&["--without-errors", "--columns", "id"]).await;
    assert_eq!(csv_ids(&text), (0..50).filter(|id| !failed.contains(id)).collect::<Vec<_>>());
    assert!(told.contains("done: 44 of 50 rows of version "), "{told}");
    let both = ["--without-errors", "--where", "id % 2 = 0 OR id = 3 -- and more"];
    let (text, _) = stdout(&both).await;
    assert_eq!(csv_ids(&text), (0..50).step_by(2).filter(|id| !failed.contains(id)).collect::<Vec<_>>());
    let (text, _) = stdout(&["--where", "_enrich['error_count'] > 0", "--columns", "id,_enrich"]).await;
    assert_eq!(csv_ids(&text), failed);
    assert!(text.starts_with("id,_enrich\n3,\"{\"\"app_id\"\":\"\"test\"\","), "{text}");
    let (text, _) = stdout(&["--columns", "answer,id", "--where", "id = 3"]).await;
    assert!(text.starts_with("answer,id\nERROR: content_filter: "), "{text}");
    let (text, told) = stdout(&["--where", "FALSE"]).await;
    assert_eq!(text, "id,text,answer\n", "no rows, and the names of the columns all the same");
    assert!(told.contains("done: 0 of 50 rows"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metadata_the_string_tells_an_error() {
    let setup =
        Setup { rows: 12, target: "metadata = false", step: "on_error = \"null\"", ..Setup::default() };
    let spec = with_faults(refusals([3, 4], 400, "content_filter"));
    let world = World::of(Setup { simulator: spec, ..setup }).await;
    world.run(&[]).await.assert_status(0);
    let file = exports(&world).join("a.tsv");
    export(&world, &file, &["--without-errors"]).await.assert_status(0).assert_says("10 of 12 rows");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(csv_ids(&text), [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]);
    assert!(text.starts_with("id\ttext\tanswer\tanswer_error\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told_before_anything_is_written() {
    let world = sample().await;
    let folder = exports(&world);
    let file = folder.join("a.csv");
    let full = folder.join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "").unwrap();
    fs::write(folder.join("there.csv"), "old").unwrap();
    let target = world.path("target");
    let cases: [(&Path, &[&str], &str); 16] = [
        (&file, &["--columns", "txt"], "did you mean \"text\"?"),
        (&file, &["--columns", "id,text,id"], "--columns names \"id\" twice"),
        (&file, &["--where", "id ="], "the condition \"id =\" is wrong"),
        (&file, &["--where", "TRUE UNION ALL SELECT 1"], "nothing may follow"),
        (&file, &["--format", "parquet"], "says csv, and --format says parquet"),
        (&file, &["--file-size", "1MB"], "--file-size goes with a folder"),
        (&folder.join("a.xlsx"), &[], "does not say in which format"),
        (Path::new("-"), &[], "does not say in which format"),
        (&folder.join("a.jsonl"), &["--escape-formulas"], "--escape-formulas goes with csv and tsv"),
        (&folder.join("there.csv"), &[], "hint: --overwrite replaces it"),
        (&folder.join("there.csv/"), &[], "is a file, and --to names a folder"),
        (&full, &[], "is not empty"),
        (&folder.join("new/"), &["--overwrite"], "--overwrite replaces a file"),
        (Path::new("/dev/null"), &["--format", "csv"], "/dev/null is not a file"),
        (&target.join("a.parquet"), &[], "is in the job's target"),
        (Path::new("ftp://host/a.csv"), &[], "not with ftp"),
    ];
    for (to, more, says) in cases {
        export(&world, to, more).await.assert_status(2).assert_says(says);
    }
    export(&world, &world.path("source"), &[]).await.assert_status(2).assert_says("is in the job's source");
    export(&world, &folder.join("none/a.csv"), &[]).await.assert_status(1).assert_says("No such file");
    assert_eq!(names(&folder), ["full", "there.csv"]);
    assert_eq!(fs::read_to_string(folder.join("there.csv")).unwrap(), "old");
    fs::remove_dir_all(&target).unwrap();
    export(&world, &file, &[])
        .await
        .assert_status(2)
        .assert_says("there is no target")
        .assert_says("enrich run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_holds_files_of_bounded_size_and_a_marker() {
    let world = sample().await;
    let folder = exports(&world);
    let to = folder.join("new/");
    let told = export(&world, &to, &["--file-size", "1B"]).await;
    told.assert_status(0).assert_says("/exports/new, 5 files, ");
    let expected: Vec<String> = (0..5).map(|file| format!("part-{file:05}.parquet")).collect();
    assert_eq!(names(&to), [&["_SUCCESS".to_owned()], &expected[..]].concat());
    let paths: Vec<PathBuf> = expected.iter().map(|name| to.join(name)).collect();
    assert_eq!(parquet_ids(&paths), (0..50).collect::<Vec<_>>());
    // One that is there and empty, and text: each file has a header.
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    export(&world, &empty, &["--format", "csv.gz", "--file-size", "200"]).await.assert_status(0);
    let files: Vec<String> = names(&empty).into_iter().filter(|name| name.ends_with(".csv.gz")).collect();
    let mut ids = Vec::new();
    for file in &files {
        let mut text = String::new();
        GzDecoder::new(File::open(empty.join(file)).unwrap()).read_to_string(&mut text).unwrap();
        ids.extend(csv_ids(&text));
    }
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
    export(&world, &folder.join("whole/"), &[]).await.assert_status(0).assert_says(", 1 file, ");
    export(&world, &folder.join("whole/"), &[]).await.assert_status(2).assert_says("is not empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_there_is_replaced_as_a_whole_with_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let world = sample().await;
    let folder = exports(&world);
    let file = folder.join("a.parquet");
    export(&world, &file, &["--where", "id < 10"]).await.assert_status(0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    export(&world, &file, &["--overwrite"]).await.assert_status(0);
    assert_eq!(parquet_ids(std::slice::from_ref(&file)), (0..50).collect::<Vec<_>>());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(&folder), ["a.parquet"]);
}

/// An export that stops at a fault point.
async fn stopped(world: &World, more: &[&str], point: &str) -> Child {
    let mut command = world.job_command("export", more);
    let child = command.env("ENRICH_FAULT", point).stderr(Stdio::piped()).spawn().unwrap();
    until_stopped(&child).await;
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_no_half_file_has_the_name() {
    let world = sample().await;
    let folder = exports(&world);
    let whole: Vec<i64> = (0..50).collect();
    let points = EXPORT_ACTIONS.iter().flat_map(|action| [(*action, "before"), (*action, "after")]);
    for (action, side) in points {
        let hit = if action == "export-write" { 3 } else { 1 };
        let point = format!("{action}.{side}=kill@{hit}");
        let is_done = (action, side) == ("export-finish", "after");
        for name in ["a.csv", "b.jsonl", "c"] {
            let to = folder.join(name);
            let written = format!("{}{}", to.display(), if name == "c" { "/" } else { "" });
            let arguments = ["--to", &written, "--file-size", "1B", "--format", "csv"];
            let arguments = match name {
                "a.csv" => &["--to", &written, "--overwrite"][..],
                "b.jsonl" => &arguments[..2],
                _ => &arguments[..],
            };
            if name == "a.csv" {
                fs::write(&to, "old").unwrap();
            }
            let killed = world.on_job_with("export", arguments, &[("ENRICH_FAULT", &point)]).await;
            assert_eq!(killed.status, None, "{point}: {}", killed.stderr);
            match (name, is_done) {
                ("a.csv", false) => assert_eq!(fs::read_to_string(&to).unwrap(), "old", "{point}"),
                ("a.csv", true) => assert_eq!(csv_ids(&fs::read_to_string(&to).unwrap()), whole),
                (_, is_done) => assert_eq!(to.exists(), is_done, "{point}"),
            }
            if !is_done {
                assert!(
                    names(&folder).iter().any(|hidden| hidden.starts_with(&format!(".{name}."))),
                    "{point}"
                );
                world.on_job("export", arguments).await.assert_status(0);
            }
            let text = match name {
                "c" => names(&to)
                    .iter()
                    .filter(|file| file.ends_with("csv"))
                    .fold(0, |sum, file| sum + csv_ids(&fs::read_to_string(to.join(file)).unwrap()).len()),
                "b.jsonl" => fs::read_to_string(&to).unwrap().lines().count(),
                _ => csv_ids(&fs::read_to_string(&to).unwrap()).len(),
            };
            assert_eq!(text, 50, "{point}");
            assert_eq!(names(&folder), [name], "what the killed one left is gone after {point}");
            fs::remove_dir_all(&to).or_else(|_| fs::remove_file(&to)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let world = sample().await;
    let folder = exports(&world);
    for (to, point) in [("a.parquet", "export-write.before=full"), ("b/", "export-finish.before=full")] {
        let to = folder.join(to);
        let fault = [("ENRICH_FAULT", point)];
        let ended = world.on_job_with("export", &["--to", to.to_str().unwrap()], &fault).await;
        ended.assert_status(1).assert_says("no space left on device").assert_says("export again");
        assert!(names(&folder).is_empty(), "{:?}", names(&folder));
    }
    let mut command = world.job_command("export", &["--to", "-", "--format", "jsonl"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = tokio::task::spawn_blocking(move || command.stderr(Stdio::piped()).spawn()).await.unwrap();
    wait(output.unwrap()).await.assert_status(1).assert_says("No space left on device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_an_export_without_a_trace() {
    let world = sample().await;
    let folder = exports(&world);
    for signal in ["TERM", "INT"] {
        let to = folder.join("a.csv");
        let child = stopped(&world, &["--to", to.to_str().unwrap()], "export-write.before=stop").await;
        send(&child, signal);
        send(&child, "CONT");
        let ended = wait(child).await;
        // It may have come to its end before it heard the signal.
        match ended.status {
            Some(130) => assert!(names(&folder).is_empty() && ended.stderr.contains("nothing was exported")),
            status => assert_eq!((status, names(&folder)), (Some(0), vec!["a.csv".to_owned()])),
        }
        let _ = fs::remove_file(to);
    }
    // Whoever reads the first lines alone ends it, too.
    let binary = env!("CARGO_BIN_EXE_enrich");
    let line = format!("{binary} export {} --to - --format csv | head -n 1", world.job().display());
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "id,text,answer\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_meanwhile_is_not_in_the_export() {
    let world = sample().await;
    let version = world.target_version().await;
    let file = exports(&world).join("a.csv");
    let child = stopped(&world, &["--to", file.to_str().unwrap()], "export-write.after=stop").await;
    append_delta(&world.path("source"), &rows(50..60)).await;
    world.run(&[]).await.assert_status(0);
    world.on_job("retry", &[]).await.assert_status(0);
    send(&child, "CONT");
    let says = format!("50 of 50 rows of version {version} of");
    wait(child).await.assert_status(0).assert_says(&says);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(csv_ids(&text), (0..50).collect::<Vec<_>>());
    assert_eq!(text.matches("ERROR: content_filter").count(), 6);
}

/// Texts with what formats stumble over, and columns with parts.
fn odd_rows() -> RecordBatch {
    let texts = [
        Some("plain"),
        Some("a \"quoted\", one"),
        Some("two\nlines\r\nand a\ttab"),
        Some("=1+1"),
        Some("«ünïcödé» \u{202e}\u{1f600}"),
        Some(""),
        None,
    ];
    let count = i64::try_from(texts.len()).unwrap();
    let mut tags = ListBuilder::new(Int64Builder::new());
    for id in 0..count {
        match id {
            2 => tags.append_null(),
            3 => tags.append(true),
            id => tags.append_value([Some(id), None]),
        }
    }
    let names = StringArray::from_iter((0..count).map(|id| (id != 1).then(|| format!("name \"{id}\""))));
    let fields = Fields::from(vec![Field::new("name", names.data_type().clone(), true)]);
    let who = StructArray::new(fields, vec![Arc::new(names)], None);
    let vectors = ListArray::from_iter_primitive::<Float32Type, _, _>(
        (0..7_u8).map(|id| Some([Some(0.1), Some(f32::from(id) / 3.0)])),
    );
    let columns: [(&str, ArrayRef); 8] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..count))),
        ("text", Arc::new(StringArray::from(texts.to_vec()))),
        ("tags", Arc::new(tags.finish())),
        ("who", Arc::new(who)),
        ("vector", Arc::new(vectors)),
        (
            "share",
            Arc::new(Float32Array::from_iter((0..7_u8).map(|id| (id != 4).then_some(f32::from(id) / 8.0)))),
        ),
        ("bytes", Arc::new(BinaryArray::from_iter_values((0..7_u8).map(|id| [id, 255])))),
        (
            "made",
            Arc::new(TimestampMicrosecondArray::from_iter_values(0..count).with_timezone("UTC")) as ArrayRef,
        ),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
}

async fn odd_world() -> World {
    let world = World::new(SimulatorSpec::default()).await;
    append_delta(&world.path("source"), &odd_rows()).await;
    let job = world.usual_job("").replace("{{ text }}", "{{ id }}");
    world.write_text(&job);
    world.run(&[]).await.assert_status(0).assert_says("7 rows written");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_text_comes_back_from_parquet_as_it_was() {
    let world = odd_world().await;
    let file = exports(&world).join("a.parquet");
    let columns = odd_rows();
    let names: Vec<&str> = columns.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    export(&world, &file, &["--columns", &names.join(",")]).await.assert_status(0);
    let read = parquet(&file);
    assert_eq!(read.len(), 1);
    for (at, name) in names.iter().enumerate() {
        let column = cast(read[0].column(at), columns.column(at).data_type()).unwrap();
        assert_eq!(&column, columns.column(at), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_json_or_cells_with_json_for_what_has_parts() {
    let world = odd_world().await;
    let folder = exports(&world);
    export(&world, &folder.join("a.jsonl"), &[]).await.assert_status(0);
    let text = fs::read_to_string(folder.join("a.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 7, "a line is a row");
    let odd = odd_rows();
    let texts = odd["text"].as_string::<i32>();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["text"], json!(texts.iter().nth(at).unwrap()));
    }
    assert_eq!(lines[0]["tags"], json!([0, null]));
    assert_eq!((&lines[2]["tags"], &lines[3]["tags"]), (&Value::Null, &json!([])));
    assert_eq!(
        (&lines[0]["who"], &lines[1]["who"]),
        (&json!({"name": "name \"0\""}), &json!({"name": null}))
    );
    assert_eq!(lines[1]["vector"], json!([0.1, 0.333_333_34]));
    assert_eq!((&lines[4]["share"], &lines[1]["bytes"]), (&Value::Null, &json!("01ff")));
    assert_eq!(lines[1]["made"], json!("1970-01-01T00:00:00.000001Z"));
    let cells = ["--columns", "id,text,tags,who,vector"];
    export(&world, &folder.join("a.csv"), &cells).await.assert_status(0);
    let text = fs::read_to_string(folder.join("a.csv")).unwrap();
    let row = "1,\"a \"\"quoted\"\", one\",\"[1,null]\",\"{\"\"name\"\":null}\",\"[0.1,0.33333334]\"\n";
    assert!(text.contains(row), "{text}");
    assert!(text.contains("\n2,\"two\nlines\r\nand a\ttab\",,") && text.contains("\n3,=1+1,[],"), "{text}");
    export(&world, &folder.join("b.csv"), &[&cells[..], &["--escape-formulas"]].concat())
        .await
        .assert_status(0);
    let escaped = fs::read_to_string(folder.join("b.csv")).unwrap();
    assert_eq!(escaped, text.replace("\n3,=1+1,", "\n3,'=1+1,"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_reader_finds_the_same_rows_in_every_format() {
    let Some(python) = packages::of_pypi("duckdb", "duckdb>=1.2") else { return };
    let world = odd_world().await;
    let folder = exports(&world);
    let script = "import duckdb, sys, json\n\
        for row in duckdb.sql(f\"SELECT id, text, CAST(tags AS VARCHAR), answer FROM {sys.argv[1]} ORDER BY id\").fetchall():\n    \
        print(json.dumps(row))\n";
    for name in ["a.parquet", "a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz"] {
        let file = folder.join(name);
        export(&world, &file, &["--columns", "id,text,tags,answer"]).await.assert_status(0);
        let place = file.display();
        let from = match name {
            name if name.contains("jsonl") => format!("read_json('{place}')"),
            name if name.contains("parquet") => format!("read_parquet('{place}')"),
            _ => format!("read_csv('{place}', header = true, all_varchar = true)"),
        };
        let output = Command::new(&python).args(["-c", script, &from]).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let odd = odd_rows();
        let texts = odd["text"].as_string::<i32>();
        let has_cells = name.contains("sv");
        for (at, row) in found.iter().enumerate() {
            assert_eq!(row[0].to_string().trim_matches('"'), at.to_string(), "{name}");
            // A cell is a null or an empty text, and nobody knows which.
            let wanted = texts.iter().nth(at).unwrap().filter(|text| !(has_cells && text.is_empty()));
            assert_eq!(
                row[1].as_str().filter(|text| !(has_cells && text.is_empty())),
                wanted,
                "{name}, row {at}"
            );
            assert!(row[3].as_str().is_some_and(|answer| !answer.is_empty()), "{name}: {row}");
        }
        assert_eq!(found.len(), 7, "{name}");
        let tags = found[1][2].as_str().unwrap().replace(' ', "").to_lowercase();
        assert_eq!(tags, "[1,null]", "{name}");
    }
}

/// So many characters that cannot be compressed to less than half.
fn random_text(chance: &mut fastrand::Rng, chars: usize) -> String {
    std::iter::repeat_with(|| format!("{:032x}", chance.u128(..))).take(chars / 32).collect()
}

/// Memory that an export takes at its peak, in bytes.
async fn peak(world: &World, name: &str) -> u64 {
    let to = exports(world).join(name);
    let arguments = ["--to", to.to_str().unwrap(), "--overwrite"];
    let mut child = stopped(world, &arguments, "export-finish.before=stop").await;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1_024
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_table() {
    const FILE_BYTES: u64 = 4 << 20;
    const MORE_FILES: u64 = 20;
    let world = World::with_rows(3, 1).await;
    let mut chance = fastrand::Rng::with_seed(7);
    let mut append = async |files| {
        for _ in 0..files {
            let text = || random_text(&mut chance, 1_024);
            let texts: Vec<String> = std::iter::repeat_with(text).take(4_096).collect();
            append_delta(&world.path("target"), &rows_about(texts)).await;
        }
    };
    // More than the row group that a Parquet writer holds.
    append(16).await;
    let names = ["a.parquet", "a.jsonl.gz"];
    let mut before = Vec::new();
    for name in names {
        before.push(peak(&world, name).await);
    }
    append(MORE_FILES).await;
    for (name, before) in names.into_iter().zip(before) {
        let after = peak(&world, name).await;
        println!("{name}: {before} bytes, then {after}");
        assert!(after < before + FILE_BYTES * MORE_FILES / 2, "{name}: {before} bytes, then {after}");
    }
}

async fn export_to(world: &World, store: &Store, to: &str, more: &[&str], fault: &str) -> Outcome {
    let mut command = world.job_command("export", &[&["--to", to], more].concat());
    command.envs(store.environment());
    if !fault.is_empty() {
        command.env("ENRICH_FAULT", fault);
    }
    world.outcome(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_in_a_store_are_whole_or_not_there() {
    for store in [Store::start(), Store::azure()] {
        let Some(store) = store else { continue };
        let world = sample().await;
        let file = store.url("exports/a b.csv");
        let down = world.path("down");
        for fault in ["export-write.after=kill", "export-finish.before=kill", "export-finish.before=io"] {
            let ended = export_to(&world, &store, &file, &[], fault).await;
            assert_ne!(ended.status, Some(0), "{fault}");
            store.download("exports", &down).await;
            assert!(!down.join("a b.csv").exists(), "{fault}");
        }
        export_to(&world, &store, &file, &["--where", "id < 7"], "").await.assert_status(0);
        let again = export_to(&world, &store, &file, &[], "").await;
        again.assert_status(2).assert_says("a%20b.csv is there already");
        store.download("exports", &down).await;
        assert_eq!(csv_ids(&fs::read_to_string(down.join("a b.csv")).unwrap()), (0..7).collect::<Vec<_>>());
        export_to(&world, &store, &file, &["--overwrite"], "").await.assert_status(0);
        let folder = store.url("exports/many/");
        let more = ["--file-size", "1B"];
        let failed = export_to(&world, &store, &folder, &more, "export-finish.before=io").await;
        failed.assert_status(1);
        store.download("exports", &down).await;
        assert_eq!(names(&down), ["a b.csv"], "what one that failed had put is gone");
        let killed = export_to(&world, &store, &folder, &more, "export-finish.before=kill").await;
        assert_ne!(killed.status, Some(0));
        let refused = export_to(&world, &store, &folder, &more, "").await;
        refused.assert_status(2).assert_says("is not empty").assert_says("_SUCCESS");
        store.download("exports", &down).await;
        assert!(!down.join("many/_SUCCESS").exists());
        store.remove("exports/many").await;
        export_to(&world, &store, &folder, &more, "").await.assert_status(0).assert_says("5 files");
        store.download("exports", &down).await;
        assert_eq!(csv_ids(&fs::read_to_string(down.join("a b.csv")).unwrap()), (0..50).collect::<Vec<_>>());
        let paths: Vec<PathBuf> = (0..5).map(|at| down.join(format!("many/part-{at:05}.parquet"))).collect();
        assert_eq!(parquet_ids(&paths), (0..50).collect::<Vec<_>>());
        assert!(down.join("many/_SUCCESS").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_one_request_comes_whole_from_a_table_in_the_store() {
    let Some(store) = Store::start() else { return };
    let world = World::with_rows(3, 1).await;
    let mut chance = fastrand::Rng::with_seed(7);
    let text = || random_text(&mut chance, 1 << 20);
    let texts: Vec<String> = std::iter::repeat_with(text).take(40).collect();
    append_delta(&world.path("local"), &rows_about(texts.clone())).await;
    store.upload(&world.path("local"), "tables/target").await;
    world.write_text(
        &world.usual_job("").replace("path = \"target\"", "path = \"s3://bucket/tables/target\""),
    );
    let told = export_to(&world, &store, "s3://bucket/exports/large.jsonl", &[], "").await;
    told.assert_status(0).assert_says("40 of 40 rows of version 1 of s3://bucket/tables/target");
    store.download("exports", &world.path("down")).await;
    let text = fs::read_to_string(world.path("down/large.jsonl")).unwrap();
    let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(found.iter().zip(&texts).all(|(line, text)| line["text"] == *text) && found.len() == 40);
}

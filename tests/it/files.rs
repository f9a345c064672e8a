//! Sources that are files and no tables: each format and compression, files as newcomers have them, later files with
//! other values, kills.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use arrow::csv::WriterBuilder;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json::{ArrayWriter, LineDelimitedWriter};
use arrow::record_batch::RecordBatch;
use arrow_avro::writer::AvroWriter;
use enrich::config::SimulatorSpec;
use enrich::faultpoint::STAGING_ACTIONS;
use flate2::write::GzEncoder;

use crate::support::store::Store;
use crate::support::{Outcome, World, clone, prompt_of, rows, rows_of, text_of, world_over, write_parquet};

/// The bytes of rows in a format, by the ending of its files' names.
pub fn bytes_of(ending: &str, rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    match ending {
        "csv" => WriterBuilder::new().build(&mut bytes).write(rows).unwrap(),
        "tsv" => WriterBuilder::new().with_delimiter(b'\t').build(&mut bytes).write(rows).unwrap(),
        "jsonl" => {
            let mut writer = LineDelimitedWriter::new(&mut bytes);
            writer.write(rows).unwrap();
            writer.finish().unwrap();
        }
        "json" => {
            let mut writer = ArrayWriter::new(&mut bytes);
            writer.write(rows).unwrap();
            writer.finish().unwrap();
        }
        "arrow" => {
            let mut writer = FileWriter::try_new(&mut bytes, &rows.schema()).unwrap();
            writer.write(rows).unwrap();
            writer.finish().unwrap();
        }
        "arrows" => {
            let mut writer = StreamWriter::try_new(&mut bytes, &rows.schema()).unwrap();
            writer.write(rows).unwrap();
            writer.finish().unwrap();
        }
        "avro" => {
            let mut writer = AvroWriter::new(&mut bytes, rows.schema().as_ref().clone()).unwrap();
            writer.write(rows).unwrap();
            writer.finish().unwrap();
        }
        other => panic!("{other}"),
    }
    bytes
}

const FORMATS: [&str; 7] = ["csv", "tsv", "jsonl", "json", "arrow", "arrows", "avro"];

fn compressed(compression: &str, bytes: Vec<u8>) -> Vec<u8> {
    match compression {
        "" => bytes,
        ".gz" => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".zst" => zstd::encode_all(&*bytes, 1).unwrap(),
        other => panic!("{other}"),
    }
}

/// A folder with the usual job over a source of these files, and more lines for its source.
async fn world_of(files: &[(&str, &[u8])], more: &str) -> World {
    let world = World::new(SimulatorSpec::default()).await;
    fs::create_dir(world.path("source")).unwrap();
    for (name, bytes) in files {
        add(&world, name, bytes);
    }
    let job = world.usual_job("").replace("path = \"source\"", &format!("path = \"source\"\n{more}"));
    world.write_text(&job);
    world
}

/// Adds a file to the source, newer than those before it.
fn add(world: &World, name: &str, bytes: &[u8]) {
    let folder = world.path("source");
    let before = fs::read_dir(&folder).unwrap().flatten();
    let newest = before.filter_map(|entry| entry.metadata().unwrap().modified().ok()).max();
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    if let Some(newest) = newest {
        let later = newest + std::time::Duration::from_secs(1);
        File::options().append(true).open(path).unwrap().set_modified(later).unwrap();
    }
}

fn staged(world: &World) -> usize {
    fs::read_dir(world.path("target/_checkpoints/test/staged")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_plain_and_compressed() {
    for ending in FORMATS {
        for compression in ["", ".gz", ".zst"] {
            let name = format!("a.{ending}{compression}");
            let file = compressed(compression, bytes_of(ending, &rows(0..25)));
            let world = world_of(&[(&name, &file)], "").await;
            world.run(&[]).await.assert_status(0);
            world.assert_target(0..25).await;
            let target = world.target().await;
            assert!(target.iter().all(|row| row.file == name && row.row == row.id), "{name}: {target:?}");
            assert_eq!(staged(&world), 0, "{name}: what is committed is not kept");

            let later = compressed(compression, bytes_of(ending, &rows(25..40)));
            add(&world, &format!("b.{ending}{compression}"), &later);
            world.run(&[]).await.assert_status(0);
            world.assert_target(0..40).await;
            world.run(&[]).await.assert_status(0).assert_says("nothing to do");
            assert_eq!(world.simulator.counts().answered, 40, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_a_source_by_its_name_or_by_the_stated_format() {
    for (name, more) in [("export.CSV", ""), ("export", "format = \"csv\"")] {
        let world = world_of(&[], "").await;
        fs::write(world.path(name), bytes_of("csv", &rows(0..3))).unwrap();
        let job = world.usual_job("").replace("path = \"source\"", &format!("path = {name:?}\n{more}"));
        world.write_text(&job);
        world.run(&[]).await.assert_status(0);
        world.assert_target(0..3).await;
        if !more.is_empty() {
            world.write_text(&job.replace(more, ""));
            world.on_job("run", &[]).await.assert_status(2).assert_says("source.format says what files are");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_store_are_read() {
    let Some(store) = Store::start() else { return };
    let world = world_of(&[], "").await;
    for (ending, compression) in [("csv", ""), ("jsonl", ".gz"), ("arrow", ".zst"), ("avro", "")] {
        let folder = world.path(ending);
        fs::create_dir(&folder).unwrap();
        let file = compressed(compression, bytes_of(ending, &rows(0..25)));
        fs::write(folder.join(format!("a.{ending}{compression}")), file).unwrap();
        store.upload(&folder, &format!("files/{ending}")).await;
        let job = world.usual_job("").replace("\"source\"", &format!("\"s3://bucket/files/{ending}\""));
        let target = format!("\"s3://bucket/targets/{ending}\"");
        world.write_text(&job.replace("\"target\"", &target));
        let run = async |fault: &str| {
            let mut command = world.job_command("run", &[]);
            command.envs(store.environment()).env("XDG_STATE_HOME", world.path("state"));
            if !fault.is_empty() {
                command.env("ENRICH_FAULT", fault);
            }
            world.outcome(command).await
        };
        let killed = run("delta-commit.after=kill@2").await;
        assert_eq!(killed.status, None, "{ending}: {killed:?}");
        run("").await.assert_status(0);
        store.download(&format!("targets/{ending}"), &world.path("target")).await;
        world.assert_target(0..25).await;
        fs::remove_dir_all(world.path("target")).unwrap();
    }
}

/// What a source of one file holds: its rows as the target has them, in order.
pub async fn read(file: &[u8], more: &str, columns: &str) -> Result<Vec<Vec<String>>, Outcome> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, file).unwrap();
    read_path(&path, more, columns).await
}

pub async fn read_path(path: &Path, more: &str, columns: &str) -> Result<Vec<Vec<String>>, Outcome> {
    let world = world_over(path, more).await;
    let ended = world.run(&[]).await;
    if ended.status != Some(0) {
        return Err(ended);
    }
    Ok(rows_of(&world.path("target"), &format!("SELECT {columns} FROM target")).await)
}

/// Rows as `rows_of` returns them: sorted, and without a value where a cell is empty.
pub fn table(rows: &[&[&str]]) -> Vec<Vec<String>> {
    let cell = |cell: &&str| if cell.is_empty() { "NULL".to_owned() } else { (*cell).to_owned() };
    let mut rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomers_csv_gives_a_right_table() {
    let bytes = "\u{feff}id,text\r\n1,a\r\n2,\"b\r\nc\"";
    let found = read(bytes.as_bytes(), "", "id, text, arrow_typeof(id)").await.unwrap();
    assert_eq!(
        found,
        table(&[&["1", "a", "Int64"], &["2", "b\r\nc", "Int64"]]),
        "CRLF, mark, no last line end"
    );

    let bytes = "a b,x.y,x.y,\n1,2,3,4\n,,,\n5,\"\",7,8\n";
    let found = read(bytes.as_bytes(), "", "\"a b\", \"x.y\", \"x.y_2\", column_4").await.unwrap();
    assert_eq!(found, table(&[&["1", "2", "3", "4"], &["", "", "", ""], &["5", "", "7", "8"]]));

    let bytes = "zip;price;big;day;mixed;at;yes;none\n01234;1.5;9223372036854775808;2026-05-01;2026-05-01;2026-05-01T08:00:00Z;true;\n99999;2;1;;01.05.2026;2026-05-01 10:00:00+02:00;FALSE;\n";
    let types = "zip, price, big, day, mixed, CAST(at AS VARCHAR), yes, none";
    let found = read(bytes.as_bytes(), "", types).await.unwrap();
    let first = [
        "01234",
        "1.5",
        "9223372036854775808",
        "2026-05-01",
        "2026-05-01",
        "2026-05-01T08:00:00Z",
        "true",
        "",
    ];
    let second = ["99999", "2.0", "1", "", "01.05.2026", "2026-05-01T08:00:00Z", "false", ""];
    assert_eq!(found, table(&[&first, &second]));

    let bytes = "a|b\nNA|1\n-|2\n";
    let found = read(bytes.as_bytes(), "null_values = [\"NA\", \"-\"]", "a, b").await.unwrap();
    assert_eq!(found, table(&[&["", "1"], &["", "2"]]));

    let bytes = "1,'it''s'\n2,x\n";
    let found = read(bytes.as_bytes(), "header = false\nquote = \"'\"", "column_1, column_2").await.unwrap();
    assert_eq!(found, table(&[&["1", "it's"], &["2", "x"]]));

    let bytes = "id,n\n007,+5\n008,x\n";
    let more = "on_bad_row = \"skip\"\nschema = { id = \"int\", n = \"int\" }";
    let found = read(bytes.as_bytes(), more, "id, n, _enrich['source_row']").await.unwrap();
    assert_eq!(found, table(&[&["7", "5", "0"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_far_behind_the_others_decides_about_its_column() {
    let mut text = String::from("id,text\n");
    for id in 0..300_000 {
        text.push_str(&format!("{id},{id} is a row of some length\n"));
    }
    text.push_str("007,last\n");
    let world = world_over(Path::new("source.csv"), "where = \"id IN ('0', '007')\"").await;
    fs::write(world.path("source.csv"), text).unwrap();
    world.run(&[]).await.assert_status(0);
    let sql = "SELECT id, text, _enrich['source_row'] FROM target ORDER BY id";
    let found = rows_of(&world.path("target"), sql).await;
    let expected: &[&[&str]] = &[&["0", "0 is a row of some length", "0"], &["007", "last", "300000"]];
    assert_eq!(found, table(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_columns_are_read() {
    let line = |cell: &dyn Fn(usize) -> String| (0..10_000).map(cell).collect::<Vec<_>>().join(",");
    let text = format!("{}\n{}\n", line(&|at| format!("c{at}")), line(&|at| at.to_string()));
    let found = read(text.as_bytes(), "columns = [\"c0\", \"c9999\"]", "c0, c9999").await.unwrap();
    assert_eq!(found, table(&[&["0", "9999"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_refused_with_line_and_column() {
    let utf16: Vec<u8> = "id,text\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut large = b"id,text\n1,".to_vec();
    large.resize(65_000_000, b'x');
    for (bytes, more, message) in [
        (
            &b"id,text\n1,a\n2\n"[..],
            "",
            "a.csv: line 3: the row has 1 cell, and there are 2 columns, with ',' between",
        ),
        (b"id,text\n1,caf\xe9\n", "", "a.csv: line 2, column \"text\": it is not UTF-8"),
        (&utf16, "", "a.csv: it is UTF-16"),
        (b"id,text\n1,\"a\n2,b\n", "", "a.csv: line 2: a quote is opened in this row and not closed"),
        (
            b"id,text\n1,a\nx,b\n",
            "schema = { id = \"int\" }",
            "a.csv: line 3, column \"id\": \"x\" is not a whole number",
        ),
        (&large, "", "a.csv: line 2: the row that begins here cannot be read: it is larger than 64 MB"),
    ] {
        let refused = read(bytes, more, "id").await.unwrap_err();
        assert_ne!(refused.status, Some(0));
        refused.assert_says(message);
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text, message) in [
        (
            "a.jsonl",
            "{\"id\": 1}\n{\"id\": \n",
            "a.jsonl: line 2: it is no JSON: EOF while parsing a value, at character 6",
        ),
        ("a.json", "[{\"id\": 1},\n 7]", "a.json: line 2: it is no object"),
        ("a.json", "[{\"id\": 1}", "a.json: line 1: the file ends before its array does"),
        ("a.arrow", "no arrow", "a.arrow: it is no whole Arrow IPC file"),
        ("a.avro", "no avro", "a.avro: it is no whole Avro file"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        read_path(&path, "", "id").await.unwrap_err().assert_says(message);
    }
    let refused = read(b"id\n1\n", "encoding = \"latin-1\"", "id").await.unwrap_err();
    refused.assert_status(2).assert_says("unknown variant `latin-1`, expected `utf-8`");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_the_types_that_hold_all_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let text = "{\"id\": 1, \"n\": 1, \"tags\": [\"x\"], \"who\": {\"age\": 3}}\n\n\
                {\"id\": 2, \"n\": 1.5, \"tags\": [], \"who\": {\"name\": \"b\"}, \"mixed\": 1}\n\
                {\"id\": 3, \"n\": null, \"mixed\": {\"a\": \"ü\"}}\n";
    fs::write(&path, text).unwrap();
    let columns = "id, n, tags[1], who['age'], who['name'], mixed";
    let found = read_path(&path, "", columns).await.unwrap();
    let expected: &[&[&str]] = &[
        &["1", "1.0", "x", "3", "", ""],
        &["2", "1.5", "", "", "b", "1"],
        &["3", "", "", "", "", "{\"a\":\"ü\"}"],
    ];
    assert_eq!(found, table(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_file_changes_no_type() {
    let world = world_of(&[("a.csv", b"id,text,n\n0,a,1\n"), ("b.csv", b"id,text,n\n1,b,1.5\n")], "").await;
    world.run(&[]).await.assert_status(0);
    let sql = "SELECT id, n, arrow_typeof(n) FROM target ORDER BY id";
    let found = rows_of(&world.path("target"), sql).await;
    assert_eq!(
        found,
        table(&[&["0", "1.0", "Float64"], &["1", "1.5", "Float64"]]),
        "files that are new together"
    );

    add(&world, "c.csv", b"id,text,n\n2,c,007\n3,d,4\n");
    let refused = world.run(&[]).await;
    refused.assert_says(
        "c.csv: line 2, column \"n\": \"007\" is not a number that 64 bits hold, as in the files",
    );
    assert_ne!(refused.status, Some(0));
    assert_eq!(world.target().await.len(), 2);

    let job = fs::read_to_string(world.job()).unwrap();
    world.write_text(&job.replace("path = \"source\"", "path = \"source\"\non_bad_row = \"skip\""));
    let ended = world.run(&[]).await;
    ended.assert_status(0).assert_says("1 row of 1 file that cannot be read");
    let found = rows_of(&world.path("target"), sql).await;
    assert_eq!(found.len(), 3);
    let notes = fs::read_dir(world.path("target/_checkpoints/test/skipped")).unwrap().flatten();
    let notes: Vec<String> = notes.map(|entry| fs::read_to_string(entry.path()).unwrap()).collect();
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("{\"file\":\"c.csv\",\"line\":2,\"column\":\"n\",\"reason\":\""),
        "{notes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grew_is_refused_by_name() {
    let world = world_of(&[("a.csv", b"id,text\n0,a\n")], "").await;
    world.run(&[]).await.assert_status(0);
    let mut file = File::options().append(true).open(world.path("source/a.csv")).unwrap();
    file.write_all(b"1,b\n").unwrap();
    let refused = world.run(&[]).await;
    refused.assert_says("a.csv: it had 12 bytes when it was read and has 16 now");
    assert_ne!(refused.status, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_written_again_is_refused_unless_its_content_is_the_same() {
    let parquet = |ids| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write_parquet(&path, &rows(ids), 10);
        fs::read(path).unwrap()
    };
    let csv = |ids| bytes_of("csv", &rows(ids));
    for (name, first, other, more) in [
        ("a.csv", csv(10..40), csv(40..70), csv(70..80)),
        ("a.parquet", parquet(10..40), parquet(40..70), parquet(70..80)),
    ] {
        assert_eq!(first.len(), other.len(), "its size does not tell");
        let world = world_of(&[(name, &first)], "").await;
        let killed = world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.after=kill@2")]).await;
        assert_eq!(killed.status, None);
        world.settle().await;
        add(&world, name, &other);
        for _ in 0..2 {
            let refused = world.run(&[]).await;
            assert_ne!(refused.status, Some(0));
            refused.assert_says(&format!("{name}: its content is not what it was when it was read"));
        }
        add(&world, name, &first);
        add(&world, &name.replacen('a', "b", 1), &more);
        world.run(&[]).await.assert_status(0);
        world.assert_target((10..40).chain(70..80)).await;
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_staging_loses_and_doubles_nothing() {
    let points =
        STAGING_ACTIONS.iter().flat_map(|action| ["before", "after"].map(|side| format!("{action}.{side}")));
    let points: Vec<String> =
        points.chain(["checkpoint.after".to_owned(), "delta-commit.after".to_owned()]).collect();
    for point in points {
        for effect in ["kill", "io"] {
            for hit in [1, 2] {
                let files = [bytes_of("csv", &rows(0..25)), bytes_of("csv", &rows(25..45))];
                let world = world_of(&[("a.csv", &files[0]), ("b.csv", &files[1])], "").await;
                let fault = format!("{point}={effect}@{hit}");
                let faulty = world.run_with(&[], &[("ENRICH_FAULT", &fault)]).await;
                assert_ne!(faulty.status, Some(0), "{fault}");
                world.settle().await;
                world.run(&[]).await.assert_status(0);
                world.assert_target(0..45).await;
                let counts = world.simulator.counts();
                for id in 0..45 {
                    let times = counts.answers_to(&prompt_of(id));
                    let most = if point.starts_with("stage") { 1 } else { 2 };
                    assert!((1..=most).contains(&times), "{fault}: row {id} was answered {times} times");
                }
                assert_eq!(staged(&world), 0, "{fault}");
                world.run(&[]).await.assert_status(0).assert_says("nothing to do");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_state_and_a_lost_checkpoint_are_rebuilt() {
    let file = bytes_of("csv", &rows(0..45));
    let world = world_of(&[("a.csv", &file)], "").await;
    let killed = world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.after=kill@2")]).await;
    assert_eq!(killed.status, None);
    for name in ["staged", "footers.json", "checkpoint.json"] {
        let path = world.path("target/_checkpoints/test").join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..45).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_only_look_leave_nothing_behind() {
    let world = world_of(&[("a.csv", &bytes_of("csv", &rows(0..5)))], "").await;
    world.on_job("check", &[]).await.assert_status(0);
    assert!(!world.path("target").exists(), "{}", text_of(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_survey_is_enriched_from_its_job_and_from_flags() {
    let (_folder, root) = clone();
    let world = World::new(SimulatorSpec::default()).await;
    let job = root.join("examples/survey.toml");
    let ended = world.outcome(world.command(&["run", job.to_str().unwrap()])).await;
    ended.assert_status(0).assert_says("12 rows written");
    let sql =
        "SELECT zip, comment, count(*) FROM target WHERE respondent IN (1, 3) GROUP BY ALL ORDER BY zip";
    let sql = sql.replace("GROUP BY ALL", "GROUP BY zip, comment");
    let found = rows_of(&root.join("out/survey_topics"), &sql).await;
    let expected: &[&[&str]] =
        &[&["01067", "Friendly staff, quick answers.", "1"], &["80331", "Good coffee.\nToo few seats.", "1"]];
    assert_eq!(found, table(expected));

    let survey = root.join("examples/data/survey.csv");
    let (survey, target, url) =
        (survey.to_str().unwrap(), world.path("out"), world.simulator.url().to_string());
    let mut command = world.command(&["run", "--source", survey, "--target", target.to_str().unwrap()]);
    command.args([
        "--prompt",
        "Topic of {{ comment }}?",
        "--model",
        "m",
        "--app-id",
        "s",
        "--base-url",
        &url,
    ]);
    world.outcome(command).await.assert_status(0).assert_says("12 rows written");

    let file = world.path("made.toml");
    let mut command = world.command(&["init", file.to_str().unwrap(), "--source", survey]);
    command.args(["--column", "comment", "--task", "Topic?", "--provider", "simulator"]);
    world.outcome(command).await.assert_status(0);
    assert!(fs::read_to_string(file).unwrap().contains("{{ comment }}"));
    let mut command =
        world.command(&["init", world.path("other.toml").to_str().unwrap(), "--source", survey]);
    command.args(["--column", "coment", "--task", "Topic?", "--provider", "simulator"]);
    world.outcome(command).await.assert_status(2).assert_says("did you mean \"comment\"?");
}

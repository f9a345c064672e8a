//! Sources: order, tailing, files that are split, files that come later.

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, NullArray, StringArray, UInt32Array};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use deltalake::datafusion::prelude::{col, lit};
use enrich::checkpoint::FileRange;
use enrich::config::SimulatorSpec;
use enrich::source::{RowMask, RowReader};
use enrich::store::Location;
use enrich::table::Table;

use crate::support::{Setup, World, append_delta, delta, rows, rows_of, schema, text_of, write_parquet};

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_parquet_files_is_read_once_and_new_files_later() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("source");
    fs::create_dir_all(source.join("nested/_temporary")).unwrap();
    write_parquet(&source.join("b.parquet"), &rows(0..7), 3);
    write_parquet(&source.join("nested/a.parquet"), &rows(7..20), 5);
    write_parquet(&source.join("nested/_temporary/x.parquet"), &rows(900..910), 5);
    fs::write(source.join("_SUCCESS"), "").unwrap();
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..20).await;
    let files: Vec<String> = world.target().await.iter().map(|row| row.file.clone()).collect();
    assert_eq!((files[0].as_str(), files[19].as_str()), ("b.parquet", "nested/a.parquet"));
    // A late file whose name sorts first.
    write_parquet(&source.join("a.parquet"), &rows(20..23), 5);
    world.run(&[]).await.assert_status(0).assert_says("3 rows written");
    world.assert_target(0..23).await;
    assert_eq!(world.simulator.counts().requests, 23);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_footer_is_known_is_not_opened_again() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("source");
    fs::create_dir_all(&source).unwrap();
    for file in 0..3 {
        write_parquet(&source.join(format!("{file}.parquet")), &rows(file * 10..(file + 1) * 10), 5);
    }
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    // Zeros of the same size and time in place of a file that was read.
    let path = source.join("1.parquet");
    let (bytes, modified) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let overwrite = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    };
    overwrite(&vec![0; bytes.len()]);
    write_parquet(&source.join("3.parquet"), &rows(30..40), 5);
    world.run(&[]).await.assert_status(0).assert_says("10 rows written");
    // What is known is no more than that: without it, or with what is no such file, footers are read again.
    let known = world.path("target/_checkpoints/test/footers.json");
    for lost in [None, Some("{\"root\": 3}"), Some("")] {
        match lost {
            None => fs::remove_file(&known).unwrap(),
            Some(text) => fs::write(&known, text).unwrap(),
        }
        overwrite(&bytes);
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
        assert!(fs::read_to_string(&known).unwrap().contains("3.parquet"));
    }
    world.assert_target(0..40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_are_planned_and_read_in_order() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("source");
    fs::create_dir_all(&source).unwrap();
    let (mut first, mut files) = (0, 0);
    while first < 400 {
        let end = first + 1 + files % 4;
        write_parquet(&source.join(format!("{files:04}.parquet")), &rows(first..end), 2);
        (first, files) = (end, files + 1);
    }
    world.write_text(&Setup { batch_rows: 150, ..Setup::default() }.job(world.simulator.url()));
    world.run(&["--max-rows", "310"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_parquet_file_is_a_source() {
    let world = World::new(SimulatorSpec::default()).await;
    write_parquet(&world.path("source"), &rows(0..12), 5);
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..12).await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[test]
fn a_thousand_batches_of_a_file_decode_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write_parquet(&path, &rows(0..10_000), 2_500);
    let size = fs::metadata(&path).unwrap().len();
    let part = |start: u64, end: u64| FileRange {
        file: "a.parquet".into(),
        size,
        version: None,
        start,
        end,
        partition: Default::default(),
    };
    let mut reader = RowReader::new(Location::from(folder.path()), schema(), schema());
    for batch in 0..1_000 {
        let chunks = reader.read(&part(batch * 10, batch * 10 + 10), &RowMask::default()).unwrap();
        let ids: Vec<i64> = chunks.iter().flat_map(|chunk| ids(&chunk.rows)).collect();
        assert_eq!(ids, (batch as i64 * 10..batch as i64 * 10 + 10).collect::<Vec<_>>());
        assert_eq!(chunks[0].physical[0], batch * 10);
    }
    assert_eq!(reader.decoded(), 10_000);

    // A restart in the middle begins at the row group, not at the file.
    let mut reader = RowReader::new(Location::from(folder.path()), schema(), schema());
    let chunks = reader.read(&part(7_510, 7_520), &RowMask::default()).unwrap();
    assert_eq!(ids(&chunks[0].rows)[0], 7_510);
    assert!(reader.decoded() <= 2_500, "{} rows were decoded", reader.decoded());
}

fn ids(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_where_the_source_ended_when_it_started() {
    let world = World::with_rows(10, 1).await;
    let killed = world.run_with(&[], &[("ENRICH_FAULT", "first-call.before=kill")]).await;
    assert_eq!(killed.status, None);
    append_delta(&world.path("source"), &rows(10..15)).await;
    append_delta(&world.path("source"), &rows(15..20)).await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_change_rows_are_refused_by_name_unless_they_are_passed_over() {
    let world = World::with_rows(10, 1).await;
    world.run(&[]).await.assert_status(0);
    let path = world.path("source");
    let delete = delta(&path).await.delete().with_predicate(col("id").eq(lit(3_i64)));
    delete.await.unwrap();
    append_delta(&path, &rows(10..14)).await;
    let refused = world.run(&[]).await;
    refused
        .assert_status(2)
        .assert_says("version 2 of the source ")
        .assert_says("(DELETE) deletes or rewrites rows of 1 file");
    refused.assert_says("skip_change_commits = true");
    assert_eq!(world.simulator.counts().requests, 10);
    let text =
        world.usual_job("").replace("path = \"source\"", "path = \"source\"\nskip_change_commits = true");
    world.write_text(&text);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..14).await;
    assert_eq!(world.simulator.counts().requests, 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_of_the_source_brings_no_row_again() {
    let world = World::with_rows(12, 3).await;
    world.run(&[]).await.assert_status(0);
    let path = world.path("source");
    let table = delta(&path).await;
    table.optimize().await.unwrap();
    assert_eq!(Table::open(&path).await.unwrap().files().await.unwrap().len(), 1);
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&path, &rows(12..15)).await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_read_may_leave_the_log() {
    let world = World::with_rows(12, 3).await;
    world.run(&[]).await.assert_status(0);
    let path = world.path("source");
    let log = |version: u64| path.join(format!("_delta_log/{version:020}.json"));
    let (table, _) = delta(&path).await.optimize().await.unwrap();
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    append_delta(&path, &rows(12..15)).await;
    let newest = delta(&path).await;
    deltalake::checkpoints::create_checkpoint(&newest, None).await.unwrap();
    (0..=table.version().unwrap()).for_each(|version| fs::remove_file(log(version)).unwrap());
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..15).await;
    assert_eq!(world.simulator.counts().requests, 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_delta_lacks_are_widened_without_loss() {
    let world = World::new(SimulatorSpec::default()).await;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![0]))),
        ("text", Arc::new(StringArray::from(vec![text_of(0)]))),
        ("big", Arc::new(UInt32Array::from(vec![u32::MAX]))),
    ];
    fs::create_dir(world.path("source")).unwrap();
    write_parquet(&world.path("source/a.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 10);
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..1).await;
    let table = Table::open(&world.path("target")).await.unwrap();
    assert_eq!(*table.schema().unwrap().field_with_name("big").unwrap().data_type(), DataType::Int64);
    let mut sum = 0;
    table
        .query("SELECT big FROM target", |batch| {
            sum += ids(&batch)[0];
            Ok::<(), enrich::table::TableError>(())
        })
        .await
        .unwrap();
    assert_eq!(sum, i64::from(u32::MAX));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stand_in_the_target_in_the_order_of_the_source_however_answers_come() {
    let latency = Some(enrich::config::Span(std::time::Duration::from_millis(5)));
    let world = World::of(Setup {
        simulator: SimulatorSpec { latency, latency_sigma: 1.5, ..SimulatorSpec::default() },
        rows: 40,
        ..Setup::default()
    })
    .await;
    world.run(&[]).await.assert_status(0);
    let target = world.path("target");
    let mut firsts = Vec::new();
    for file in Table::open(&target).await.unwrap().files().await.unwrap() {
        let file = fs::File::open(target.join(file.path)).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let found: Vec<i64> = reader.build().unwrap().flat_map(|batch| ids(&batch.unwrap())).collect();
        assert_eq!(found, (found[0]..found[0] + 10).collect::<Vec<_>>(), "a file is a batch, in order");
        firsts.push(found[0]);
    }
    firsts.sort_unstable();
    assert_eq!(firsts, [0, 10, 20, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_partitions_are_columns_of_text() {
    let world = World::new(SimulatorSpec::default()).await;
    let folders =
        ["year=2024/country=de", "year=2024/country=a%2Fb", "year=2025/country=__HIVE_DEFAULT_PARTITION__"];
    for (at, folder) in (0..).zip(folders) {
        let folder = world.path("source").join(folder);
        fs::create_dir_all(&folder).unwrap();
        write_parquet(&folder.join("a.parquet"), &rows(at..at + 1), 10);
    }
    world.write_text(&world.usual_job("").replace("{{ text }}", "{{ text }} of {{ country }}, {{ year }}"));
    world.run(&[]).await.assert_status(0);
    let mut found = Vec::new();
    let table = Table::open(&world.path("target")).await.unwrap();
    let sql = "SELECT id, concat(year, ' ', coalesce(country, 'nowhere')) FROM target ORDER BY id";
    let read = table.query(sql, |batch| {
        let texts = arrow::compute::cast(batch.column(1), &DataType::Utf8).unwrap();
        found.extend(texts.as_string::<i32>().iter().flatten().map(ToOwned::to_owned));
        Ok::<(), enrich::table::TableError>(())
    });
    read.await.unwrap();
    assert_eq!(found, ["2024 de", "2024 a/b", "2025 nowhere"]);
    assert_eq!(world.simulator.counts().requests, 3);

    fs::create_dir_all(world.path("source/month=1")).unwrap();
    write_parquet(&world.path("source/month=1/a.parquet"), &rows(3..4), 10);
    let refused = world.run(&[]).await;
    refused.assert_status(2).assert_says("partition folders of different names");
    assert_eq!(world.simulator.counts().requests, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_still_being_written_is_left_for_the_next_run() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let source = world.path("source");
    write_parquet(&source.join("b.parquet"), &rows(0..5), 10);
    write_parquet(&world.path("whole"), &rows(5..9), 10);
    let whole = fs::read(world.path("whole")).unwrap();
    world.write_job("");
    for written in [0, 3, whole.len() / 2] {
        fs::write(source.join("a.parquet"), &whole[..written]).unwrap();
        let left = world.run(&[]).await;
        left.assert_status(0).assert_says("a.parquet is no whole file").assert_says("left for the next run");
        world.assert_target(0..5).await;
    }
    fs::write(source.join("a.parquet"), &whole).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("4 rows written");
    world.assert_target(0..9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_version_of_many_files_is_read_in_order_a_part_of_its_list_at_a_time() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("source");
    append_delta(&source, &rows(0..1)).await;
    let log = source.join("_delta_log/00000000000000000001.json");
    let text = fs::read_to_string(&log).unwrap();
    let mut actions: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = actions.iter().position(|action| action.get("add").is_some()).unwrap();
    let add = actions.remove(at);
    let data = fs::read(source.join(add["add"]["path"].as_str().unwrap())).unwrap();
    let count = 2_500_u64;
    for number in 0..count {
        let mut add = add.clone();
        // Neither the paths nor the places in the log are in the order of the times, and some times are alike.
        let path = format!("{:04}.parquet", (number * 7) % count);
        fs::write(source.join(&path), &data).unwrap();
        add["add"]["path"] = path.into();
        add["add"]["modificationTime"] = (1_700_000_000_000 + (number * 13) % 900).into();
        actions.push(add);
    }
    let text: Vec<String> = actions.iter().map(ToString::to_string).collect();
    fs::write(&log, text.join("\n") + "\n").unwrap();
    // Every file holds the same row.
    let job = world.usual_job("").replace("max_rows = 10", "max_rows = 300");
    world.write_text(&job.replace("output = \"answer\"", "output = \"answer\"\nshare = false"));
    world.run(&["--max-rows", "1900"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
    let keys = "SELECT _enrich['batch_id'], _enrich['source_file'] FROM target";
    let mut found = rows_of(&world.path("target"), keys).await;
    found.sort_by_key(|row| row[0].parse::<u64>().unwrap());
    assert_eq!(found.len() as u64, count);
    let files = Table::open(&source).await.unwrap().files().await.unwrap();
    // Rows of a batch are compared as a set: they come back in no order.
    let mut wanted = files.iter().map(|file| file.path.clone());
    for batch in found.chunk_by(|a, b| a[0] == b[0]) {
        let mut batch: Vec<&str> = batch.iter().map(|row| row[1].as_str()).collect();
        let mut files: Vec<String> = wanted.by_ref().take(batch.len()).collect();
        batch.sort_unstable();
        files.sort_unstable();
        assert_eq!(batch, files);
    }
    assert_eq!(world.simulator.counts().requests, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_whose_columns_differ_are_one_table_of_the_widest_types() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let source = world.path("source");
    let text = |id: i64| -> ArrayRef { Arc::new(StringArray::from(vec![text_of(id)])) };
    let files: [(&str, Vec<(&str, ArrayRef)>); 4] = [
        ("a", vec![("id", Arc::new(Int32Array::from(vec![0]))), ("text", text(0))]),
        ("b", vec![("text", text(1)), ("id", Arc::new(Int64Array::from(vec![1]))), ("more", text(100))]),
        (
            "c",
            vec![
                ("id", Arc::new(Int32Array::from(vec![2]))),
                ("text", text(2)),
                ("more", Arc::new(NullArray::new(1))),
            ],
        ),
        (
            "d",
            vec![
                ("id", Arc::new(Int64Array::from(vec![3]))),
                ("text", text(3)),
                ("none", Arc::new(NullArray::new(1))),
            ],
        ),
    ];
    for (name, columns) in files {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        );
        write_parquet(&source.join(format!("{name}.parquet")), &batch.unwrap(), 5);
    }
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..4).await;
    let schema = Table::open(&world.path("target")).await.unwrap().schema().unwrap();
    let types: Vec<String> = schema
        .fields()
        .iter()
        .take(4)
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    assert_eq!(types, ["id Int64", "text Utf8", "more Utf8", "none Utf8"]);
    let more = rows_of(&world.path("target"), "SELECT more FROM target WHERE more IS NOT NULL").await;
    assert_eq!(more, [[text_of(100)]]);

    let texts: ArrayRef = Arc::new(StringArray::from(vec!["five"]));
    write_parquet(&source.join("e.parquet"), &RecordBatch::try_from_iter([("id", texts)]).unwrap(), 5);
    let ended = world.run(&[]).await;
    ended
        .assert_status(2)
        .assert_says("the column \"id\", which has the type Int64 in other files and Utf8 in")
        .assert_says("e.parquet");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_dictionaries_and_empty_files_are_read() {
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let source = world.path("source");
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    let count = compressions.len() as i64;
    for (at, compression) in compressions.into_iter().enumerate() {
        let first = at as i64 * 10;
        // With a dictionary of values, and without.
        let plain = rows(first..first + 10);
        let keyed = arrow::compute::cast(
            plain.column(1),
            &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        );
        let columns = [("id", plain.column(0).clone()), ("text", keyed.unwrap())];
        let batch = if at % 2 == 0 { plain } else { RecordBatch::try_from_iter(columns).unwrap() };
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_compression(compression)
            .set_dictionary_enabled(at % 2 == 1)
            .build();
        let file = fs::File::create(source.join(format!("{at}.parquet"))).unwrap();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    write_parquet(&source.join("empty.parquet"), &rows(0..0), 5);
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..count * 10).await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_file_that_was_vacuumed_is_told_and_found_again_when_it_is_back() {
    for comes_back in [true, false] {
        vacuum_what_is_planned(comes_back).await;
    }
}

async fn vacuum_what_is_planned(comes_back: bool) {
    let world = World::with_rows(40, 2).await;
    world.run_with(&["--max-rows", "30"], &[("ENRICH_FAULT", "delta-commit.before=kill@2")]).await;
    let (table, _) = delta(&world.path("source")).await.optimize().await.unwrap();
    let files = Table::open_at(&world.path("source"), 2).await.unwrap().files().await.unwrap();
    let kept: Vec<Vec<u8>> =
        files.iter().map(|file| fs::read(world.path("source").join(&file.path)).unwrap()).collect();
    let vacuum = table.vacuum().with_retention_period(chrono::TimeDelta::zero());
    vacuum.with_enforce_retention_duration(false).await.unwrap();
    let ended = world.run(&[]).await;
    ended.assert_status(2).assert_says("is gone, and rows of it are planned and not written");
    ended.assert_says("hint: bring the file back").assert_says("delta.deletedFileRetentionDuration");
    if !comes_back {
        ended.assert_says("Without the file only enrich run --restart goes on");
        world.run(&["--restart", "--yes"]).await.assert_status(0);
        // A compaction joins files in an order of its own.
        let mut ids: Vec<i64> = world.target().await.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..40).collect::<Vec<_>>());
        return;
    }
    for (file, bytes) in files.iter().zip(kept) {
        fs::write(world.path("source").join(&file.path), bytes).unwrap();
    }
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_left_the_log_is_told_with_what_can_be_done() {
    let world = World::with_rows(20, 2).await;
    world.run(&[]).await.assert_status(0);
    for ids in [20..30, 30..40] {
        append_delta(&world.path("source"), &rows(ids)).await;
    }
    let table = delta(&world.path("source")).await;
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
    fs::remove_file(world.path("source/_delta_log/00000000000000000003.json")).unwrap();
    let ended = world.run(&[]).await;
    ended.assert_status(2).assert_says("version 3 of the source").assert_says("is no longer in its log");
    ended.assert_says("hint: a longer delta.logRetentionDuration");
    world.assert_target(0..20).await;
    assert_eq!(world.simulator.counts().requests, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_longer_than_the_source_keeps_its_files_is_warned_of() {
    let world = World::with_rows(600, 1).await;
    let slow = "requests_per_minute = 1_200";
    // 600 rows at 1,200 a minute take half a minute.
    let table = delta(&world.path("source")).await;
    let keep = |time: &str| [("delta.deletedFileRetentionDuration".to_owned(), time.to_owned())].into();
    let table = table.set_tbl_properties().with_properties(keep("interval 20 seconds")).await.unwrap();
    world.write_job(slow);
    let warning = "a VACUUM could take files that are not read yet";
    world.run(&["--max-duration", "1s"]).await.assert_says(warning);
    table.set_tbl_properties().with_properties(keep("interval 1 day")).await.unwrap();
    let ended = world.run(&["--max-duration", "1s"]).await;
    assert!(!ended.stderr.contains(warning), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_far_moments_and_odd_names_are_read_as_they_are() {
    let world = World::new(SimulatorSpec::default()).await;
    let folder = world.path("my data #1 100% [x] ü");
    fs::create_dir(&folder).unwrap();
    let scores = [0.1, f64::NAN, 0.2, 0.9, f64::NAN, 0.8];
    let moments = [9_223_372_036_854_775, 0, 1, 2, 3, -62_135_596_800_000];
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(1..7))),
        ("score", Arc::new(arrow::array::Float64Array::from(scores.to_vec()))),
        ("at", Arc::new(arrow::array::TimestampMillisecondArray::from(moments.to_vec()))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    write_parquet(&folder.join("part 1#%20.parquet"), &batch, 3);
    let job = world
        .usual_job("")
        .replace("\"source\"", "\"my data #1 100% [x] ü\"")
        .replace("{{ text }}", "{{ id }}");
    // NaN is more than any number, as SQL engines have it, whatever the statistics of a row group leave out.
    world.write_text(&job.replace("[target]", "where = \"score > 0.5\"\n[target]"));
    world.run(&[]).await.assert_status(0).assert_says("4 answers");
    let sql = "SELECT id, CAST(CAST(at AS BIGINT) AS VARCHAR) FROM target ORDER BY id";
    let ids = |rows: Vec<Vec<String>>| rows.into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(ids(rows_of(&world.path("target"), sql).await), ["2", "4", "5", "6"]);
    world.write_text(&job.replace("path = \"target\"", "path = \"all\""));
    world.run(&[]).await.assert_status(0).assert_says("6 answers");
    let rows = rows_of(&world.path("all"), sql).await;
    assert_eq!((rows[0][1].as_str(), rows[5][1].as_str()), ("9223372036854775000", "-62135596800000000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_a_type_is_refused_with_the_line_that_mends_it() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("source");
    append_delta(&source, &rows(0..3)).await;
    // Spark writes `void` for a column of nothing but nulls.
    let log = source.join("_delta_log/00000000000000000000.json");
    let text = fs::read_to_string(&log).unwrap();
    let void =
        r#"{\"name\":\"gone\",\"type\":\"void\",\"nullable\":true,\"metadata\":{}},{\"name\":\"text\""#;
    let changed = text.replacen(r#"{\"name\":\"text\""#, void, 1);
    assert_ne!(changed, text, "{text}");
    fs::write(&log, changed).unwrap();
    let job = world.usual_job("");
    world.write_text(&job);
    let refused = world.run(&[]).await;
    refused.assert_status(2).assert_says("\"gone\"").assert_says("source.columns");
    world.write_text(&job.replace("[target]", "columns = [\"id\", \"text\"]\n[target]"));
    world.run(&[]).await.assert_status(0).assert_says("3 answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_empty_or_cannot_be_read_makes_no_parquet_folder_of_a_table() {
    let world = World::with_rows(6, 1).await;
    let log = world.path("source/_delta_log");
    fs::rename(&log, world.path("log")).unwrap();
    fs::create_dir(&log).unwrap();
    world.run(&[]).await.assert_status(2).assert_says("has a _delta_log without a single commit");
    fs::remove_dir(&log).unwrap();
    std::os::unix::fs::symlink("_delta_log", &log).unwrap();
    world.run(&[]).await.assert_status(1).assert_says("source/_delta_log: Too many levels of symbolic links");
    assert_eq!(world.simulator.counts().requests, 0);
    let source = |said: &std::process::Output| {
        let said = String::from_utf8(said.stdout.clone()).unwrap();
        said.lines().find(|line| line.contains("/source: ")).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let check = || world.output(world.job_command("check", &[]));
    fs::remove_file(&log).unwrap();
    let said = source(&check().await);
    assert!(said.ends_with("/source: Parquet folder, 1 file, 2 columns"), "{said}");
    fs::rename(world.path("log"), &log).unwrap();
    let said = source(&check().await);
    assert!(said.ends_with("/source: Delta, version 1, 2 columns"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_of_a_folder_is_not_read_is_named_with_the_reason() {
    let world = World::new(SimulatorSpec::default()).await;
    let source = world.path("data/source");
    for year in [2020, 2021] {
        let folder = source.join(format!("_year={year}"));
        fs::create_dir_all(&folder).unwrap();
        let first = i64::from(year - 2020) * 3;
        write_parquet(&folder.join("a.parquet"), &rows(first..first + 3), 10);
    }
    fs::create_dir(source.join("_temporary")).unwrap();
    write_parquet(&source.join("_temporary/b.parquet"), &rows(90..93), 10);
    // Up and out of the folder, and back into it.
    std::os::unix::fs::symlink("..", source.join("_year=2020/up=1")).unwrap();
    std::os::unix::fs::symlink("_year=2020", source.join("again")).unwrap();
    let text = world.usual_job("").replace("path = \"source\"", "path = \"data/source\"");
    world.write_text(&text);
    let ended = world.run(&[]).await;
    ended.assert_status(0).assert_says("6 rows written").assert_says("_year=2020/up=1, which leads to ");
    ended.assert_says("its files would be read twice");
    let years = "SELECT \"_year\", count(*) FROM target GROUP BY 1 ORDER BY 1";
    assert_eq!(rows_of(&world.path("target"), years).await, [["2020", "3"], ["2021", "3"]]);

    // Names without an ending: read where no other file is named as Parquet files are, else said.
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    write_parquet(&world.path("source/000001_0"), &rows(0..3), 10);
    write_parquet(&world.path("source/20240701_144951_00037_v74wa"), &rows(3..6), 10);
    fs::write(world.path("source/README"), "no table").unwrap();
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..6).await;
    write_parquet(&world.path("source/b.parq"), &rows(6..9), 10);
    write_parquet(&world.path("source/c.parquet"), &rows(9..12), 10);
    let ended = world.run(&[]).await;
    ended.assert_status(0).assert_says("3 rows written");
    ended.assert_says("not read: 3 Parquet files whose names do not end in .parquet");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_many_files_without_an_ending_are_read() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    let first = world.path("source/000000_0");
    write_parquet(&first, &rows(0..1), 10);
    for nth in 1..1_010 {
        fs::hard_link(&first, world.path(&format!("source/{nth:06}_0"))).unwrap();
    }
    world.write_job("");
    world.run(&[]).await.assert_status(0).assert_says("1,010 rows written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_file_and_a_link_to_nowhere_are_named_as_what_they_are() {
    let world = World::of(Setup { is_parquet: true, ..Setup::default() }).await;
    write_parquet(&world.path("source/a.parquet"), &rows(0..3), 10);
    // As Parquet Modular Encryption ends a file.
    fs::write(world.path("source/b.parquet"), b"PARE\x00\x00\x00\x00PARE").unwrap();
    world.write_job("");
    world.run(&[]).await.assert_status(1).assert_says("b.parquet: it is encrypted");
    fs::remove_file(world.path("source/b.parquet")).unwrap();
    std::os::unix::fs::symlink("nowhere.parquet", world.path("source/gone.parquet")).unwrap();
    world
        .run(&[])
        .await
        .assert_status(1)
        .assert_says("gone.parquet: it is a link to nowhere.parquet, which is not there");
}

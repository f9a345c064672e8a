//! Tables that other engines wrote, as sources of a job.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int32Builder, ListArray, MapBuilder, MapFieldNames, StringArray, StringBuilder,
    StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::record_batch::RecordBatch;
use enrich::table::Table;

use crate::support::{Outcome, World, append_delta};

// For `features`, `pipelines` and `independent`.
pub use crate::support::{copy_of, rows_of, tables, world_over};

/// Runs a job over a table and holds what comes of it against what deltalake reads; gives the number of rows.
async fn enrich_all(source: &Path) -> (World, Outcome, usize) {
    let world = world_over(source, "").await;
    let ended = world.run(&[]).await;
    assert_eq!(ended.status, Some(0), "{}: {}", source.display(), ended.stderr);
    let schema = Table::open(source).await.unwrap().schema().unwrap();
    let columns: Vec<String> = schema.fields().iter().map(|field| format!("\"{}\"", field.name())).collect();
    let sql = format!("SELECT {} FROM target", columns.join(", "));
    let (wanted, found) = (rows_of(source, &sql).await, rows_of(&world.path("target"), &sql).await);
    assert!(!wanted.is_empty());
    assert_eq!(found, wanted, "{}", source.display());
    let keys = "SELECT _enrich['source_file'], _enrich['source_row'] FROM target";
    let keys: BTreeSet<Vec<String>> = rows_of(&world.path("target"), keys).await.into_iter().collect();
    assert_eq!(keys.len(), wanted.len(), "{}: each row has a key of its own", source.display());
    (world, ended, wanted.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_each_table_comes_through_once() {
    let mut seen = 0;
    for entry in std::fs::read_dir(tables()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let (world, _, rows) = enrich_all(&path).await;
        println!("{}: {rows} rows", path.display());
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
        seen += 1;
    }
    assert_eq!(seen, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_are_passed_over_and_counted() {
    let (_world, ended, rows) = enrich_all(&tables().join("table-with-dv-small")).await;
    assert_eq!(rows, 8);
    ended.assert_says(", 2 deleted in the source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_that_cannot_be_read_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("_delta_log");
    std::fs::create_dir_all(&log).unwrap();
    let from = tables().join("table-with-dv-small/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(from).unwrap();
    let text = text.replace("\"deletionVectors\"", "\"variantType\"");
    std::fs::write(log.join("00000000000000000000.json"), text).unwrap();
    let world = world_over(folder.path(), "").await;
    world.run(&[]).await.assert_says("variantType");
    assert_eq!(world.simulator.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_deleted_after_they_were_planned_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (tables().join("table-with-dv-small"), folder.path());
    std::fs::create_dir_all(to.join("_delta_log")).unwrap();
    let copy = |name: &str| {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    };
    let entries = std::fs::read_dir(&from).unwrap().flatten();
    let files: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "_delta_log")
        .collect();
    files.iter().for_each(|name| copy(name));
    copy("_delta_log/00000000000000000000.json");
    let world = world_over(to, "skip_change_commits = true").await;
    let killed = world.run_with(&[], &[("ENRICH_FAULT", "parquet-file.before=kill@1")]).await;
    assert_ne!(killed.status, Some(0), "it dies before its commit");
    assert_eq!(world.simulator.counts().answered, 10);
    copy("_delta_log/00000000000000000001.json");
    let ended = world.run(&[]).await;
    ended.assert_status(0).assert_says(", 2 deleted in the source");
    let found = rows_of(&world.path("target"), "SELECT value FROM target").await;
    assert_eq!(found, rows_of(to, "SELECT value FROM target").await);
    assert_eq!((found.len(), world.simulator.counts().answered), (8, 10), "nothing is paid again");
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_types_are_carried_to_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let inner: Fields =
        vec![Field::new("name", DataType::Utf8, true), Field::new("age", DataType::Int32, true)].into();
    let people = StructArray::new(
        inner.clone(),
        vec![
            Arc::new(StringArray::from(vec![Some("Ada"), None, Some("Bo")])),
            Arc::new(Int32Array::from(vec![Some(36), Some(7), None])),
        ],
        None,
    );
    let item = Arc::new(Field::new("element", DataType::Struct(inner), true));
    let offsets = OffsetBuffer::from_lengths([2, 0, 1]);
    let lists = ListArray::new(item, offsets, Arc::new(people.clone()), None);
    // As Delta has them.
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), Int32Builder::new());
    for row in 0..3 {
        maps.keys().append_value(format!("key {row}"));
        maps.values().append_value(row);
        maps.append(row != 1).unwrap();
    }
    let columns: [(&str, ArrayRef); 3] =
        [("person", Arc::new(people)), ("people", Arc::new(lists)), ("counts", Arc::new(maps.finish()))];
    append_delta(folder.path(), &RecordBatch::try_from_iter(columns).unwrap()).await;
    let (_, _, rows) = enrich_all(folder.path()).await;
    assert_eq!(rows, 3);
}

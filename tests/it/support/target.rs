//! The target, read back row by row, and made or changed as others would.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use deltalake::{DeltaTable, DeltaTableBuilder, checkpoints, ensure_table_uri};
use enrich::config::Job;
use enrich::metrics::{MetricsRow, read};
use enrich::sink::check_columns;
use enrich::store::{Folder, Location};
use enrich::table::{Staged, Table, TableError};
use serde_json::Map;

use super::world::World;

/// A row of the target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct TargetRow {
    pub id: i64,
    pub text: Option<String>,
    pub answer: Option<String>,
    #[serde(rename = "batch_id")]
    pub batch: i64,
    #[serde(rename = "source_file")]
    pub file: String,
    #[serde(rename = "source_row")]
    pub row: i64,
    pub error_count: i64,
}

/// The rows of the usual job's target, by batch, and by their order in it.
pub async fn read_target(path: &Path) -> Vec<TargetRow> {
    let mut found: BTreeMap<(i64, String, i64), Vec<TargetRow>> = BTreeMap::new();
    let table = Table::open(path).await.unwrap();
    let sql = "SELECT id, text, answer, _enrich['batch_id'], _enrich['source_file'], _enrich['source_row'], \
               CAST(_enrich['error_count'] AS BIGINT) FROM target";
    table
        .query(sql, |batch| {
            let string = |column: usize| {
                let array = cast(batch.column(column), &DataType::Utf8).unwrap();
                let array = array.as_string::<i32>();
                (0..array.len())
                    .map(|row| (!array.is_null(row)).then(|| array.value(row).to_owned()))
                    .collect::<Vec<_>>()
            };
            let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().clone();
            let (texts, answers, files) = (string(1), string(2), string(4));
            let (ids, batches, rows, counts) = (number(0), number(3), number(5), number(6));
            for at in 0..batch.num_rows() {
                let row = TargetRow {
                    id: ids.value(at),
                    text: texts[at].clone(),
                    answer: answers[at].clone(),
                    batch: batches.value(at),
                    file: files[at].clone().unwrap(),
                    row: rows.value(at),
                    error_count: counts.value(at),
                };
                let key = (row.batch, row.file.clone(), row.row);
                found.entry(key).or_default().push(row);
            }
            Ok::<(), TableError>(())
        })
        .await
        .unwrap();
    let mut rows: Vec<TargetRow> = found.into_values().flatten().collect();
    rows.sort_by_key(|row| (row.batch, row.id));
    rows
}

/// The rows of a query as texts, sorted.
pub async fn rows_of(path: &Path, sql: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let table = Table::open(path).await.unwrap();
    let read = table.query(sql, |batch: RecordBatch| {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        let row = |at| columns.iter().map(|column| column.value(at).to_string()).collect();
        rows.extend((0..batch.num_rows()).map(row));
        Ok::<(), TableError>(())
    });
    read.await.unwrap();
    rows.sort();
    rows
}

/// The figures of the usual job.
pub async fn figures(world: &World) -> Vec<MetricsRow> {
    let at = Location::local(world.path("target_metrics"));
    let home = Folder::Local(world.path("target/_checkpoints/test"));
    read(&at, "test", &[home.clone(), home.join("retry")]).await.unwrap()
}

/// A table as deltalake has it.
pub async fn delta(path: &Path) -> DeltaTable {
    let url = ensure_table_uri(path.to_string_lossy()).unwrap();
    DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap()
}

/// Makes the target that the world's job would make, without its rows.
pub async fn make_target(world: &World, change: impl Fn(Field) -> Field) {
    let job = Job::load_without_keys(&world.job()).unwrap();
    let source = Table::open(&world.path("source")).await.unwrap().schema().unwrap();
    let wanted = check_columns(&job, &source).unwrap();
    let fields: Vec<Field> = wanted.fields().iter().map(|field| change(field.as_ref().clone())).collect();
    Table::create(&world.path("target"), &Schema::new(fields), &[], &[]).await.unwrap();
}

/// Commits to the target as somebody else, makes a log checkpoint, and removes the entries before it: as after 30 days.
pub async fn clean_log(world: &World) {
    let path = world.path("target");
    let mut table = Table::open(&path).await.unwrap();
    let newest = table.append(&Staged::default(), &[], Map::new()).await.unwrap();
    checkpoints::create_checkpoint(&delta(&path).await, None).await.unwrap();
    for entry in std::fs::read_dir(path.join("_delta_log")).unwrap().flatten() {
        let is_newest = entry.file_name().to_string_lossy().starts_with(&format!("{newest:020}."));
        if !is_newest && entry.path().extension().is_some_and(|ending| ending == "json") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

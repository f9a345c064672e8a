//! Sample rows, and how they are written into a source.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use enrich::table::Table;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Map;

/// The text of a row.
pub fn text_of(id: i64) -> String {
    format!("Row {id} — «ünïcödé» and a\ttab")
}

/// The prompt of the usual job about a row.
pub fn prompt_of(id: i64) -> String {
    format!("Say something about:\n{}", text_of(id))
}

/// The schema of the rows: `id` and `text`.
pub fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

/// Rows with these ids and the text of each.
pub fn rows(ids: Range<i64>) -> RecordBatch {
    batch_of(Int64Array::from_iter_values(ids.clone()), ids.map(text_of))
}

/// Rows with these texts; their ids count from 0.
pub fn rows_about(texts: impl IntoIterator<Item = String>) -> RecordBatch {
    let texts: Vec<String> = texts.into_iter().collect();
    batch_of((0..).take(texts.len()).collect(), texts)
}

fn batch_of(ids: Int64Array, texts: impl IntoIterator<Item = String>) -> RecordBatch {
    let texts = StringArray::from_iter_values(texts);
    RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(texts)]).unwrap()
}

/// Writes a Parquet file with small row groups.
pub fn write_parquet(path: &Path, batch: &RecordBatch, group_rows: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Appends a commit of one file to a Delta table, which is created if it is missing.
pub async fn append_delta(path: &Path, batch: &RecordBatch) {
    std::fs::create_dir_all(path).unwrap();
    let mut table = match Table::open(path).await {
        Ok(table) => table,
        Err(_) => Table::create(path, &batch.schema(), &[], &[]).await.unwrap(),
    };
    let mut staging = table.stage(u64::MAX).await.unwrap();
    staging.write(batch.clone()).await.unwrap();
    let staged = staging.finish().await.unwrap();
    table.append(&staged, &[], Map::new()).await.unwrap();
}

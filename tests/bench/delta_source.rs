//! Delta tables of many files and commits, as a source.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use deltalake::{DeltaTableBuilder, ensure_table_uri};
use enrich::table::{Staged, Table};
use serde_json::{Map, Value};

/// A table of `files` files of one row each, `in_a_commit` of them in a commit, whose log has a checkpoint near its end.
pub(crate) async fn make(path: &Path, files: usize, in_a_commit: usize) {
    std::fs::create_dir_all(path).expect("a folder");
    let ids: Arc<Int64Array> = Arc::new(Int64Array::from(vec![1]));
    let texts: Arc<StringArray> =
        Arc::new(StringArray::from(vec!["Something that was bought, and what it is like"]));
    let rows = RecordBatch::try_from_iter([("id", ids as _), ("text", texts as _)]).expect("a row");
    let mut table = Table::create(path, &rows.schema(), &[], &[]).await.expect("a table");
    let mut staging = table.stage(u64::MAX).await.expect("a file");
    staging.write(rows).await.expect("a write");
    let mut staged = Staged::default();
    staged.absorb(staging.finish().await.expect("a file"));
    table.append(&staged, &[], Map::new()).await.expect("a commit");
    // The others are copies of that file and of that commit.
    let log = path.join("_delta_log");
    let text = std::fs::read_to_string(log.join("00000000000000000001.json")).expect("a commit");
    let actions: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an action")).collect();
    let add = actions.iter().find(|action| action.get("add").is_some()).expect("a file").clone();
    let data = std::fs::read(path.join(add["add"]["path"].as_str().expect("a path"))).expect("its bytes");
    let commits = files / in_a_commit;
    for commit in 2..=commits {
        let mut text = String::new();
        for number in 0..in_a_commit {
            let mut add = add.clone();
            let name = format!("part-{commit:05}-{number}.parquet");
            std::fs::write(path.join(&name), &data).expect("a file");
            add["add"]["path"] = name.into();
            add["add"]["modificationTime"] = (1_700_000_000_000_u64 + commit as u64).into();
            let _ = writeln!(text, "{add}");
        }
        std::fs::write(log.join(format!("{commit:020}.json")), text).expect("a commit");
        if commit == commits - 5 {
            let url = ensure_table_uri(path.to_string_lossy()).expect("a place");
            let table = DeltaTableBuilder::from_url(url).expect("a place").load().await.expect("a table");
            deltalake::checkpoints::create_checkpoint(&table, None).await.expect("a checkpoint");
        }
    }
}

//! How long `enrich errors` takes on a table in which nearly all files are clean.
//!
//! `cargo bench --bench errors`: five million rows in 5,000 files, 50 of which hold one failed row each, side by
//! side with a tenth of the clean files.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, StructArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use enrich::clock;
use enrich::config::Job;
use enrich::sink::{check_columns, properties};
use enrich::table::{Staged, Table};
use serde_json::Map;

const ROUNDS: usize = 21;
const FAILED: usize = 50;
const FILE_ROWS: usize = 1_000;
const FILES_IN_A_COMMIT: usize = 50;

const JOB: &str = "app_id = \"bench\"\n[source]\npath = \"source\"\n[target]\npath = \"target\"\n\
     [provider.p]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n\
     [[step]]\noutput = \"answer\"\nprompt = \"Summarize: {{ text }}\"\n";

/// The rows of one file; one of them has failed, if that is wanted.
fn rows(schema: &SchemaRef, file: usize, failed: bool) -> RecordBatch {
    let count = FILE_ROWS;
    let is_failed = |row: usize| failed && row == count / 2;
    let first = file * count;
    let strings = |text: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
        Arc::new((0..count).map(text).collect::<StringArray>())
    };
    let column = |field: &Field| -> ArrayRef {
        match field.name().as_str() {
            "id" | "source_row" => {
                Arc::new(Int64Array::from_iter_values((first..first + count).map(|row| row as i64)))
            }
            "batch_id" => Arc::new(Int64Array::from_value(file as i64, count)),
            "error_count" => {
                Arc::new((0..count).map(|row| Some(i32::from(is_failed(row)))).collect::<Int32Array>())
            }
            "app_id" => strings(&|_| Some("bench".into())),
            "run_id" => strings(&|_| Some("01990000-0000-7000-8000-000000000000".into())),
            "source_file" => strings(&|_| Some("part-0.parquet".into())),
            "error" => strings(&|row| is_failed(row).then(|| "timeout".into())),
            "text" => strings(&|row| Some(format!("Review {} of something that was bought", first + row))),
            "answer" => strings(&|row| {
                Some(if is_failed(row) { "ERROR: timeout: no answer".into() } else { format!("Fine {row}") })
            }),
            _ => new_null_array(field.data_type(), count),
        }
    };
    fn build(field: &Field, column: &dyn Fn(&Field) -> ArrayRef) -> ArrayRef {
        match (field.data_type(), field.name().as_str()) {
            (DataType::Struct(fields), _) => {
                let columns = fields.iter().map(|field| build(field, column)).collect();
                Arc::new(StructArray::new(fields.clone(), columns, None))
            }
            _ => column(field),
        }
    }
    let columns = schema.fields().iter().map(|field| build(field, &column)).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("rows of the target")
}

async fn make(folder: &Path, files: usize) -> Job {
    let path = folder.join("job.toml");
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(&path, JOB).expect("a job file");
    let job = Job::load_without_keys(&path).expect("a job");
    let source =
        Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("text", DataType::Utf8, true)]);
    let wanted = check_columns(&job, &source).expect("the target's columns");
    let target = &job.target.location;
    let properties = properties(&wanted, job.target.metadata_column.as_deref(), &[]);
    let mut table = Table::create(target, &wanted, &[], &properties).await.expect("a table");
    let schema = table.schema().expect("its columns");
    let mut staged = Staged::default();
    for file in 0..files {
        let failed = file % (files / FAILED) == 0;
        let mut staging = table.stage(u64::MAX).await.expect("a file").counting("_enrich", "error_count");
        staging.write(rows(&schema, file, failed)).await.expect("a write");
        staged.absorb(staging.finish().await.expect("a file"));
        if (file + 1) % FILES_IN_A_COMMIT == 0 {
            table.append(&staged, &[], Map::new()).await.expect("a commit");
            staged = Staged::default();
        }
    }
    job
}

fn errors(folder: &Path) -> f64 {
    let started = clock::now();
    let listed = Command::new(env!("CARGO_BIN_EXE_enrich"))
        .args(["errors", "--format", "json"])
        .arg(folder.join("job.toml"))
        .output()
        .expect("a listing");
    let took = (clock::now() - started).as_secs_f64();
    assert_eq!(listed.stdout.iter().filter(|byte| **byte == b'\n').count(), FAILED, "every failed row");
    took
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let sizes = [500, 5_000];
    for files in sizes {
        make(&folder.path().join(files.to_string()), files).await;
    }
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    for _ in 0..ROUNDS {
        for (took, files) in took.iter_mut().zip(sizes) {
            took.push(errors(&folder.path().join(files.to_string())));
        }
    }
    println!("enrich errors, {FAILED} failed rows in as many files, medians of {ROUNDS} interleaved rounds");
    let medians: Vec<f64> = took.into_iter().map(median).collect();
    for (seconds, files) in medians.iter().zip(sizes) {
        let rows = files * FILE_ROWS;
        println!("  {files:>5} files, {rows:>8} rows, seconds  {seconds:>6.3}");
    }
    println!("  ten times the clean files, ratio      {:>6.2}", medians[1] / medians[0]);
}

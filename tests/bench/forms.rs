//! What forms of answers cost: typed against plain ones, and vectors with few and many texts a request.
//!
//! `cargo bench --bench forms`. Every figure is the median of interleaved runs beside a simulator without latency;
//! what matters are the ratios.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod measure;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use measure::{Server, enrich, median, watch};
use parquet::arrow::ArrowWriter;

const ROUNDS: usize = 3;
const ROWS: i64 = 20_000;

const PLAIN: &str = "prompt = \"Say something about: {{ text }}\"";
const TYPED: &str = "fields = { mood = [\"good\", \"bad\"], urgency = \"int\", tags = \"[string]\", who = { name = \"string\" } }\n\
                     prompt = \"Say something about: {{ text }}\"";
const VECTORS: &str =
    "kind = \"embedding\"\ndimensions = 256\nencoding = \"base64\"\nprompt = \"{{ text }}\"";

/// What is measured: a name, the step, and texts in a request.
const CASES: [(&str, &str, u32); 5] = [
    ("plain", PLAIN, 1),
    ("typed", TYPED, 1),
    ("vectors, 1 a request", VECTORS, 1),
    ("vectors, 32 a request", VECTORS, 32),
    ("vectors, 512 a request", VECTORS, 512),
];

fn job(url: &str, step: &str, together: u32) -> String {
    format!(
        "app_id = \"bench\"\n[source]\npath = \"source.parquet\"\n[target]\npath = \"target\"\n\
         [provider.p]\nbase_url = \"{url}\"\nmodel = \"m\"\nmax_concurrency = 64\ninputs_per_request = {together}\n\
         [[step]]\noutput = \"answer\"\n{step}\n"
    )
}

fn make_source(folder: &Path) {
    let texts: StringArray =
        (0..ROWS).map(|id| Some(format!("Review {id}: {}", "it boils and it pours ".repeat(10)))).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    let columns: [(&str, ArrayRef); 2] = [("id", ids), ("text", Arc::new(texts))];
    let rows = RecordBatch::try_from_iter(columns).expect("rows");
    let file = std::fs::File::create(folder.join("source.parquet")).expect("a source");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
    writer.write(&rows).expect("a write");
    writer.close().expect("a footer");
}

/// Rows per second of one whole run into a new target.
fn run(folder: &Path, text: &str) -> f64 {
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let job = folder.join("job.toml");
    std::fs::write(&job, text).expect("a job file");
    let child = enrich().args(["run", "--quiet"]).arg(&job).stderr(Stdio::inherit()).spawn().expect("a run");
    ROWS as f64 / watch(child).wall
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder);
    let server = Server::start(enrich(), folder, &job("simulator", PLAIN, 1));
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); CASES.len()];
    for _ in 0..ROUNDS {
        for ((_, step, together), rates) in CASES.iter().zip(&mut rates) {
            rates.push(run(folder, &job(&server.url, step, *together)));
        }
    }
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    println!("zero latency, {ROWS} rows, 64 at once, medians of {ROUNDS} interleaved runs");
    for ((name, ..), rate) in CASES.iter().zip(&rates) {
        println!("  {name:<24} {rate:>8.0} rows per second");
    }
    println!("  typed to plain           {:>8.2}", rates[1] / rates[0]);
    println!("  32 a request to 1        {:>8.2}", rates[3] / rates[2]);
    println!("  512 a request to 1       {:>8.2}", rates[4] / rates[2]);
}

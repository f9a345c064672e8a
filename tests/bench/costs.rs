//! What it costs to keep figures, a budget and bounds on nonsense, and to be scraped: rows per second with and without.
//!
//! `cargo bench --bench costs`. Runs of all kinds are interleaved beside a simulator without latency, so that
//! everything that the program does shows; what matters are the ratios.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod measure;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use measure::{Server, Used, enrich, median, watch};
use parquet::arrow::ArrowWriter;

const ROUNDS: usize = 5;
const ROWS: i64 = 20_000;

const NONE: &str = "[metrics]\nenabled = false\n[anomalies]\nmax_empty_rate = 1.0\nmax_refusal_rate = 1.0\n\
                    max_invalid_rate = 1.0\n";
const BUDGET: &str = "[budget]\nmax_cost_usd = 1000\nmax_requests = 10_000_000\n";

/// What is measured: a name, what the job has, and further arguments.
const CASES: [(&str, &str, &[&str]); 4] = [
    ("none of it", NONE, &[]),
    ("figures and bounds", "", &[]),
    ("and a budget", BUDGET, &[]),
    ("and scraped", BUDGET, &["--metrics-addr", "127.0.0.1:0"]),
];

fn job(url: &str, more: &str) -> String {
    format!(
        "app_id = \"bench\"\n[source]\npath = \"source.parquet\"\n[target]\npath = \"target\"\n[batch]\nmax_rows = 1_000\n\
         {more}[provider.p]\nbase_url = \"{url}\"\nmodel = \"m\"\nmax_concurrency = 64\nprice_per_million_input = 0.15\n\
         price_per_million_output = 0.6\n[[step]]\noutput = \"answer\"\nmax_tokens = 100\n\
         prompt = \"Say something about: {{{{ text }}}}\"\n"
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

/// One whole run into a new target.
fn run(folder: &Path, text: &str, more: &[&str]) -> Used {
    for place in ["target", "target_metrics"] {
        let _ = std::fs::remove_dir_all(folder.join(place));
    }
    let job = folder.join("job.toml");
    std::fs::write(&job, text).expect("a job file");
    let mut command = enrich();
    command.args(["run", "--quiet"]).arg(&job).args(more).stderr(Stdio::inherit());
    watch(command.spawn().expect("a run"))
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder);
    let server = Server::start(folder, &job("simulator", NONE));
    let mut used: Vec<Vec<Used>> = vec![Vec::new(); CASES.len()];
    for round in 0..ROUNDS {
        // Now from the first, now from the last: what the machine does meanwhile falls on all of them alike.
        let mut order: Vec<usize> = (0..CASES.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (_, more, arguments) = CASES[at];
            used[at].push(run(folder, &job(&server.url, more), arguments));
        }
    }
    let of = |at: usize, get: fn(&Used) -> f64| median(used[at].iter().map(get).collect());
    let ratio = |at: usize, get: fn(&Used) -> f64| {
        let ratios = used[at].iter().zip(&used[0]).map(|(own, none)| get(own) / get(none));
        median(ratios.collect())
    };
    println!(
        "zero latency, {ROWS} rows in batches of 1,000, 64 at once; medians of {ROUNDS} rounds, and of their ratios"
    );
    for (at, (name, ..)) in CASES.iter().enumerate() {
        println!(
            "  {name:<20} {:>7.0} rows per second ({:+.1} %), {:.2} s of CPU ({:+.1} %)",
            ROWS as f64 / of(at, |used| used.wall),
            (1.0 / ratio(at, |used| used.wall) - 1.0) * 100.0,
            of(at, |used| used.cpu),
            (ratio(at, |used| used.cpu) - 1.0) * 100.0
        );
    }
}

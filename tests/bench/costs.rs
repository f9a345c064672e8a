//! What it costs to keep figures, a budget and bounds on nonsense, and to be scraped: rows per second with and without.
//!
//! `cargo bench --bench costs`; `ENRICH_COSTS_ROUNDS` and `ENRICH_COSTS_ROWS` set how many. Runs of all kinds are
//! interleaved beside a simulator without latency, so that everything that the program does shows; what matters are
//! the ratios within a round. The bare job runs twice in each: what its two runs differ by is the machine's noise.

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
/// So many that a tenth of a second, in which the first run makes the table of figures, does not show.
const ROWS: usize = 400_000;

const NONE: &str = "[metrics]\nenabled = false\n[anomalies]\nmax_empty_rate = 1.0\nmax_refusal_rate = 1.0\n\
                    max_invalid_rate = 1.0\n";
const BUDGET: &str = "[budget]\nmax_cost_usd = 1000\nmax_requests = 10_000_000\n";

/// What is measured: a name, what the job has, and further arguments.
const CASES: [(&str, &str, &[&str]); 5] = [
    ("none of it", NONE, &[]),
    ("none of it, again", NONE, &[]),
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

fn make_source(folder: &Path, rows: i64) {
    let texts: StringArray =
        (0..rows).map(|id| Some(format!("Review {id}: {}", "it boils and it pours ".repeat(10)))).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
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

/// The change in percent that a ratio of times comes to, as a rate or as a cost.
#[derive(Clone, Copy)]
enum As {
    Rate,
    Cost,
}

/// Quartiles of what a case changes against the bare job, in percent, over the rounds.
fn changes(own: &[Used], bare: &[Used], get: fn(&Used) -> f64, told: As) -> [f64; 3] {
    let ratio = |(own, bare): (&Used, &Used)| match told {
        As::Rate => get(bare) / get(own),
        As::Cost => get(own) / get(bare),
    };
    let mut changes: Vec<f64> = own.iter().zip(bare).map(|pair| (ratio(pair) - 1.0) * 100.0).collect();
    changes.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| changes[(changes.len() - 1) * quarter / 4])
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let (rounds, rows) = (number("ENRICH_COSTS_ROUNDS", ROUNDS), number("ENRICH_COSTS_ROWS", ROWS));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder, i64::try_from(rows).expect("a number of rows"));
    let server = Server::start(folder, &job("simulator", NONE));
    let mut used: Vec<Vec<Used>> = vec![Vec::new(); CASES.len()];
    for round in 0..rounds {
        // Each case is first and last and in between in its turn: what the machine does meanwhile falls on all alike.
        for at in 0..CASES.len() {
            let at = if round % 2 == 0 { at } else { CASES.len() - 1 - at };
            let at = (at + round / 2) % CASES.len();
            let (_, more, arguments) = CASES[at];
            used[at].push(run(folder, &job(&server.url, more), arguments));
        }
    }
    println!(
        "zero latency, {rows} rows in batches of 1,000, 64 at once, {rounds} rounds; against the bare job of the same \
         round, medians and quartiles"
    );
    for (own, (name, ..)) in used.iter().zip(&CASES) {
        let rate = rows as f64 / median(own.iter().map(|used| used.wall).collect());
        let cpu = median(own.iter().map(|used| used.cpu).collect());
        let [low, middle, high] = changes(own, &used[0], |used| used.wall, As::Rate);
        let [least, cost, most] = changes(own, &used[0], |used| used.cpu, As::Cost);
        println!(
            "  {name:<20} {rate:>7.0} rows per second ({middle:+.1} %; {low:+.1} to {high:+.1}), {cpu:.2} s of CPU \
             ({cost:+.1} %; {least:+.1} to {most:+.1})"
        );
    }
}

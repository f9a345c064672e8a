//! What it costs to keep figures, a budget and bounds on nonsense, and to be scraped: rows per second with and without.
//!
//! `cargo bench --bench costs`; `ENRICH_COSTS_ROUNDS` and `ENRICH_COSTS_ROWS` set how many. A job with and one without run
//! at the same time on one core, which they share evenly, beside a simulator without latency on another: whatever else
//! the machine does slows both alike, and everything that the program does shows. Nothing waits but for the core, so that
//! rows per second of a core's time are what a run would do that had it to itself. The bare job against itself tells how
//! far to trust the figures. It needs two cores and `taskset`, of util-linux.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod measure;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use measure::{Server, Used, median, pinned, watch};
use parquet::arrow::ArrowWriter;

const ROUNDS: usize = 6;
const ROWS: usize = 100_000;

/// The core of the simulator, and the one that two runs share.
const SERVING: usize = 0;
const RUNNING: usize = 1;

const SCRAPE_EVERY: Duration = Duration::from_secs(1);

const NONE: &str = "[metrics]\nenabled = false\n[anomalies]\nmax_empty_rate = 1.0\nmax_refusal_rate = 1.0\n\
                    max_invalid_rate = 1.0\n";
const BUDGET: &str = "[budget]\nmax_cost_usd = 1000\nmax_requests = 10_000_000\n";

/// What is measured against the bare job: a name, what the job has, and whether somebody scrapes its figures every second.
const CASES: [Case; 4] = [
    Case { name: "none of it", more: NONE, is_scraped: false },
    Case { name: "figures and bounds", more: "", is_scraped: false },
    Case { name: "and a budget", more: BUDGET, is_scraped: false },
    Case { name: "and scraped", more: BUDGET, is_scraped: true },
];

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    more: &'static str,
    is_scraped: bool,
}

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
fn run(folder: &Path, url: &str, case: Case) -> Used {
    // The table of figures stays: it is made once in the life of a job.
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let text = folder.join("job.toml");
    std::fs::write(&text, job(url, case.more)).expect("a job file");
    let mut command = pinned(RUNNING);
    command.args(["run", "--quiet"]).arg(&text).stderr(Stdio::inherit());
    if !case.is_scraped {
        return watch(command.spawn().expect("a run"));
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let run = command.args(["--metrics-addr", &free.to_string()]).spawn().expect("a run");
    let (done, waits) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let scrapes = scope.spawn(move || {
            let is_over = || waits.recv_timeout(SCRAPE_EVERY) != Err(RecvTimeoutError::Timeout);
            let mut scrapes = 0;
            while !is_over() {
                scrapes += u32::from(scrape(free).is_ok_and(|text| text.contains("enrich_requests_total")));
            }
            scrapes
        });
        let used = watch(run);
        drop(done);
        let scrapes = scrapes.join().expect("a count");
        assert!(scrapes > 0 || used.wall < 2.0, "nobody could scrape");
        used
    })
}

fn scrape(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// CPU seconds of the bare job and of a case, at the same time, each in its folder.
fn side_by_side(folders: [&Path; 2], url: &str, case: Case) -> [f64; 2] {
    let [of_bare, of_case] = folders;
    std::thread::scope(|scope| {
        let bare = scope.spawn(|| run(of_bare, url, CASES[0]));
        let own = run(of_case, url, case);
        [bare.join().expect("the bare job").cpu, own.cpu]
    })
}

/// The mean of some values and its standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let (rounds, rows) = (number("ENRICH_COSTS_ROUNDS", ROUNDS), number("ENRICH_COSTS_ROWS", ROWS));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(cores > RUNNING, "two cores are needed: one for the simulator, one for two runs");
    let folder = tempfile::tempdir().expect("a folder");
    let folders = ["a", "b"].map(|name| folder.path().join(name));
    for folder in &folders {
        std::fs::create_dir(folder).expect("a folder");
        make_source(folder, i64::try_from(rows).expect("a number of rows"));
    }
    let server = Server::start(pinned(SERVING), folder.path(), &job("simulator", NONE));
    let [a, b] = [folders[0].as_path(), folders[1].as_path()];
    // One of each first, for what is made once.
    for folder in [a, b] {
        for case in CASES {
            run(folder, &server.url, case);
        }
    }
    let mut used = vec![Vec::new(); CASES.len()];
    for round in 0..rounds {
        let folders = if round.is_multiple_of(2) { [a, b] } else { [b, a] };
        let mut order: Vec<usize> = (0..CASES.len()).collect();
        fastrand::shuffle(&mut order);
        for at in order {
            used[at].push(side_by_side(folders, &server.url, CASES[at]));
        }
    }
    println!(
        "zero latency, {rows} rows in batches of 1,000, 64 requests at once, {rounds} rounds, each beside the bare job on \
         the same core; changes with their standard errors"
    );
    for (pairs, case) in used.iter().zip(&CASES) {
        let rate = |at: usize| rows as f64 / median(pairs.iter().map(|pair: &[f64; 2]| pair[at]).collect());
        let changes: Vec<f64> = pairs.iter().map(|[bare, own]| (bare / own - 1.0) * 100.0).collect();
        let (change, error) = mean(&changes);
        println!(
            "  {:<20} {:>7.0} rows per second of a core, without {:>7.0} ({change:+.2} % ± {error:.2})",
            case.name,
            rate(1),
            rate(0)
        );
    }
}

//! What it costs to keep figures, a budget and bounds on nonsense, and to be scraped: rows per second with and without.
//!
//! `cargo bench --bench costs`; `ENRICH_COSTS_ROUNDS` and `ENRICH_COSTS_ROWS` set how many. Runs of all kinds are
//! interleaved beside a simulator without latency, so that everything that the program does shows; what matters are
//! the ratios within a round, to the mean of its two runs of the bare job: what these differ by is the machine's noise.

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
use measure::{Server, Used, enrich, median, watch};
use parquet::arrow::ArrowWriter;

const ROUNDS: usize = 12;
const ROWS: usize = 100_000;

const SCRAPE_EVERY: Duration = Duration::from_secs(1);

const NONE: &str = "[metrics]\nenabled = false\n[anomalies]\nmax_empty_rate = 1.0\nmax_refusal_rate = 1.0\n\
                    max_invalid_rate = 1.0\n";
const BUDGET: &str = "[budget]\nmax_cost_usd = 1000\nmax_requests = 10_000_000\n";

/// What is measured: a name, what the job has, and whether somebody scrapes its figures every second.
const CASES: [(&str, &str, bool); 5] = [
    ("none of it", NONE, false),
    ("none of it, again", NONE, false),
    ("figures and bounds", "", false),
    ("and a budget", BUDGET, false),
    ("and scraped", BUDGET, true),
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
fn run(folder: &Path, text: &str, is_scraped: bool) -> Used {
    // The table of figures stays: it is made once in the life of a job.
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let job = folder.join("job.toml");
    std::fs::write(&job, text).expect("a job file");
    let mut command = enrich();
    command.args(["run", "--quiet"]).arg(&job).stderr(Stdio::inherit());
    if !is_scraped {
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

/// The change in percent that a ratio of times comes to, as a rate or as a cost.
#[derive(Clone, Copy)]
enum As {
    Rate,
    Cost,
}

/// What a case changes against the bare job, in percent, over the rounds: the median, the mean, and the standard error
/// of the mean.
fn changes(used: &[Vec<Used>], case: usize, get: fn(&Used) -> f64, told: As) -> [f64; 3] {
    let change = |(round, own): (usize, &Used)| {
        let bare = f64::midpoint(get(&used[0][round]), get(&used[1][round]));
        let ratio = match told {
            As::Rate => bare / get(own),
            As::Cost => get(own) / bare,
        };
        (ratio - 1.0) * 100.0
    };
    let changes: Vec<f64> = used[case].iter().enumerate().map(change).collect();
    let rounds = changes.len() as f64;
    let mean = changes.iter().sum::<f64>() / rounds;
    let squares: f64 = changes.iter().map(|change| (change - mean).powi(2)).sum();
    [median(changes), mean, (squares / (rounds - 1.0) / rounds).sqrt()]
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
    // One of each first, for what is made once.
    for (_, more, is_scraped) in CASES {
        run(folder, &job(&server.url, more), is_scraped);
    }
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..CASES.len()).collect();
        fastrand::shuffle(&mut order);
        for at in order {
            let (_, more, is_scraped) = CASES[at];
            used[at].push(run(folder, &job(&server.url, more), is_scraped));
        }
    }
    println!(
        "zero latency, {rows} rows in batches of 1,000, 64 at once, {rounds} rounds; against the bare job of the same \
         round: median; mean and its standard error"
    );
    for (case, (own, (name, ..))) in used.iter().zip(&CASES).enumerate() {
        let rate = rows as f64 / median(own.iter().map(|used| used.wall).collect());
        let cpu = median(own.iter().map(|used| used.cpu).collect());
        let [middle, mean, error] = changes(&used, case, |used| used.wall, As::Rate);
        let [cost, mean_cost, cost_error] = changes(&used, case, |used| used.cpu, As::Cost);
        println!(
            "  {name:<20} {rate:>7.0} rows per second ({middle:+.1} %; {mean:+.1} ± {error:.1}), {cpu:.2} s of CPU \
             ({cost:+.1} %; {mean_cost:+.1} ± {cost_error:.1})"
        );
    }
}

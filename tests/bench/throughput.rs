//! Speed and memory of whole runs, side by side with bare reqwest on the same bodies and with an HTTP load generator, on
//! the same server.
//!
//! `cargo bench --bench throughput`; needs two cores and `taskset`, of util-linux: the simulator has the first core, and
//! each client the second. `wrk` or `oha` is optional. Every figure is the median
//! of interleaved runs; what matters are the ratios.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod bare;
mod measure;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use enrich::clock;
use enrich::ident::{BatchId, Fingerprint, Lineage, RowKey};
use enrich::journal::{JournalHeader, JournalWriter, Record, RecordedOutcome};
use measure::{Server, Used, median, pinned, watch};
use parquet::arrow::ArrowWriter;

const ROUNDS: usize = 5;
const CONCURRENCY: u32 = 64;
/// The core of the simulator, and that of the clients.
const SERVING: usize = 0;
const RUNNING: usize = 1;
const PROMPT: &str = "Summarize in one sentence: ";
/// The default.
const BATCH: u32 = 10_000;
/// Small enough that 10,000 rows fill the window of four batches too.
const SMALL_BATCH: u32 = 1_000;

fn job_text(url: &str, target: &str, batch: u32, simulator: &str) -> String {
    format!(
        "app_id = \"bench\"\n[source]\npath = \"source.parquet\"\n[target]\npath = \"{target}\"\n\
         [batch]\nmax_rows = {batch}\n\
         [provider.p]\nbase_url = \"{url}\"\nmodel = \"m\"\nmax_concurrency = {CONCURRENCY}\n\
         [[step]]\noutput = \"answer\"\nprompt = \"{PROMPT}{{{{ text }}}}\"\n\
         [simulator]\n{simulator}\n"
    )
}

fn text(id: i64) -> String {
    let mut text = format!("Review {id}: ");
    for word in 0..60 {
        let _ = write!(text, "word{} ", (id * 7 + word) % 997);
    }
    text
}

fn make_source(folder: &Path, rows: i64) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]));
    let file = std::fs::File::create(folder.join("source.parquet")).expect("a source");
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).expect("a writer");
    for first in (0..rows).step_by(10_000) {
        let ids = first..(first + 10_000).min(rows);
        let texts: StringArray = ids.clone().map(|id| Some(text(id))).collect();
        let columns = vec![Arc::new(Int64Array::from_iter_values(ids)) as _, Arc::new(texts) as _];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch")).expect("a write");
    }
    writer.close().expect("a footer");
}

/// The prompt of a row.
fn prompt(row: i64) -> String {
    format!("{PROMPT}{}", text(row))
}

/// One whole run into a new target.
fn run(folder: &Path, url: &str, batch: u32) -> Used {
    let target = folder.join("target");
    let _ = std::fs::remove_dir_all(&target);
    let job = folder.join("job.toml");
    std::fs::write(&job, job_text(url, "target", batch, "")).expect("a job file");
    let child = pinned(RUNNING).args(["run", "--quiet"]).arg(&job).stderr(Stdio::inherit()).spawn();
    watch(child.expect("a run"))
}

/// Requests per second of `wrk` or `oha` posting the body of one row; none if neither is installed.
fn load(folder: &Path, url: &str, seconds: u32) -> Option<(&'static str, f64)> {
    let body = serde_json::json!({
        "model": "m",
        "messages": [{"role": "user", "content": prompt(1)}],
    })
    .to_string();
    let address = format!("{url}/chat/completions");
    let script = folder.join("post.lua");
    let lua = format!(
        "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\nwrk.body = [==[{body}]==]\n"
    );
    std::fs::write(&script, lua).expect("a script");
    let time = format!("{seconds}s");
    let wrk =
        Command::new("wrk").args(["-t1", "-c64", "-d", &time, "-s"]).arg(&script).arg(&address).output();
    if let Ok(output) = wrk {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("Requests/sec:"))?;
        return Some(("wrk", line.split_whitespace().nth(1)?.parse().ok()?));
    }
    let oha = Command::new("oha")
        .args([
            "--no-tui",
            "-z",
            &time,
            "-c",
            "64",
            "-m",
            "POST",
            "-T",
            "application/json",
            "-d",
            &body,
            &address,
        ])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&oha.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with("Requests/sec:"))?;
    Some(("oha", line.split_whitespace().nth(1)?.parse().ok()?))
}

/// CPU seconds that it takes to append a response of usual size to a journal.
fn journal_cost(folder: &Path) -> f64 {
    let path = folder.join("bench.journal");
    let header = JournalHeader {
        lineage: Lineage::random(),
        batch: BatchId::FIRST,
        digest: Fingerprint::of([b"bench".as_slice()]),
    };
    let mut writer = JournalWriter::open(&path, &header, |_| {}).expect("a journal");
    let record = Record {
        key: RowKey { file: "source.parquet".into(), row: 1 },
        step: "answer".into(),
        fingerprint: header.digest,
        provider: "p".into(),
        model: "m".into(),
        attempts: 1,
        latency_ms: 1,
        shared: false,
        outcome: RecordedOutcome::Response(Bytes::from(vec![b'x'; 420])),
    };
    let rows = 100_000;
    let started = clock::now();
    for _ in 0..rows {
        writer.append([&record]).expect("an append");
    }
    let took = (clock::now() - started).as_secs_f64() / f64::from(rows);
    let _ = std::fs::remove_file(path);
    took
}

fn main() {
    if bare::acts(CONCURRENCY, prompt) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let server = Server::start(pinned(SERVING), folder, &job_text("simulator", "unused", BATCH, ""));
    let rows = 100_000;
    make_source(folder, rows);
    let (mut rates, mut cpus, mut loads, mut name) = (Vec::new(), Vec::new(), Vec::new(), None);
    let (mut journal, mut bare_rates, mut bare_cpus) = (Vec::new(), Vec::new(), Vec::new());
    run(folder, &server.url, BATCH);
    for _ in 0..ROUNDS {
        let used = run(folder, &server.url, BATCH);
        rates.push(rows as f64 / used.wall);
        cpus.push(used.cpu / rows as f64 * 1e6);
        let used = watch(bare::command(RUNNING, &server.url, rows).spawn().expect("bare reqwest"));
        bare_rates.push(rows as f64 / used.wall);
        bare_cpus.push(used.cpu / rows as f64 * 1e6);
        journal.push(journal_cost(folder) * 1e6);
        if let Some((tool, rate)) = load(folder, &server.url, 4) {
            name = Some(tool);
            loads.push(rate);
        }
    }
    let (rate, cpu, kept) = (median(rates), median(cpus), median(journal));
    println!("zero latency, {rows} rows, {CONCURRENCY} at once, medians of {ROUNDS} interleaved runs");
    println!("  rows per second               {rate:>10.0}");
    let (bare_rate, bare_cpu) = (median(bare_rates), median(bare_cpus));
    println!("  bare reqwest                  {bare_rate:>10.0}");
    println!("  share of bare reqwest         {:>10.3}   (goal: 0.5)", rate / bare_rate);
    match name {
        Some(tool) => {
            let load = median(loads);
            println!("  {tool} requests per second      {load:>10.0}");
            println!("  share of {tool}                  {:>10.3}", rate / load);
        }
        None => println!("  share of wrk or oha: neither is installed"),
    }
    println!("  CPU per row, µs               {cpu:>10.1}   (goal: 35; bare reqwest {bare_cpu:.1})");
    println!("  journal append, µs            {kept:>10.2}   ({:.1} % of it)", kept / cpu * 100.0);

    let mut peaks = Vec::new();
    for rows in [10_000, 100_000, 400_000] {
        make_source(folder, rows);
        let peak = median((0..3).map(|_| run(folder, &server.url, SMALL_BATCH).peak_mb).collect());
        println!("  peak memory at {rows:>7} rows, MB {peak:>7.0}");
        peaks.push(peak);
    }
    println!("  memory, large to small        {:>10.2}   (to reach: 1)", peaks[2] / peaks[0]);
    drop(server);

    for (kind, sigma, rows) in [("fixed", 0.0, 20_000_i64), ("log-normal", 0.5, 20_000)] {
        let latency = 0.1;
        let server = Server::start(
            pinned(SERVING),
            folder,
            &job_text("simulator", "unused", BATCH, &format!("latency = \"100ms\"\nlatency_sigma = {sigma}")),
        );
        make_source(folder, rows);
        // The mean of a log-normal latency whose median is 1.
        let mean = latency * f64::exp(sigma * sigma / 2.0);
        let ideal = f64::from(CONCURRENCY) / mean;
        let shares = (0..3).map(|_| rows as f64 / run(folder, &server.url, BATCH).wall / ideal).collect();
        let share = median(shares);
        println!("  share of C/L, {kind:<10}      {share:>10.3}   (to reach: 0.97)");
        // What the same server lets a load generator have: its timers are late, a run cannot be faster.
        if let Some((tool, rate)) = load(folder, &server.url, 20) {
            println!(
                "  the same of {tool}              {:>10.3}   (ratio {:.3})",
                rate / ideal,
                share / (rate / ideal)
            );
        }
    }
}

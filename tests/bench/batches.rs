//! What a job through a Batch API takes of this machine and asks of the provider: memory by number of rows, CPU beside
//! single requests, a run with nothing to do while rows are submitted, polls, and how fast answers are taken in.
//!
//! `cargo bench --bench batches [-- 1000000]`; an argument is a further number of rows for the peak of memory.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod measure;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use enrich::clock;
use measure::{Server, Used, enrich, watch};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

/// Numbers of rows of which the peak of memory is compared. With 100,000 rows, in two files, nothing comes back while rows
/// are sent; with 300,000 it does.
const ROWS: [usize; 3] = [10_000, 100_000, 300_000];
const ROWS_IN_FILE: usize = 50_000;
/// Rows of the job whose CPU and speed are measured.
const MEASURED: usize = 100_000;
const SUBMISSIONS: usize = 100;
/// Seconds for which polls are counted, with one poll a second.
const POLLED_SECONDS: u64 = 20;

/// The section of a Batch API, whose files have so many rows at most.
fn section(most: usize, poll: &str) -> String {
    format!("[provider.p.batch]\npoll = \"{poll}\"\nfirst_requests = 0\nmax_requests = {most}\n")
}

/// A job of one step in a folder of its own, which asks for prompts of 1,000 bytes.
fn write_job(folder: &Path, url: &str, section: &str) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder");
    let job = folder.join("job.toml");
    let words = "and all that goes with it, ".repeat(36);
    let text = format!(
        "app_id = \"bench\"\n[source]\npath = \"source\"\n[target]\npath = \"target\"\n\
         [provider.p]\nbase_url = \"{url}\"\nmodel = \"simulated\"\nmax_concurrency = 64\n{section}\
         [[step]]\noutput = \"answer\"\nshare = false\nprompt = \"Summarize {words}: {{{{ text }}}}\"\n"
    );
    std::fs::write(&job, text).expect("a job file");
    job
}

/// A job over so many rows in files.
fn make_job(folder: &Path, url: &str, section: &str, rows: usize) -> PathBuf {
    let source = folder.join("source");
    std::fs::create_dir_all(&source).expect("a folder");
    for (number, first) in (0..rows).step_by(ROWS_IN_FILE).enumerate() {
        let ids = (first as i64..).take(ROWS_IN_FILE.min(rows - first));
        let texts = ids.clone().map(|id| format!("Review {id}: what was bought, and what it is like"));
        let (ids, texts) = (Int64Array::from_iter_values(ids), StringArray::from_iter_values(texts));
        let columns = [("id", Arc::new(ids) as _), ("text", Arc::new(texts) as _)];
        let batch = RecordBatch::try_from_iter(columns).expect("rows");
        let file = std::fs::File::create(source.join(format!("part-{number:05}.parquet"))).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("a write");
        writer.close().expect("a file");
    }
    write_job(folder, url, section)
}

fn run(job: &Path, more: &[&str]) -> Used {
    let mut command = enrich();
    command.args(["run", "--quiet"]).arg(job).args(more).stderr(Stdio::inherit());
    watch(command.spawn().expect("a run"))
}

/// A simulator with batches that behave in this way.
fn serve(folder: &Path, batches: &str) -> Server {
    let job = write_job(folder, "simulator", "");
    let text = std::fs::read_to_string(job).expect("a job file");
    std::fs::create_dir_all(folder.join("source")).expect("a folder");
    Server::start(enrich(), folder, &format!("{text}[simulator]\n[simulator.batches]\n{batches}"))
}

/// What the simulator has counted.
async fn counts(server: &Server) -> Value {
    let url = server.url.replace("/v1", "/simulator/counts");
    let text = reqwest::get(url).await.expect("a response").text().await.expect("its body");
    serde_json::from_str(&text).expect("counts")
}

/// Lines that the simulator has worked on.
async fn lines(server: &Server) -> u64 {
    counts(server).await["batches"]["lines"].as_u64().unwrap_or_default()
}

/// Requests for states of batches, and all about files and batches.
async fn polls(server: &Server) -> (u64, u64) {
    let counts = counts(server).await;
    let of = |name: &str| counts["batches"][name].as_u64().unwrap_or_default();
    let states = of("polls") + of("lists");
    (states, states + of("uploads") + of("created") + of("downloads") + of("cancellations"))
}

/// Rows of the source that a run has read, as its log says.
fn rows_read(log: &str) -> u64 {
    let opened = log.lines().filter(|line| line.contains("batch opened"));
    let decoded =
        opened.filter_map(|line| line.split("decoded=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    decoded.sum()
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let server = serve(&place("serving"), "");

    println!("peak of memory (goal: any more rows within 10 % of {}, below 250 MB)", ROWS[2]);
    let further = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    for rows in ROWS.into_iter().chain(further) {
        let job = make_job(&place(&format!("peak-{rows}")), &server.url, &section(50_000, "1s"), rows);
        let used = run(&job, &["--wait"]);
        println!("  {rows:>9} rows: {:>4.0} MB, of its own {:>4.0} MB", used.peak_mb, used.peak_own_mb);
    }

    println!("CPU of {MEASURED} rows (goal: at most 1.6 times that of single requests)");
    let single = run(&make_job(&place("single"), &server.url, "", MEASURED), &[]);
    let batched =
        run(&make_job(&place("batched"), &server.url, &section(50_000, "1s"), MEASURED), &["--wait"]);
    for (name, used) in [("single requests", single), ("by batch", batched)] {
        println!("  {name:<15} {:>6.1} µs a row", used.cpu * 1e6 / MEASURED as f64);
    }
    println!("  {:.2} times", batched.cpu / single.cpu);

    println!("answers taken in and written (goal: 20000 lines a second)");
    let job = make_job(&place("taken-in"), &server.url, &section(50_000, "1s"), MEASURED);
    let before = lines(&server).await;
    run(&job, &[]);
    while lines(&server).await < before + MEASURED as u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The files of answers are made after the last line.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = run(&job, &[]);
    println!("  {:>6.0} lines a second, {:.1} s", MEASURED as f64 / used.wall, used.wall);
    drop(server);

    let server = serve(&place("holding"), "stuck = \"in_progress\"\n");
    println!(
        "a run with nothing to do while {MEASURED} rows are submitted (goal: 2 s, 3 requests, no row read)"
    );
    let job = make_job(&place("waiting"), &server.url, &section(50_000, "1s"), MEASURED);
    run(&job, &[]);
    let (_, before) = polls(&server).await;
    let started = clock::now();
    let mut command = enrich();
    command.arg("run").arg(&job).env("RUST_LOG", "enrich=debug");
    let ended = command.output().expect("a run");
    let took = (clock::now() - started).as_secs_f64();
    assert!(ended.status.success(), "a run failed");
    let (_, after) = polls(&server).await;
    let read = rows_read(&String::from_utf8_lossy(&ended.stderr));
    println!("  {took:.2} s, {} requests, {read} rows read", after - before);

    println!("requests for states with {SUBMISSIONS} batches open (goal: 1 a poll)");
    let rows = SUBMISSIONS * 50;
    let job = make_job(&place("open"), &server.url, &section(50, "1s"), rows);
    run(&job, &[]);
    let (before, _) = polls(&server).await;
    let mut child = enrich().args(["run", "--quiet", "--wait"]).arg(&job).spawn().expect("a run");
    tokio::time::sleep(Duration::from_secs(POLLED_SECONDS)).await;
    child.kill().expect("a kill");
    child.wait().expect("its end");
    let (after, _) = polls(&server).await;
    println!("  {:.1} a poll", (after - before) as f64 / POLLED_SECONDS as f64);
}

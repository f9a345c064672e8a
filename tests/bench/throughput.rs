//! Speed and memory of whole runs, side by side with bare reqwest on the same bodies and with an HTTP load generator, on
//! the same server: short and long answers, typed ones, two providers, and vectors in both encodings.
//!
//! `cargo bench --bench throughput`; needs two cores and `taskset`, of util-linux: the simulator has the first core, and
//! each client the second. `wrk` or `oha` is optional. Every figure is the median
//! of interleaved runs; what matters are the ratios.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod bare;
mod cases;
mod measure;

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use cases::{BATCH, CASES, CONCURRENCY, RUNNING, SOURCE_ROWS, make_source, run, server, text};
use enrich::clock;
use enrich::ident::{BatchId, Fingerprint, Lineage, RowKey};
use enrich::journal::{JournalHeader, JournalWriter, Record, RecordedOutcome};
use measure::{Server, Used, median, watch};

const ROUNDS: usize = 5;
const PROMPT: &str = "Summarize in one sentence: ";
/// Small enough that 10,000 rows fill the window of four batches too.
const SMALL_BATCH: u32 = 1_000;

/// Requests per second of `wrk` or `oha` posting the body of one row; none if neither is installed.
fn load(folder: &Path, url: &str, seconds: u32) -> Option<(&'static str, f64)> {
    let body = serde_json::json!({
        "model": "m",
        "messages": [{"role": "user", "content": format!("{PROMPT}{}", text(1))}],
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
        submission: None,
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

/// What the runs of a case used, and those of the bare client.
#[derive(Default)]
struct CaseFigures {
    rates: Vec<f64>,
    cpus: Vec<f64>,
    bare_rates: Vec<f64>,
    bare_cpus: Vec<f64>,
}

fn main() {
    if bare::acts(CONCURRENCY, PROMPT, text) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder, SOURCE_ROWS);
    let servers: Vec<Server> = CASES.iter().map(|case| server(folder, case, "")).collect();
    let mut measured: Vec<CaseFigures> = CASES.iter().map(|_| CaseFigures::default()).collect();
    let (mut loads, mut name, mut journal) = (Vec::new(), None, Vec::new());
    for _ in 0..ROUNDS {
        for ((case, server), measured) in CASES.iter().zip(&servers).zip(&mut measured) {
            let answers = case.answers();
            let used = run(folder, &case.job(&server.url, BATCH), case.rows);
            measured.rates.push(answers / used.wall);
            measured.cpus.push(used.cpu / answers * 1e6);
            let rows = case.rows * i64::try_from(case.providers).expect("few");
            let bare = bare::command(RUNNING, &server.url, rows, case.bodies).spawn();
            let used = watch(bare.expect("bare reqwest"));
            measured.bare_rates.push(answers / used.wall);
            measured.bare_cpus.push(used.cpu / answers * 1e6);
        }
        journal.push(journal_cost(folder) * 1e6);
        if let Some((tool, rate)) = load(folder, &servers[0].url, 4) {
            name = Some(tool);
            loads.push(rate);
        }
    }
    println!(
        "zero latency, rows of 430 characters, {CONCURRENCY} at once, medians of {ROUNDS} interleaved runs"
    );
    println!("                          answers/s  bare reqwest  share  CPU µs  bare µs  share");
    let mut cpus = Vec::new();
    for (case, measured) in CASES.iter().zip(measured) {
        let CaseFigures { rates, cpus: own, bare_rates, bare_cpus } = measured;
        let (rate, cpu, bare, bare_cpu) = (median(rates), median(own), median(bare_rates), median(bare_cpus));
        println!(
            "  {:<22}  {rate:>9.0}  {bare:>12.0}  {:>5.2}  {cpu:>6.1}  {bare_cpu:>7.1}  {:>5.2}",
            case.name,
            rate / bare,
            bare_cpu / cpu
        );
        cpus.push(cpu);
    }
    println!("  goals: share 0.5; 35 µs for short answers; typed 1.3 x that ({:.2})", cpus[2] / cpus[0]);
    match name {
        Some(tool) => println!("  {tool}, requests per second {:>10.0}", median(loads)),
        None => println!("  wrk or oha: neither is installed"),
    }
    let kept = median(journal);
    println!("  journal append, µs       {kept:>10.2}   (goal: 2; {:.1} % of a row)", kept / cpus[0] * 100.0);
    drop(servers);

    let case = &CASES[0];
    let quick = server(folder, case, "");
    let mut peaks = Vec::new();
    for rows in [10_000, 100_000, SOURCE_ROWS] {
        let text = case.job(&quick.url, SMALL_BATCH);
        let used: Vec<Used> = (0..3).map(|_| run(folder, &text, rows)).collect();
        let peak = median(used.iter().map(|used| used.peak_mb).collect());
        let own = median(used.iter().map(|used| used.peak_own_mb).collect());
        println!(
            "  peak memory at {rows:>7} rows, MB {peak:>7.0}, of which not the program's file {own:>4.0}"
        );
        peaks.push(peak);
    }
    println!("  memory, large to small   {:>10.2}   (goal: 1.05)", peaks[2] / peaks[0]);
    drop(quick);

    for (kind, sigma, rows) in [("fixed", 0.0, 20_000_i64), ("log-normal", 0.5, 20_000)] {
        let latency = 0.1;
        let slow = server(folder, case, &format!("latency = \"100ms\"\nlatency_sigma = {sigma}\n"));
        // The mean of a log-normal latency whose median is 1.
        let mean = latency * f64::exp(sigma * sigma / 2.0);
        let ideal = f64::from(CONCURRENCY) / mean;
        let text = case.job(&slow.url, BATCH);
        let share = median((0..3).map(|_| rows as f64 / run(folder, &text, rows).wall / ideal).collect());
        println!("  share of C/L, {kind:<10}      {share:>10.3}   (goal: 0.97)");
        // What the same server lets a load generator have: its timers are late, a run cannot be faster.
        if let Some((tool, rate)) = load(folder, &slow.url, 20) {
            println!(
                "  the same of {tool}              {:>10.3}   (ratio {:.3})",
                rate / ideal,
                share / (rate / ideal)
            );
        }
    }
}

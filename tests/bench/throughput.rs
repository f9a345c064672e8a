//! Speed and memory of whole runs, side by side with bare reqwest on the same bodies and with an HTTP load generator, on
//! the same server: short and long answers, typed ones, two providers, and vectors in both encodings.
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
use bare::Bodies;
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
/// Rows of the source.
const SOURCE_ROWS: i64 = 400_000;
/// Small enough that 10,000 rows fill the window of four batches too.
const SMALL_BATCH: u32 = 1_000;

/// What is measured.
struct Case {
    name: &'static str,
    /// Lines of the step.
    step: &'static str,
    /// Lines of the simulator.
    simulator: &'static str,
    /// Number of providers, each of which answers for a step of its own.
    providers: usize,
    bodies: Bodies,
    rows: i64,
}

const CHAT: &str = "prompt = \"Summarize in one sentence: {{ text }}\"";
const VECTORS: &str = "kind = \"embedding\"\ndimensions = 256\nprompt = \"{{ text }}\"";
/// Answers of 100 tokens.
const LONG_ANSWERS: &str = "completion_tokens = 100\nanswers = [\"The reviewer says that the kettle boils fast and pours \
                            well, that the lid sits tight after months of daily use, and that the handle stays cool; on \
                            the other hand the switch is hard to reach, the scale on the inside cannot be read once it is \
                            dark in the kitchen, and the cord is short. It was bought as a present, arrived a day late, \
                            and would be bought again at this price by four of five people who were asked about it.\"]";

const CASES: [Case; 6] = [
    Case {
        name: "short answers",
        step: CHAT,
        simulator: "",
        providers: 1,
        bodies: Bodies::Chat,
        rows: 100_000,
    },
    Case {
        name: "answers of 100 tokens",
        step: CHAT,
        simulator: LONG_ANSWERS,
        providers: 1,
        bodies: Bodies::Chat,
        rows: 100_000,
    },
    Case {
        name: "typed answers",
        step: "fields = { mood = [\"good\", \"bad\"], urgency = \"int\", tags = \"[string]\" }\n\
               prompt = \"Summarize in one sentence: {{ text }}\"",
        simulator: "",
        providers: 1,
        bodies: Bodies::Chat,
        rows: 100_000,
    },
    Case {
        name: "two providers",
        step: CHAT,
        simulator: "",
        providers: 2,
        bodies: Bodies::Chat,
        rows: 50_000,
    },
    Case {
        name: "vectors in base64",
        step: VECTORS,
        simulator: "",
        providers: 1,
        bodies: Bodies::Vectors { together: 32, is_base64: true },
        rows: 200_000,
    },
    Case {
        name: "vectors as numbers",
        step: VECTORS,
        simulator: "",
        providers: 1,
        bodies: Bodies::Vectors { together: 32, is_base64: false },
        rows: 200_000,
    },
];

impl Case {
    fn job(&self, url: &str, batch: u32) -> String {
        let mut text = format!(
            "app_id = \"bench\"\n[source]\npath = \"source.parquet\"\n[target]\npath = \"target\"\n\
             [batch]\nmax_rows = {batch}\n"
        );
        let (together, encoding) = match self.bodies {
            Bodies::Chat => (1, ""),
            Bodies::Vectors { together, is_base64: true } => (together, "encoding = \"base64\"\n"),
            Bodies::Vectors { together, is_base64: false } => (together, "encoding = \"float\"\n"),
        };
        for provider in 0..self.providers {
            let _ = write!(
                text,
                "[provider.p{provider}]\nbase_url = \"{url}\"\nmodel = \"m{provider}\"\n\
                 max_concurrency = {CONCURRENCY}\ninputs_per_request = {together}\n"
            );
        }
        for provider in 0..self.providers {
            let step = self.step;
            let _ = write!(
                text,
                "[[step]]\noutput = \"answer{provider}\"\nprovider = \"p{provider}\"\n{encoding}{step}\n"
            );
        }
        let _ = write!(text, "[simulator]\n{}\n", self.simulator);
        text
    }

    /// Number of answers of a run.
    fn answers(&self) -> f64 {
        self.rows as f64 * self.providers as f64
    }
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

/// One whole run into a new target, over so many rows.
fn run(folder: &Path, job_text: &str, rows: i64) -> Used {
    let target = folder.join("target");
    let _ = std::fs::remove_dir_all(&target);
    let job = folder.join("job.toml");
    std::fs::write(&job, job_text).expect("a job file");
    let mut command = pinned(RUNNING);
    let command = command.args(["run", "--quiet", "--max-rows", &rows.to_string()]).arg(&job);
    watch(command.stderr(Stdio::inherit()).spawn().expect("a run"))
}

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
struct Measured {
    rates: Vec<f64>,
    cpus: Vec<f64>,
    bare_rates: Vec<f64>,
    bare_cpus: Vec<f64>,
}

/// Starts a simulator on a core of its own.
fn server(folder: &Path, case: &Case, simulator: &str) -> Server {
    let text = case.job("simulator", BATCH) + simulator;
    Server::start(pinned(SERVING), folder, &text)
}

fn main() {
    if bare::acts(CONCURRENCY, PROMPT, text) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder, SOURCE_ROWS);
    let servers: Vec<Server> = CASES.iter().map(|case| server(folder, case, "")).collect();
    let mut measured: Vec<Measured> = CASES.iter().map(|_| Measured::default()).collect();
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
        let Measured { rates, cpus: own, bare_rates, bare_cpus } = measured;
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

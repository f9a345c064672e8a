//! What the program itself takes: calls that wake threads, CPU with one and with four worker threads and at a paced
//! rate, the delay between an answer and its record, and the size of the program.
//!
//! `cargo bench --bench overhead`; needs two cores, `taskset`, of util-linux, and `strace`. Runs that are compared are
//! interleaved.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod bare;
#[expect(dead_code, reason = "other benchmarks use the rest")]
mod cases;
mod measure;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use cases::{BATCH, BenchCase, CASES, CONCURRENCY, RUNNING, RequestKind, SERVING, make_source, server, text};
use enrich::clock;
use measure::{Used, enrich, median, pinned, watch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ROUNDS: usize = 5;
const ROWS: i64 = 100_000;
/// Numbers of worker threads that are compared.
const WORKERS: [u32; 2] = [1, 4];
const TRACED_ROWS: i64 = 20_000;
const PACED_ROWS: i64 = 1_000;
const PER_SECOND: u32 = 100;
const PROMPT: &str = "Summarize in one sentence: ";

/// Prepares a run into a new target with so many worker threads. `tracer` stands before the program.
fn prepare(folder: &Path, job_text: &str, rows: i64, workers: u32, tracer: &[&str]) -> Command {
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let job = folder.join("job.toml");
    std::fs::write(&job, job_text).expect("a job file");
    let mut command = if tracer.is_empty() {
        pinned(RUNNING)
    } else {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &RUNNING.to_string()]).args(tracer).arg(enrich().get_program());
        command
    };
    command.args(["run", "--quiet", "--max-rows", &rows.to_string()]).arg(&job).stderr(Stdio::inherit());
    command.env("TOKIO_WORKER_THREADS", workers.to_string());
    command
}

fn run(folder: &Path, job_text: &str, rows: i64, workers: u32) -> Used {
    watch(prepare(folder, job_text, rows, workers, &[]).spawn().expect("a run"))
}

/// Calls by name in a table of `strace -c`.
fn calls(text: &str) -> HashMap<&str, f64> {
    let columns = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let calls = columns.filter_map(|columns| Some((*columns.last()?, columns.get(3)?.parse().ok()?)));
    calls.collect()
}

/// Number of system calls of a run, by name.
fn count_calls(folder: &Path, job_text: &str, rows: i64, workers: u32) -> HashMap<String, f64> {
    let counts = folder.join("calls");
    let tracer = ["strace", "-f", "-c", "-o", counts.to_str().expect("a path in UTF-8")];
    let status = prepare(folder, job_text, rows, workers, &tracer).status();
    assert!(status.expect("strace is installed").success(), "the traced run failed");
    let text = std::fs::read_to_string(&counts).expect("counts");
    calls(&text).into_iter().map(|(name, calls)| (name.to_owned(), calls)).collect()
}

/// Answers each request with the number of its row between `#`, and reports when.
async fn answer(mut connection: TcpStream, sent: mpsc::Sender<(i64, Instant)>) {
    let (mut received, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            match connection.read(&mut buffer).await {
                Ok(read) if read > 0 => received.extend_from_slice(&buffer[..read]),
                _ => return,
            }
            continue;
        };
        let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let whole = end + 4 + length.unwrap_or(0);
        if received.len() < whole {
            match connection.read(&mut buffer).await {
                Ok(read) if read > 0 => received.extend_from_slice(&buffer[..read]),
                _ => return,
            }
            continue;
        }
        let body = String::from_utf8_lossy(&received[end + 4..whole]).into_owned();
        received.drain(..whole);
        let row = body.split("Review ").nth(1).and_then(|rest| rest.split(':').next()?.parse().ok());
        let row: i64 = row.expect("a row's number");
        let body = format!(
            "{{\"id\":\"1\",\"object\":\"chat.completion\",\"model\":\"m\",\"choices\":[{{\"index\":0,\
             \"message\":{{\"role\":\"assistant\",\"content\":\"#{row}#\"}},\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":90,\"completion_tokens\":3,\"total_tokens\":93}}}}"
        );
        let length = body.len();
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        if connection.write_all(response.as_bytes()).await.is_err() {
            return;
        }
        let _ = sent.send((row, clock::now()));
    }
}

/// The journals of a job in a target beside which they stand.
fn journals(target: &Path) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(target.join("_checkpoints/bench/journal")) else { return Vec::new() };
    folder.filter_map(Result::ok).map(|entry| entry.path()).collect()
}

/// Milliseconds between the sending of an answer and the moment at which its record is seen in the journal, by a look
/// each 0.2 ms. The first tenth of the rows is left out.
fn delays(folder: &Path, case: &BenchCase, rows: i64) -> Vec<f64> {
    let (sender, sent) = mpsc::channel();
    let (ready, address) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            ready.send(listener.local_addr().expect("its address")).expect("a receiver");
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let _ = connection.set_nodelay(true);
                connections.spawn(answer(connection, sender.clone()));
            }
        });
    });
    let address = address.recv().expect("an address");
    let text = case.job(&format!("http://{address}/v1"), BATCH);
    let mut child = prepare(folder, &text, rows, 1, &[]).spawn().expect("a run");
    let target = folder.join("target");
    let mut files: HashMap<PathBuf, (std::fs::File, Vec<u8>)> = HashMap::new();
    let mut seen: HashMap<i64, Instant> = HashMap::new();
    let status = loop {
        let status = child.try_wait().expect("a child");
        for path in journals(&target) {
            if !files.contains_key(&path)
                && let Ok(file) = std::fs::File::open(&path)
            {
                files.insert(path, (file, Vec::new()));
            }
        }
        for (file, rest) in files.values_mut() {
            if file.read_to_end(rest).is_ok_and(|read| read > 0) {
                let now = clock::now();
                note_rows(rest, |row| {
                    seen.entry(row).or_insert(now);
                });
            }
        }
        if let Some(status) = status {
            break status;
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    assert!(status.success(), "a run failed");
    drop(server);
    let sent: Vec<(i64, Instant)> = sent.try_iter().collect();
    let steady = &sent[sent.len() / 10..];
    let delays = steady.iter().filter_map(|(row, at)| Some(seen.get(row)?.saturating_duration_since(*at)));
    let mut delays: Vec<f64> = delays.map(|delay| delay.as_secs_f64() * 1e3).collect();
    assert!(delays.len() * 100 > steady.len() * 99, "{} of {} seen", delays.len(), steady.len());
    delays.sort_by(f64::total_cmp);
    delays
}

/// Calls `note` with each number between two `#` and drops what was read.
fn note_rows(bytes: &mut Vec<u8>, mut note: impl FnMut(i64)) {
    let mut read = 0;
    let marks: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'#').map(|(at, _)| at).collect();
    for pair in marks.windows(2) {
        let digits = &bytes[pair[0] + 1..pair[1]];
        if let Some(row) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
            note(row);
            read = pair[1];
        }
    }
    bytes.drain(..read);
}

fn main() {
    if bare::acts(CONCURRENCY, PROMPT, text) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder, ROWS);
    let case = &CASES[0];
    // This process serves too; the run has the other core.
    let own = std::process::id().to_string();
    let mut taskset = Command::new("taskset");
    taskset.args(["-cp", &SERVING.to_string(), &own]).stdout(Stdio::null());
    assert!(taskset.status().expect("taskset is installed").success(), "no second core");

    let quick = server(folder, case, "");
    let text = case.job(&quick.url, BATCH);
    println!("zero latency, {CONCURRENCY} at once, one core, medians of {ROUNDS} interleaved runs");
    let mut cpus = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (workers, cpus) in WORKERS.into_iter().zip(&mut cpus) {
            cpus.push(run(folder, &text, ROWS, workers).cpu / ROWS as f64 * 1e6);
        }
    }
    let cpus = cpus.map(median);
    for (workers, cpu) in WORKERS.into_iter().zip(cpus) {
        let calls = count_calls(folder, &text, TRACED_ROWS, workers);
        let of = |name: &str| calls.get(name).copied().unwrap_or_default() / TRACED_ROWS as f64;
        // A thread that waits for events is woken by a write to an eventfd; nothing else of a run writes that way.
        let (futex, write) = (of("futex"), of("write"));
        println!(
            "  {workers} worker threads: {cpu:.1} µs of CPU a row; calls a request: futex {futex:.2}, write {write:.2} \
             (journal and eventfd)"
        );
    }
    println!("  CPU, four to one         {:>10.2}   (goal: 1.15)", cpus[1] / cpus[0]);
    drop(quick);

    let delays = delays(folder, case, ROWS);
    let (half, p99) = (delays[delays.len() / 2], delays[delays.len() * 99 / 100]);
    println!("  answer sent to record seen, ms: median {half:.2}, p99 {p99:.2}   (goal: 5)");

    let paced = server(folder, case, "latency = \"100ms\"\n");
    let limit = format!("max_concurrency = {CONCURRENCY}\nrequests_per_minute = {}\n", PER_SECOND * 60);
    let text = case.job(&paced.url, BATCH).replace(&format!("max_concurrency = {CONCURRENCY}\n"), &limit);
    let (mut own, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let share = |used: Used| used.cpu / used.wall * 100.0;
        own.push(share(run(folder, &text, PACED_ROWS, 1)));
        let mut command =
            bare::paced(bare::command(RUNNING, &paced.url, PACED_ROWS, RequestKind::Chat), PER_SECOND);
        bare.push(share(watch(command.spawn().expect("bare reqwest"))));
    }
    println!(
        "  {PER_SECOND} requests a second, % of a core {:>6.1}   (goal: 2.8; bare reqwest {:.1})",
        median(own),
        median(bare)
    );
    let calls = count_calls(folder, &text, PACED_ROWS, 1);
    let mut calls: Vec<(f64, String)> =
        calls.into_iter().map(|(name, calls)| (calls / PACED_ROWS as f64, name)).collect();
    calls.retain(|(_, name)| name != "total");
    calls.sort_by(|a, b| b.0.total_cmp(&a.0));
    let most: Vec<String> = calls.iter().take(6).map(|(calls, name)| format!("{name} {calls:.1}")).collect();
    println!("    calls a request: {}", most.join(", "));

    let program = std::fs::metadata(enrich().get_program()).expect("the program");
    println!("  size of the program, MB  {:>10.0}   (goal: 150)", program.len() as f64 / 1e6);
}

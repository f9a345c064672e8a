//! What it takes to go on with a job whose source has many files in many commits.
//!
//! `cargo bench --bench planning`: a source of 20,000 files in 2,000 commits, side by side with a tenth of it. A run is
//! killed in the middle with four batches open; then the time and memory of the run that goes on with them and plans
//! one more. Once in the files of the first version, once commit by commit.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod delta_source;
mod measure;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use enrich::clock;
use measure::{Server, Used, enrich, median, watch};
use serde_json::Value;

const ROUNDS: usize = 3;
const FILES_IN_A_COMMIT: usize = 10;
const BATCH: usize = 100;

fn job_text(url: &str, more: &str) -> String {
    format!(
        "app_id = \"bench\"\n[source]\npath = \"source\"\n{more}[target]\npath = \"target\"\n\
         [batch]\nmax_rows = {BATCH}\n\
         [provider.p]\nbase_url = \"{url}\"\nmodel = \"m\"\nmax_concurrency = 64\n\
         [[step]]\noutput = \"answer\"\nprompt = \"Summarize: {{{{ text }}}}\"\n"
    )
}

/// Goes on with a run that was killed after so many rows.
fn resume(folder: &Path, fast: &str, slow: &str, more: &str, rows: usize) -> Used {
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let job = folder.join("job.toml");
    std::fs::write(&job, job_text(fast, more)).expect("a job file");
    let run = |rows: usize| {
        let mut command = enrich();
        command.args(["run", "--quiet", "--max-rows", &rows.to_string()]).arg(&job).stderr(Stdio::inherit());
        command
    };
    watch(run(rows).spawn().expect("a run"));
    std::fs::write(&job, job_text(slow, more)).expect("a job file");
    let mut killed = run(4 * BATCH).spawn().expect("a run");
    let checkpoint = folder.join("target/_checkpoints/bench/checkpoint.json");
    let open = || {
        let text = std::fs::read(&checkpoint).unwrap_or_default();
        let checkpoint: Value = serde_json::from_slice(&text).unwrap_or_default();
        checkpoint["checkpoint"]["planned"].as_array().map_or(0, Vec::len)
    };
    let started = clock::now();
    while open() < 4 && (clock::now() - started).as_secs() < 60 {
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().expect("a kill");
    killed.wait().expect("its end");
    assert_eq!(open(), 4, "batches are open");
    std::fs::write(&job, job_text(fast, more)).expect("a job file");
    watch(run(5 * BATCH).spawn().expect("a run"))
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let sizes = [2_000, 20_000];
    for files in sizes {
        let place = folder.path().join(files.to_string());
        delta_source::make(&place.join("source"), files, FILES_IN_A_COMMIT).await;
    }
    let simulator = |name: &str, latency: &str| {
        let place = folder.path().join(name);
        std::fs::create_dir_all(&place).expect("a folder");
        let text = job_text("simulator", "") + &format!("[simulator]\nlatency = \"{latency}\"\n");
        Server::start(enrich(), &place, &text)
    };
    let (fast, slow) = (simulator("fast", "0ms"), simulator("slow", "60s"));
    println!(
        "a run that goes on with 4 batches of {BATCH} rows and plans one more, medians of {ROUNDS} interleaved rounds"
    );
    for (kind, more) in [("the first version", ""), ("commit by commit", "starting_version = 1\n")] {
        let mut used: Vec<Vec<Used>> = vec![Vec::new(); sizes.len()];
        for _ in 0..ROUNDS {
            for (used, files) in used.iter_mut().zip(sizes) {
                let place = folder.path().join(files.to_string());
                // As far in for both: the rows that are read before it are no part of the question.
                used.push(resume(&place, &fast.url, &slow.url, more, 1_000));
            }
        }
        println!("  in {kind}");
        let of = |of: fn(&Used) -> f64| -> Vec<f64> {
            used.iter().map(|used| median(used.iter().map(of).collect())).collect()
        };
        let (seconds, memory) = (of(|used| used.wall), of(|used| used.peak_mb));
        for (at, files) in sizes.into_iter().enumerate() {
            let (seconds, memory, commits) = (seconds[at], memory[at], files / FILES_IN_A_COMMIT);
            println!(
                "    {files:>6} files in {commits:>5} commits: {seconds:>6.2} s, peak memory {memory:>4.0} MB"
            );
        }
        println!(
            "    ten times the files, ratio   {:>6.2} (to reach: under 2 s), memory {:.2}",
            seconds[1] / seconds[0],
            memory[1] / memory[0]
        );
    }
}

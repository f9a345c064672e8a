//! Where the CPU time of a row goes: microseconds by stage, from a profile with call stacks.
//!
//! `cargo bench --profile profiling --bench stages`; needs `perf`, two cores and `taskset`, of util-linux. The total is
//! that of runs without the profiler (the median of three), the shares are those of its samples. A sample counts for
//! the innermost function on its stack that belongs to a stage; what allocates or copies counts for its caller.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod cases;
mod measure;

use std::path::Path;
use std::process::{Command, Stdio};

use cases::{BATCH, BenchCase, CASES, RUNNING, SOURCE_ROWS, make_source, run, server};
use measure::{enrich, median};

/// The stages, each with parts of the names of its functions. Earlier ones come first where a name fits several.
const STAGES: [(&str, &[&str]); 17] = [
    ("commit", &["deltalake", "delta_kernel", "buoyant_kernel", "enrich::table::", "arrow_json"]),
    (
        "write Parquet",
        &["parquet::column::writer", "parquet::arrow::arrow_writer", "enrich::sink::", "enrich::rows::"],
    ),
    (
        "read",
        &[
            "parquet::arrow::arrow_reader",
            "parquet::arrow::array_reader",
            "parquet::column::reader",
            "enrich::source::",
        ],
    ),
    ("journal", &["enrich::journal::"]),
    ("decode", &["enrich::decode::"]),
    ("render", &["minijinja", "enrich::prompt::"]),
    ("count tokens", &["tiktoken", "enrich::tokens::"]),
    ("fingerprint", &["blake3", "enrich::ident::"]),
    ("admission", &["enrich::admission::", "enrich::budget::"]),
    ("serialise", &["enrich::transport::request_body"]),
    ("parse", &["enrich::wire::"]),
    ("socket", &["hyper", "reqwest", "tokio::net", "mio::", "h2::", "tower", "enrich::transport::"]),
    ("wake others", &["futex_wake", "eventfd", "unpark", "tokio::sync", "tokio::runtime::io::driver"]),
    ("share answers", &["enrich::enricher::sharing", "enrich::cache::"]),
    ("hand out, take in", &["enrich::dispatch::", "enrich::enricher::", "enrich::ledger::", "enrich::run::"]),
    ("figures", &["enrich::metrics::", "enrich::tally::", "enrich::progress::"]),
    ("runtime", &["tokio::"]),
];
const OTHER: usize = STAGES.len();

/// Samples of a run by stage.
fn profile(folder: &Path, case: &BenchCase, job_text: &str) -> Vec<u64> {
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let (job, data) = (folder.join("job.toml"), folder.join("perf.data"));
    std::fs::write(&job, job_text).expect("a job file");
    let mut perf = Command::new("taskset");
    perf.args(["--cpu-list", &RUNNING.to_string(), "perf", "record", "--quiet", "-F", "999"]);
    perf.args(["--call-graph", "dwarf,16384", "-o"]).arg(&data).arg(enrich().get_program());
    perf.args(["run", "--quiet", "--max-rows", &case.rows.to_string()]).arg(&job);
    assert!(perf.status().expect("perf is installed").success(), "the profile failed");
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"]).arg(&data).stderr(Stdio::null());
    let output = script.output().expect("perf is installed");
    let mut samples = vec![0; STAGES.len() + 1];
    for stack in String::from_utf8_lossy(&output.stdout).split("\n\n") {
        // Each line after the first has an address and a function, the innermost first.
        let functions = stack.lines().skip(1);
        let stage_of = |function: &str| {
            STAGES.iter().position(|(_, parts)| parts.iter().any(|part| function.contains(part)))
        };
        if functions.clone().next().is_some() {
            samples[functions.filter_map(stage_of).next().unwrap_or(OTHER)] += 1;
        }
    }
    samples
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    make_source(folder, SOURCE_ROWS);
    let mut columns = Vec::new();
    for case in &CASES {
        let server = server(folder, case, "");
        let text = case.job(&server.url, BATCH);
        let cpu = median((0..3).map(|_| run(folder, &text, case.rows).cpu / case.answers() * 1e6).collect());
        let samples = profile(folder, case, &text);
        let all = samples.iter().sum::<u64>() as f64;
        columns.push((
            case.name,
            cpu,
            samples.into_iter().map(|count| count as f64 / all * cpu).collect::<Vec<_>>(),
        ));
    }
    println!("microseconds of CPU for an answer");
    print!("{:<20}", "");
    columns.iter().for_each(|(name, ..)| print!("{name:>23}"));
    println!();
    for at in 0..=OTHER {
        print!("{:<20}", STAGES.get(at).map_or("other", |(stage, _)| stage));
        columns.iter().for_each(|(.., stages)| print!("{:>23.2}", stages[at]));
        println!();
    }
    print!("{:<20}", "all");
    columns.iter().for_each(|(_, cpu, _)| print!("{cpu:>23.1}"));
    println!();
}

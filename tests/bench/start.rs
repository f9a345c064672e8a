//! What a run costs that has nothing to do, and how soon one that has something sends its first request.
//!
//! `cargo bench --bench start`; the medians of interleaved rounds. Cron starts the program every few minutes: whatever
//! it takes to find out that no row is new is paid all day.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod delta_source;
mod measure;

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use enrich::clock;
use measure::{Server, children_cpu, enrich, median, watch};

const ROUNDS: usize = 15;

/// A job of one step over the folder's table `source`.
fn write_job(folder: &Path, url: &str) -> PathBuf {
    let job = folder.join("job.toml");
    let text = format!(
        "app_id = \"bench\"\n[source]\npath = \"source\"\n[target]\npath = \"target\"\n\
         [provider.p]\nbase_url = \"{url}\"\nmodel = \"m\"\nmax_concurrency = 64\n\
         [[step]]\noutput = \"answer\"\nprompt = \"Summarize: {{{{ text }}}}\"\n"
    );
    std::fs::write(&job, text).expect("a job file");
    job
}

/// A folder of Parquet files that are no table, each with one row.
async fn make_files(folder: &Path, files: usize) {
    let table = folder.join("table");
    delta_source::make(&table, 1, 1).await;
    let file = std::fs::read_dir(&table)
        .expect("a folder")
        .filter_map(Result::ok)
        .find(|entry| entry.path().extension().is_some_and(|extension| extension == "parquet"))
        .expect("a file of the table");
    let data = std::fs::read(file.path()).expect("its bytes");
    std::fs::remove_dir_all(&table).expect("the table is removed");
    let source = folder.join("source");
    std::fs::create_dir_all(&source).expect("a folder");
    for number in 0..files {
        std::fs::write(source.join(format!("part-{number:05}.parquet")), &data).expect("a file");
    }
}

/// Wall time of a run that finds no new row, in milliseconds.
fn rest(job: &Path) -> f64 {
    let started = clock::now();
    let status = enrich().args(["run", "--quiet"]).arg(job).stderr(Stdio::inherit()).status();
    assert!(status.expect("a run").success(), "a run failed");
    (clock::now() - started).as_secs_f64() * 1e3
}

/// Milliseconds from the start of a job's first run until its first request is read.
fn first_request(folder: &Path) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let job = write_job(folder, &format!("http://{}/v1", listener.local_addr().expect("its address")));
    let _ = std::fs::remove_dir_all(folder.join("target"));
    let started = clock::now();
    let mut child = enrich().args(["run", "--quiet"]).arg(&job).stderr(Stdio::null()).spawn().expect("a run");
    let (mut connection, _) = listener.accept().expect("a connection");
    let read = connection.read(&mut [0; 1024]).expect("a request");
    let took = (clock::now() - started).as_secs_f64() * 1e3;
    assert!(read > 0, "the connection was closed");
    child.kill().expect("a kill");
    child.wait().expect("its end");
    took
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let serving = place("serving");
    std::fs::create_dir_all(serving.join("source")).expect("a folder");
    let text = std::fs::read_to_string(write_job(&serving, "simulator")).expect("a job file");
    let server = Server::start(enrich(), &serving, &text);

    println!("nothing to do, medians of {ROUNDS} interleaved rounds (goals: 50 ms, 40 ms of CPU)");
    let mut cases = Vec::new();
    for commits in [80, 10_000] {
        let place = place(&format!("commits-{commits}"));
        delta_source::make(&place.join("source"), commits, 1).await;
        cases.push((format!("Delta, {commits} commits"), place));
    }
    let files = place("files");
    make_files(&files, 10_000).await;
    cases.push(("Parquet, 10000 files".to_owned(), files));
    for (_, place) in &cases {
        let run = enrich().args(["run", "--quiet"]).arg(write_job(place, &server.url)).spawn();
        watch(run.expect("a run"));
    }
    let mut walls: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let mut cpus = vec![0.0; cases.len()];
    for _ in 0..ROUNDS {
        for (at, (_, place)) in cases.iter().enumerate() {
            let before = children_cpu();
            walls[at].push(rest(&place.join("job.toml")));
            cpus[at] += (children_cpu() - before) * 1e3 / ROUNDS as f64;
        }
    }
    for (((name, _), walls), cpu) in cases.iter().zip(walls).zip(cpus) {
        println!("  {name:<22} {:>6.0} ms, {cpu:>4.0} ms of CPU", median(walls));
    }
    // What any program takes that is started and ends.
    let bare = (0..ROUNDS).map(|_| {
        let started = clock::now();
        let status = enrich().arg("--version").stdout(Stdio::null()).status();
        assert!(status.expect("the program").success());
        (clock::now() - started).as_secs_f64() * 1e3
    });
    println!("  {:<22} {:>6.0} ms", "enrich --version", median(bare.collect()));
    drop(server);

    println!("from the start to the first request, medians of {ROUNDS} rounds (goal for 1000 files: 100 ms)");
    let mut cases = Vec::new();
    for files in [1_000, 10_000] {
        let place = place(&format!("first-delta-{files}"));
        delta_source::make(&place.join("source"), files, 100).await;
        cases.push((format!("Delta, {files} files"), place));
    }
    for files in [1_000, 10_000] {
        let place = place(&format!("first-files-{files}"));
        make_files(&place, files).await;
        cases.push((format!("Parquet, {files} files"), place));
    }
    for (name, place) in &cases {
        let times = (0..ROUNDS).map(|_| first_request(place)).collect();
        println!("  {name:<22} {:>6.0} ms", median(times));
    }
}

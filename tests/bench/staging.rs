//! How fast CSV is staged, and in how much memory, beside `arrow-csv` alone.
//!
//! `cargo bench --bench staging -- 5000` does it with a file of 5,000 MB; without a number it has 200 MB. A source is
//! opened as a run opens it, in a process of its own; `arrow-csv` finds out the types and reads the rows.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use enrich::clock;
use enrich::config::{Job, Keys};
use enrich::source::Source;

const USUAL_MB: u64 = 200;

fn write_csv(path: &Path, megabytes: u64) -> u64 {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    let mut written = 0;
    let header = "id,customer,amount,day,at,is_open,comment\n";
    file.write_all(header.as_bytes()).expect("a header");
    for id in 0_u64.. {
        if written >= megabytes * 1_000_000 {
            break;
        }
        let (day, cents) = (1 + id % 28, id * 7_919 % 100_000);
        let line = format!(
            "{id},customer {},{}.{:02},2026-05-{day:02},2026-05-{day:02}T08:{:02}:00Z,{},\"The {id}th comment, which says \"\"something\"\" about the order and goes on for a while\"\n",
            id * 31 % 9_973,
            cents / 100,
            cents % 100,
            id % 60,
            id % 3 == 0
        );
        written += line.len() as u64;
        file.write_all(line.as_bytes()).expect("a row");
    }
    file.flush().expect("a file");
    written
}

/// Stages the file; returns the rows.
fn stage(folder: &Path) -> u64 {
    let text = "app_id = \"bench\"\n[source]\npath = \"source.csv\"\n[target]\npath = \"target\"\n[provider.p]\n\
                base_url = \"simulator\"\nmodel = \"m\"\n[[step]]\noutput = \"o\"\nprompt = \"{{ comment }}\"\n";
    let job = Job::of_text(&folder.join("job.toml"), text, &[], Keys::Unneeded).expect("a job");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let source = Source::open_to_run(&job.source, &job.places.state).await.expect("a source");
        source.rows_after(&enrich::checkpoint::Position::Start).await.expect("rows")
    })
}

fn read_with_arrow(folder: &Path) -> u64 {
    let mut file = File::open(folder.join("source.csv")).expect("the file");
    let (schema, _) =
        Format::default().with_header(true).infer_schema(&mut file, Some(10_000)).expect("a schema");
    file.rewind().expect("the beginning");
    let rows = ReaderBuilder::new(schema.into())
        .with_header(true)
        .with_batch_size(8_192)
        .build(file)
        .expect("a reader");
    rows.map(|rows| rows.expect("rows").num_rows() as u64).sum()
}

/// Peak memory of this process, in MB.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() / 1_000
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [what, folder] = arguments.as_slice() {
        let started = clock::now();
        let folder = Path::new(folder);
        let rows = if what == "stage" { stage(folder) } else { read_with_arrow(folder) };
        let took: Duration = clock::now() - started;
        println!("{rows} rows in {:.2} s, at most {} MB of memory", took.as_secs_f64(), peak_mb());
        return;
    }
    let megabytes = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(USUAL_MB);
    let folder = tempfile::tempdir_in(std::env::current_dir().expect("a folder")).expect("a folder");
    let bytes = write_csv(&folder.path().join("source.csv"), megabytes);
    println!("a CSV file of {} MB", bytes / 1_000_000);
    for what in ["stage", "arrow-csv"] {
        let started = clock::now();
        let own = std::env::current_exe().expect("this program");
        let output = Command::new(own).arg(what).arg(folder.path()).output().expect("a process");
        let took = (clock::now() - started).as_secs_f64();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let speed = bytes as f64 / 1e6 / took;
        println!("{what:>10}: {speed:.0} MB/s; {}", said.trim());
    }
}

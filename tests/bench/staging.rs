//! How fast CSV is staged, and in how much memory, beside `arrow-csv` alone.
//!
//! `cargo bench --bench staging -- 5000` does it with a file of 5,000 MB; without a number it has 200 MB. A source is
//! opened as a run opens it, in a process of its own; `arrow-csv` finds out the types and reads the rows.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;
use std::process::Command;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use enrich::config::{Job, Keys};
use enrich::source::{Source, StagingProgress};

const USUAL_MB: u64 = 200;
const STAGING: &str = "staging";
const ARROW: &str = "arrow-csv";
/// Unit of times in `/proc` (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

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
        let progress = StagingProgress::default();
        let source = Source::open_to_run(&job.source, &job.places.state, progress).await.expect("a source");
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

/// What reading a file took.
struct Measured {
    rows: u64,
    /// Time on cores, in seconds.
    cpu_s: f64,
    /// Peak memory, in MB.
    peak_mb: u64,
}

impl Measured {
    /// What this process took so far.
    fn of_this_process(rows: u64) -> Self {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).expect("Linux");
        let (status, stat) = (text("status"), text("stat"));
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kilobytes: u64 =
            peak.split_whitespace().next().and_then(|text| text.parse().ok()).expect("a peak");
        // Behind the name of the program, which may hold spaces: fields 14 and 15 are time as the user and in the system.
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace().skip(11).take(2);
        let ticks: f64 = fields.map(|ticks| ticks.parse::<f64>().expect("ticks")).sum();
        Measured { rows, cpu_s: ticks / TICKS_PER_SECOND, peak_mb: kilobytes / 1_000 }
    }

    /// Reads what a process has printed.
    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut next = || words.next().expect("three numbers");
        let (rows, cpu_s, peak_mb) = (next().parse(), next().parse(), next().parse());
        Measured { rows: rows.expect("rows"), cpu_s: cpu_s.expect("seconds"), peak_mb: peak_mb.expect("MB") }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [what, folder] = arguments.as_slice() {
        let folder = Path::new(folder);
        let rows = if what == STAGING { stage(folder) } else { read_with_arrow(folder) };
        let Measured { rows, cpu_s, peak_mb } = Measured::of_this_process(rows);
        println!("{rows} {cpu_s} {peak_mb}");
        return;
    }
    let megabytes = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(USUAL_MB);
    let folder = tempfile::tempdir_in(std::env::current_dir().expect("a folder")).expect("a folder");
    let bytes = write_csv(&folder.path().join("source.csv"), megabytes);
    println!("a CSV file of {} MB", bytes / 1_000_000);
    let measured = [STAGING, ARROW].map(|what| {
        let own = std::env::current_exe().expect("this program");
        let output = Command::new(own).arg(what).arg(folder.path()).output().expect("a process");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let measured = Measured::parse(&String::from_utf8_lossy(&output.stdout));
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let speed = bytes as f64 / 1e6 / measured.cpu_s;
        let Measured { rows, peak_mb, .. } = measured;
        println!("{what:>10}: {speed:.0} MB/s a core, {rows} rows, at most {peak_mb} MB of memory");
        measured
    });
    let [staging, arrow] = measured;
    assert_eq!(staging.rows, arrow.rows, "both read every row");
    println!(
        "staging takes {:.2} times the CPU time of arrow-csv, which writes nothing",
        staging.cpu_s / arrow.cpu_s
    );
}

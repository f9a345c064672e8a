//! Fair and foul weather: how long a run takes beside the asyncio script that everybody starts with.
//!
//! `cargo bench --bench weather` plays each kind of weather with both, in turn, each against a simulator of its own
//! that behaves alike, and prints our seconds, the script's, and the ratio; `ENRICH_WEATHER` holds a part of the names of
//! those to play, `ENRICH_WEATHER_ROUNDS` how often. Needs `python3`.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, dead_code, reason = "a benchmark, and what others share")]

#[path = "measure.rs"]
mod measure;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use enrich::clock;
use parquet::arrow::ArrowWriter;

use measure::{Server, enrich, median};

/// A kind of weather.
struct Weather {
    name: &'static str,
    rows: u64,
    at_once: u32,
    /// Limit in requests per minute that both obey; 0 for none.
    per_minute: u32,
    simulator: &'static str,
    /// Whether the job has run before, on other rows.
    again: bool,
}

const FAIR: Weather = Weather {
    name: "",
    rows: 6_000,
    at_once: 64,
    per_minute: 0,
    simulator: "latency = \"50ms\"",
    again: false,
};

fn kinds() -> Vec<Weather> {
    vec![
        Weather { name: "fair", ..FAIR },
        Weather {
            name: "one attempt in twenty fails: 500, reset",
            rows: 2_000,
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.03, status = 500 }, { share = 0.02, hang_up = true }]",
            ..FAIR
        },
        Weather {
            name: "one in five fails: 500, 503",
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.1, status = 500 }, { share = 0.11, status = 503 }]",
            ..FAIR
        },
        Weather {
            name: "one in five is busy: 503 and a delay",
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.2, status = 503, retry_after = \"1\", at_once = true }]",
            ..FAIR
        },
        Weather {
            name: "every second attempt fails: 500",
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.5, status = 500 }]",
            ..FAIR
        },
        Weather { name: "a small job", rows: 200, simulator: "latency = \"1s\"", ..FAIR },
        Weather { name: "a small job again", rows: 100, simulator: "latency = \"1s\"", again: true, ..FAIR },
        Weather {
            name: "many at once",
            rows: 20_000,
            at_once: 256,
            simulator: "latency = \"200ms\"",
            ..FAIR
        },
        Weather {
            name: "answers of very different lengths",
            rows: 8_000,
            at_once: 128,
            simulator: "latency = \"300ms\"\nlatency_sigma = 1.0",
            ..FAIR
        },
        Weather {
            name: "a quota that is told",
            rows: 3_000,
            per_minute: 6_000,
            simulator: "latency = \"200ms\"\nrequests = { per_minute = 6_000 }",
            ..FAIR
        },
        Weather {
            name: "one request in two hundred is never answered",
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.005, delay = \"1h\" }]",
            ..FAIR
        },
        Weather {
            name: "429 for the first ten seconds",
            rows: 2_000,
            simulator: "latency = \"50ms\"\nphase = [{ after = \"0s\", lasts = \"10s\", status = 429, retry_after = \"2\" }]",
            ..FAIR
        },
        Weather {
            name: "429 for ten seconds in the middle",
            rows: 10_000,
            simulator: "latency = \"50ms\"\nphase = [{ after = \"4s\", lasts = \"10s\", status = 429, retry_after = \"2\" }]",
            ..FAIR
        },
        Weather {
            name: "one request in fifty gets a 429",
            rows: 10_000,
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.02, status = 429, at_once = true }]",
            ..FAIR
        },
        Weather {
            name: "one in ten gets a 429",
            rows: 10_000,
            simulator: "latency = \"50ms\"\nfault = [{ share = 0.1, status = 429, at_once = true }]",
            ..FAIR
        },
    ]
}

fn main() {
    let only = std::env::var("ENRICH_WEATHER").unwrap_or_default();
    let rounds = std::env::var("ENRICH_WEATHER_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    println!("| weather | rows | at once | ours, s | script, s | ours / script | rows lost, ours | script |");
    println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
    for weather in kinds().iter().filter(|weather| weather.name.contains(&only)) {
        let (mut ours, mut script, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut lost, mut script_lost) = (0, 0);
        for _ in 0..rounds {
            let (seconds, rows) = run_enrich(weather);
            lost += rows;
            let (script_seconds, rows) = run_script(weather);
            script_lost += rows;
            ours.push(seconds);
            script.push(script_seconds);
            ratios.push(seconds / script_seconds);
        }
        println!(
            "| {} | {} | {} | {:.1} | {:.1} | {:.2} | {lost} | {script_lost} |",
            weather.name,
            weather.rows,
            weather.at_once,
            median(ours),
            median(script),
            median(ratios)
        );
    }
}

fn server(folder: &Path, weather: &Weather) -> Server {
    let job = format!(
        "app_id = \"s\"\n[source]\npath = \"s\"\n[target]\npath = \"t\"\n[provider.p]\nbase_url = \"simulator\"\nmodel = \"m\"\n\
         [[step]]\noutput = \"o\"\nprompt = \"p\"\n[simulator]\n{}\n",
        weather.simulator
    );
    Server::start(enrich(), folder, &job)
}

/// Seconds that a run takes, and the rows that end as errors.
fn run_enrich(weather: &Weather) -> (f64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let source = path.join("source");
    std::fs::create_dir(&source).unwrap();
    let server = server(path, weather);
    let limit = match weather.per_minute {
        0 => String::new(),
        per_minute => format!("requests_per_minute = {per_minute}\n"),
    };
    let job = format!(
        "app_id = \"w\"\n[source]\npath = \"source\"\n[target]\npath = \"target\"\n[provider.p]\nbase_url = \"{}\"\n\
         model = \"m\"\nmax_concurrency = {}\n{limit}[[step]]\noutput = \"answer\"\n\
         prompt = \"Row {{{{ id }}}}: {{{{ text }}}}\"\n",
        server.url, weather.at_once
    );
    let file = path.join("job.toml");
    std::fs::write(&file, job).unwrap();
    if weather.again {
        write_rows(&source.join("before.parquet"), 1_000_000, weather.rows * 2);
        run(&file);
    }
    write_rows(&source.join("rows.parquet"), 0, weather.rows);
    let started = clock::now();
    let summary = run(&file);
    let seconds = (clock::now() - started).as_secs_f64();
    let lost = summary["errors"].as_object().expect("errors by class").values();
    (seconds, lost.filter_map(serde_json::Value::as_u64).sum())
}

/// Runs a job; its summary.
fn run(file: &Path) -> serde_json::Value {
    let output = enrich()
        .args(["run", "--summary", "json"])
        .arg(file)
        .stderr(Stdio::null())
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "a run failed: {}", output.status);
    serde_json::from_slice(&output.stdout).expect("a summary")
}

/// Seconds that the script takes, and the rows that it gives up.
fn run_script(weather: &Weather) -> (f64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), weather);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/weather.py");
    let started = clock::now();
    let output = Command::new("python3")
        .arg(script)
        .arg(&server.url)
        .args([weather.rows.to_string(), weather.at_once.to_string(), weather.per_minute.to_string()])
        .output()
        .expect("python3 runs");
    let seconds = (clock::now() - started).as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lost = text.split_whitespace().nth(1).and_then(|lost| lost.parse().ok()).expect("two counts");
    (seconds, lost)
}

fn write_rows(path: &Path, first: i64, rows: u64) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, false),
    ]));
    let ids = first..first + i64::try_from(rows).unwrap();
    let texts = StringArray::from_iter_values(ids.clone().map(|_| "what is it?"));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(texts)],
    )
    .unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

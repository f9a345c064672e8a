//! Bare reqwest on the bodies of a run: JSON in, JSON out, and nothing else. It is what a run's speed is held against.
//!
//! A benchmark starts itself once more, with the address of the server in the environment, so that the time and memory
//! of this client alone are watched.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use enrich::clock;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::cases::RequestKind;

const URL: &str = "ENRICH_BENCH_BARE_URL";
const ROWS: &str = "ENRICH_BENCH_BARE_ROWS";
const BODIES: &str = "ENRICH_BENCH_BARE_BODIES";
const PER_SECOND: &str = "ENRICH_BENCH_BARE_PER_SECOND";

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: [BareMessage<'a>; 1],
}

#[derive(Serialize)]
struct BareMessage<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Deserialize)]
struct ChatResponse {
    choices: Vec<BareChoice>,
}

#[derive(Deserialize)]
struct BareChoice {
    message: BareAnswer,
}

#[derive(Deserialize)]
struct BareAnswer {
    content: String,
}

#[derive(Serialize)]
struct VectorsRequest<'a> {
    model: &'a str,
    input: &'a [String],
    dimensions: u32,
    encoding_format: &'a str,
}

#[derive(Deserialize)]
struct VectorsResponse<T> {
    data: Vec<BareVector<T>>,
}

#[derive(Deserialize)]
struct BareVector<T> {
    embedding: T,
}

/// The command that starts this benchmark as the bare client, on one core.
pub(crate) fn command(core: usize, url: &str, rows: i64, bodies: RequestKind) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]);
    command.arg(std::env::current_exe().expect("this benchmark")).env(URL, url).env(ROWS, rows.to_string());
    command.env(BODIES, serde_json::to_string(&bodies).expect("JSON"));
    command.stdin(Stdio::null());
    command
}

/// Makes the bare client send so many requests a second, each when its time has come.
#[allow(dead_code, reason = "not every benchmark paces it")]
pub(crate) fn paced(mut command: Command, per_second: u32) -> Command {
    command.env(PER_SECOND, per_second.to_string());
    command
}

/// Acts as the bare client if this process was started as one. Returns whether it was. `text` is that of a row, and
/// `prompt` what its prompt begins with.
pub(crate) fn acts(concurrency: u32, prompt: &'static str, text: fn(i64) -> String) -> bool {
    let (Ok(url), Ok(rows)) = (std::env::var(URL), std::env::var(ROWS)) else { return false };
    let rows = rows.parse().expect("a number of rows");
    let bodies = serde_json::from_str(&std::env::var(BODIES).expect("bodies")).expect("bodies");
    let between =
        std::env::var(PER_SECOND).map(|number| number.parse::<u32>().expect("a number of requests"));
    let between = between.map_or(Duration::ZERO, |per_second| Duration::from_secs(1) / per_second);
    let (path, together) = match bodies {
        RequestKind::Chat => ("chat/completions", 1),
        RequestKind::Vectors { together, .. } => ("embeddings", together),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = reqwest::Client::builder().tcp_nodelay(true).build().expect("a client");
        let address = Arc::<str>::from(format!("{url}/{path}"));
        let next = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        let started = clock::now();
        for _ in 0..concurrency {
            let (client, address, next) = (client.clone(), Arc::clone(&address), Arc::clone(&next));
            tasks.spawn(async move {
                let mut received = 0;
                loop {
                    let row = next.fetch_add(together, Ordering::Relaxed);
                    if row >= rows {
                        return received;
                    }
                    if !between.is_zero() {
                        let requests_before = u32::try_from(row / together).expect("few");
                        sleep_until(started + between * requests_before).await;
                    }
                    let request = client.post(&*address).header("content-type", "application/json");
                    let request = request.body(body(bodies, row, prompt, text));
                    let response = request.send().await.expect("a response");
                    received += read(bodies, &response.bytes().await.expect("a body"));
                }
            });
        }
        let received: usize = tasks.join_all().await.into_iter().sum();
        assert!(received > 0, "no answers");
    });
    true
}

/// The body of the request about the rows from `row` on.
fn body(bodies: RequestKind, row: i64, prompt: &str, text: fn(i64) -> String) -> Vec<u8> {
    match bodies {
        RequestKind::Chat => {
            let content = format!("{prompt}{}", text(row));
            let messages = [BareMessage { role: "user", content: &content }];
            serde_json::to_vec(&ChatRequest { model: "m", messages })
        }
        RequestKind::Vectors { together, is_base64 } => {
            let input: Vec<String> = (row..row + together).map(text).collect();
            let encoding_format = if is_base64 { "base64" } else { "float" };
            serde_json::to_vec(&VectorsRequest {
                model: "m",
                input: &input,
                dimensions: 256,
                encoding_format,
            })
        }
    }
    .expect("a body")
}

/// Reads an answer and returns how many characters or numbers it has.
fn read(bodies: RequestKind, body: &[u8]) -> usize {
    match bodies {
        RequestKind::Chat => {
            let response: ChatResponse = serde_json::from_slice(body).expect("an answer");
            response.choices[0].message.content.len()
        }
        RequestKind::Vectors { is_base64: true, .. } => {
            let response: VectorsResponse<&str> = serde_json::from_slice(body).expect("vectors");
            let bytes =
                response.data.iter().map(|vector| BASE64_STANDARD.decode(vector.embedding).expect("base64"));
            bytes.map(|bytes| bytes.len() / 4).sum()
        }
        RequestKind::Vectors { is_base64: false, .. } => {
            let response: VectorsResponse<Vec<f32>> = serde_json::from_slice(body).expect("vectors");
            response.data.iter().map(|vector| vector.embedding.len()).sum()
        }
    }
}

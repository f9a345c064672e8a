//! Bare reqwest on the bodies of a run: JSON in, JSON out, and nothing else. It is what a run's speed is held against.
//!
//! A benchmark starts itself once more, with the address of the server in the environment, so that the time and memory
//! of this client alone are watched.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

const URL: &str = "ENRICH_BENCH_BARE_URL";
const ROWS: &str = "ENRICH_BENCH_BARE_ROWS";

#[derive(Serialize)]
struct BareRequest<'a> {
    model: &'a str,
    messages: [BareMessage<'a>; 1],
}

#[derive(Serialize)]
struct BareMessage<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Deserialize)]
struct BareResponse {
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

/// The command that starts this benchmark as the bare client, on one core.
pub(crate) fn command(core: usize, url: &str, rows: i64) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]);
    command.arg(std::env::current_exe().expect("this benchmark")).env(URL, url).env(ROWS, rows.to_string());
    command.stdin(Stdio::null());
    command
}

/// Acts as the bare client if this process was started as one. Returns whether it was.
pub(crate) fn acts(concurrency: u32, prompt: fn(i64) -> String) -> bool {
    let (Ok(url), Ok(rows)) = (std::env::var(URL), std::env::var(ROWS)) else { return false };
    let rows = rows.parse().expect("a number of rows");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = reqwest::Client::builder().tcp_nodelay(true).build().expect("a client");
        let address = Arc::<str>::from(format!("{url}/chat/completions"));
        let next = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..concurrency {
            let (client, address, next) = (client.clone(), Arc::clone(&address), Arc::clone(&next));
            tasks.spawn(async move {
                let mut characters = 0;
                loop {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    if row >= rows {
                        return characters;
                    }
                    let content = prompt(row);
                    let messages = [BareMessage { role: "user", content: &content }];
                    let body = serde_json::to_vec(&BareRequest { model: "m", messages }).expect("a body");
                    let request = client.post(&*address).header("content-type", "application/json");
                    let response = request.body(body).send().await.expect("a response");
                    let body = response.bytes().await.expect("a body");
                    let response: BareResponse = serde_json::from_slice(&body).expect("an answer");
                    characters += response.choices[0].message.content.len();
                }
            });
        }
        let characters: usize = tasks.join_all().await.into_iter().sum();
        assert!(characters > 0, "no answers");
    });
    true
}

//! `enrich serve`, and what its clients say to it.

use std::io::{BufRead, BufReader, Cursor};
use std::process::{Child, Command, Stdio};

use arrow::array::AsArray;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use super::World;

/// The sections of a job that is served: no source, no target, and so many rows in its window.
pub fn served_job(world: &World, provider: &str, rows: u32) -> String {
    let job = world.usual_job(provider).replace("[source]\npath = \"source\"\n", "");
    let ends = format!("[checkpoint]\npath = \"state\"\n[window]\nmax_rows = {rows}");
    job.replace("[target]\npath = \"target\"", &ends)
}

/// A server that runs.
pub struct Served {
    pub child: Child,
    pub url: String,
    pub client: reqwest::Client,
}

impl Served {
    /// Starts the server of a world's job on a free port.
    pub fn start(world: &World, more: &[&str]) -> Served {
        Served::of(world.job_command("serve", &[&["--listen", "127.0.0.1:0"], more].concat()))
    }

    pub fn of(mut command: Command) -> Served {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Served { child, url: url.trim().to_owned(), client: reqwest::Client::new() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Puts a batch and waits for so many seconds at most.
    pub async fn put(&self, id: &str, epoch: u64, wait: u64, rows: &RecordBatch) -> Response {
        let path = format!("/v1/batches/{id}?epoch={epoch}&wait={wait}");
        self.request(Method::PUT, &path).body(stream_of(rows)).send().await.unwrap()
    }

    /// The answers to a batch, which is waited for.
    pub async fn answers(&self, id: &str, epoch: u64, rows: &RecordBatch) -> Vec<Option<String>> {
        let mut response = self.put(id, epoch, 25, rows).await;
        while response.status() == 202 {
            let path = format!("/v1/batches/{id}?epoch={epoch}");
            response = self.request(Method::GET, &path).send().await.unwrap();
        }
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        answers_of(&response.bytes().await.unwrap())
    }

    pub async fn json(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    pub async fn committed(&self, epoch: u64) {
        let path = format!("/v1/epochs/{epoch}/committed");
        assert_eq!(self.request(Method::POST, &path).send().await.unwrap().status(), 204);
    }
}

/// An ID of a batch.
pub fn id_of(number: u64) -> String {
    format!("{number:032x}")
}

/// A batch as a body.
pub fn stream_of(rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &rows.schema()).unwrap();
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// The batch of a body.
pub fn batch_of(body: &[u8]) -> RecordBatch {
    StreamReader::try_new(Cursor::new(body), None).unwrap().next().unwrap().unwrap()
}

/// The column `answer` of a body.
pub fn answers_of(body: &[u8]) -> Vec<Option<String>> {
    let batch = batch_of(body);
    batch["answer"].as_string::<i32>().iter().map(|answer| answer.map(ToOwned::to_owned)).collect()
}

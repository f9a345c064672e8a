//! What `enrich serve` promises while everything about it fails: clients that come and go and cut their rows in other
//! ways, a provider with faults, and a server that is killed or stopped at any moment.

use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use enrich::clock;
use enrich::config::{FaultSpec, SimulatorSpec, Span, WrongForm};
use enrich::simulator::{Gate, answer_to};
use reqwest::{Client, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::served::{Served, answers_of, batch_of, id_of, served_job, stream_of};
use crate::support::{
    PATIENT, World, fault, prompt_of, rows, send, text_of, until, wait, with_faults, wrong,
};

const CLIENTS: u64 = 4;
const IN_FLIGHT: u64 = 8;
const ROWS_OF_EPOCH: u64 = 150;
const JUDGE: &str = "[[step]]\noutput = \"verdict\"\nprompt = \"Judge {{ answer }}\"\n";

/// A client that posts all rows of each epoch, cut in its own way.
struct PostingClient {
    client: Client,
    url: watch::Receiver<String>,
    random: fastrand::Rng,
}

impl PostingClient {
    async fn enrich(&mut self, epoch: u64) {
        let first = i64::try_from(epoch * ROWS_OF_EPOCH).unwrap();
        let mut ids: Vec<i64> = (first..first + i64::try_from(ROWS_OF_EPOCH).unwrap()).collect();
        self.random.shuffle(&mut ids);
        let mut left = ids.as_slice();
        while !left.is_empty() {
            let (part, rest) = left.split_at(self.random.usize(1..=left.len().min(40)));
            let outcomes = self.outcomes(epoch, part).await;
            let [answers, verdicts] = ["answer", "verdict"].map(|column| outcomes[column].as_string::<i32>());
            for ((id, answer), verdict) in part.iter().zip(answers).zip(verdicts) {
                let expected = answer_to(&prompt_of(*id));
                assert_eq!(answer, Some(expected.as_str()), "row {id}");
                assert_eq!(verdict, Some(answer_to(&format!("Judge {expected}")).as_str()), "row {id}");
            }
            left = rest;
        }
    }

    /// Asks until the outcomes are there, and breaks off at random.
    async fn outcomes(&mut self, epoch: u64, ids: &[i64]) -> RecordBatch {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(|id| text_of(*id))));
        let body = stream_of(&RecordBatch::try_from_iter([("text", texts)]).unwrap());
        let name = id_of(self.random.u64(..));
        let mut method = Method::PUT;
        loop {
            let url = self.url.borrow().clone();
            let path = format!("{url}/v1/batches/{name}?epoch={epoch}&wait={}", self.random.u8(0..3));
            let request = self.client.request(method.clone(), path).body(body.clone()).send();
            let patience = Duration::from_millis(match self.random.u8(..4) {
                0 => self.random.u64(..50),
                _ => 60_000,
            });
            method = match tokio::time::timeout(patience, request).await {
                Ok(Ok(response)) => match response.status().as_u16() {
                    200 => {
                        // The server may be killed while it sends.
                        if let Ok(body) = response.bytes().await {
                            return batch_of(&body);
                        }
                        Method::PUT
                    }
                    202 => Method::GET,
                    404 => Method::PUT,
                    503 => {
                        assert!(response.headers().contains_key("retry-after"));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Method::PUT
                    }
                    status => panic!("{status}: {}", response.text().await.unwrap()),
                },
                Ok(Err(_)) => {
                    // The server is away.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Method::PUT
                }
                // The client comes back later.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(self.random.u64(..200))).await;
                    Method::PUT
                }
            };
        }
    }
}

/// Ends the server so often while clients post rows to it: 5 times, or as often as `ENRICH_SERVE_ENDINGS` says, with an
/// epoch for each.
async fn soak(share: &str) {
    let endings: u64 = std::env::var("ENRICH_SERVE_ENDINGS").map_or(5, |text| text.parse().unwrap());
    let seed = std::env::var("ENRICH_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let simulator = SimulatorSpec {
        latency: Some(Span(Duration::from_millis(5))),
        latency_sigma: 0.8,
        seed,
        ..with_faults(vec![
            FaultSpec { status: Some(429), share: 0.05, times: Some(2), ..fault() },
            FaultSpec { status: Some(500), share: 0.05, times: Some(2), ..fault() },
            FaultSpec { hang_up: true, share: 0.05, times: Some(2), ..fault() },
        ])
    };
    let world = World::new(simulator).await;
    let job = served_job(&world, PATIENT, 100);
    let job = job.replace("max_concurrency = 4", &format!("max_concurrency = {IN_FLIGHT}"));
    world.write_text(&format!(
        "{}{JUDGE}",
        job.replace("output = \"answer\"\n", &format!("output = \"answer\"\n{share}"))
    ));

    let mut served = Served::start(&world, &["--keep", "300ms"]);
    let (url, urls) = watch::channel(served.url.clone());
    for epoch in 0..endings {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client =
                PostingClient { client: Client::new(), url: urls.clone(), random: random.fork() };
            clients.spawn(async move { client.enrich(epoch).await });
        }
        let moment = world.simulator.counts().answered + random.u64(..2 * ROWS_OF_EPOCH);
        let give_up = clock::now() + Duration::from_secs(60);
        while world.simulator.counts().answered < moment && !clients.is_empty() && clock::now() < give_up {
            if let Some(done) = clients.try_join_next() {
                done.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let again = world.simulator.counts().paid_again();
        let is_killed = random.bool();
        if is_killed {
            served.child.kill().unwrap();
            served.child.wait().unwrap();
        } else {
            send(&served.child, "TERM");
            wait(served.child).await.assert_status(0);
        }
        world.settle().await;
        served = Served::start(&world, &["--keep", "300ms"]);
        url.send_replace(served.url.clone());
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        let more = world.simulator.counts().paid_again() - again;
        println!("epoch {epoch}, killed {is_killed}: {more} again");
        assert!(more <= if is_killed { IN_FLIGHT } else { 0 }, "{more} again");
        assert_eq!(served.json("/v1/status").await["epochs"][epoch.to_string()], 2 * ROWS_OF_EPOCH);
        served.committed(epoch).await;
    }
    assert_eq!(world.simulator.counts().answered_prompts, 2 * ROWS_OF_EPOCH * endings);
    // What nobody waits for leaks nothing.
    let give_up = clock::now() + Duration::from_secs(60);
    loop {
        let status = served.json("/v1/status").await;
        if (status["open_rows"].as_u64(), status["open_bytes"].as_u64()) == (Some(0), Some(0)) {
            assert!(status["epochs"].as_object().unwrap().is_empty(), "{status}");
            break;
        }
        assert!(clock::now() < give_up, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    send(&served.child, "TERM");
    wait(served.child).await.assert_status(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endings_of_the_server_lose_no_row_and_pay_only_for_what_was_in_flight() {
    soak("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endings_of_the_server_pay_only_for_what_was_in_flight_where_rows_share_nothing() {
    soak("share = false\n").await;
}

fn expected(ids: Range<i64>) -> Vec<Option<String>> {
    ids.map(|id| Some(answer_to(&prompt_of(id)))).collect()
}

async fn end(served: Served) {
    send(&served.child, "TERM");
    wait(served.child).await.assert_status(0);
}

/// Rows of one column.
fn column(name: &str, values: impl Into<ArrayRef>) -> RecordBatch {
    RecordBatch::try_from_iter([(name, values.into())]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_being_repaired_for_one_batch_is_not_repaired_for_another() {
    for share in ["", "share = false\n"] {
        // The first answer to each row is not what the step asks for.
        let faults = with_faults(vec![wrong(WrongForm::ExtraField, 1.0, Some(1))]);
        let world =
            World::new(SimulatorSpec { latency: Some(Span(Duration::from_millis(300))), ..faults }).await;
        let job = served_job(&world, PATIENT, 1_000).replace("max_concurrency = 4", "max_concurrency = 64");
        let typed = format!("output = \"answer\"\n{share}fields = {{ mood = [\"good\", \"bad\"] }}\n");
        world.write_text(&job.replace("output = \"answer\"\n", &typed));
        let served = Served::start(&world, &[]);
        assert_eq!(served.put(&id_of(1), 0, 0, &rows(0..20)).await.status(), 202);
        until(&world.simulator, |counts| counts.answered >= 20).await;
        let other = served.put(&id_of(2), 0, 60, &rows(10..20)).await;
        let whole = served.put(&id_of(1), 0, 60, &rows(0..20)).await;
        let [other, whole] = [other.bytes().await.unwrap(), whole.bytes().await.unwrap()];
        assert_eq!(batch_of(&other)["answer"].to_data(), batch_of(&whole)["answer"].slice(10, 10).to_data());
        assert_eq!(batch_of(&other)["answer"].null_count(), 0);
        assert_eq!(world.simulator.counts().answered, 40, "{share}");
        end(served).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_may_be_committed_while_its_rows_are_being_asked() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, PATIENT, 1_000));
    world.simulator.set_gate(Gate::ShutFrom(1));
    let served = Served::start(&world, &[]);
    assert_eq!(served.put(&id_of(1), 0, 0, &rows(0..10)).await.status(), 202);
    world.until_requests(1).await;
    served.committed(0).await;
    assert_eq!(served.put(&id_of(2), 0, 0, &rows(10..20)).await.status(), 202);
    world.simulator.set_gate(Gate::Open);
    assert_eq!(served.answers(&id_of(1), 0, &rows(0..10)).await, expected(0..10));
    assert_eq!(served.answers(&id_of(2), 0, &rows(10..20)).await, expected(10..20));
    served.committed(0).await;
    assert!(served.json("/v1/status").await["epochs"].as_object().unwrap().is_empty());
    end(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stands_for_one_content_also_where_the_client_names_the_keys() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, "", 1_000));
    let served = Served::start(&world, &[]);
    let keyed = |text: &str| {
        let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
        let key: ArrayRef = Arc::new(BinaryArray::from_iter_values([b"k"]));
        RecordBatch::try_from_iter([("text", text), ("__key", key)]).unwrap()
    };
    // Digits are digits in either case.
    let (upper, lower) = ("ABCDEF0123456789", "abcdef0123456789");
    assert_eq!(served.put(upper, 0, 25, &keyed("one")).await.status(), 200);
    assert_eq!(served.put(lower, 0, 25, &keyed("another")).await.status(), 422);
    assert_eq!(served.put(lower, 0, 25, &keyed("one")).await.status(), 200);
    assert_eq!(world.simulator.counts().answered, 1);
    end(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_the_type_of_the_first_rows_cannot_hold_are_refused() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, "", 1_000));
    let served = Served::start(&world, &[]);
    let whole = || column("text", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef);
    let real = |number| column("text", Arc::new(Float64Array::from(vec![1.0, number])) as ArrayRef);
    let answers = served.answers(&id_of(1), 0, &whole()).await;
    assert_eq!(served.answers(&id_of(2), 0, &real(2.0)).await, answers);
    assert_eq!(served.put(&id_of(3), 0, 25, &real(2.5)).await.status(), 400);
    assert_eq!(world.simulator.counts().answered, 2);
    end(served).await;
}

/// A window bounds what is kept of rows, which is what the steps read.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_no_step_reads_take_no_room() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(
        &served_job(&world, PATIENT, 1_000).replace("[window]\n", "[window]\nmax_bytes = \"1MB\"\n"),
    );
    world.simulator.set_gate(Gate::ShutFrom(1));
    let served = Served::start(&world, &[]);
    let wide = |ids: Range<i64>| {
        let large: ArrayRef =
            Arc::new(StringArray::from_iter_values(ids.clone().map(|_| "x".repeat(60_000))));
        RecordBatch::try_from_iter([("text", rows(ids)["text"].clone()), ("large", large)]).unwrap()
    };
    for (number, ids) in [(1, 0..10), (2, 10..20), (3, 20..30)] {
        assert_eq!(served.put(&id_of(number), 0, 0, &wide(ids)).await.status(), 202);
    }
    world.simulator.set_gate(Gate::Open);
    assert_eq!(served.answers(&id_of(3), 0, &wide(20..30)).await, expected(20..30));
    end(served).await;
}

/// Connections and epochs are bounded, so that files are left for journals.
#[tokio::test(flavor = "multi_thread")]
async fn neither_idle_connections_nor_epochs_use_up_the_open_files() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, "", 1_000));
    let serve = world.job_command("serve", &["--listen", "127.0.0.1:0"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 280; exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    limited.current_dir(serve.get_current_dir().unwrap_or(world.folder.path())).stderr(Stdio::null());
    let served = Served::of(limited);
    assert_eq!(served.answers(&id_of(1), 0, &rows(0..1)).await, expected(0..1));
    let address = served.url.strip_prefix("http://").unwrap();
    let mut own = TcpStream::connect(address).await.unwrap();
    let mut idle = Vec::new();
    // As many as use up the open files; the backlog holds those that are not accepted.
    for _ in 0..266 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let body = stream_of(&rows(0..1));
    let head = format!(
        "PUT /v1/batches/{}?epoch=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        id_of(1),
        body.len()
    );
    own.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let mut response = Vec::new();
    own.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    drop(idle);
    let mut status = 200;
    for epoch in 0..200 {
        let response = served.put(&id_of(1), epoch, 60, &rows(0..1)).await;
        status = response.status().as_u16();
        let body = response.bytes().await.unwrap();
        match status {
            200 => assert_eq!(answers_of(&body), expected(0..1)),
            _ => {
                assert!(String::from_utf8_lossy(&body).contains("committed"), "{status}");
                break;
            }
        }
    }
    assert_eq!(status, 400);
    served.committed(0).await;
    assert_eq!(served.answers(&id_of(2), u64::MAX, &rows(0..1)).await, expected(0..1));
    end(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_of_an_epoch_is_repaired_as_the_message_says() {
    let world = World::new(SimulatorSpec::default()).await;
    world.write_text(&served_job(&world, "", 1_000));
    let served = Served::start(&world, &[]);
    assert_eq!(served.answers(&id_of(1), 3, &rows(0..50)).await, expected(0..50));
    end(served).await;
    let journal = world.path("state/journal/served/0000000003.journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&journal, bytes).unwrap();
    let refused = world.on_job("serve", &["--listen", "127.0.0.1:0"]).await;
    refused.assert_says("is damaged at byte").assert_says("--repair");
    world.on_job("check", &["--repair"]).await.assert_status(0);
    let served = Served::start(&world, &[]);
    assert_eq!(served.answers(&id_of(1), 3, &rows(0..50)).await, expected(0..50));
    assert!(world.simulator.counts().answered < 75, "what is intact is kept");
    end(served).await;
}

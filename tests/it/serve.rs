//! `enrich serve` over HTTP: what clients of one server get, and what they pay for. `F` numbers are those of the table in
//! `examples/spark/README.md`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, LargeStringArray, StringArray};
use arrow::datatypes::{DataType, Int32Type};
use arrow::record_batch::RecordBatch;
use enrich::config::{FaultSpec, SimulatorSpec};
use enrich::simulator::{Gate, answer_to};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::served::{Served, answers_of, batch_of, id_of, served_job, stream_of};
use crate::support::{
    PATIENT, World, fault, faulty, prompt_of, refusing, rows, send, slow, stop, until, wait,
};

async fn world(simulator: SimulatorSpec, provider: &str) -> World {
    world_with_window(simulator, provider, 1_000).await
}

async fn world_with_window(simulator: SimulatorSpec, provider: &str, rows: u32) -> World {
    let world = World::new(simulator).await;
    world.write_text(&served_job(&world, provider, rows));
    world
}

/// What the model answers to these rows.
fn expected(ids: std::ops::Range<i64>) -> Vec<Option<String>> {
    ids.map(|id| Some(answer_to(&prompt_of(id)))).collect()
}

/// Ends a server in its order.
async fn end(mut served: Served) {
    stop(&mut served.child, "TERM").await;
    wait(served.child).await.assert_status(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_in_order_with_the_columns_that_the_schema_names() {
    let world = world(SimulatorSpec::default(), "").await;
    let served = Served::start(&world, &[]);
    let job = served.json("/v1/job").await;
    assert_eq!((&job["app_id"], &job["steps"][0]), (&Value::from("test"), &Value::from("answer")));

    let empty = RecordBatch::new_empty(rows(0..1).schema());
    let schema = served.request(Method::POST, "/v1/schema").body(stream_of(&empty)).send().await.unwrap();
    let schema = batch_of_schema(&schema.bytes().await.unwrap());
    let response = served.put(&id_of(1), 0, 25, &rows(0..40)).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.apache.arrow.stream");
    let body = response.bytes().await.unwrap();
    assert_eq!(batch_of(&body).schema(), schema);
    assert_eq!(answers_of(&body), expected(0..40));
    let metadata = batch_of(&body)["_enrich"].as_struct().clone();
    assert!(metadata["error_count"].as_primitive::<Int32Type>().iter().all(|count| count == Some(0)));
    // No row is no question.
    let response = served.put(&id_of(2), 0, 0, &empty).await;
    assert_eq!(batch_of(&response.bytes().await.unwrap()).num_rows(), 0);

    let status = served.json("/v1/status").await;
    assert_eq!((&status["state"], &status["answers"]), (&Value::from("serving"), &Value::from(40)));
    assert_eq!(status["epochs"]["0"], 40);
    served.committed(0).await;
    served.committed(0).await;
    assert!(served.json("/v1/status").await["epochs"].as_object().unwrap().is_empty());
    end(served).await;
}

fn batch_of_schema(body: &[u8]) -> arrow::datatypes::SchemaRef {
    arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(body), None).unwrap().schema()
}

/// F1, F2, F3: a task that is tried again, also beside the first attempt, posts the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_is_paid_for_once_however_often_it_is_posted() {
    let world = world(slow(50), "").await;
    let served = Served::start(&world, &[]);
    let (id, batch) = (id_of(1), rows(0..60));
    let (first, second) = tokio::join!(served.answers(&id, 3, &batch), served.answers(&id, 3, &batch));
    assert_eq!((first, second), (expected(0..60), expected(0..60)));
    assert_eq!(served.answers(&id, 3, &batch).await, expected(0..60));
    assert_eq!(world.simulator.counts().answered, 60);
    // The name of a batch stands for its rows.
    assert_eq!(served.put(&id, 3, 0, &rows(0..59)).await.status(), 422);
    end(served).await;
}

/// F7: rows are known however they are cut, until their epoch is committed.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_cut_in_another_way_are_not_paid_for_again() {
    for shares in ["", "share = false\n"] {
        let world = world(SimulatorSpec::default(), "").await;
        world.write_text(
            &served_job(&world, "", 1_000)
                .replace("output = \"answer\"\n", &format!("output = \"answer\"\n{shares}")),
        );
        let served = Served::start(&world, &[]);
        for (number, ids) in (0..).zip([0..30, 10..20, 5..35, 0..30]) {
            assert_eq!(served.answers(&id_of(number), 0, &rows(ids.clone())).await, expected(ids));
        }
        assert_eq!(world.simulator.counts().answered, 35, "{shares}");
        served.committed(0).await;
        end(served).await;
        // Without the journal of the epoch, and without a memory, they are new.
        let served = Served::start(&world, &[]);
        assert_eq!(served.answers(&id_of(9), 0, &rows(0..30)).await, expected(0..30));
        assert_eq!(world.simulator.counts().answered, 65);
        end(served).await;
    }
}

/// Two attempts that cut their rows differently, at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_in_flight_for_one_batch_is_not_sent_for_another() {
    let world = world(slow(100), "").await;
    world.write_text(
        &served_job(&world, "", 1_000)
            .replace("output = \"answer\"\n", "output = \"answer\"\nshare = false\n"),
    );
    let served = Served::start(&world, &[]);
    let (one, other) = (id_of(1), id_of(2));
    let (one_rows, other_rows) = (rows(0..20), rows(10..30));
    let (one, other) =
        tokio::join!(served.answers(&one, 0, &one_rows), served.answers(&other, 0, &other_rows));
    assert_eq!((one, other), (expected(0..20), expected(10..30)));
    assert_eq!(world.simulator.counts().answered, 30);
    end(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_rows_that_do_not_share_are_sent_each() {
    let world = world(SimulatorSpec::default(), "").await;
    world.write_text(
        &served_job(&world, "", 1_000)
            .replace("output = \"answer\"\n", "output = \"answer\"\nshare = false\n"),
    );
    let served = Served::start(&world, &[]);
    let texts = || Arc::new(StringArray::from(vec!["the same"; 5])) as ArrayRef;
    let equal = RecordBatch::try_from_iter([("text", texts())]).unwrap();
    for _ in 0..2 {
        assert_eq!(served.answers(&id_of(1), 0, &equal).await.len(), 5);
    }
    assert_eq!(world.simulator.counts().answered, 5);
    // Keys that the client names say which rows are the same.
    let keyed = |keys: [&[u8]; 5]| {
        let keys = Arc::new(BinaryArray::from_iter_values(keys)) as ArrayRef;
        RecordBatch::try_from_iter([("text", texts()), ("__key", keys)]).unwrap()
    };
    served.answers(&id_of(2), 1, &keyed([b"a", b"b", b"c", b"d", b"e"])).await;
    served.answers(&id_of(3), 1, &keyed([b"c", b"f", b"a", b"b", b"e"])).await;
    assert_eq!(world.simulator.counts().answered, 11);
    end(served).await;
}

/// F4: the server is killed at any moment, and started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_pays_again_for_what_was_in_flight_alone() {
    let world = world(slow(20), "").await;
    let mut answered = 0;
    for kill in 1..=5 {
        let mut served = Served::start(&world, &[]);
        assert_eq!(served.put(&id_of(1), 7, 0, &rows(0..200)).await.status(), 202);
        until(&world.simulator, |counts| counts.answered > answered + 20).await;
        served.child.kill().unwrap();
        served.child.wait().unwrap();
        world.settle().await;
        answered = world.simulator.counts().answered;
        assert!(
            world.simulator.counts().paid_again() <= kill * 4,
            "{} again",
            world.simulator.counts().paid_again()
        );
    }
    let served = Served::start(&world, &[]);
    assert_eq!(served.answers(&id_of(1), 7, &rows(0..200)).await, expected(0..200));
    assert!(world.simulator.counts().answered <= 200 + 5 * 4);
    end(served).await;
}

/// F3: what nobody waits for any more is not sent.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_waits_for_are_not_sent() {
    let world = world(SimulatorSpec::default(), PATIENT).await;
    world.simulator.set_gate(Gate::ShutFrom(1));
    let served = Served::start(&world, &["--keep", "100ms"]);
    assert_eq!(served.put(&id_of(1), 0, 0, &rows(0..100)).await.status(), 202);
    world.until_requests(1).await;
    while served.json("/v1/status").await["open_rows"] != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.simulator.set_gate(Gate::Open);
    // What had been handed out is answered.
    until(&world.simulator, |counts| counts.answered > 0 && counts.in_flight == 0).await;
    let answered = world.simulator.counts().answered;
    assert!(answered < 50, "{answered}");
    // It is not known any more; what was answered is.
    let gone = served.request(Method::GET, &format!("/v1/batches/{}", id_of(1))).send().await.unwrap();
    assert_eq!(gone.status(), 404);
    assert_eq!(served.answers(&id_of(1), 0, &rows(0..100)).await, expected(0..100));
    assert_eq!(world.simulator.counts().answered, 100);
    end(served).await;
}

/// F8: a key that is refused, and a budget that is spent, end the job for every client.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_tells_why_and_asks_nobody() {
    let refused = faulty(FaultSpec { status: Some(401), ..fault() });
    let budget = "[budget]\nmax_requests = 10\n";
    for (simulator, more, status, ending, class) in [
        (refused, "", 4, "provider", Value::from("auth")),
        (SimulatorSpec::default(), budget, 5, "budget", Value::Null),
    ] {
        let world = world(simulator, "").await;
        world.write_text(&format!("{}{more}", served_job(&world, "", 1_000)));
        let served = Served::start(&world, &[]);
        let response = served.put(&id_of(1), 0, 25, &rows(0..50)).await;
        assert_eq!(response.status(), 409);
        let told: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!((&told["end"], &told["status"], &told["class"]), (&ending.into(), &status.into(), &class));
        let requests = world.simulator.counts().requests;
        // Tasks that are tried again ask nobody.
        for number in 1..5 {
            assert_eq!(served.put(&id_of(number), 0, 25, &rows(0..50)).await.status(), 409);
        }
        assert_eq!(served.json("/v1/status").await["state"], "ended");
        assert_eq!(world.simulator.counts().requests, requests);
        send(&served.child, "TERM");
        wait(served.child).await.assert_status(status).assert_says(told["message"].as_str().unwrap());
    }
}

/// F9: a full window.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_makes_clients_wait_and_keeps_nothing_for_them() {
    let world = world_with_window(SimulatorSpec::default(), PATIENT, 100).await;
    world.simulator.set_gate(Gate::ShutFrom(1));
    let served = Served::start(&world, &[]);
    for (number, ids) in [(0, 0..50), (1, 50..100)] {
        assert_eq!(served.put(&id_of(number), 0, 0, &rows(ids)).await.status(), 202);
    }
    let full = served.put(&id_of(2), 0, 0, &rows(100..101)).await;
    assert_eq!((full.status().as_u16(), full.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert_eq!(served.json("/v1/status").await["open_rows"], 100);
    // What is posted already is no new row.
    assert_eq!(served.put(&id_of(1), 0, 0, &rows(50..100)).await.status(), 202);
    world.simulator.set_gate(Gate::Open);
    assert_eq!(served.answers(&id_of(0), 0, &rows(0..50)).await, expected(0..50));
    assert_eq!(served.answers(&id_of(2), 0, &rows(100..101)).await, expected(100..101));
    end(served).await;
}

/// F11: rows of which one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_is_an_error_in_its_place() {
    let world = world(refusing("Row 3 ", None), "").await;
    let served = Served::start(&world, &[]);
    for _ in 0..2 {
        let answers = served.answers(&id_of(1), 0, &rows(0..10)).await;
        let failed: Vec<bool> =
            answers.iter().map(|answer| answer.as_deref().unwrap().starts_with("ERROR:")).collect();
        assert_eq!(failed, (0..10).map(|id| id == 3).collect::<Vec<_>>());
    }
    // The only row of all that came, too.
    let served_again = served.answers(&id_of(2), 1, &rows(3..4)).await;
    assert!(served_again[0].as_deref().unwrap().starts_with("ERROR:"));
    end(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rows_of_all_may_be_refused() {
    let world = world(refusing("Row 3 ", None), "").await;
    let served = Served::start(&world, &[]);
    let answers = served.answers(&id_of(2), 1, &rows(3..4)).await;
    assert!(answers[0].as_deref().unwrap().starts_with("ERROR:"));
    end(served).await;
}

/// F12: two servers of one job, and a run beside a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_one_server_or_one_run() {
    let world = World::with_rows(5, 1).await;
    let served = Served::start(&world, &[]);
    let second = world.on_job("serve", &["--listen", "127.0.0.1:0"]).await;
    second.assert_status(6).assert_says("another run holds");
    world.run(&[]).await.assert_status(6);
    // Rows may be posted to a job that has tables, too.
    assert_eq!(served.answers(&id_of(1), 0, &rows(0..5)).await, expected(0..5));
    end(served).await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..5).await;
}

/// F14: who may ask.
#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_have_the_token_may_ask_and_other_addresses_need_one() {
    let world = world(SimulatorSpec::default(), "").await;
    let open = world.on_job("serve", &["--listen", "0.0.0.0:0"]).await;
    open.assert_status(2).assert_says("--token-file");
    let token = world.path("token");
    std::fs::write(&token, " \n").unwrap();
    let file = token.to_str().unwrap();
    world.on_job("serve", &["--token-file", file]).await.assert_status(2).assert_says("is empty");
    std::fs::write(&token, "secret\n").unwrap();
    let served = Served::start(&world, &["--token-file", file]);
    for (given, status) in [(None, 401), (Some("secre"), 401), (Some("secret"), 200)] {
        let request = served.request(Method::GET, "/v1/status");
        let request = given.into_iter().fold(request, RequestBuilder::bearer_auth);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    end(served).await;
}

/// F15: bodies that are no rows of the job.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_rows_are_refused_and_ask_nobody() {
    let world = world_with_window(SimulatorSpec::default(), "", 100).await;
    let served = Served::start(&world, &[]);
    let whole = stream_of(&rows(0..50));
    let put =
        |id: &str, body: Vec<u8>| served.request(Method::PUT, &format!("/v1/batches/{id}")).body(body).send();
    for length in (1..whole.len() - 8).step_by(whole.len() / 40) {
        let status = put(&id_of(1), whole[..length].to_vec()).await.unwrap().status();
        assert_eq!(status, 400, "cut at byte {length} of {}", whole.len());
    }
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let mut damaged = whole.clone();
        for _ in 0..random.usize(1..20) {
            let at = random.usize(..damaged.len() / 4);
            damaged[at] = random.u8(..);
        }
        // What can be read all the same is rows.
        let status = put(&id_of(random.u64(..)), damaged).await.unwrap().status().as_u16();
        assert!([400, 413, 422, 503, 202, 200].contains(&status), "{status}");
    }
    let text = |name: &str| {
        let texts = Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
        RecordBatch::try_from_iter([(name, texts)]).unwrap()
    };
    let response = put(&id_of(2), stream_of(&text("txt"))).await.unwrap();
    assert_eq!(response.status(), 400);
    let said = response.text().await.unwrap();
    assert!(said.contains("text") && said.contains("txt"), "{said}");
    assert_eq!(put(&id_of(3), stream_of(&text("answer"))).await.unwrap().status(), 400);
    assert_eq!(put(&id_of(4), stream_of(&rows(0..101))).await.unwrap().status(), 413);
    assert_eq!(put("short", whole.clone()).await.unwrap().status(), 400);
    assert_eq!(served.request(Method::GET, "/v2").send().await.unwrap().status(), 404);
    assert_eq!(served.answers(&id_of(5), 9, &rows(0..50)).await, expected(0..50));
    end(served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_types_become_those_of_the_first_or_are_refused() {
    let world = world(SimulatorSpec::default(), "").await;
    let served = Served::start(&world, &[]);
    let texts = rows(0..5)["text"].clone();
    let texts: Vec<Option<String>> =
        texts.as_string::<i32>().iter().map(|text| text.map(Into::into)).collect();
    let of = |column: ArrayRef| RecordBatch::try_from_iter([("text", column)]).unwrap();
    assert_eq!(
        served.answers(&id_of(1), 0, &of(Arc::new(StringArray::from(texts.clone())))).await,
        expected(0..5)
    );
    assert_eq!(
        served.answers(&id_of(2), 1, &of(Arc::new(LargeStringArray::from(texts)))).await,
        expected(0..5)
    );
    let lists = arrow::compute::cast(&Int64Array::from(vec![1]), &DataType::new_list(DataType::Int64, true));
    let response = served.put(&id_of(3), 0, 0, &of(lists.unwrap())).await;
    assert_eq!(response.status(), 400);
    end(served).await;
}

/// A server that is asked to stop lets what is in flight end, and has the rest come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_gently_with_its_parent_or_at_a_signal() {
    for with_parent in [false, true] {
        let world = world(SimulatorSpec::default(), PATIENT).await;
        world.simulator.set_gate(Gate::ShutFrom(1));
        let mut served = Served::start(&world, if with_parent { &["--with-parent"] } else { &[] });
        let first = served.put(&id_of(1), 0, 0, &rows(0..1)).await;
        assert_eq!(first.status(), 202);
        world.until_requests(1).await;
        let waiting = served.request(Method::GET, &format!("/v1/batches/{}?wait=60", id_of(1))).send();
        let mut clients = JoinSet::new();
        clients.spawn(waiting);
        while served.json("/v1/status").await["open_batches"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if with_parent {
            drop(served.child.stdin.take());
        } else {
            send(&served.child, "TERM");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.simulator.set_gate(Gate::Open);
        let response = clients.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(answers_of(&response.bytes().await.unwrap()), expected(0..1));
        wait(served.child).await.assert_status(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_share_limits_and_places_of_a_job() {
    let world = world(SimulatorSpec::default(), "").await;
    let servers = [0, 1].map(|number| Served::start(&world, &["--share", &format!("{number}/2")]));
    let mut answers = BTreeSet::new();
    for (number, served) in (0..).zip(&servers) {
        let ids = number * 10..(number + 1) * 10;
        answers.extend(served.answers(&id_of(1), 0, &rows(ids)).await);
    }
    assert_eq!(answers.len(), 20);
    assert!(world.path("state/serve-0").exists() && world.path("state/serve-1").exists());
    for served in servers {
        end(served).await;
    }
    world.on_job("serve", &["--share", "2/2"]).await.assert_status(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_tables_is_served_alone() {
    let world = world(SimulatorSpec::default(), "").await;
    world.run(&[]).await.assert_status(2).assert_says("source").assert_says("enrich serve");
    let text = served_job(&world, "", 10).replace("[checkpoint]\npath = \"state\"\n", "");
    world.write_text(&text);
    world.on_job("serve", &[]).await.assert_status(2).assert_says("checkpoint.path");
}

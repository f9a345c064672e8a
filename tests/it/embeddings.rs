//! Vectors: many rows a request, in their places whatever comes back, paid for once.

use enrich::config::{FaultSpec, SimulatorSpec, WrongForm};
use enrich::simulator::{Simulator, embedding_of};

use crate::support::{
    Setup, World, append_delta, fault, faulty, prompt_of, rows, rows_of, with_faults, wrong,
};

const KIND: &str = "kind = \"embedding\"";

/// Steps that ask for vectors, of up to 16 rows in a request.
fn embedding() -> Setup<'static> {
    Setup { step: KIND, provider: "inputs_per_request = 16", ..Setup::default() }
}

async fn vectors(world: &World) -> Vec<(i64, Vec<f32>, String)> {
    let sql = "SELECT id, array_to_string(answer, '|'), answer_error FROM target ORDER BY id";
    let rows = rows_of(&world.path("target"), sql).await;
    let numbers = |text: &str| text.split('|').filter_map(|number| number.parse().ok()).collect();
    let read = |row: &Vec<String>| (row[0].parse().unwrap(), numbers(&row[1]), row[2].clone());
    let mut read: Vec<(i64, Vec<f32>, String)> = rows.iter().map(read).collect();
    read.sort_by_key(|(id, ..)| *id);
    read
}

async fn assert_all(world: &World, dimensions: usize, count: usize) {
    let vectors = vectors(world).await;
    assert_eq!(vectors.len(), count);
    for (id, vector, error) in vectors {
        assert_eq!(error, "NULL");
        let expected = embedding_of(&prompt_of(id), dimensions);
        let near =
            vector.len() == expected.len() && vector.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near, "row {id}: {vector:?}, {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_go_into_one_request_and_each_gets_its_own_vector() {
    for (step, dimensions) in
        [("", 8), ("encoding = \"base64\"", 8), ("dimensions = 3\nencoding = \"float\"", 3)]
    {
        let simulator = faulty(wrong(WrongForm::Shuffled, 1.0, None));
        let step = format!("{KIND}\n{step}");
        let setup = Setup { simulator, rows: 100, step: &step, batch_rows: 50, ..embedding() };
        let world = World::of(setup).await;
        world.run(&[]).await.assert_status(0).assert_says("100 rows written").assert_says("0 errors");
        assert_all(&world, dimensions, 100).await;
        let counts = world.simulator.counts();
        assert!(counts.requests < 40, "{} requests", counts.requests);
        assert_eq!((counts.embedded, counts.embedded_again), (100, 0));
        let sql = "SELECT sum(_enrich['answer_step']['prompt_tokens']), count(_enrich['answer_step']['cost_micro_usd']) FROM target";
        let used = rows_of(&world.path("target"), sql).await.remove(0);
        assert_eq!(
            used[0],
            counts.billed_tokens.to_string(),
            "what was used is shared out to the last token"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_input_fails_alone() {
    let simulator = SimulatorSpec { max_input_tokens: Some(20), ..SimulatorSpec::default() };
    let world = World::of(Setup { simulator, rows: 64, batch_rows: 64, ..embedding() }).await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    // Row 9 is too long, row 40 is empty.
    let prompt =
        "prompt = \"{% if id == 40 %}{% elif id == 9 %}{{ text * 20 }}{% else %}{{ text }}{% endif %}\"";
    let (head, _) = text.split_once("prompt =").unwrap();
    world.write_text(&format!("{head}{prompt}\n"));
    world.run(&[]).await.assert_status(0).assert_says("2 errors");
    for (id, vector, error) in vectors(&world).await {
        match id {
            9 => assert!(vector.is_empty() && error.starts_with("ERROR: too_long: "), "{error}"),
            40 => assert!(vector.is_empty() && error.starts_with("ERROR: bad_request: "), "{error}"),
            _ => assert_eq!((vector.len(), error.as_str()), (8, "NULL"), "row {id}"),
        }
    }
    let counts = world.simulator.counts();
    assert_eq!((counts.embedded, counts.embedded_again), (62, 0), "nothing was paid for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_that_are_missing_or_mixed_up_are_asked_for_again() {
    for form in [WrongForm::Fewer, WrongForm::WrongIndex] {
        let simulator = faulty(wrong(form, 0.2, Some(1)));
        let world = World::of(Setup { simulator, rows: 60, ..embedding() }).await;
        world.run(&[]).await.assert_status(0).assert_says("0 errors");
        assert_all(&world, 8, 60).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vector_of_another_length_is_an_error_of_its_row() {
    let odd = FaultSpec { contains: Some("Row 33 ".into()), ..wrong(WrongForm::OtherDimension, 1.0, None) };
    let provider = "inputs_per_request = 1";
    let world = World::of(Setup { simulator: faulty(odd), rows: 40, provider, ..embedding() }).await;
    world.run(&[]).await.assert_status(0).assert_says("1 error (invalid_output 1)");
    let vectors = vectors(&world).await;
    assert_eq!(vectors[33].2, "ERROR: invalid_output: the vector has 9 numbers, and 8 are expected");
    assert!(vectors.iter().all(|(id, vector, _)| *id == 33 || vector.len() == 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_one_request_are_kept_together_through_kills() {
    for (at, side) in [(1, "after"), (2, "before"), (3, "after"), (5, "after")] {
        let world = World::of(Setup { rows: 120, batch_rows: 60, ..embedding() }).await;
        let fault = format!("journal-append.{side}=kill@{at}");
        let killed = world.run_with(&[], &[("ENRICH_FAULT", &fault)]).await;
        assert_ne!(killed.status, Some(0));
        world.settle().await;
        world.run(&[]).await.assert_status(0).assert_says("0 errors");
        assert_all(&world, 8, 120).await;
        let counts = world.simulator.counts();
        // At most what four requests in flight were about.
        assert!(counts.embedded_again <= 4 * 16, "{}", counts.embedded_again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_outages_are_waited_for_by_whole_requests() {
    let busy = FaultSpec { status: Some(503), share: 0.2, times: Some(1), ..fault() };
    let limited =
        FaultSpec { status: Some(429), retry_after: Some("1".into()), share: 0.2, times: Some(1), ..fault() };
    let simulator = with_faults(vec![limited, busy]);
    let world = World::of(Setup { simulator, rows: 100, ..embedding() }).await;
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    assert_all(&world, 8, 100).await;
    assert_eq!(world.simulator.counts().embedded_again, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_with_answers_alone_is_refused_for_vectors() {
    for (step, told) in [
        ("classes = [\"x\"]", "`step[0].classes` is set, and the step asks for vectors"),
        ("max_tokens = 5", "`step[0].max_tokens` is set"),
        ("dimensions = 0", "`step[0].dimensions` is 0"),
    ] {
        let step = format!("{KIND}\n{step}");
        let world = World::of(Setup { rows: 2, step: &step, ..embedding() }).await;
        world.run(&[]).await.assert_status(2).assert_says(told);
    }
    let chat = World::of(Setup { rows: 2, step: "dimensions = 3", ..Setup::default() }).await;
    chat.run(&[]).await.assert_status(2).assert_says("it goes with kind = \"embedding\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_a_server_breaks_on_fails_alone_too() {
    let broken = FaultSpec { status: Some(500), contains: Some("Row 9 ".into()), ..fault() };
    let simulator = faulty(broken);
    let world = World::of(Setup { simulator, rows: 60, batch_rows: 60, ..embedding() }).await;
    world.run(&[]).await.assert_status(0).assert_says("1 error (server_error 1)");
    let vectors = vectors(&world).await;
    assert!(vectors.iter().all(|(id, vector, _)| vector.is_empty() == (*id == 9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_is_one_retry_however_many_rows_it_has() {
    let sometimes = FaultSpec { status: Some(500), share: 0.1, ..fault() };
    let (simulator, provider) = (faulty(sometimes), "inputs_per_request = 100");
    let setup = Setup { simulator, rows: 1_000, provider, batch_rows: 1_000, ..embedding() };
    let world = World::of(setup).await;
    world.run(&[]).await.assert_status(0).assert_says("0 errors");
    assert_all(&world, 8, 1_000).await;
    // Ten, or some more that were not full, and those that were repeated, in halves.
    let requests = world.simulator.counts().requests;
    assert!(requests < 40, "{requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_length_than_the_targets_are_refused_whoever_asks_for_them() {
    let world = World::of(Setup { rows: 20, ..embedding() }).await;
    world.run(&[]).await.assert_status(0);
    append_delta(&world.path("source"), &rows(20..24)).await;
    let asked = world.simulator.counts().requests;
    let told = "step \"answer\": the vectors in the target have 8 numbers, and dimensions is 3";
    let text = std::fs::read_to_string(world.job()).unwrap();
    world.write_text(&text.replace("kind = \"embedding\"", "kind = \"embedding\"\ndimensions = 3"));
    world.run(&[]).await.assert_status(2).assert_says(told).assert_says("--restart");
    assert_eq!(world.simulator.counts().requests, asked);
    // Where the job does not say how long they are, the first one in the table does.
    let other =
        Simulator::start(SimulatorSpec { dimensions: Some(5), ..SimulatorSpec::default() }, 0).await.unwrap();
    world.write_text(&text.replace(world.simulator.url().as_str(), other.url().as_str()));
    let wrong = "the vector has 5 numbers, and 8 are expected";
    world.run(&[]).await.assert_status(3).assert_says("4 errors (invalid_output 4)");
    let errors = vectors(&world)
        .await
        .into_iter()
        .filter(|(_, vector, error)| vector.is_empty() && error.contains(wrong));
    assert_eq!(errors.count(), 4);
    world.write_text(&text);
    world.on_job("retry", &[]).await.assert_status(0);
    assert_all(&world, 8, 24).await;
}

//! A job of many kinds of steps by a Batch API, beside the same by single requests: row A14 of the plan of tests of
//! submissions, in a short form. Conditions, routes, several steps by batch, vectors, the cache, and a retry of failed
//! rows.

use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec};

use crate::support::batches::{BATCH, ONLINE, with_batches};
use crate::support::{Setup, World, append_delta, fault, rows_about, rows_of, text_of};

const STEPS: &str = r#"
[cache]
path = "answers.cache"
[[step]]
output = "mood"
provider = "sim"
classes = ["good", "bad"]
prompt = "Judge {{ answer }}"
[[step]]
output = "more"
when = "mood = 'good' AND id % 3 > 0"
route = [{ when = "length(text) < 28", provider = "online" }]
provider = "sim"
prompt = "{{ mood }}: say more of {{ answer }}"
[[step]]
output = "vector"
kind = "embedding"
provider = "vectors"
prompt = "{{ text }}"
[provider.vectors]
base_url = "SIMULATOR"
model = "simulated"
VECTORS
"#;

async fn world(section: &str) -> World {
    // One question is refused the first time.
    let refused = FaultSpec {
        contains: Some("about:\nRow 7 ".into()),
        status: Some(400),
        code: Some("content_filter".into()),
        times: Some(1),
        ..fault()
    };
    let simulator = SimulatorSpec { faults: vec![refused], ..with_batches(BatchesSpec::default()) };
    let sections = STEPS.replace("VECTORS", &section.replace("provider.sim", "provider.vectors"));
    let setup = Setup {
        simulator,
        provider: section,
        step: "provider = \"sim\"",
        sections: &format!("{ONLINE}\n{sections}"),
        ..Setup::default()
    };
    let world = World::of(setup).await;
    // Every third row asks the same as an earlier one, but not as the one that is refused.
    let texts = (0..60).map(|id| text_of(if id % 3 == 2 && id != 23 { id / 3 } else { id }));
    append_delta(&world.path("source"), &rows_about(texts)).await;
    world
}

async fn table(world: &World) -> Vec<Vec<String>> {
    let sql = "SELECT id, text, answer, mood, more, array_to_string(vector, '|'), _enrich['source_row'], \
               _enrich['batch_id'], _enrich['error_count'] FROM target";
    rows_of(&world.path("target"), sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_many_kinds_of_steps_comes_to_the_same_table_as_by_single_requests() {
    let (online, by_batch) = (world("").await, world(&format!("{BATCH}\nmax_requests = 25")).await);
    for world in [&online, &by_batch] {
        world.run(&["--wait"]).await.assert_status(0).assert_says("60 rows written");
    }
    let expected = table(&online).await;
    assert_eq!(expected.iter().filter(|row| row[8] != "0").count(), 1, "the refused row");
    assert!(expected.iter().filter(|row| row[4] == "NULL").count() > 10, "conditions are not met");
    assert_eq!(table(&by_batch).await, expected);
    let batched = by_batch.simulator.counts();
    assert_eq!((batched.paid_again(), batched.embedded_again), (0, 0));
    assert!(batched.requests < 20 && batched.batches.lines > 100, "{batched:?}");

    for world in [&online, &by_batch] {
        world.on_job("retry", &["--wait"]).await.assert_status(0);
    }
    let expected = table(&online).await;
    assert!(expected.iter().all(|row| row[8] == "0"));
    assert_eq!(table(&by_batch).await, expected);
    for world in [&online, &by_batch] {
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    }

    // Another job finds all answers in the cache, and hands nothing in.
    let before = by_batch.simulator.counts();
    let job = std::fs::read_to_string(by_batch.job()).unwrap();
    by_batch.write_text(
        &job.replace("path = \"target\"", "path = \"other\"")
            .replace("app_id = \"test\"", "app_id = \"other\""),
    );
    by_batch.run(&["--wait"]).await.assert_status(0).assert_says("60 rows written");
    let after = by_batch.simulator.counts();
    assert_eq!((after.batches.lines, after.requests), (before.batches.lines, before.requests));
}

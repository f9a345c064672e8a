//! One job by three ways to the same model: each request by itself, by a cheaper service tier, and through the Batch API.

use std::collections::BTreeMap;

use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec, TierSpec};

use crate::support::{Setup, World, fault, rows_of};

const ROWS: i64 = 60;
const BY_TIER: &str = "service_tier = \"flex\"";
const BY_BATCH: &str = "[provider.sim.batch]\npoll = \"100ms\"\nmax_requests = 25";
const SECOND_STEP: &str =
    "[[step]]\noutput = \"mood\"\nclasses = [\"good\", \"bad\"]\nprompt = \"Judge {{ answer }}\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_the_same_online_by_a_cheaper_tier_and_by_batch() {
    // One row that is refused, whose second step has nothing to ask about.
    let refused = FaultSpec {
        contains: Some("Row 7 ".into()),
        status: Some(400),
        code: Some("content_filter".into()),
        ..fault()
    };
    let simulator = SimulatorSpec {
        faults: vec![refused],
        tiers: BTreeMap::from([("flex".to_owned(), TierSpec::default())]),
        batches: Some(BatchesSpec::default()),
        ..SimulatorSpec::default()
    };
    let world = World::of(Setup { simulator, rows: ROWS, sections: SECOND_STEP, ..Setup::default() }).await;
    let job = std::fs::read_to_string(world.job()).unwrap();
    let sql = "SELECT id, text, answer, mood, _enrich['source_file'], _enrich['source_row'], \
               _enrich['batch_id'], _enrich['error_count'] FROM target";
    let mut tables = Vec::new();
    let mut requests = Vec::new();
    for (target, lines) in [("online", ""), ("tier", BY_TIER), ("batch", BY_BATCH)] {
        let text = job.replace("path = \"target\"", &format!("path = \"{target}\""));
        world.write_text(&text.replace(
            "\n[[step]]\noutput = \"answer\"",
            &format!("\n{lines}\n[[step]]\noutput = \"answer\""),
        ));
        world.run(&["--wait"]).await.assert_status(0).assert_says("60 rows written");
        tables.push(rows_of(&world.path(target), sql).await);
        requests.push(world.simulator.counts().requests);
    }
    let [online, by_tier, by_batch] = &tables[..] else { panic!("{}", tables.len()) };
    assert_eq!(online.len(), 60);
    assert_eq!(online.iter().filter(|row| row[7] != "0").count(), 1, "the refused row");
    assert_eq!(online, by_tier);
    assert_eq!(online, by_batch);

    let counts = world.simulator.counts();
    assert!(counts.tiers["flex"] > 100, "{:?}", counts.tiers);
    assert!(requests[0] > 100 && requests[1] > requests[0], "{requests:?}");
    assert_eq!(requests[2], requests[1], "no row of the batches was asked by itself");
    // 60 rows of the first step and 59 of the second.
    assert_eq!(counts.batches.lines, 119);
}

//! Rows with the same request share the answer of one line: in a file, across files and runs, and when the line is not
//! answered.

use std::time::Duration;

use enrich::config::{BatchesSpec, FaultSpec, SimulatorSpec, Span};
use enrich::simulator::answer_to;

use crate::support::{World, append_delta, fault, rows_about, rows_of, text_of};

const BATCH: &str = "[provider.sim.batch]\npoll = \"50ms\"\nrecreate_after = \"500ms\"\nfirst_requests = 0\n\
                     max_submissions = 100";

/// A job whose source has a commit of rows about these texts.
async fn world(batches: BatchesSpec, faults: Vec<FaultSpec>, texts: &[i64], section: &str) -> World {
    let world =
        World::new(SimulatorSpec { batches: Some(batches), faults, ..SimulatorSpec::default() }).await;
    append_delta(&world.path("source"), &rows_about(texts.iter().map(|text| text_of(*text)))).await;
    let job = world.usual_job("");
    world.write_text(&job.replace("[[step]]", &format!("{section}\n[[step]]")));
    world
}

/// Every row has the answer to its own text; how many share that of another row.
async fn shared(world: &World, count: usize) -> usize {
    let sql = "SELECT text, answer, _enrich['answer_step']['shared'] FROM target";
    let rows = rows_of(&world.path("target"), sql).await;
    assert_eq!(rows.len(), count);
    for row in &rows {
        assert_eq!(row[1], answer_to(&format!("Say something about:\n{}", row[0])));
    }
    rows.iter().filter(|row| row[2] == "true").count()
}

/// So many rows about so many texts.
fn repeated(count: i64, distinct: i64) -> Vec<i64> {
    (0..count).map(|row| row * 7 % distinct).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_the_same_request_are_one_line() {
    for (section, lines) in [(BATCH.to_owned(), 6), (format!("{BATCH}\nmax_requests = 4"), 6)] {
        let world = world(BatchesSpec::default(), Vec::new(), &repeated(60, 6), &section).await;
        world.run(&["--wait"]).await.assert_status(0).assert_says("60 rows written");
        assert_eq!(shared(&world, 60).await, 54, "{section}");
        let counts = world.simulator.counts();
        assert_eq!((counts.batches.lines, counts.answered, counts.requests), (lines, lines, 0), "{section}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_follows_what_is_at_the_provider() {
    let takes = Some(Span(Duration::from_millis(700)));
    let batches = BatchesSpec { takes, ..BatchesSpec::default() };
    let world = world(batches, Vec::new(), &repeated(30, 6), BATCH).await;
    world.run(&[]).await.assert_status(0).assert_says("done for now");
    append_delta(&world.path("source"), &rows_about(repeated(30, 8).into_iter().map(text_of))).await;
    world.run(&[]).await.assert_status(0).assert_says("done for now");
    assert_eq!(world.simulator.counts().batches.created, 2, "two of the texts are new");
    world.run(&["--wait"]).await.assert_status(0);
    assert_eq!(shared(&world, 60).await, 52);
    assert_eq!(world.simulator.counts().answered, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_share_a_line_without_an_answer_go_again_as_one() {
    let batches = BatchesSpec { missing_lines: 0.5, ..BatchesSpec::default() };
    let world = world(batches, Vec::new(), &repeated(60, 12), BATCH).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("60 rows written");
    assert_eq!(shared(&world, 60).await, 48);
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (12, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_no_row_that_waits_for_nothing() {
    for point in ["spool.before", "spool.after", "batch-create.after", "collect.before", "collect.after"] {
        let section = format!("{BATCH}\nmax_requests = 4");
        let world = world(BatchesSpec::default(), Vec::new(), &repeated(60, 6), &section).await;
        let fault = format!("{point}=kill@2");
        let killed = world.run_with(&["--wait"], &[("ENRICH_FAULT", &fault)]).await;
        assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
        world.run(&["--wait"]).await.assert_status(0);
        shared(&world, 60).await;
        let counts = world.simulator.counts();
        assert_eq!((counts.answered, counts.paid_again()), (6, 0), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_a_file_are_followed_like_the_whole() {
    let bad = FaultSpec { contains: Some("Row 5 ".to_owned()), status: Some(400), ..fault() };
    let batches = BatchesSpec { bad_line_fails_file: true, hides_errors: true, ..BatchesSpec::default() };
    let world = world(batches, vec![bad], &repeated(60, 8), BATCH).await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("go out again in two files");
    let sql = "SELECT count(*), count(DISTINCT text) FROM target WHERE answer LIKE 'ERROR:%'";
    let failed = rows_of(&world.path("target"), sql).await;
    assert_eq!(failed[0][1], "1", "{failed:?}");
    assert_eq!(world.simulator.counts().answered, 7);
}

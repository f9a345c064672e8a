//! What was at the provider when a disk was lost, with the checkpoint, the journals or the list of submissions: no row of
//! it is paid for again.

use std::time::Duration;

use enrich::config::{BatchesSpec, Job, SimulatorSpec, Span};
use enrich::simulator::answer_to;
use enrich::transport::BatchApi;

use crate::support::{Setup, World, prompt_of};

const BATCH: &str = "[provider.sim.batch]\npoll = \"50ms\"\nrecreate_after = \"500ms\"\nmax_requests = 20";

/// A job of 50 rows in batches of ten whose rows are all at the provider.
async fn submitted(takes: u64) -> World {
    let batches = BatchesSpec { takes: Some(Span(Duration::from_millis(takes))), ..BatchesSpec::default() };
    let simulator = SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() };
    let world = World::of(Setup { simulator, rows: 50, provider: BATCH, ..Setup::default() }).await;
    world.run(&[]).await.assert_status(0).assert_says("done for now: 50 rows are at sim in 3 batches");
    world
}

/// Removes a file or folder of the job's state; all of it if `what` is empty.
fn lose(world: &World, what: &str) {
    let path = world.path("target/_checkpoints/test").join(what);
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

async fn assert_paid_once(world: &World) {
    world.assert_target(0..50).await;
    for row in world.target().await {
        assert_eq!(row.answer.as_deref(), Some(&*answer_to(&prompt_of(row.id))), "row {}", row.id);
    }
    let counts = world.simulator.counts();
    assert_eq!((counts.batches.created, counts.answered, counts.paid_again()), (3, 50, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_costs_no_row_anything() {
    for waits in [false, true] {
        let world = submitted(2_500).await;
        lose(&world, "");
        if !waits {
            tokio::time::sleep(Duration::from_millis(3_000)).await;
        } else {
            let waits = world.run(&[]).await;
            waits.assert_status(0).assert_says("3 batches at sim hold 50 rows of this job");
            assert_eq!(
                world.simulator.counts().batches.created,
                3,
                "nothing is submitted before they are back"
            );
        }
        world.run(&["--wait"]).await.assert_status(0).assert_says("50 rows written");
        assert_paid_once(&world).await;
        world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_part_of_the_state_costs_no_row_anything() {
    for lost in ["journal", "checkpoint.json", "spool"] {
        let world = submitted(2_500).await;
        lose(&world, lost);
        world.run(&["--wait"]).await.assert_status(0).assert_says("50 rows written");
        assert_paid_once(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_lost_answers_are_taken_costs_nothing() {
    for point in ["download.after=kill@2", "collect.after=kill@2", "journal-removal.before=kill@2"] {
        let world = submitted(2_500).await;
        lose(&world, "");
        tokio::time::sleep(Duration::from_millis(800)).await;
        let killed = world.run_with(&["--wait"], &[("ENRICH_FAULT", point)]).await;
        assert_eq!(killed.status, None, "{point}: {}", killed.stderr);
        world.run(&["--wait"]).await.assert_status(0);
        assert_paid_once(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_the_provider_has_deleted_are_asked_for_again_and_it_is_said() {
    let world = submitted(2_500).await;
    let text = std::fs::read_to_string(world.job()).unwrap();
    let job = Job::parse(&world.job(), &text, |_| None).unwrap();
    let api = BatchApi::new(&job.providers[0], world.simulator.url()).unwrap();
    let gone = loop {
        let newest = api.list(None).await.unwrap().items.remove(0);
        if newest.output_file_id.is_some() {
            break newest;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    api.delete_file(&gone.output_file_id.unwrap()).await.unwrap();
    let run = world.run(&["--wait"]).await;
    run.assert_status(0).assert_says("no more: the rows whose answers were there go again");
    world.assert_target(0..50).await;
    let counts = world.simulator.counts();
    assert_eq!(counts.answered, 50 + gone.request_counts.unwrap().total);
}

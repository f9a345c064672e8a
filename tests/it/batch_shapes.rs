//! Jobs whose rows go through a Batch API with another interface than OpenAI's.

use std::time::Duration;

use enrich::config::{BatchShape, BatchesSpec, FaultSpec, SimulatorSpec, Span};
use enrich::simulator::answer_to;

use crate::support::{Setup, World, fault, prompt_of};

/// The interfaces, each with whether the content of an upload goes to another address.
const SHAPES: [(BatchShape, bool); 2] = [(BatchShape::Together, true), (BatchShape::Mistral, false)];

/// A job of some rows in batches of ten that asks through a Batch API of this interface, with more lines for its section.
async fn world(rows: i64, simulator: SimulatorSpec, lines: &str) -> World {
    let shape = simulator.batches.as_ref().unwrap().shape.name();
    let section = format!(
        "[provider.sim.batch]\nshape = \"{shape}\"\npoll = \"100ms\"\nrecreate_after = \"1s\"\n{lines}"
    );
    World::of(Setup { simulator, rows, provider: &section, ..Setup::default() }).await
}

fn spec(batches: BatchesSpec) -> SimulatorSpec {
    SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() }
}

/// Every row has the answer to its own prompt, and was paid for once.
async fn assert_answered_once(world: &World, rows: i64) {
    world.assert_target(0..rows).await;
    for row in world.target().await {
        assert_eq!(row.answer.as_deref(), Some(&*answer_to(&prompt_of(row.id))), "row {}", row.id);
    }
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.paid_again()), (u64::try_from(rows).unwrap(), 0));
    assert_eq!(counts.requests, 0, "no row was asked by itself");
    assert!(counts.unknown_routes.is_empty(), "{:?}", counts.unknown_routes);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_answered_once_although_creations_and_uploads_are_lost() {
    for (shape, signed_uploads) in SHAPES {
        let batches = BatchesSpec {
            shape,
            signed_uploads,
            lost_creations: 0.5,
            lost_uploads: 0.9,
            ..BatchesSpec::default()
        };
        let world = world(100, spec(batches), "max_requests = 40").await;
        let run = world.run(&["--wait"]).await;
        run.assert_status(0).assert_says("100 rows written").assert_says("was lost");
        assert_answered_once(&world, 100).await;
        let counts = world.simulator.counts().batches;
        assert_eq!(counts.created, 3, "{shape:?}");
        assert!(counts.by_file.values().all(|made| *made == 1), "{shape:?}: {:?}", counts.by_file);
        assert_eq!(counts.files, 0, "{shape:?}: its files are deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_answered_goes_again_in_every_shape() {
    for (shape, signed_uploads) in SHAPES {
        let batches = BatchesSpec {
            shape,
            signed_uploads,
            expired_lines: 0.3,
            status_zero_lines: 0.05,
            throttled_lines: 0.1,
            twice_lines: 0.1,
            foreign_lines: 0.1,
            ..BatchesSpec::default()
        };
        let world = world(100, spec(batches), "max_submissions = 100").await;
        world.run(&["--wait"]).await.assert_status(0).assert_says("100 rows written");
        assert_answered_once(&world, 100).await;
        assert!(world.simulator.counts().batches.created > 1, "{shape:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_line_is_an_error_row_in_every_shape() {
    for (shape, signed_uploads) in SHAPES {
        let refused = FaultSpec {
            contains: Some("Row 3 ".into()),
            status: Some(400),
            code: Some("content_filter".into()),
            ..fault()
        };
        let batches = BatchesSpec { shape, signed_uploads, ..BatchesSpec::default() };
        let world = world(25, SimulatorSpec { faults: vec![refused], ..spec(batches) }, "").await;
        world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
        let target = world.target().await;
        let failed: Vec<_> = target.iter().filter(|row| row.error_count > 0).collect();
        assert_eq!((target.len(), failed.len(), failed[0].id), (25, 1, 3), "{shape:?}");
        let answer = failed[0].answer.as_deref().unwrap();
        assert!(answer.starts_with("ERROR: content_filter"), "{shape:?}: {answer}");
        assert_eq!(world.simulator.counts().batches.created, 1, "{shape:?}: it is not sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_batch_is_not_collected_before_it_names_its_file() {
    // Together's batches state no counts, from which it could be seen that something is still to come.
    let late_output = Some(Span(Duration::from_millis(700)));
    let batches = BatchesSpec { shape: BatchShape::Together, late_output, ..BatchesSpec::default() };
    let world = world(25, spec(batches), "").await;
    world.run(&["--wait"]).await.assert_status(0).assert_says("25 rows written");
    assert_answered_once(&world, 25).await;
    assert_eq!(world.simulator.counts().batches.created, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_with_an_interface_of_their_own_are_known() {
    let world = world(1, spec(BatchesSpec::default()), "").await;
    let job = std::fs::read_to_string(world.job()).unwrap();
    let at = |host: &str| job.replace(world.simulator.url().as_str(), &format!("https://{host}/v1"));
    for (host, shape) in
        [("api.together.xyz", "together"), ("api.together.ai", "together"), ("api.mistral.ai", "mistral")]
    {
        world.write_text(&at(host));
        let run = world.run(&[]).await;
        run.assert_status(2).assert_says("provider.sim.batch.shape");
        run.assert_says(&format!("{host} has a Batch API of its own: set shape = \"{shape}\""));
    }
    for window in ["90m", "1h 30m", "0h", "soon"] {
        let lines = format!("shape = \"mistral\"\nwindow = \"{window}\"");
        world.write_text(&job.replace("shape = \"openai\"", &lines));
        let run = world.run(&[]).await;
        run.assert_status(2).assert_says("provider.sim.batch.window").assert_says("whole hours");
    }
    assert_eq!(world.simulator.counts().batches.uploads, 0);
}

//! Kill or fail at each point, resume, compare tables and paid calls.

use std::collections::BTreeSet;

use enrich::config::SimulatorSpec;
use enrich::faultpoint::ACTIONS;
use enrich::simulator::Counts;

use crate::support::{World, append_delta, figures, plain, prompt_of, rows_about};

const ROWS: i64 = 45;

fn answered(counts: &Counts) -> BTreeSet<i64> {
    (0..ROWS).filter(|id| counts.answers_to(&prompt_of(*id)) > 0).collect()
}

/// Runs with a fault, resumes, and holds the result against a run without faults.
async fn cross(fault: &str) -> (bool, u64) {
    let world = World::with_rows(ROWS, 3).await;
    let faulty = world.run_with(&[], &[("ENRICH_FAULT", fault)]).await;
    let was_hit = faulty.status != Some(0);
    // Requests that the dead client had sent still run at the server for a moment.
    world.settle().await;
    let before = world.simulator.counts();
    let unrecorded: BTreeSet<i64> = answered(&before).difference(&world.recorded().await).copied().collect();
    assert!(unrecorded.len() <= 4, "{fault}: at most what was in flight is unrecorded: {unrecorded:?}");

    let resumed = world.run(&[]).await;
    resumed.assert_status(0);
    world.assert_target(0..ROWS).await;
    let after = world.simulator.counts();
    for id in 0..ROWS {
        let times = after.answers_to(&prompt_of(id));
        // An answer that broke off on the way was not received and is asked for again.
        let is_broken_off = fault.starts_with("first-call.after=io");
        let allowed = 1 + u32::from(is_broken_off || unrecorded.contains(&id));
        assert!((1..=allowed).contains(&times), "{fault}: row {id} was answered {times} times");
    }
    let batches: BTreeSet<i64> = world.target().await.iter().map(|row| row.batch).collect();
    assert_eq!(batches, (0..5).collect(), "{fault}: the same batches under the same numbers");
    let figures = figures(&world).await;
    assert_eq!(
        figures.iter().map(|row| row.rows).sum::<u64>(),
        ROWS.unsigned_abs(),
        "{fault}: figures add up"
    );
    assert_eq!(figures.len(), 5, "{fault}: figures of a batch are there once");
    let left = std::fs::read_dir(world.path("target/_checkpoints/test/journal")).unwrap().count();
    assert_eq!(left, 0, "{fault}: no journal is left");
    assert_eq!(after.unknown_routes, Vec::<String>::new());

    // And once more: nothing to do.
    let version = world.target_version().await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    assert_eq!(world.simulator.counts().requests, after.requests);
    assert_eq!(world.target_version().await, version);
    (was_hit, after.paid_again())
}

async fn cross_all(effect: &str) {
    for action in ACTIONS {
        for side in ["before", "after"] {
            let hits: &[u32] = if *action == "metrics-commit" { &[1] } else { &[1, 3] };
            for hit in hits {
                let fault = format!("{action}.{side}={effect}@{hit}");
                let (was_hit, paid_again) = cross(&fault).await;
                // A broken call is repeated within the run, and so is a commit of figures.
                let is_absorbed = ["first-call", "metrics-commit"].contains(action) && effect != "kill";
                assert_eq!(was_hit, !is_absorbed, "{fault}");
                assert!(paid_again <= 4, "{fault}: {paid_again} answers were paid again");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_survives_a_kill() {
    cross_all("kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_survives_an_io_error() {
    cross_all("io").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_disk_is_told_with_the_file_and_loses_nothing() {
    let writes = ["checkpoint", "journal-append", "parquet-file", "delta-commit", "journal-removal"];
    for (effect, words, hint) in [
        ("full", "no space left on device", "hint: make room on that disk"),
        ("readonly", "read-only file system", "hint: see to the disk"),
    ] {
        for action in writes {
            let world = World::with_rows(12, 1).await;
            let fault = format!("{action}.before={effect}");
            let failed = world.run_with(&[], &[("ENRICH_FAULT", &fault)]).await;
            failed.assert_status(1).assert_says(words).assert_says(hint);
            if action != "checkpoint" {
                failed.assert_says("] stopped: ");
            }
            let names_file = failed.stderr.contains(world.folder.path().to_str().unwrap());
            assert!(names_file, "{fault} names the file: {}", failed.stderr);
            world.run(&[]).await.assert_status(0);
            world.assert_target(0..12).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_to_its_end_is_told_in_one_message() {
    let world = World::new(SimulatorSpec::default()).await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut texts: Vec<String> = Vec::new();
    for _ in 0..10 {
        texts.push(std::iter::repeat_with(|| random.alphanumeric()).take(8_000).collect());
    }
    append_delta(&world.path("source"), &rows_about(texts)).await;
    world.write_text(&world.usual_job("").replace("{{ text }}", "{{ id }}"));
    let (binary, job) = (env!("CARGO_BIN_EXE_enrich"), world.job());
    // In blocks of 512 bytes: enough for everything but the table's file.
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {binary} run {} --quiet", job.display());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).env_remove("RUST_LOG");
    let failed = world.outcome(command).await;
    let table = world.path("target").display().to_string();
    let told = "hint: see to the disk or the permissions and run again: what is answered is kept";
    let told = format!(
        "error: cannot write to the Delta table {table}: File too large (os error 27)\n{told}\nstopped: "
    );
    let said = plain(&failed.stderr);
    assert!(failed.status == Some(1) && said.starts_with(&told) && said.lines().count() == 3, "{said}");
    let status = world.on_job("status", &[]).await.stdout;
    assert!(status.contains(": error\n            cannot write to the Delta table"), "{status}");
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.target().await.len(), 10);
    assert_eq!(world.simulator.counts().answered, 10, "no answer is paid for again");
}

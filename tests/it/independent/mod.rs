//! A target, read by a program that shares no code with this one: DuckDB, of which PyPI has builds.

mod servers;

use std::path::Path;
use std::process::Command;

use enrich::config::FaultSpec;

use crate::packages;
use crate::stops::{fault, faulty};
use crate::support::{TargetRow, World, append_delta, read_target, rows};

fn read(python: &Path, target: &Path) -> Vec<TargetRow> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/independent/read.py");
    let output = Command::new(python).arg(script).arg(target).arg("BIGINT").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows: Vec<TargetRow> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    rows.sort_by_key(|row| (row.batch, row.id));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_reader_finds_the_same_rows() {
    let Some(python) = packages::of_pypi("duckdb", "duckdb>=1.2") else { return };
    for partitioned in ["", "partition_by = [\"id\"]"] {
        let refuse = FaultSpec { status: Some(400), share: 0.2, times: Some(1), ..fault() };
        let world = World::new(faulty(refuse)).await;
        let text =
            world.usual_job("").replace("path = \"target\"", &format!("path = \"target\"\n{partitioned}"));
        world.write_text(&text);
        // Commits enough for a checkpoint of the log, mended rows before it and after.
        for (commit, size) in [60, 70, 20].into_iter().enumerate() {
            let first = [0, 60, 130][commit];
            append_delta(&world.path("source"), &rows(first..first + size)).await;
            world.run(&[]).await.assert_status(0);
            let job = world.job();
            let retried =
                world.output(world.command(&["retry", "--limit", "3", job.to_str().unwrap()])).await;
            assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
        }
        assert!(world.path("target/_delta_log/_last_checkpoint").exists());
        let (own, independent) =
            (read_target(&world.path("target")).await, read(&python, &world.path("target")));
        assert_eq!(own.len(), 150);
        assert!(own.iter().any(|row| row.error_count > 0));
        assert_eq!(own, independent);
    }
}

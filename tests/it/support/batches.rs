//! Jobs that go through a Batch API: their simulator, runs until nothing waits, and what the server was paid for.

use std::collections::BTreeSet;
use std::time::Duration;

use enrich::clock;
use enrich::config::{BatchesSpec, SimulatorSpec, Span};
use serde_json::Value;

use super::outcome::Outcome;
use super::process::wait;
use super::source::prompt_of;
use super::world::World;

/// The section of a Batch API in shrunk time.
pub const BATCH: &str = "[provider.sim.batch]\npoll = \"50ms\"\nrecreate_after = \"1s\"\nfirst_requests = 0";

/// A second provider, which is asked by single requests.
pub const ONLINE: &str = "[provider.online]\nbase_url = \"SIMULATOR\"\nmodel = \"simulated\"\nmin_backoff = \"10ms\"\nhedge = \"off\"";

/// A simulator with files and batches.
pub fn with_batches(batches: BatchesSpec) -> SimulatorSpec {
    SimulatorSpec { batches: Some(batches), ..SimulatorSpec::default() }
}

/// A time in the behaviour of a simulator.
pub fn millis(millis: u64) -> Option<Span> {
    Some(Span(Duration::from_millis(millis)))
}

/// How a run ended, by its summary.
pub fn end_of(run: &Outcome) -> String {
    let summary: Value = serde_json::from_str(&run.assert_status(0).stdout).unwrap();
    summary["end"].as_str().unwrap().to_owned()
}

impl World {
    /// Runs, which must end by itself.
    pub async fn run_in_time(&self, more: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let mut command = self.job_command("run", more);
        let stdio = || std::process::Stdio::piped();
        let mut child =
            command.envs(environment.iter().copied()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let give_up = clock::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            if clock::now() > give_up {
                child.kill().unwrap();
                panic!("{environment:?}: it does not end: {}", wait(child).await.stderr);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        Outcome::of(&output.await.unwrap())
    }

    /// The table is right, each row was paid for once, and no submission was made twice.
    pub async fn assert_paid_once(&self, rows: i64, when: &str) {
        self.assert_target(0..rows).await;
        let counts = self.simulator.counts();
        let again: BTreeSet<i64> = (0..rows).filter(|id| counts.answers_to(&prompt_of(*id)) != 1).collect();
        assert!(again.is_empty(), "{when}: not paid for once: {again:?}");
        let twice = counts.batches.by_id.values().any(|made| *made != 1);
        assert!(!twice, "{when}: {:?}", counts.batches.by_id);
    }
}

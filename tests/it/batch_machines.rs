//! Rows that go through a Batch API, with the checkpoint in an object store and two machines: row A5 of the plan of tests
//! of submissions, in a short form. One machine is killed at each point and its disk is gone; or it hangs until another
//! one has taken the job over. The other machine knows what the store holds, and nothing else.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use enrich::clock;
use enrich::config::BatchesSpec;
use enrich::faultpoint::BATCH_ACTIONS;
use futures::{StreamExt, stream};

use crate::support::batches::{BATCH, millis, with_batches};
use crate::support::store::Store;
use crate::support::{Setup, World, append_delta, rows, send, until_stopped, wait};

const ROWS: i64 = 25;

/// A job whose source, target and checkpoint are in the store, and machines with local folders of their own.
struct BatchSite {
    store: Arc<Store>,
    prefix: String,
    world: World,
}

impl BatchSite {
    async fn new(store: &Arc<Store>, prefix: String, batches: BatchesSpec, section: &str) -> BatchSite {
        let setup = Setup { simulator: with_batches(batches), provider: section, ..Setup::default() };
        let world = World::of(setup).await;
        let at = |name: &str| format!("path = \"s3://bucket/{prefix}/{name}\"");
        let text = std::fs::read_to_string(world.job()).unwrap();
        let text = text
            .replace("path = \"source\"", &at("source"))
            .replace("path = \"target\"", &at("target"))
            .replace("[batch]", "[checkpoint]\nlease = \"1s\"\n[journal]\ncopy_every = \"100ms\"\n[batch]");
        world.write_text(&text);
        let source = world.path("source");
        append_delta(&source, &rows(0..ROWS)).await;
        store.upload(&source, &format!("{prefix}/source")).await;
        BatchSite { store: Arc::clone(store), prefix, world }
    }

    fn state(&self, machine: &str) -> PathBuf {
        self.world.path(machine)
    }

    fn command(&self, machine: &str, fault: &str) -> Command {
        let mut command = self.world.job_command("run", &["--wait"]);
        command.envs(self.store.environment()).env("XDG_STATE_HOME", self.state(machine));
        if !fault.is_empty() {
            command.env("ENRICH_FAULT", fault);
        }
        command
    }

    /// Runs until the lease of a machine that is gone has run out.
    async fn run_to_the_end(&self, machine: &str) {
        let give_up = clock::now() + Duration::from_secs(60);
        loop {
            let ended = self.world.outcome(self.command(machine, "")).await;
            if ended.status == Some(0) {
                return;
            }
            ended.assert_status(6);
            assert!(clock::now() < give_up, "{}", ended.stderr);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn assert_paid_once(&self, when: &str) {
        self.store.download(&format!("{}/target", self.prefix), &self.world.path("target")).await;
        self.world.assert_paid_once(ROWS, when).await;
    }
}

/// Kills a machine at a fault point, whose disk is lost, and has another one go on.
async fn cross(store: &Arc<Store>, fault: String) {
    let lost_creations = if fault.starts_with("batch-look") { 1.0 } else { 0.0 };
    let batches = BatchesSpec { lost_creations, takes: millis(100), ..BatchesSpec::default() };
    let section = format!("{BATCH}\nmax_requests = 10");
    let site = BatchSite::new(store, fault.replace(['.', '=', '@'], "-"), batches, &section).await;
    let killed = site.world.outcome(site.command("a", &fault)).await;
    assert_eq!(killed.status, None, "{fault}: {}", killed.stderr);
    std::fs::remove_dir_all(site.state("a")).unwrap();
    site.run_to_the_end("b").await;
    site.assert_paid_once(&fault).await;
}

async fn cross_all(side: &str) {
    let Some(store) = Store::start() else { return };
    let store = Arc::new(store);
    let faults = BATCH_ACTIONS.iter().flat_map(|action| {
        let hits: &[u32] = if *action == "submission-save" { &[2, 5, 8] } else { &[2] };
        hits.iter().map(move |hit| format!("{action}.{side}=kill@{hit}"))
    });
    let crossed = stream::iter(faults).map(|fault| cross(&store, fault));
    crossed.buffer_unordered(6).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_dies_with_its_disk_before_a_step_has_nothing_paid_again() {
    cross_all("before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_dies_with_its_disk_after_a_step_has_nothing_paid_again() {
    cross_all("after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_hangs_before_a_batch_is_made_does_not_make_it_once_another_has_the_job() {
    let Some(store) = Store::start() else { return };
    let store = Arc::new(store);
    for point in ["batch-create.before", "batch-create.after", "upload.after", "collect.before"] {
        let batches = BatchesSpec { takes: millis(100), ..BatchesSpec::default() };
        // Without its file no batch could be made.
        let section = format!("{BATCH}\nkeep_files = true");
        let site = BatchSite::new(&store, point.replace('.', "-"), batches, &section).await;
        let mut command = site.command("a", &format!("{point}=stop"));
        let hangs = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        until_stopped(&hangs).await;
        site.run_to_the_end("b").await;
        send(&hangs, "CONT");
        let woken = wait(hangs).await;
        assert!([Some(1), Some(6)].contains(&woken.status), "{point}: {}", woken.stderr);
        site.assert_paid_once(point).await;
    }
}

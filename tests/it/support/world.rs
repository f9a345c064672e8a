//! A temporary folder with a job, its source and its target, and a simulator beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use enrich::config::{FaultSpec, SimulatorSpec};
use enrich::simulator::{Counts, Simulator, answer_to};
use enrich::table::Table;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::setup::Setup;
use super::simulator::with_faults;
use super::source::{append_delta, prompt_of, rows, text_of};
use super::target::{TargetRow, read_target};

/// A folder with a job, its source and its target, and a simulator beside it.
pub struct World {
    pub folder: TempDir,
    pub simulator: Simulator,
}

impl World {
    /// A folder with nothing in it.
    pub async fn new(spec: SimulatorSpec) -> World {
        let folder = tempfile::tempdir().unwrap();
        let simulator = Simulator::start(spec, 0).await.unwrap();
        World { folder, simulator }
    }

    /// A folder with a source and a job.
    pub async fn of(setup: Setup<'_>) -> World {
        let world = World::new(setup.simulator.clone()).await;
        let source = world.path("source");
        let size = setup.rows / setup.commits;
        for commit in (0..setup.commits).filter(|_| setup.rows > 0) {
            let is_last = commit == setup.commits - 1;
            let end = if is_last { setup.rows } else { (commit + 1) * size };
            append_delta(&source, &rows(commit * size..end)).await;
        }
        if setup.is_parquet {
            let log = source.join("_delta_log");
            std::fs::create_dir_all(&log).unwrap();
            std::fs::remove_dir_all(log).unwrap();
        }
        world.write_text(&setup.job(world.simulator.url()));
        world
    }

    /// A folder with a Delta source of so many rows in so many commits, and the usual job.
    pub async fn with_rows(rows: i64, commits: i64) -> World {
        World::of(Setup { rows, commits, ..Setup::default() }).await
    }

    /// A folder with a target in which rows have failed with these faults; its own simulator has not been asked.
    pub async fn with_failed(rows: i64, commits: i64, faults: Vec<FaultSpec>) -> World {
        let world = World::with_rows(rows, commits).await;
        let broken = Simulator::start(with_faults(faults), 0).await.unwrap();
        world.write_text(&world.job_at(&broken));
        world.run(&[]).await.assert_status(0);
        world.write_job("");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The job's file.
    pub fn job(&self) -> PathBuf {
        self.path("job.toml")
    }

    /// The text of the usual job, with more lines for its provider.
    pub fn usual_job(&self, provider: &str) -> String {
        Setup { provider, ..Setup::default() }.job(self.simulator.url())
    }

    /// The text of the usual job, which asks another simulator.
    pub fn job_at(&self, simulator: &Simulator) -> String {
        Setup::default().job(simulator.url())
    }

    /// Writes the usual job, with more lines for its provider.
    pub fn write_job(&self, provider: &str) {
        self.write_text(&self.usual_job(provider));
    }

    /// Writes the job's file.
    pub fn write_text(&self, text: &str) {
        std::fs::write(self.job(), text).unwrap();
    }

    /// Waits until so many requests have come.
    pub async fn until_requests(&self, requests: u64) {
        until(&self.simulator, |counts| counts.requests >= requests).await;
    }

    /// Waits until what dead clients had sent is read and answered.
    pub async fn settle(&self) {
        // Connections are accepted in their order: behind this one none of a dead client waits any more.
        let mut last = TcpStream::connect(("127.0.0.1", self.simulator.url().port().unwrap())).await.unwrap();
        let request = "GET /simulator/counts HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\n\r\n";
        last.write_all(request.as_bytes()).await.unwrap();
        last.read_to_end(&mut Vec::new()).await.unwrap();
        drop(last);
        loop {
            let counts = self.simulator.counts();
            if (counts.connections, counts.in_flight) == (0, 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The rows of the target.
    pub async fn target(&self) -> Vec<TargetRow> {
        read_target(&self.path("target")).await
    }

    /// Version of the target table.
    pub async fn target_version(&self) -> u64 {
        Table::open(&self.path("target")).await.unwrap().version()
    }

    /// Every row exactly once, in the source's order, with its own answer.
    pub async fn assert_target(&self, ids: impl IntoIterator<Item = i64>) {
        let target = self.target().await;
        let found: Vec<i64> = target.iter().map(|row| row.id).collect();
        assert_eq!(found, ids.into_iter().collect::<Vec<_>>(), "each row once, in order");
        for row in &target {
            assert_eq!(row.text.as_deref(), Some(text_of(row.id).as_str()));
            assert_eq!(row.answer.as_deref(), Some(answer_to(&prompt_of(row.id)).as_str()), "row {}", row.id);
            assert_eq!(row.error_count, 0);
        }
    }
}

/// Waits until the counts of a simulator meet a condition.
pub async fn until(simulator: &Simulator, is_met: impl Fn(&Counts) -> bool) {
    while !is_met(&simulator.counts()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A folder with a job that asks the same about every row of a table, with more lines for its source.
pub async fn world_over(source: &Path, more: &str) -> World {
    let world = World::new(SimulatorSpec::default()).await;
    let job = world.usual_job("").replace("path = \"source\"", &format!("path = {source:?}\n{more}"));
    let (job, _) = job.split_once("prompt = ").unwrap();
    world.write_text(&format!("{job}null_inputs = \"ask\"\nshare = false\nprompt = \"Say something.\"\n"));
    world
}

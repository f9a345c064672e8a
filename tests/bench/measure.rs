//! What benchmarks share: processes whose time and memory are watched, and a simulator beside them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use enrich::clock;

/// CPU time and peak memory of a process that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) peak_mb: f64,
    /// Peak of what is not in files, such as the program's own, of which the system drops what it needs room for.
    pub(crate) peak_own_mb: f64,
}

/// Waits for a process and reads from /proc what it used; the last look is at most 2 ms before its end.
pub(crate) fn watch(mut child: Child) -> Used {
    let started = clock::now();
    let mut used = Used::default();
    let stat = format!("/proc/{}/stat", child.id());
    let status = format!("/proc/{}/status", child.id());
    loop {
        if let Ok(text) = std::fs::read_to_string(&stat)
            && let Some((_, rest)) = text.rsplit_once(") ")
        {
            let ticks: Vec<f64> =
                rest.split(' ').skip(11).take(2).filter_map(|number| number.parse().ok()).collect();
            used.cpu = ticks.iter().sum::<f64>() / 100.0;
        }
        if let Ok(text) = std::fs::read_to_string(&status) {
            let mb = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
            };
            used.peak_mb = mb("VmHWM:").unwrap_or(used.peak_mb);
            used.peak_own_mb = used.peak_own_mb.max(mb("RssAnon:").unwrap_or_default());
        }
        if let Ok(Some(status)) = child.try_wait() {
            assert!(status.success(), "a run failed");
            used.wall = (clock::now() - started).as_secs_f64();
            return used;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// CPU seconds of all children that have ended, to 10 ms.
#[allow(dead_code, reason = "not every benchmark asks")]
pub(crate) fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = rest.split(' ').skip(13).take(2).filter_map(|number| number.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// The middle one of some values.
#[allow(dead_code, reason = "not every benchmark has rounds")]
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The program.
pub(crate) fn enrich() -> Command {
    Command::new(env!("CARGO_BIN_EXE_enrich"))
}

/// The program, on one core.
#[allow(dead_code, reason = "not every benchmark pins what it runs")]
pub(crate) fn pinned(core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(enrich().get_program());
    command
}

/// A simulator in a process of its own; it ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    /// Serves with what a job file says of the simulator.
    pub(crate) fn start(mut program: Command, folder: &Path, job_text: &str) -> Server {
        let job = folder.join("simulator.toml");
        std::fs::write(&job, job_text).expect("a job file");
        let mut child = program
            .args(["simulate", "--port", "0"])
            .arg(&job)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the simulator starts");
        let mut url = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut url).expect("its address");
        Server { child, url: url.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

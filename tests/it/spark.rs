//! Spark jobs that send their rows to `enrich serve` with `examples/spark/enrich_spark.py`: what is paid for and what is in
//! their tables when tasks, executors, drivers and servers are killed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use enrich::config::SimulatorSpec;
use enrich::simulator::{Gate, answer_to};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::block_in_place;

use crate::packages;
use crate::support::{
    World, append_delta, clone, delta, everything_below, project, prompt_of, rows, rows_of, slow, text_of,
    until,
};

const CONCURRENCY: u64 = 16;
const WINDOW_ROWS: u64 = 200;
const KEEP: Duration = Duration::from_secs(2);

/// Sessions are large: one at a time.
static SESSION: Mutex<()> = Mutex::const_new(());

/// A process in a group of its own, which is killed with this value.
struct Group(Child);

impl Group {
    fn start(command: &mut Command) -> Group {
        Group(command.process_group(0).spawn().unwrap())
    }

    fn kill(&mut self) {
        let group = format!("-{}", self.0.id());
        // All of them may have ended.
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        self.0.wait().unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn first_line(group: &mut Group) -> String {
    let mut line = String::new();
    let mut output = BufReader::new(group.0.stdout.as_mut().unwrap());
    block_in_place(|| output.read_line(&mut line)).unwrap();
    line.trim_end().to_owned()
}

/// Kills a process, if it has not ended with another one.
fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// The processes below this one, with their command lines.
fn descendants(pid: u32) -> Vec<(u32, String)> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        children.entry(parent).or_default().push(pid);
    }
    let (mut found, mut next) = (Vec::new(), vec![pid]);
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            found.push((child, String::from_utf8_lossy(&line).replace('\0', " ")));
            next.push(child);
        }
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

async fn until_listening(group: &mut Group, port: u16) {
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert_eq!(group.0.try_wait().unwrap(), None, "nobody listens at {port}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where a driver's standard error goes.
fn log(world: &World) -> File {
    File::options().create(true).append(true).open(world.path("driver.log")).unwrap()
}

/// Python with Spark, and the jar of Delta.
struct Packages {
    python: PathBuf,
    delta_jar: PathBuf,
}

impl Packages {
    /// None where they cannot be had.
    fn find() -> Option<Packages> {
        packages::of_system("java", "-version")?;
        packages::of_pypi("pyspark, pyarrow", "pyspark==4.0.5 pyarrow==26.0.1 pandas==3.1.1")?;
        let python = packages::of_pypi("jsoniq", "--no-deps jsoniq==3.0.2")?;
        let delta_jar = Path::new(env!("CARGO_TARGET_TMPDIR")).join("delta-4.0.jar");
        if !delta_jar.exists() {
            let status = Command::new(&python).arg(script("delta_jar.py")).arg(&delta_jar).status().unwrap();
            assert!(status.success());
        }
        Some(Packages { python, delta_jar })
    }

    /// A script of the tests, which is a driver.
    fn driver(&self, name: &str, master: &str) -> Command {
        let paths = [project().join("examples/spark"), script("")];
        let mut command = Command::new(&self.python);
        command.arg(script(name)).env("SPARK_MASTER", master).env("DELTA_JAR", &self.delta_jar);
        command.env("PYTHONPATH", std::env::join_paths(paths).unwrap()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

fn script(name: &str) -> PathBuf {
    project().join("tests/it/spark").join(name)
}

/// The text of a job without source and target.
fn job(world: &World, app_id: &str) -> String {
    format!(
        r#"app_id = "{app_id}"
checkpoint.path = "{app_id}"
window.max_rows = {WINDOW_ROWS}
[provider.sim]
base_url = "{url}"
model = "simulated"
max_concurrency = {CONCURRENCY}
min_backoff = "10ms"
hedge = "off"
api_key_env = "KEY"
[[step]]
output = "answer"
share = false
prompt = """
Say something about:
{{{{ text }}}}"""
"#,
        url = world.simulator.url()
    )
}

/// `enrich serve` on the job of a world.
async fn serve(world: &World, port: u16, more: &[&str]) -> Group {
    let (keep, address) = (format!("{}s", KEEP.as_secs()), format!("127.0.0.1:{port}"));
    let mut command = world.job_command("serve", &["--listen", &address, "--keep", &keep]);
    let mut group =
        Group::start(command.args(more).env("KEY", "right").stdin(Stdio::null()).stderr(log(world)));
    until_listening(&mut group, port).await;
    group
}

/// Holds all requests behind so many more. Returns the number of requests when as many wait as may be in flight.
fn hold_after(world: &World, more: u64) -> u64 {
    let last = world.simulator.counts().requests + more;
    world.simulator.set_gate(Gate::ShutFrom(last + 1));
    last + CONCURRENCY
}

/// The master and two workers of a Spark that runs as several machines would.
struct Cluster {
    url: String,
    workers: [Group; 2],
    _master: Group,
}

impl Cluster {
    async fn start(packages: &Packages, folder: &Path) -> Cluster {
        let home = packages.python.parent().unwrap().parent().unwrap();
        let [library] = everything_in(&home.join("lib")).try_into().unwrap();
        let home = library.join("site-packages/pyspark");
        let daemon = |name: &str, host: &str| {
            let mut command = Command::new(home.join("bin/spark-class"));
            command.arg(format!("org.apache.spark.deploy.{name}")).args([
                "--host",
                host,
                "--webui-port",
                "0",
            ]);
            command.env("SPARK_HOME", &home).env("SPARK_LOCAL_IP", host).env("SPARK_DAEMON_MEMORY", "256m");
            command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let port = free_port();
        let mut master =
            Group::start(daemon("master.Master", "127.0.0.1").args(["--port", &port.to_string()]));
        until_listening(&mut master, port).await;
        let url = format!("spark://127.0.0.1:{port}");
        // A second attempt of a task goes to another host.
        let workers = ["127.0.0.1", "127.0.0.2"].map(|host| {
            let folder = folder.join(host);
            let mut command = daemon("worker.Worker", host);
            Group::start(command.args(["--cores", "2", "--memory", "1g", "--work-dir"]).arg(folder).arg(&url))
        });
        Cluster { url, workers, _master: master }
    }

    /// The executor of the first worker.
    fn executor(&self) -> Vec<u32> {
        of_program(self.workers[0].0.id(), "CoarseGrainedExecutorBackend")
    }

    /// The Python workers of the first worker's executor: what its daemon has forked.
    fn python_workers(&self) -> Vec<u32> {
        let daemon = of_program(self.workers[0].0.id(), "pyspark.daemon")[0];
        of_program(daemon, "pyspark.daemon")
    }
}

/// The processes below this one that have this in their command lines.
fn of_program(pid: u32, part: &str) -> Vec<u32> {
    descendants(pid).into_iter().filter(|(_, line)| line.contains(part)).map(|(pid, _)| pid).collect()
}

fn everything_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A driver that does the cases of `cases.py`.
struct Driver {
    _group: Group,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Driver {
    fn start(packages: &Packages, master: &str, world: &World) -> Driver {
        let mut command = packages.driver("cases.py", master);
        let mut group = Group::start(command.arg(world.folder.path()).stderr(log(world)));
        let (input, output) = (group.0.stdin.take().unwrap(), BufReader::new(group.0.stdout.take().unwrap()));
        let mut driver = Driver { _group: group, input, output };
        assert_eq!(driver.answer()["ready"], true);
        driver
    }

    fn say(&mut self, what: &Value) {
        writeln!(self.input, "{what}").unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        block_in_place(|| self.output.read_line(&mut line)).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the driver says {line:?}"))
    }

    /// What comes of the case that was begun.
    fn end(&mut self) -> Value {
        self.say(&json!({}));
        self.answer()
    }

    fn result(&mut self, what: &Value) -> Value {
        self.say(what);
        self.end()
    }
}

/// Holds the rows of a case to have come back each once, with its own answer.
#[track_caller]
fn assert_rows(end: &Value, first: i64, count: i64) {
    let found: Option<Vec<(i64, String)>> = serde_json::from_value(end["result"].clone()).unwrap_or_default();
    let Some(mut found) = found else { panic!("{end}") };
    found.sort();
    let expected: Vec<_> = (first..first + count).map(|id| (id, answer_to(&prompt_of(id)))).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streams_rows_are_in_its_table_once_whenever_its_driver_is_killed() {
    const ROWS: i64 = 1_500;
    let _one = SESSION.lock().await;
    let Some(packages) = Packages::find() else { return };
    let world = World::new(slow(20)).await;
    for first in (0..ROWS).step_by(250) {
        append_delta(&world.path("source"), &rows(first..first + 250)).await;
    }
    world.write_text(&job(&world, "stream"));
    let start = |dies_in: i64| {
        let mut command = packages.driver("stream.py", "local[2]");
        command.arg(world.folder.path()).arg(env!("CARGO_BIN_EXE_enrich")).arg(dies_in.to_string());
        Group::start(command.env("KEY", "right").stderr(log(&world)))
    };

    // In the first epoch, with its server.
    let held = hold_after(&world, 200);
    let mut driver = start(-1);
    world.until_requests(held).await;
    driver.kill();
    world.simulator.set_gate(Gate::Open);
    world.settle().await;

    // In the second, without its server, which keeps what it has sent.
    let held = hold_after(&world, 500);
    let mut driver = start(-1);
    let server = first_line(&mut driver);
    let server: u32 = server.strip_prefix("server ").unwrap().parse().unwrap();
    world.until_requests(held).await;
    let others = descendants(driver.0.id()).into_iter().map(|(pid, _)| pid).filter(|pid| *pid != server);
    [driver.0.id()].into_iter().chain(others.collect::<Vec<_>>()).for_each(kill);
    world.simulator.set_gate(Gate::Open);

    // Between Delta's commit and the epoch's.
    let mut driver = start(1);
    block_in_place(|| driver.0.wait()).unwrap();
    driver.kill();
    let target = world.path("target");
    assert_eq!(rows_of(&target, "SELECT count(*) FROM target").await, [["1000"]]);

    let mut driver = start(-1);
    let mut said = String::new();
    block_in_place(|| driver.0.stdout.take().unwrap().read_to_string(&mut said)).unwrap();
    let said: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(said, ["committed 1", "committed 2", "ended 0"]);

    let mut found = rows_of(&target, "SELECT CAST(id AS VARCHAR), answer FROM target").await;
    found.sort_by_key(|row| row[0].parse::<i64>().unwrap());
    let expected: Vec<_> = (0..ROWS).map(|id| vec![id.to_string(), answer_to(&prompt_of(id))]).collect();
    assert_eq!(found, expected);
    assert_eq!(delta(&target).await.version(), Some(2), "three commits");
    let again = world.simulator.counts().requests - 1_500;
    assert_eq!(again, CONCURRENCY, "what was in flight when the server was killed, and nothing else");
    let kept = everything_below(&world.path("stream"));
    let journals = kept.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "journal"));
    assert_eq!(journals.count(), 0, "nothing is kept of what is committed");
}

/// A driver of a cluster, the server that its tasks ask, and the file with the provider's key.
struct Scene {
    world: World,
    cluster: Cluster,
    driver: Driver,
    server: Group,
    port: u16,
    key: PathBuf,
}

impl Scene {
    async fn new(packages: &Packages) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "right").unwrap();
        let api_keys_file = Some(key.to_str().unwrap().to_owned());
        let mut world = World::new(SimulatorSpec { api_keys_file, ..slow(20) }).await;
        world.folder = folder;
        world.write_text(&job(&world, "cases"));
        let port = free_port();
        let server = serve(&world, port, &[]).await;
        let cluster = Cluster::start(packages, world.folder.path()).await;
        let driver = Driver::start(packages, &cluster.url, &world);
        Scene { world, cluster, driver, server, port, key }
    }

    /// A case in which rows are asked for, with more of its arguments.
    fn enriched(&self, first: i64, count: i64, more: &Value) -> Value {
        let mut case = json!({"case": "enriched", "urls": [self.url()], "first": first, "count": count});
        case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        case
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> u64 {
        self.world.simulator.counts().requests
    }

    /// Begins a case, and waits until as many requests as may be in flight wait behind fifty that are answered.
    async fn begin_and_hold(&mut self, case: &Value) -> u64 {
        let held = hold_after(&self.world, 50);
        self.driver.say(case);
        self.world.until_requests(held).await;
        held
    }

    fn let_go(&self) {
        self.world.simulator.set_gate(Gate::Open);
    }

    async fn a_task_fails_half_way(&mut self) {
        let before = self.requests();
        let end = self.driver.result(&self.enriched(0, 300, &json!({"fails": true})));
        assert_rows(&end, 0, 300);
        assert_eq!(self.requests() - before, 300);
    }

    async fn a_task_has_two_attempts_at_once(&mut self) {
        let before = self.requests();
        // The last row of the last of four tasks.
        self.world.simulator.set_gate(Gate::ShutFor(text_of(1_099)));
        let case = self.enriched(1_000, 100, &json!({"note": "attempts"}));
        self.driver.say(&case);
        let second = "\n3 1 ";
        while !std::fs::read_to_string(self.world.path("attempts")).unwrap_or_default().contains(second) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.let_go();
        assert_rows(&self.driver.end(), 1_000, 100);
        assert_eq!(self.requests() - before, 100);
    }

    async fn a_process_of_an_executor_is_killed(&mut self, which: fn(&Cluster) -> Vec<u32>, first: i64) {
        let before = self.requests();
        let case = self.enriched(first, 200, &json!({}));
        self.begin_and_hold(&case).await;
        let killed = which(&self.cluster);
        assert!(!killed.is_empty());
        killed.into_iter().for_each(kill);
        self.let_go();
        assert_rows(&self.driver.end(), first, 200);
        assert_eq!(self.requests() - before, 200);
    }

    async fn a_cancelled_job_has_no_more_rows_sent(&mut self) {
        let case = self.enriched(4_000, 300, &json!({}));
        let held = self.begin_and_hold(&case).await;
        self.driver.say(&json!({"cancel": true}));
        let end = self.driver.end();
        assert!(end["error"].as_str().is_some_and(|error| error.contains("cancelled")), "{end}");
        while self.driver.result(&json!({"case": "open_rows", "urls": [self.url()]}))["result"] != 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.let_go();
        // Rows that have answers.
        let end = self.driver.result(&self.enriched(0, 300, &json!({})));
        assert_rows(&end, 0, 300);
        until(&self.world.simulator, |counts| counts.in_flight == 0).await;
        let more = self.requests() - held;
        assert!(
            more < 4 * CONCURRENCY,
            "{more} requests were sent that nobody waits for, and not only what was handed out"
        );
    }

    async fn a_server_is_killed_and_started_again(&mut self) {
        let before = self.requests();
        let case = self.enriched(5_000, 200, &json!({}));
        self.begin_and_hold(&case).await;
        self.server.kill();
        self.let_go();
        self.server = serve(&self.world, self.port, &[]).await;
        assert_rows(&self.driver.end(), 5_000, 200);
        let again = self.requests() - before - 200;
        assert_eq!(again, CONCURRENCY, "what was in flight, and nothing else");
    }

    async fn an_epoch_is_cut_into_other_batches(&mut self) {
        let before = self.requests();
        for more in [json!({"epoch": 7}), json!({"epoch": 7, "repartition": 3, "rows_at_once": 33})] {
            let end = self.driver.result(&self.enriched(6_000, 200, &more));
            assert_rows(&end, 6_000, 200);
        }
        assert_eq!(self.requests() - before, 200);
    }

    async fn more_rows_come_than_the_window_has_room_for(&mut self) {
        let count = 4 * i64::try_from(WINDOW_ROWS).unwrap();
        let more = json!({"partitions": 8, "rows_at_once": 50});
        let end = self.driver.result(&self.enriched(7_000, count, &more));
        assert_rows(&end, 7_000, count);
    }

    async fn keys_tell_rows_of_one_text_apart(&mut self) {
        for form in ["parquet", "delta"] {
            let before = self.requests();
            let end = self.driver.result(&json!({"case": "keyed", "urls": [self.url()], "form": form}));
            let answer = answer_to(&format!("Say something about:\nThe same in {form}"));
            assert_eq!(end["result"], json!(vec![answer; 60]));
            assert_eq!(self.requests() - before, 30, "{form}: each row is asked once");
        }
    }

    async fn an_epoch_is_written_once(&mut self) {
        for (table, first) in
            [(self.world.path("written").to_str().unwrap(), 8_000), ("default.written", 8_100)]
        {
            let case = json!({
                "case": "written", "urls": [self.url()], "table": table, "first": first, "count": 40, "epoch": 0
            });
            assert_eq!(self.driver.result(&case)["result"], 40, "{table}");
        }
    }

    async fn columns_of_all_types_come_back(&mut self) {
        let before = self.requests();
        let end = self.driver.result(&json!({"case": "of_all_types", "urls": [self.url()], "first": 9_000}));
        assert_eq!(end["result"], json!(vec![true; 6]), "{end}");
        assert_eq!(self.requests() - before, 30, "in both time zones they are the same rows");
        let end = self.driver.result(&json!({"case": "refused", "urls": [self.url()], "first": 9_100}));
        let [missing, twice] = [0, 1].map(|at| end["result"][at].as_str().unwrap_or_default());
        assert!(missing.contains("answers 400") && missing.contains("text"), "{end}");
        assert!(twice.contains("answers 400") && twice.contains("Answer"), "{end}");
    }

    async fn two_servers_share_a_job(&mut self) {
        self.server.kill();
        let before = self.requests();
        let mut servers = Vec::new();
        for share in ["0/2", "1/2"] {
            let port = free_port();
            servers.push((serve(&self.world, port, &["--share", share]).await, port));
        }
        let urls: Vec<_> = servers.iter().map(|(_, port)| format!("http://127.0.0.1:{port}")).collect();
        for more in [json!({"urls": urls}), json!({"urls": urls, "note": "shared"})] {
            let end = self.driver.result(&self.enriched(10_000, 200, &more));
            assert_rows(&end, 10_000, 200);
        }
        assert_eq!(self.requests() - before, 200);
        for (mut server, _) in servers {
            server.kill();
        }
        self.server = serve(&self.world, self.port, &[]).await;
    }

    async fn a_refused_key_stops_the_job_for_all_attempts(&mut self) {
        std::fs::write(&self.key, "another").unwrap();
        let end = self.driver.result(&self.enriched(11_000, 200, &json!({})));
        let refusals = self.world.simulator.counts().statuses[&401];
        let error = end["error"].as_str().unwrap_or_default();
        assert!(error.contains("Stopped: enrich has stopped with status 4"), "{end}");
        assert!((1..=2 * CONCURRENCY).contains(&refusals), "{refusals} requests were refused");
        let end = self.driver.result(&self.enriched(12_000, 20, &json!({})));
        assert!(end["error"].as_str().unwrap_or_default().contains("Stopped"), "{end}");
        assert_eq!(self.world.simulator.counts().statuses[&401], refusals, "nobody is asked any more");
        std::fs::write(&self.key, "right").unwrap();
        self.server.kill();
        self.server = serve(&self.world, self.port, &[]).await;
        let end = self.driver.result(&self.enriched(11_000, 200, &json!({})));
        assert_rows(&end, 11_000, 200);
    }
}

impl Scene {
    async fn the_batch_job_of_the_examples_runs(&mut self) {
        let (_folder, root) = clone();
        let port = free_port();
        let job = root.join("examples/spark/job.toml");
        let address = format!("127.0.0.1:{port}");
        let mut command = self.world.command(&["serve", job.to_str().unwrap(), "--listen", &address]);
        let mut server = Group::start(command.stdin(Stdio::null()).stderr(log(&self.world)));
        until_listening(&mut server, port).await;
        let case = json!({
            "case": "batch_job", "urls": [format!("http://{address}")], "source": root.join("examples/data/reviews"),
        });
        let end = self.driver.result(&case);
        let summaries: Vec<String> = serde_json::from_value(end["result"].clone()).unwrap_or_default();
        assert_eq!(summaries.len(), 24, "{end}");
        assert!(summaries.iter().all(|summary| summary.starts_with("In short: ")), "{summaries:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_executors_and_servers_die_and_no_row_is_lost_or_paid_for_twice() {
    let _one = SESSION.lock().await;
    let Some(packages) = Packages::find() else { return };
    let mut scene = Scene::new(&packages).await;
    scene.a_task_fails_half_way().await;
    scene.a_task_has_two_attempts_at_once().await;
    scene.a_process_of_an_executor_is_killed(Cluster::python_workers, 2_000).await;
    scene.a_process_of_an_executor_is_killed(Cluster::executor, 3_000).await;
    scene.a_cancelled_job_has_no_more_rows_sent().await;
    scene.a_server_is_killed_and_started_again().await;
    scene.an_epoch_is_cut_into_other_batches().await;
    scene.more_rows_come_than_the_window_has_room_for().await;
    scene.keys_tell_rows_of_one_text_apart().await;
    scene.an_epoch_is_written_once().await;
    scene.columns_of_all_types_come_back().await;
    scene.two_servers_share_a_job().await;
    scene.a_refused_key_stops_the_job_for_all_attempts().await;
    scene.the_batch_job_of_the_examples_runs().await;
}

//! Jobs whose source, target and checkpoint lie in an object store, on machines that are killed, lose what they had
//! on their disks, or pause for longer than their lease.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use enrich::clock;
use enrich::config::{SimulatorSpec, Span};
use enrich::faultpoint::{ACTIONS, STORE_ACTIONS};
use enrich::simulator::Gate;
use futures::{StreamExt, stream};

use crate::support::store::Store;

use crate::support::{
    Outcome, World, append_delta, everything_below, ids_in, nth, prompt_of, refusing, rows, slow, stop,
    until_stopped, wait,
};

const CONCURRENCY: u64 = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A job in the store, below a prefix of its own, and a machine or two.
struct Site {
    store: Arc<Store>,
    prefix: String,
    world: World,
}

impl Site {
    async fn new(store: &Arc<Store>, prefix: String, spec: SimulatorSpec) -> Site {
        let world = World::new(spec).await;
        let at = |name: &str| format!("path = \"s3://bucket/{prefix}/{name}\"");
        let text = world
            .usual_job("")
            .replace("path = \"source\"", &at("source"))
            .replace("path = \"target\"", &at("target"))
            .replace("[batch]", "[checkpoint]\nlease = \"1s\"\n[journal]\ncopy_every = \"100ms\"\n[batch]");
        world.write_text(&text);
        Site { store: Arc::clone(store), prefix, world }
    }

    async fn append(&self, ids: std::ops::Range<i64>) {
        let source = self.world.path("source");
        append_delta(&source, &rows(ids)).await;
        self.store.upload(&source, &format!("{}/source", self.prefix)).await;
    }

    fn state(&self, machine: u32) -> PathBuf {
        self.world.path(&format!("machine-{machine}"))
    }

    fn command(&self, machine: u32, arguments: &[&str]) -> Command {
        let mut command = self.world.job_command(arguments[0], &arguments[1..]);
        command.envs(self.store.environment()).env("XDG_STATE_HOME", self.state(machine));
        command
    }

    async fn run(&self, machine: u32, fault: &str) -> Outcome {
        let mut command = self.command(machine, &["run"]);
        if !fault.is_empty() {
            command.env("ENRICH_FAULT", fault);
        }
        self.world.outcome(command).await
    }

    /// Runs until the lease of a machine that is gone has run out.
    async fn run_to_the_end(&self, machine: u32) {
        self.to_the_end(machine, "run").await;
    }

    /// Runs a command until the lease of a machine that is gone has run out.
    async fn to_the_end(&self, machine: u32, command: &str) -> Outcome {
        let give_up = clock::now() + Duration::from_secs(120);
        loop {
            let ended = self.world.outcome(self.command(machine, &[command])).await;
            if ended.status == Some(0) {
                return ended;
            }
            assert_eq!(ended.status, Some(6), "{}", ended.stderr);
            ended.assert_says("unless it is renewed, its lease ends in");
            assert!(clock::now() < give_up, "{}", ended.stderr);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn lose(&self, machine: u32) {
        let _ = std::fs::remove_dir_all(self.state(machine));
    }

    async fn download(&self) {
        self.store.download(&format!("{}/target", self.prefix), &self.world.path("target")).await;
    }

    /// Waits until the answers of so many rows are in copies of journals in the store.
    async fn until_copied(&self, rows: usize) {
        let is_journal = |(_, bytes): &(PathBuf, Vec<u8>)| bytes.starts_with(b"ENRICHJ");
        let mut copied = BTreeSet::new();
        while copied.len() < rows {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.download().await;
            let folder = self.world.path("target/_checkpoints");
            let copies = if folder.exists() { everything_below(&folder) } else { Vec::new() };
            copied.extend(copies.into_iter().filter(is_journal).flat_map(|(path, _)| ids_in(&path)));
        }
    }

    /// Rows whose answers are in the table, in the store, or on a machine.
    async fn recorded(&self, machine: u32) -> BTreeSet<i64> {
        self.download().await;
        let mut held = BTreeSet::new();
        if self.world.path("target/_delta_log").exists() {
            held.extend(self.world.target().await.iter().map(|row| row.id));
        }
        let copies = self.world.path("target/_checkpoints/test/journal");
        for folder in [copies, self.state(machine)].iter().filter(|folder| folder.exists()) {
            for (path, bytes) in everything_below(folder) {
                if bytes.starts_with(b"ENRICHJ") {
                    held.extend(ids_in(&path));
                }
            }
        }
        held
    }
}

/// Runs with a fault, on a machine that may lose what it had, and holds the result against a run without faults.
async fn cross(store: &Arc<Store>, fault: &str, is_lost: bool) {
    const ROWS: i64 = 45;
    let prefix = format!("{}-{is_lost}", fault.replace(['.', '=', '@'], "-"));
    let spec = slow(40);
    let site = Site::new(store, prefix, spec).await;
    for at in 0..3 {
        site.append(at * 15..(at + 1) * 15).await;
    }
    let faulty = site.run(0, fault).await;
    assert_ne!(faulty.status, Some(0), "{fault}: {}", faulty.stderr);
    site.world.settle().await;
    if is_lost {
        site.lose(0);
    }
    let before = site.world.simulator.counts();
    let recorded = site.recorded(0).await;
    site.run_to_the_end(0).await;
    site.download().await;
    site.world.assert_target(0..ROWS).await;
    let after = site.world.simulator.counts();
    for id in 0..ROWS {
        let was_cut = before.answers_to(&prompt_of(id)) > 0 && !recorded.contains(&id);
        let times = after.answers_to(&prompt_of(id));
        assert!(
            (1..=1 + u32::from(was_cut)).contains(&times),
            "{fault}: row {id} was answered {times} times"
        );
    }
    let batches: BTreeSet<i64> = site.world.target().await.iter().map(|row| row.batch).collect();
    assert_eq!(batches, (0..5).collect(), "{fault}: the same batches under the same numbers");
    let left = everything_below(&site.world.path("target/_checkpoints"));
    let copies = left.iter().filter(|(path, _)| path.to_str().unwrap().contains("/journal/")).count();
    assert_eq!(copies, 0, "{fault}: no copy is left");
    site.run(0, "").await.assert_status(0).assert_says("nothing to do");
    assert_eq!(site.world.simulator.counts().requests, after.requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_survives_a_kill_also_when_the_machine_is_lost() {
    let Some(store) = Store::start() else { return };
    let store = Arc::new(store);
    let points = ACTIONS.iter().chain(STORE_ACTIONS).flat_map(|action| {
        ["before", "after"].into_iter().flat_map(move |side| {
            [false, true]
                .into_iter()
                .map(move |is_lost| (format!("{action}.{side}=kill@{}", nth(action)), is_lost))
        })
    });
    let points: Vec<(String, bool)> = points.collect();
    let crossed = stream::iter(&points).map(|(fault, is_lost)| cross(&store, fault, *is_lost));
    crossed.buffer_unordered(4).collect::<Vec<()>>().await;
}

/// Kills a run again and again; in a tenth of the kills the machine is lost.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_lose_and_double_nothing_in_a_store() {
    let Some(store) = Store::start() else { return };
    let (kills, seed) = (number("ENRICH_STORE_KILLS", 10), number("ENRICH_STORE_SEED", fastrand::u64(..)));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let spec = SimulatorSpec {
        latency: Some(Span(Duration::from_millis(30))),
        latency_sigma: 0.8,
        seed,
        ..SimulatorSpec::default()
    };
    let site = Site::new(&Arc::new(store), "soak".to_owned(), spec).await;
    let (mut total, mut losses, mut held) = (0, 0, BTreeSet::new());
    let (mut cut_in_flight, mut cut_by_losses) = (0, 0);
    let mut cut: BTreeMap<i64, u32> = BTreeMap::new();
    let mut before: BTreeMap<i64, u32> = BTreeMap::new();
    let actions: Vec<&str> = ACTIONS.iter().chain(STORE_ACTIONS).copied().collect();
    for kill in 0..kills {
        if total - (held.len() as i64) < 60 {
            site.append(total..total + 120).await;
            total += 120;
        }
        let mut command = site.command(0, &["run"]);
        let by_point = random.bool();
        if by_point {
            let (action, side) =
                (random.choice(&actions).unwrap(), random.choice(["before", "after"]).unwrap());
            command.env("ENRICH_FAULT", format!("{action}.{side}=kill@{}", random.u32(1..6)));
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let most = Duration::from_millis(random.u64(if by_point { 3_000..5_000 } else { 200..2_500 }));
        kill_after(child, most).await;
        site.world.settle().await;
        let is_lost = kill % 10 == 9;
        if is_lost {
            site.lose(0);
            losses += 1;
            // Its lease stands for a while.
            tokio::time::sleep(Duration::from_millis(2_200)).await;
        }
        let counts = site.world.simulator.counts();
        let recorded = site.recorded(0).await;
        let mut unrecorded = 0;
        for id in 0..total {
            let times = counts.answers_to(&prompt_of(id));
            let was = before.insert(id, times).unwrap_or_default();
            if (times > was || held.contains(&id)) && !recorded.contains(&id) {
                *cut.entry(id).or_default() += 1;
                unrecorded += 1;
            }
        }
        match is_lost {
            true => cut_by_losses += unrecorded,
            false => {
                assert!(unrecorded <= CONCURRENCY, "{unrecorded} answers of kill {kill} are not recorded");
                cut_in_flight += unrecorded;
            }
        }
        held = recorded;
    }
    site.run_to_the_end(0).await;
    site.download().await;
    site.world.assert_target(0..total).await;
    let counts = site.world.simulator.counts();
    for id in 0..total {
        let (times, allowed) =
            (counts.answers_to(&prompt_of(id)), 1 + cut.get(&id).copied().unwrap_or_default());
        assert!(times <= allowed, "row {id} was answered {times} times, and {allowed} are explained");
    }
    println!(
        "{kills} kills, {losses} of them with the machine; {total} rows, none lost or doubled; answers paid again: {} \
         ({cut_in_flight} were in flight at kills, {cut_by_losses} not yet copied or in flight at losses; copied every \
         100 ms)",
        counts.paid_again()
    );
}

async fn kill_after(mut child: Child, most: Duration) {
    let end = clock::now() + most;
    while clock::now() < end && child.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let _ = child.kill();
    child.wait().unwrap();
}

/// Two machines that both want a job.
#[tokio::test(flavor = "multi_thread")]
async fn two_machines_contend_for_a_job_with_pauses_longer_than_the_lease() {
    let Some(store) = Store::start() else { return };
    let store = Arc::new(store);
    let (schedules, seed) =
        (number("ENRICH_STORE_SCHEDULES", 4), number("ENRICH_STORE_SEED", fastrand::u64(..)));
    println!("seed {seed}");
    let mut all =
        stream::iter(0..schedules).map(|at| contend(&store, at, seed.wrapping_add(at))).buffer_unordered(2);
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    while let Some(found) = all.next().await {
        for (what, times) in found {
            *told.entry(what).or_default() += times;
        }
    }
    println!("{schedules} schedules; no row lost or doubled; {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_slept_through_the_lease_stops_before_the_next_commit() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "slept".to_owned(), SimulatorSpec::default()).await;
    site.append(0..120).await;
    site.world.simulator.set_gate(Gate::ShutFrom(31));
    let mut sleeper = site.command(0, &["run"]);
    let sleeper = sleeper.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Four of them are in flight.
    site.world.until_requests(34).await;
    signal(&sleeper, "STOP").await;
    until_stopped(&sleeper).await;
    site.world.simulator.set_gate(Gate::Open);
    // The other one waits for the end of the lease, and has the job to its end.
    site.run_to_the_end(1).await;
    site.download().await;
    let version = site.world.target_version().await;
    signal(&sleeper, "CONT").await;
    let woken = tokio::task::spawn_blocking(move || sleeper.wait_with_output().unwrap()).await.unwrap();
    let woken = Outcome::of(&woken);
    woken
        .assert_status(6)
        .assert_says("this run has lost the job to another one")
        .assert_says("it has ended since");
    site.download().await;
    assert_eq!(site.world.target_version().await, version, "it commits nothing any more");
    site.world.assert_target(0..120).await;
}

const ENDS: [(&str, &str); 5] = [
    ("the lease was another's", "another run holds this job"),
    ("lost the lease", "this run has lost the job to another one"),
    ("came late to the checkpoint", "has changed the checkpoint"),
    ("finished", "result: "),
    ("found nothing to do", "nothing to do"),
];

async fn contend(store: &Arc<Store>, at: u64, seed: u64) -> Vec<(&'static str, u64)> {
    const ROWS: i64 = 120;
    let mut random = fastrand::Rng::with_seed(seed);
    let spec =
        SimulatorSpec { latency: Some(Span(Duration::from_millis(150))), seed, ..SimulatorSpec::default() };
    let site = Site::new(store, format!("contended-{at}"), spec).await;
    for part in 0..3 {
        site.append(part * 40..(part + 1) * 40).await;
    }
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    let mut machines: [Option<Child>; 2] = [None, None];
    let spawn = |machine: u32| {
        let mut command = site.command(machine, &["run"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let end = clock::now() + Duration::from_millis(random.u64(5_000..9_000));
    while clock::now() < end {
        let machine = random.u32(0..2);
        let place = &mut machines[machine as usize];
        if place.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
            note(place.take().unwrap(), &mut found).await;
        }
        match place {
            None => *place = Some(spawn(machine)),
            // A pause that may be longer than the lease of one second, with the margin of another.
            Some(child) if random.u32(0..4) > 0 => {
                signal(child, "STOP").await;
                let other = 1 - machine;
                let pause = Duration::from_millis(random.u64(200..4_000));
                *found.entry("pauses").or_default() += 1;
                tokio::time::sleep(pause / 2).await;
                if machines[other as usize].is_none() {
                    machines[other as usize] = Some(spawn(other));
                }
                tokio::time::sleep(pause / 2).await;
                signal(machines[machine as usize].as_ref().unwrap(), "CONT").await;
            }
            Some(child) => {
                let _ = child.kill();
                *found.entry("kills").or_default() += 1;
                note(place.take().unwrap(), &mut found).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..600))).await;
    }
    for child in machines.into_iter().flatten() {
        note(child, &mut found).await;
    }
    site.run_to_the_end(random.u32(0..2)).await;
    site.download().await;
    site.world.assert_target(0..ROWS).await;
    *found.entry("answers paid again").or_default() += site.world.simulator.counts().paid_again();
    found.into_iter().collect()
}

/// Waits for a run and notes how it ended.
async fn note(child: Child, found: &mut BTreeMap<&'static str, u64>) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let outcome = Outcome::of(&output);
    let known = ENDS.iter().find(|(_, words)| outcome.stderr.contains(words));
    match (outcome.status, known) {
        (Some(0 | 6), Some((what, _))) => *found.entry(what).or_default() += 1,
        (Some(1), _) if outcome.stderr.contains("was committed by another checkpoint meanwhile") => {}
        (None, _) => {}
        (status, _) => panic!("{status:?}: {}", outcome.stderr),
    }
}

async fn signal(child: &Child, name: &str) {
    let mut command = Command::new("kill");
    command.args([&format!("-{name}"), &child.id().to_string()]);
    tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_machines_with_checkpoints_of_their_own_one_is_refused() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "apart".to_owned(), SimulatorSpec::default()).await;
    site.append(0..60).await;
    site.world.simulator.set_gate(Gate::ShutFrom(1));
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    let mut runs = Vec::new();
    for machine in 0..2 {
        let path = site.world.path(&format!("job-{machine}.toml"));
        let own = format!("[checkpoint]\npath = \"checkpoint-{machine}\"");
        std::fs::write(&path, text.replace("[checkpoint]", &own)).unwrap();
        let mut command = site.world.command(&["run", path.to_str().unwrap()]);
        command.envs(site.store.environment());
        runs.push(command);
    }
    let both_go_on = async {
        // The first request of each goes alone.
        site.world.until_requests(2).await;
        site.world.simulator.set_gate(Gate::Open);
    };
    let ends = futures::future::join_all(runs.into_iter().map(|run| site.world.output(run)));
    let (ends, ()) = tokio::join!(ends, both_go_on);
    let ends: Vec<Outcome> = ends.iter().map(Outcome::of).collect();
    let refused = ends.iter().find(|end| end.status != Some(0)).expect("one of them is not let on");
    let is_told = ["by another checkpoint", "another checkpoint writes to this target"]
        .iter()
        .any(|words| refused.stderr.contains(words));
    assert!(is_told, "{}", refused.stderr);
    assert!(ends.iter().any(|end| end.status == Some(0)), "{ends:?}");
    site.download().await;
    site.world.assert_target(0..60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_goes_on_with_a_retry_and_its_answers() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "mended".to_owned(), refusing("Row 1", Some(1))).await;
    site.append(0..20).await;
    // The machine is killed and the other one is refused within this time.
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    site.world.write_text(&text.replace("lease = \"1s\"", "lease = \"10s\""));
    site.run(0, "").await.assert_status(0).assert_says("11 errors");
    site.world.simulator.set_gate(Gate::ShutFrom(site.world.simulator.counts().requests + 6));
    let mut killed = site.command(0, &["retry"]);
    let killed =
        killed.env("ENRICH_FAULT", "journal-append.after=kill@9").stderr(Stdio::null()).spawn().unwrap();
    site.until_copied(5).await;
    site.world.simulator.set_gate(Gate::Open);
    assert_ne!(wait(killed).await.status, Some(0));
    site.world.settle().await;
    let before = site.world.simulator.counts().requests;
    let retried = site.world.output(site.command(1, &["retry"])).await;
    Outcome::of(&retried).assert_status(6).assert_says("another run holds this job");
    site.to_the_end(1, "retry").await.assert_says("brought back from the copies");
    site.download().await;
    site.world.assert_target(0..20).await;
    // Five were copied. Four more had come, and up to four others were in flight.
    let again = site.world.simulator.counts().requests - before;
    assert!((2..=10).contains(&again), "{again} of 11 are asked by the other machine");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_share_a_budget() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "budget".to_owned(), SimulatorSpec::default()).await;
    site.append(0..60).await;
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    site.world.write_text(&text.replace("[batch]", "[budget]\nmax_requests = 25\n[batch]"));
    let mut first = site.command(0, &["run"]);
    first.args(["--max-rows", "20"]);
    site.world.outcome(first).await.assert_status(0);
    site.world.simulator.set_gate(Gate::ShutFrom(21));
    let mut other = site.command(1, &["run"]);
    let other = other.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // All rows are planned before the budget is spent.
    while !site.world.outcome(site.command(2, &["status"])).await.stdout.contains("40 rows: ") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.world.simulator.set_gate(Gate::Open);
    wait(other).await.assert_status(5).assert_says("budget.max_requests is 25");
    assert_eq!(site.world.simulator.counts().requests, 25);
    site.run(0, "").await.assert_status(5);
    assert_eq!(site.world.simulator.counts().requests, 25);
    let status = site.world.outcome(site.command(2, &["status"])).await;
    status.assert_status(0);
    let of_both = "25 requests of 25";
    assert!(
        status.stdout.contains(of_both) && status.stdout.contains("40 rows: 5 answered"),
        "{}",
        status.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pilot_spent_before_it_was_cut_short_is_known_to_other_machines() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "pilot".to_owned(), SimulatorSpec::default()).await;
    site.append(0..60).await;
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    site.world.write_text(&text.replace("[batch]", "[budget]\nmax_requests = 200\n[batch]"));
    site.world.simulator.set_gate(Gate::ShutFrom(8));
    let mut pilot = site.command(0, &["plan", "--pilot", "60"]);
    let mut pilot = pilot.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    site.world.until_requests(8).await;
    stop(&mut pilot, "INT").await;
    site.world.simulator.set_gate(Gate::Open);
    wait(pilot).await.assert_status(130);
    site.world.settle().await;
    let requests = site.world.simulator.counts().requests;
    assert!((8..60).contains(&requests), "{requests}");
    let status = site.world.outcome(site.command(1, &["status"])).await;
    let spent = format!("{requests} requests of 200");
    assert!(status.assert_status(0).stdout.contains(&spent), "{spent}: {}", status.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_over_one_journal_is_refused_wherever_its_locks_are() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "one-journal".to_owned(), SimulatorSpec::default()).await;
    site.append(0..100).await;
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    site.world.write_text(&text.replace("[journal]", "[journal]\npath = \"journals\""));
    site.world.simulator.set_gate(Gate::ShutFrom(8));
    let mut first = site.command(0, &["run"]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while site.world.simulator.counts().requests < 8 {
        assert!(first.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.run(1, "").await.assert_status(6).assert_says("another run holds this job");
    site.world.simulator.set_gate(Gate::Open);
    assert!(first.wait().unwrap().success());
    assert_eq!(site.world.simulator.counts().requests, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_in_order_leaves_every_answer_to_the_next_machine() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "stopped".to_owned(), SimulatorSpec::default()).await;
    site.append(0..60).await;
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    // Nothing is copied before the end.
    let text = text
        .replace("copy_every = \"100ms\"", "copy_every = \"1h\"")
        .replace("max_rows = 10", "max_rows = 60");
    site.world.write_text(&text);
    site.world.simulator.set_gate(Gate::ShutFrom(16));
    let mut first = site.command(0, &["run"]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    site.world.until_requests(16).await;
    stop(&mut first, "INT").await;
    site.world.simulator.set_gate(Gate::Open);
    wait(first).await.assert_status(130);
    let before = site.world.simulator.counts();
    assert!(before.answered < 60);
    site.run(1, "").await.assert_status(0).assert_says("brought back from the copies");
    site.download().await;
    site.world.assert_target(0..60).await;
    assert_eq!(site.world.simulator.counts().requests, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_damaged_is_healed_from_its_copies() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "healed".to_owned(), SimulatorSpec::default()).await;
    site.append(0..60).await;
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    site.world.write_text(&text.replace("max_rows = 10", "max_rows = 60"));
    site.world.simulator.set_gate(Gate::ShutFrom(10));
    let mut killed = site.command(0, &["run"]);
    let killed =
        killed.env("ENRICH_FAULT", "journal-append.after=kill@30").stderr(Stdio::null()).spawn().unwrap();
    site.until_copied(9).await;
    site.world.simulator.set_gate(Gate::Open);
    assert_ne!(wait(killed).await.status, Some(0));
    site.world.settle().await;
    let recorded = site.recorded(0).await;
    let journals = everything_below(&site.state(0));
    let (journal, mut bytes) = journals.into_iter().find(|(_, bytes)| bytes.starts_with(b"ENRICHJ")).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    site.run(0, "").await.assert_status(1).assert_says("--repair");
    let repaired = site.world.outcome(site.command(0, &["check", "--repair"])).await;
    repaired.assert_status(0);
    let before = site.world.simulator.counts().requests;
    // The repair gave the folder another name: the lease of the old one runs out.
    site.run_to_the_end(0).await;
    site.download().await;
    site.world.assert_target(0..60).await;
    let asked = site.world.simulator.counts().requests - before;
    assert_eq!(asked, 60 - recorded.len() as u64, "what was damaged is in the copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_begin_keeps_nobody_out() {
    let Some(store) = Store::start() else { return };
    let site = Site::new(&Arc::new(store), "begun".to_owned(), SimulatorSpec::default()).await;
    site.append(0..10).await;
    let text = std::fs::read_to_string(site.world.job()).unwrap();
    let text = text.replace("lease = \"1s\"", "lease = \"10m\"");
    let text = text.replace("[batch]", "[budget]\nmax_requests = 25\n[batch]");
    site.world.write_text(&text);
    site.run(0, "").await.assert_status(0);
    site.append(10..20).await;
    site.world.write_text(&text.replace("[target]", "[target]\npartition_by = [\"id\"]"));
    site.run(0, "").await.assert_status(2);
    site.world.write_text(&text);
    site.run(1, "").await.assert_status(0).assert_says("10 rows written");
}

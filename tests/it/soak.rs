//! Kills the real binary at random moments, again and again, and counts what that cost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use enrich::clock;
use enrich::config::{SimulatorSpec, Span};
use enrich::simulator::Counts;

use crate::support::{Setup, World, append_delta, prompt_of, rows};

const CONCURRENCY: u64 = 8;
const ROWS_AT_ONCE: i64 = 400;

/// What a soak came to.
#[derive(Debug, Default)]
pub struct Soaked {
    pub kills: u32,
    pub kills_in_calls: u32,
    pub kills_around_commits: u32,
    pub in_flight_at_kills: u64,
    pub rows: i64,
    pub lost: usize,
    pub doubled: usize,
    pub paid_again: u64,
}

/// What a kill waits for.
enum Moment {
    InCalls,
    AroundCommit,
    AnyTime,
}

/// Kills a run so many times, then lets it end.
pub async fn soak(kills: u32, seed: u64) -> Soaked {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let simulator = SimulatorSpec {
        latency: Some(Span(Duration::from_millis(4))),
        latency_sigma: 0.8,
        seed,
        ..SimulatorSpec::default()
    };
    let setup = Setup { simulator, batch_rows: 20, concurrency: CONCURRENCY, ..Setup::default() };
    let world = World::of(setup).await;
    let mut soaked = Soaked { kills, ..Soaked::default() };
    let mut cut: BTreeMap<i64, u32> = BTreeMap::new();
    let mut before: BTreeMap<i64, u32> = BTreeMap::new();
    let mut recorded: BTreeSet<i64> = BTreeSet::new();
    for kill in 0..kills {
        if soaked.rows - (recorded.len() as i64) < ROWS_AT_ONCE / 2 {
            append_delta(&world.path("source"), &rows(soaked.rows..soaked.rows + ROWS_AT_ONCE)).await;
            soaked.rows += ROWS_AT_ONCE;
        }
        let moment = match kill % 3 {
            0 => Moment::InCalls,
            1 => Moment::AroundCommit,
            _ => Moment::AnyTime,
        };
        let child =
            world.job_command("run", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let at_kill = kill_at(&world, child, &moment, &mut random).await;
        soaked.kills_in_calls += u32::from(at_kill.in_calls);
        soaked.kills_around_commits += u32::from(matches!(moment, Moment::AroundCommit));
        // Requests that the dead client had sent still run at the server for a moment.
        world.settle().await;
        let counts = world.simulator.counts();
        recorded = world.recorded().await;
        let mut unrecorded = 0;
        for id in 0..soaked.rows {
            let times = counts.answers_to(&prompt_of(id));
            let was = before.insert(id, times).unwrap_or_default();
            if times > was && !recorded.contains(&id) {
                *cut.entry(id).or_default() += 1;
                unrecorded += 1;
            }
        }
        assert!(unrecorded <= CONCURRENCY, "{unrecorded} answers of kill {kill} are not recorded");
        soaked.in_flight_at_kills += at_kill.in_flight.max(unrecorded);
    }
    world.run(&[]).await.assert_status(0);
    let counts = world.simulator.counts();
    let target = world.target().await;
    let distinct: BTreeSet<i64> = target.iter().map(|row| row.id).collect();
    soaked.doubled = target.len() - distinct.len();
    soaked.lost = (0..soaked.rows).filter(|id| !distinct.contains(id)).count();
    soaked.paid_again = counts.paid_again();
    for id in 0..soaked.rows {
        let (times, allowed) =
            (counts.answers_to(&prompt_of(id)), 1 + cut.get(&id).copied().unwrap_or_default());
        assert!(
            times <= allowed,
            "row {id} was answered {times} times, and {allowed} are explained by kills"
        );
    }
    world.assert_target(0..soaked.rows).await;
    println!("{soaked:?}");
    soaked
}

struct AtKill {
    in_flight: u64,
    in_calls: bool,
}

/// Waits for the moment, kills the process, and says what was in flight.
async fn kill_at(world: &World, mut child: Child, moment: &Moment, random: &mut fastrand::Rng) -> AtKill {
    let give_up = clock::now() + Duration::from_secs(120);
    let first = world.simulator.counts();
    let wanted = first.requests + random.u64(1..60);
    let files = entries(&world.path("target"));
    let delay = Duration::from_micros(random.u64(0..300_000));
    let started = clock::now();
    loop {
        let counts = world.simulator.counts();
        let now = clock::now();
        let is_time = match moment {
            Moment::InCalls => counts.requests >= wanted && counts.in_flight > 0,
            // A data file or a commit has just appeared.
            Moment::AroundCommit => entries(&world.path("target")) > files,
            Moment::AnyTime => now - started >= delay,
        };
        if is_time || child.try_wait().unwrap().is_some() || now > give_up {
            break;
        }
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    if matches!(moment, Moment::AroundCommit) {
        tokio::time::sleep(Duration::from_micros(random.u64(0..4_000))).await;
    }
    let counts: Counts = world.simulator.counts();
    let in_calls = counts.in_flight > 0 && child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    AtKill { in_flight: counts.in_flight, in_calls }
}

/// Files of the table and entries of its log.
fn entries(folder: &Path) -> usize {
    let count = |folder: &Path| std::fs::read_dir(folder).map_or(0, |entries| entries.flatten().count());
    count(folder) + count(&folder.join("_delta_log"))
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_double_nothing_and_pay_only_for_what_was_in_flight() {
    let soaked = soak(50, fastrand::u64(..)).await;
    assert_eq!((soaked.lost, soaked.doubled), (0, 0));
    assert!(soaked.paid_again <= soaked.in_flight_at_kills, "{soaked:?}");
    assert!(soaked.kills_in_calls * 3 >= soaked.kills, "{soaked:?}");
    assert!((soaked.kills_around_commits + 1) * 3 >= soaked.kills, "{soaked:?}");
}

//! Rehearsals: how much of a quota is used and how much is refused, against models of many providers, in
//! virtual time. One file a scenario.

mod loopback;
pub mod rehearsal;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use enrich::dispatch::LearnedLimits;
use rehearsal::Scenario;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/limits")
}

/// Plays every case of a scenario, as many at once as there are processors.
fn play(name: &str) {
    let scenario = Scenario::load(&folder().join(name).with_extension("toml"));
    // Some of the cases only, while working on them.
    let only = std::env::var("ENRICH_LIMITS").unwrap_or_default();
    let chosen = |(variant, _): &(String, Scenario)| only.split(';').all(|part| variant.contains(part));
    // More seeds than one, to find what is rare.
    let seeds = std::env::var("ENRICH_LIMITS_SEEDS").map_or(0..1, |seeds| {
        let (from, to) = seeds.split_once("..").unwrap();
        from.parse().unwrap()..to.parse::<u64>().unwrap()
    });
    let cases = scenario.cases().into_iter().filter(chosen);
    let cases = Mutex::new(cases.flat_map(|case| seeds.clone().map(move |seed| (case.clone(), seed))));
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(((variant, case), seed)) = cases.lock().unwrap().next() else { return };
                    let played = case.play(&LearnedLimits::default(), seed);
                    println!("{name}{variant} seed={seed}: {}", played.line(&case.expect));
                    if std::env::var_os("ENRICH_LIMITS_TRACE").is_some() {
                        for (at, ten) in played.seconds.chunks(10).enumerate() {
                            let sum = |of: fn(&rehearsal::Second) -> u64| ten.iter().map(of).sum::<u64>();
                            println!(
                                "{:>5} s: {} answered, {} refused, {} broken, {} tokens",
                                at * 10,
                                sum(|second| second.accepted),
                                sum(|second| second.refused),
                                sum(|second| second.broken),
                                sum(|second| second.tokens),
                            );
                        }
                    }
                    let wrong = case.faults(&played);
                    if !wrong.is_empty() {
                        faults.lock().unwrap().push(format!("{variant} seed={seed}: {}", wrong.join("; ")));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}, {}:\n{}", name, scenario.about, faults.join("\n"));
}

/// Plays the short form of a scenario against the real simulator, in real time.
fn play_short(name: &str) {
    let scenario = Scenario::load(&folder().join(name).with_extension("toml"));
    let Some(short) = scenario.short() else {
        assert!(scenario.only_in_virtual_time, "every scenario has a short form, or says that it has none");
        return;
    };
    let played = short.play_over_loopback();
    println!("{name} over loopback: {}", played.line(&short.expect));
    assert!(played.took.as_secs() < short.run.seconds, "it did not end");
    let short = Scenario { expect: rehearsal::Expect { share: Vec::new(), ..short.expect.clone() }, ..short };
    let wrong = short.faults(&played);
    assert!(wrong.is_empty(), "{name}, {}, over loopback:\n{}", scenario.about, wrong.join("\n"));
}

macro_rules! scenarios {
    ($($name:ident,)+) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })+

        mod over_loopback {
            $(#[test]
            fn $name() {
                super::play_short(stringify!($name));
            })+
        }

        #[test]
        fn every_file_is_played() {
            let mut files: Vec<String> = std::fs::read_dir(folder())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
                .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            files.sort();
            let mut played = vec![$(stringify!($name).to_owned()),+];
            played.sort();
            assert_eq!(files, played);
        }
    };
}

scenarios! {
    burst_at_start,
    burst_in_the_middle,
    bursts_of_503,
    charge_learned,
    day_exhausted,
    limit_of_one,
    limits_changed,
    many_rows,
    most_fail,
    one_row_refused,
    outage,
    queue,
    quota_exhausted,
    requests_configured,
    requests_learned,
    second_client,
    slow_recovery,
    some_fail,
    stragglers,
    sporadic_429,
    sporadic_429_often,
    sporadic_429_slow,
    tokens_max,
    tokens_usage,
}

#[test]
fn what_a_run_learned_is_used_by_the_next() {
    let scenario = Scenario::load(&folder().join("requests_learned.toml"));
    let wanted = "headers=none seconds=1 window=token_bucket retry_after=seconds";
    let (_, case) = scenario.cases().into_iter().find(|(variant, _)| variant.trim() == wanted).unwrap();
    let learned_limits = LearnedLimits::default();
    let first = case.play(&learned_limits, 0);
    let second = case.play(&learned_limits, 0);
    println!("first {}, then {}", first.line(&case.expect), second.line(&case.expect));
    assert!(first.share(5, 20) < 0.95, "it has to find the limit");
    let share = second.share(5, 20);
    // In so short a time the second that a full bucket is worth counts.
    assert!((0.93..=1.0 + 1.0 / 15.0).contains(&share), "{share} of the quota from the beginning");
}

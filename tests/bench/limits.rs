//! How much of a quota is used and how much is refused, scenario by scenario, in virtual time.
//!
//! `cargo bench --bench limits` plays every scenario of `tests/it/limits` and prints the table that stands
//! in `examples/limits/README.md`; then it plays their short forms over loopback. Share: of the quota that is there, in the
//! measured part; the worst and the mean of all variants.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "shared with the tests")]

#[path = "../it/limits/rehearsal.rs"]
mod rehearsal;

use std::path::Path;
use std::sync::Mutex;

use enrich::dispatch::LearnedLimits;
use rehearsal::Scenario;

/// What came of a case: worst share of what was there, 429s, whether it was as it must be.
struct Case {
    share: Option<f64>,
    throttled: f64,
    answered: u64,
    failed: u64,
    is_right: bool,
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/limits");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    println!(
        "| scenario | variants | share of quota, mean | worst | 429s, mean | worst | rows answered | rows failed |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
    for file in &files {
        let scenario = Scenario::load(file);
        let cases = play(&scenario);
        let shares: Vec<f64> = cases.iter().filter_map(|case| case.share).collect();
        let (mean, worst) = match shares.as_slice() {
            [] => ("".to_owned(), "".to_owned()),
            shares => (
                format!("{:.3}", shares.iter().sum::<f64>() / shares.len() as f64),
                format!("{:.3}", shares.iter().copied().fold(f64::INFINITY, f64::min)),
            ),
        };
        let refused = cases.iter().map(|case| case.throttled).sum::<f64>() / cases.len() as f64;
        let most = cases.iter().map(|case| case.throttled).fold(0.0, f64::max);
        let (answered, failed): (u64, u64) =
            (cases.iter().map(|case| case.answered).sum(), cases.iter().map(|case| case.failed).sum());
        let name = file.file_stem().unwrap().to_string_lossy().replace('_', " ");
        let wrong = cases.iter().filter(|case| !case.is_right).count();
        let mark = if wrong > 0 { format!(" ({wrong} not as they must be)") } else { String::new() };
        println!(
            "| {name}{mark} | {} | {mean} | {worst} | {:.2}% | {:.2}% | {answered} | {failed} |",
            cases.len(),
            refused * 100.0,
            most * 100.0
        );
    }

    println!("\nthe short forms over loopback, in real time:");
    for file in &files {
        let Some(short) = Scenario::load(file).short() else { continue };
        let line = short.play_over_loopback().line(&short.expect);
        println!("  {:24} {line}", file.file_stem().unwrap().to_string_lossy().replace('_', " "));
    }
}

fn play(scenario: &Scenario) -> Vec<Case> {
    let cases = Mutex::new(scenario.cases().into_iter());
    let played = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((_, case)) = cases.lock().unwrap().next() else { return };
                    let one = case.play(&LearnedLimits::default(), 0);
                    let shares = case.expect.share.iter();
                    let share = shares.map(|wanted| one.share(wanted.from, wanted.to) / wanted.of);
                    let share = share.reduce(f64::min);
                    let is_right = case.faults(&one).is_empty();
                    let (throttled, answered, failed) = (one.throttled(), one.answered, one.failed);
                    played.lock().unwrap().push(Case { share, throttled, answered, failed, is_right });
                }
            });
        }
    });
    played.into_inner().unwrap()
}

//! What comes back from a Batch API otherwise than it should: rows A7, A9, A10 and A12 of the plan of tests of submissions,
//! in a short form.
//!
//! - A7: answers out of order, with separators in them, twice, for others, missing, and without a status.
//! - A9: downloads that break off, or end too early without a sign of it.
//! - A10: a key that does not find what another one has made.
//! - A12: batches that never end.

use std::process::Stdio;
use std::time::Duration;

use enrich::config::{BatchesSpec, StuckIn};

use crate::support::batches::{BATCH, ONLINE, end_of, millis, with_batches};
use crate::support::{Setup, World, append_delta, prompt_of, rows_about, rows_of, send, wait};

/// Texts with everything that a reader of lines may take for the end of one.
fn texts() -> impl Iterator<Item = String> {
    let odd =
        ["\u{2028}", "\u{2029}", "\u{85}", "\r\n", "\u{b}\u{c}", "\"}\n{\"", "\u{1e}", "\\n", "\u{feff}"];
    (0..180).map(move |row| format!("Row {row} {0}with {0} in it{0}", odd[row % odd.len()]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_that_of_single_requests_whatever_the_files_of_answers_are_like() {
    let batches = BatchesSpec {
        expired_lines: 0.2,
        throttled_lines: 0.05,
        missing_lines: 0.02,
        status_zero_lines: 0.02,
        twice_lines: 0.1,
        foreign_lines: 0.1,
        cut_downloads: 0.3,
        late_output: millis(30),
        empty_error_file: true,
        revives: true,
        ..BatchesSpec::default()
    };
    let whole =
        BatchesSpec { cut_downloads: 0.2, short_downloads: 0.2, ignores_ranges: true, ..batches.clone() };
    for batches in [batches, whole] {
        let world = World::of(Setup { simulator: with_batches(batches), ..Setup::default() }).await;
        append_delta(&world.path("source"), &rows_about(texts())).await;
        let job = std::fs::read_to_string(world.job()).unwrap();
        let sql = "SELECT id, text, answer, _enrich['source_row'], _enrich['error_count'] FROM target";
        world.run(&[]).await.assert_status(0);
        let online = rows_of(&world.path("target"), sql).await;
        let section = format!("{BATCH}\nmax_submissions = 100");
        let job = job.replace("\n[[step]]", &format!("\n{section}\n[[step]]"));
        world.write_text(&job.replace("path = \"target\"", "path = \"by_batch\""));
        world.run(&["--wait"]).await.assert_status(0).assert_says("180 rows written");
        assert_eq!(rows_of(&world.path("by_batch"), sql).await, online);
        let counts = world.simulator.counts();
        assert_eq!(counts.answered, 2 * 180, "each row once by each way");
        assert!(online.iter().all(|row| row[4] == "0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_two_batches_has_answered_is_used_whatever_the_other_says_of_it() {
    // The answer to every creation is lost, and the list shows a batch after it is made again and before it ends: each
    // of them leaves other rows unanswered.
    let batches = BatchesSpec {
        list_lag: millis(1_500),
        lost_creations: 1.0,
        takes: millis(4_000),
        expired_lines: 0.5,
        ..BatchesSpec::default()
    };
    let section = format!("{BATCH}\nmax_submissions = 1");
    let setup = Setup {
        simulator: with_batches(batches),
        rows: 60,
        provider: &section,
        step: "provider = [\"sim\", \"online\"]",
        sections: ONLINE,
        ..Setup::default()
    };
    let world = World::of(setup).await;
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_target(0..60).await;
    let counts = world.simulator.counts();
    assert!(counts.batches.created > 1 && counts.requests > 0);
    // Single requests are for what no batch has answered.
    let sql = "SELECT id FROM target WHERE _enrich['answer_step']['provider'] = 'online'";
    for row in rows_of(&world.path("target"), sql).await {
        let times = counts.answers_to(&prompt_of(row[0].parse().unwrap()));
        assert_eq!(times, 1, "row {} was answered by a batch and asked again", row[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_key_nothing_is_asked_again_and_with_the_first_one_it_goes_on() {
    // A batch that runs, one of which it is not known whether it exists, and one whose answers are not downloaded yet.
    for (fault, lost_creations) in [("", 0.0), ("batch-look.before=kill", 1.0), ("download.before=kill", 0.0)]
    {
        let takes = millis(if fault.is_empty() { 3_000 } else { 0 });
        let batches = BatchesSpec { each_key_apart: true, takes, lost_creations, ..BatchesSpec::default() };
        // An hour of polls, after which a file of answers counts as gone, is 1.2 seconds.
        let section = BATCH.replace("50ms", "20ms");
        let provider = format!("api_key_file = \"key\"\n{section}");
        let setup =
            Setup { simulator: with_batches(batches), rows: 25, provider: &provider, ..Setup::default() };
        let world = World::of(setup).await;
        std::fs::write(world.path("key"), "first").unwrap();
        if fault.is_empty() {
            assert_eq!(end_of(&world.run(&["--summary", "json"]).await), "waiting");
        } else {
            assert_eq!(world.run_with(&["--wait"], &[("ENRICH_FAULT", fault)]).await.status, None);
        }
        std::fs::write(world.path("key"), "second").unwrap();
        let mut wrong = world.job_command("run", &["--wait"]);
        let wrong = wrong.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        send(&wrong, "KILL");
        let said = wait(wrong).await.stderr;
        assert!(said.contains("key") || said.contains("cannot be had"), "{fault}: {said}");
        let batches = world.simulator.counts().batches;
        assert_eq!((batches.created, batches.uploads), (1, 1), "{fault}: {said}");
        std::fs::write(world.path("key"), "first").unwrap();
        world.run(&["--wait"]).await.assert_status(0);
        world.assert_paid_once(25, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_never_ends_is_cancelled_and_its_answers_are_used() {
    for (stuck, by_batch) in [(StuckIn::Validating, 0), (StuckIn::InProgress, 20), (StuckIn::Finalizing, 40)]
    {
        let batches = BatchesSpec { stuck: Some(stuck), ..BatchesSpec::default() };
        let section = format!("{BATCH}\ndeadline = \"1s\"\nmax_submissions = 1");
        let setup = Setup {
            simulator: with_batches(batches),
            rows: 40,
            provider: &section,
            step: "provider = [\"sim\", \"online\"]",
            sections: ONLINE,
            ..Setup::default()
        };
        let world = World::of(setup).await;
        world.run(&["--wait"]).await.assert_status(0).assert_says("40 rows written");
        world.assert_paid_once(40, &format!("{stuck:?}")).await;
        let counts = world.simulator.counts();
        assert_eq!(
            (counts.requests, counts.batches.created, counts.batches.cancellations),
            (40 - by_batch, 1, 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_for_a_provider_that_the_job_no_longer_asks_by_batch() {
    let batches = BatchesSpec { takes: millis(500), ..BatchesSpec::default() };
    let setup = Setup { simulator: with_batches(batches), rows: 25, provider: BATCH, ..Setup::default() };
    let world = World::of(setup).await;
    assert_eq!(end_of(&world.run(&["--summary", "json"]).await), "waiting");
    let job = std::fs::read_to_string(world.job()).unwrap();
    // Without the section, and under another name beside it.
    let without = job.replace(BATCH, "");
    let renamed = job.replace("provider.sim", "provider.new");
    let beside = format!(
        "{}\n[provider.new]\nbase_url = \"{}\"\nmodel = \"simulated\"\n{}",
        without.replace("[[step]]", "[[step]]\nprovider = [\"sim\", \"new\"]"),
        world.simulator.url(),
        BATCH.replace("provider.sim", "provider.new"),
    );
    for text in [without, renamed, beside] {
        world.write_text(&text);
        let run = world.run(&[]).await;
        let counts = world.simulator.counts();
        assert_eq!((counts.requests, counts.batches.created), (0, 1), "{}", run.stderr);
        run.assert_status(2).assert_says("[provider.sim.batch]").assert_says("--give-up");
    }
    world.write_text(&job);
    world.run(&["--wait"]).await.assert_status(0);
    world.assert_paid_once(25, "the section is back").await;
}

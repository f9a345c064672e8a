//! Runs after runs: what comes again is not asked again, and who may go on is decided by the table.

use std::process::Stdio;

use enrich::simulator::Gate;

use crate::support::{PATIENT, Setup, World, append_delta, clean_log, prompt_of, rows};

#[tokio::test(flavor = "multi_thread")]
async fn running_again_makes_no_call_and_no_commit_and_appended_rows_alone_are_asked() {
    let world = World::with_rows(25, 2).await;
    world.run(&[]).await.assert_status(0).assert_says("done: 25 rows written, 25 answers, 0 errors");
    let version = world.target_version().await;
    world.run(&[]).await.assert_status(0).assert_says("nothing to do");
    assert_eq!((world.simulator.counts().requests, world.target_version().await), (25, version));

    append_delta(&world.path("source"), &rows(25..40)).await;
    world.run(&[]).await.assert_status(0).assert_says("done: 15 rows written");
    assert_eq!(world.simulator.counts().requests, 40);
    world.assert_target(0..40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_at_the_same_time_is_refused_and_changes_nothing() {
    let world = World::of(Setup { rows: 40, provider: PATIENT, ..Setup::default() }).await;
    world.simulator.set_gate(Gate::ShutFrom(5));
    let mut command = world.job_command("run", &[]);
    let mut first = command.stderr(Stdio::null()).spawn().unwrap();
    world.until_requests(5).await;
    let second = world.run(&[]).await;
    second.assert_status(6).assert_says("another run holds this job: process");
    second.assert_says("nothing was changed");
    let file = world.path("enrich.prom");
    std::fs::write(&file, "of the run before").unwrap();
    let skipped = world.run(&["--if-running", "skip", "--metrics-file", file.to_str().unwrap()]).await;
    skipped.assert_status(0).assert_says("skipped: another run");
    let left = std::fs::read_to_string(&file).unwrap();
    assert_eq!(left, "of the run before", "nothing has ended: the figures are for the run that goes on");
    world.simulator.set_gate(Gate::Open);
    let status = tokio::task::spawn_blocking(move || first.wait().unwrap()).await.unwrap();
    assert!(status.success());
    assert_eq!(world.simulator.counts().requests, 40);
    world.assert_target(0..40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_checkpoint_is_rebuilt_from_the_last_commit() {
    let world = World::with_rows(25, 2).await;
    // Killed in the middle: three batches of five are not committed, and some answers are journalled.
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.after=kill@2")]).await;
    std::fs::remove_file(world.path("target/_checkpoints/test/checkpoint.json")).unwrap();
    let resumed = world.run(&[]).await;
    resumed
        .assert_status(0)
        .assert_says("the checkpoint was rebuilt from the target, which holds batches up to 1");
    world.assert_target(0..25).await;
    let counts = world.simulator.counts();
    assert!(counts.paid_again() <= 4, "only what was in flight is paid again: {}", counts.paid_again());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_checkpoint_is_rebuilt_from_the_row_keys_when_the_log_was_cleaned() {
    let world = World::with_rows(25, 2).await;
    world.run(&["--max-rows", "14"]).await.assert_status(0).assert_says("stopped after --max-rows");
    assert_eq!(world.target().await.len(), 14);
    clean_log(&world).await;
    std::fs::remove_dir_all(world.path("target/_checkpoints")).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("rebuilt from the target");
    world.assert_target(0..25).await;
    assert_eq!(world.simulator.counts().requests, 25);
    // And the rebuilt checkpoint goes on by itself.
    append_delta(&world.path("source"), &rows(25..30)).await;
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_from_a_backup_is_found_to_be_behind() {
    let world = World::with_rows(30, 1).await;
    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    let backup = std::fs::read(&checkpoint).unwrap();
    world.run(&["--max-rows", "10"]).await.assert_status(0);
    std::fs::write(&checkpoint, backup).unwrap();
    world.run(&[]).await.assert_status(0).assert_says("the checkpoint is older than the target");
    world.assert_target(0..30).await;
    assert_eq!(world.simulator.counts().requests, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_checkpoints_for_one_target_and_app_id_the_second_is_refused() {
    let world = World::with_rows(20, 1).await;
    let other = world.usual_job("") + "[checkpoint]\npath = \"elsewhere\"\n";
    world.write_text(&other);
    // It plans its first batch and dies before it commits.
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    world.write_job("");
    world.run(&[]).await.assert_status(0);
    world.write_text(&other);
    let refused = world.run(&[]).await;
    refused.assert_status(2).assert_says("another checkpoint writes to this target under the same app_id");
    refused.assert_says("hint: go on with the checkpoint that wrote there");
    world.assert_target(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_job_source_or_target_is_refused() {
    let world = World::with_rows(5, 1).await;
    world.run(&[]).await.assert_status(0);
    let usual = world.usual_job("");

    let shared = format!(
        "{}[checkpoint]\npath = \"target/_checkpoints/test\"\n",
        usual.replace("\"test\"", "\"other\"")
    );
    world.write_text(&shared);
    world.run(&[]).await.assert_status(2).assert_says("belongs to the app_id \"test\", not \"other\"");

    append_delta(&world.path("source2"), &rows(0..5)).await;
    world.write_text(&usual.replace("path = \"source\"", "path = \"source2\""));
    world.run(&[]).await.assert_status(2).assert_says("was made for another source");

    world.write_text(&usual);
    std::fs::remove_dir_all(world.path("target/_delta_log")).unwrap();
    for entry in std::fs::read_dir(world.path("target")).unwrap().flatten() {
        if entry.path().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    world.run(&[]).await.assert_status(2).assert_says("target is gone, and the checkpoint ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_prompt_asks_anew_what_is_not_committed_and_a_changed_address_does_not() {
    let world = World::with_rows(10, 1).await;
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    assert_eq!(world.simulator.counts().answered, 10);
    // The journal holds every answer; another address of the same provider and model changes nothing.
    let text = world.usual_job("").replace("/v1", "/nowhere/v1");
    world.write_text(&text);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..10).await;
    assert_eq!(world.simulator.counts().requests, 10);

    let world = World::with_rows(10, 1).await;
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    world.write_text(&world.usual_job("").replace("Say something about:", "Say more about:"));
    world.run(&[]).await.assert_status(0);
    let counts = world.simulator.counts();
    assert_eq!((counts.answered, counts.answers_to(&prompt_of(3))), (20, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_checkpoint_that_turns_up_after_a_rebuild_is_refused() {
    let world = World::with_rows(60, 1).await;
    let checkpoint = world.path("target/_checkpoints/test/checkpoint.json");
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.after=kill@2")]).await;
    let old = std::fs::read(&checkpoint).unwrap();
    std::fs::remove_file(&checkpoint).unwrap();
    // The rebuilt one cuts other batches under the same numbers.
    world.write_text(&world.usual_job("").replace("max_rows = 10", "max_rows = 7"));
    world.run(&["--max-rows", "7"]).await.assert_status(0);
    let new = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, old).unwrap();
    world.run(&[]).await.assert_status(2).assert_says("another checkpoint writes to this target");
    std::fs::write(&checkpoint, new).unwrap();
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_run_keeps_the_paid_answers_that_it_did_not_reach() {
    let world = World::with_rows(30, 1).await;
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    let answered = world.simulator.counts().answered;
    assert!(answered >= 10);
    std::fs::remove_file(world.path("target/_checkpoints/test/checkpoint.json")).unwrap();
    world.run(&["--max-rows", "3"]).await.assert_status(0);
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..30).await;
    assert!(world.simulator.counts().paid_again() <= 4, "{:?}", world.simulator.counts().paid_again());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_name_one_journal_folder_leave_each_other_alone() {
    let world = World::with_rows(20, 1).await;
    let with_journal = |app_id: &str| {
        let text = world.usual_job("").replace("\"test\"", &format!("{app_id:?}"));
        text.replace("\"target\"", &format!("\"target-{app_id}\"")) + "[journal]\npath = \"journals\"\n"
    };
    world.write_text(&with_journal("a"));
    world.run_with(&[], &[("ENRICH_FAULT", "delta-commit.before=kill")]).await;
    let answered = world.simulator.counts().answered;
    world.write_text(&with_journal("b"));
    world.run(&[]).await.assert_status(0);
    assert_eq!(world.simulator.counts().answered, answered + 20, "b uses nothing of a");
    world.write_text(&with_journal("a"));
    world.run(&[]).await.assert_status(0);
    assert!(world.simulator.counts().answered <= 40 + 4, "a has kept its own");
}

//! What a person sees: the quickstart from a clone, and the texts of the commands.

use std::path::Path;
use std::process::{Command, Stdio};

use enrich::table::Table;

use crate::support::{Outcome, World, plain, rows_of, without_files, without_times};

// For `pipelines` and `readme`.
pub use crate::support::clone;

fn run_in(folder: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
    Outcome::of(&command.args(arguments).current_dir(folder).env_remove("RUST_LOG").output().unwrap())
}

/// Takes out what differs from run to run.
fn steady(text: &str, root: &Path) -> String {
    let text = plain(text).replace(root.to_str().unwrap(), "[project]");
    without_files(&without_times(&text), "[file]")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_shows_what_the_readme_says() {
    let (_folder, root) = clone();
    let ran = run_in(&root, &["run", "config/quickstart.toml"]);
    insta::assert_snapshot!("quickstart_run", steady(&ran.stderr, &root));
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), ""));
    let listed = run_in(&root, &["errors", "config/quickstart.toml"]);
    insta::assert_snapshot!(
        "quickstart_errors",
        steady(&listed.stdout, &root) + &steady(&listed.stderr, &root)
    );
    let again = run_in(&root, &["run", "config/quickstart.toml"]);
    insta::assert_snapshot!("quickstart_again", steady(&again.stderr, &root));

    let table = Table::open(&root.join("out/reviews_enriched")).await.unwrap();
    let mut count = 0;
    table
        .query("SELECT * FROM target", |batch| {
            count += batch.num_rows();
            Ok::<(), enrich::table::TableError>(())
        })
        .await
        .unwrap();
    assert_eq!(count, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_by_batch_goes_from_submission_to_table_at_half_the_price() {
    let (_folder, root) = clone();
    let ran = run_in(&root, &["run", "config/quickstart-batch.toml", "--wait"]);
    ran.assert_status(0)
        .assert_says("submitted   59 rows to local")
        .assert_says("collected   59 of 59 rows of");
    ran.assert_says("done: 60 rows written, 59 answers, 0 errors");
    let sql = "SELECT count(*), count(summary), \
               sum(_enrich['summary_step']['cost_micro_usd']) = \
               sum(_enrich['summary_step']['prompt_tokens'] + 4 * _enrich['summary_step']['completion_tokens']) \
               FROM target";
    assert_eq!(rows_of(&root.join("out/reviews_in_a_batch"), sql).await, [["60", "59", "true"]]);
    let again = run_in(&root, &["run", "config/quickstart-batch.toml"]);
    again.assert_status(0).assert_says("nothing to do");
}

#[test]
fn relative_paths_are_relative_to_the_job_file_from_any_directory() {
    let (_folder, root) = clone();
    let job = root.join("config/quickstart.toml");
    let ran = run_in(Path::new("/"), &["run", job.to_str().unwrap()]);
    ran.assert_status(0).assert_says("done: 60 rows written");
    assert!(root.join("out/reviews_enriched/_delta_log").exists());
    run_in(&root.join("config"), &["run", "quickstart.toml"]).assert_status(0).assert_says("nothing to do");
}

#[test]
fn help_names_commands_options_and_exit_statuses() {
    let (_folder, root) = clone();
    for (name, arguments) in [
        ("help", vec!["--help"]),
        ("help_run", vec!["run", "--help"]),
        ("help_errors", vec!["errors", "--help"]),
        ("help_export", vec!["export", "--help"]),
        ("help_retry", vec!["retry", "--help"]),
        ("help_status", vec!["status", "--help"]),
        ("help_check", vec!["check", "--help"]),
        ("help_init", vec!["init", "--help"]),
        ("help_completions", vec!["completions", "--help"]),
        ("help_simulate", vec!["simulate", "--help"]),
    ] {
        let shown = run_in(&root, &arguments);
        assert_eq!(shown.status, Some(0));
        insta::assert_snapshot!(name, steady(&shown.stdout, &root));
    }
    run_in(&root, &["rnu"]).assert_status(2).assert_says("unrecognized subcommand 'rnu'");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_against_a_simulator_in_another_process() {
    let world = World::with_rows(12, 1).await;
    let mut served = world.command(&["simulate", "--port", "0"]);
    let mut served = served.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut url = String::new();
    let mut stdout = std::io::BufReader::new(served.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut url).unwrap();
    world.write_text(&world.usual_job("").replace(world.simulator.url().as_str(), url.trim()));
    let ran = world.run(&[]).await;
    served.kill().unwrap();
    served.wait().unwrap();
    ran.assert_status(0).assert_says("12 answers");
    world.assert_target(0..12).await;
    assert_eq!(world.simulator.counts().requests, 0);
}

//! The example for Airflow: the command of its task, run as `BashOperator` runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{clone, project, until_stopped};

fn dag() -> String {
    fs::read_to_string(project().join("examples/airflow/enrich_dag.py")).unwrap()
}

/// Runs the command on a job. Returns its status and the last line of standard output and standard error, which are one
/// stream to `BashOperator`.
fn run(job: &Path, fault: &str) -> (Option<i32>, String) {
    let dag = dag();
    let (_, rest) = dag.split_once("RUN = \"\"\"").unwrap();
    let (command, _) = rest.split_once("\"\"\"").unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_enrich"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("exec 2>&1\n{command}")]).env("PATH", path).env("ENRICH_JOB", job);
    bash.env_remove("RUST_LOG").env_remove("ENRICH_FAULT");
    if !fault.is_empty() {
        bash.env("ENRICH_FAULT", fault);
    }
    let ended = bash.output().unwrap();
    let printed = String::from_utf8(ended.stdout).unwrap();
    (ended.status.code(), printed.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn the_last_line_of_a_task_is_the_summary_of_its_run() {
    let (_folder, root) = clone();
    for rows in [60, 0] {
        let (status, line) = run(&root.join("examples/airflow/job.toml"), "");
        let summary: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (status, &summary["end"], &summary["rows_written"]),
            (Some(0), &"complete".into(), &rows.into())
        );
    }
}

#[test]
fn a_task_that_no_retry_helps_says_so_in_its_last_line() {
    let (_folder, root) = clone();
    let job = root.join("examples/airflow/job.toml");
    let text = fs::read_to_string(&job).unwrap();
    let refusing = "[[simulator.fault]]\nstatus = 401\ncode = \"invalid_api_key\"\n";
    for (name, text, status) in [
        ("missing.toml", text.replace("../data/reviews", "../data/none"), 2),
        ("refused.toml", format!("{text}\n{refusing}"), 4),
    ] {
        let job = job.with_file_name(name);
        fs::write(&job, text).unwrap();
        let (ended, line) = run(&job, "");
        let summary: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((ended, &summary["status"]), (Some(0), &status.into()), "{name}");
    }
    assert_eq!(run(&job.with_file_name("none.toml"), ""), (Some(0), String::new()));
}

#[test]
fn a_task_whose_run_is_killed_ends_with_a_status_that_is_retried() {
    let (_folder, root) = clone();
    let job = root.join("examples/airflow/job.toml");
    assert_eq!(run(&job, "journal-append.after=kill@3").0, Some(128 + 9));
    let (status, line) = run(&job, "");
    let summary: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((status, &summary["rows_written"]), (Some(0), &60.into()));
}

#[tokio::test]
async fn a_task_is_skipped_while_another_run_holds_its_job() {
    let (_folder, root) = clone();
    let job = root.join("examples/airflow/job.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
    command.arg("run").arg(&job).env("ENRICH_FAULT", "journal-append.after=stop@1").stderr(Stdio::null());
    let mut holder = command.spawn().unwrap();
    until_stopped(&holder).await;
    let (status, _) = run(&job, "");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(status, Some(6));
    assert!(dag().contains("skip_on_exit_code=6,"));
}

//! Every command that the README shows is run, in the README's order.

use std::path::Path;
use std::process::Command;

use enrich::config::SimulatorSpec;
use enrich::simulator::Simulator;

use crate::cli::clone;
use crate::support::Outcome;

/// The commands in the README's consoles.
fn commands() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let mut commands = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            line if inside => commands.extend(line.strip_prefix("$ ").map(ToOwned::to_owned)),
            _ => {}
        }
    }
    commands
}

fn shell(folder: &Path, command: &str, url: &str) -> Outcome {
    let binary = Path::new(env!("CARGO_BIN_EXE_enrich"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env_remove("RUST_LOG");
    shell.env("OPENAI_API_KEY", "a-key").env("OPENAI_BASE_URL", url);
    Outcome::of(&shell.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_readme_does_what_it_says() {
    let (_folder, root) = clone();
    let simulator = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    let url = simulator.url().to_string();
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    let mut ran = 0;
    for command in commands {
        // This is that command.
        if command == "cargo test" {
            continue;
        }
        let command = command.replace("cargo run -- ", "enrich ");
        let (folder, typed, at) = (root.clone(), command.clone(), url.clone());
        let done = tokio::task::spawn_blocking(move || shell(&folder, &typed, &at)).await.unwrap();
        assert_eq!(done.status, Some(0), "{command}\n{}\n{}", done.stdout, done.stderr);
        ran += 1;
    }
    assert!(ran > 14);
    assert!(simulator.counts().answered > 20, "the run without a job file asks where OPENAI_BASE_URL says");
    assert!(root.join("out/failed.csv").exists());
}

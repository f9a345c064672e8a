//! The examples for cron, systemd, Kubernetes and Prometheus, as far as they can be held to the program: commands that
//! it takes, jobs that it reads, times that fit each other.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use enrich::config::Job;

use crate::support::Outcome;

const BINARY: &str = "/usr/local/bin/enrich";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(project().join("examples/operations").join(file)).unwrap()
}

/// What stands behind a word in a text, up to the end of the line.
#[track_caller]
fn after<'a>(text: &'a str, word: &str) -> &'a str {
    let found: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(word)).map(|(_, rest)| rest.trim()).collect();
    let [rest] = found[..] else { panic!("{word:?} stands there {} times", found.len()) };
    rest
}

/// Arguments of the one command in a text, as a shell would see them.
fn command(text: &str) -> Vec<String> {
    let line = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| line.split_once(&format!("{BINARY} ")))
        .unwrap()
        .1;
    line.split_whitespace().take_while(|word| !word.starts_with([';', '>', '|'])).map(str::to_owned).collect()
}

/// The real binary takes the arguments: `--help` behind them is reached only if each before it is known.
#[track_caller]
fn assert_taken(arguments: &[String]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
    Outcome::of(&command.args(arguments).arg("--help").output().unwrap()).assert_status(0);
}

fn value(arguments: &[String], option: &str) -> Duration {
    let at = arguments.iter().position(|argument| argument == option).unwrap();
    humantime::parse_duration(&arguments[at + 1]).unwrap()
}

fn container_arguments() -> Vec<String> {
    serde_json::from_str(after(&read("kubernetes/cronjob.yaml"), " args: ")).unwrap()
}

#[test]
fn the_commands_are_ones_that_the_binary_takes() {
    for arguments in
        [command(&read("crontab")), command(&read("systemd/enrich.service")), container_arguments()]
    {
        assert_taken(&arguments);
        let skips = arguments.windows(2).any(|pair| pair == ["--if-running", "skip"]);
        assert!(arguments[0] == "run" && skips, "{arguments:?}");
    }
    let mut wrong = command(&read("crontab"));
    wrong.push("--no-such-option".to_owned());
    let ran = Command::new(env!("CARGO_BIN_EXE_enrich")).args(&wrong).arg("--help").output().unwrap();
    assert_eq!(ran.status.code(), Some(2), "the check above would see it");
}

#[test]
fn what_stops_a_run_leaves_it_more_time_than_its_grace() {
    let service = read("systemd/enrich.service");
    let stop = humantime::parse_duration(after(&service, "TimeoutStopSec=")).unwrap();
    assert!(stop > value(&command(&service), "--grace"));
    let pod = read("kubernetes/cronjob.yaml");
    let stop = after(&pod, "terminationGracePeriodSeconds: ").parse().unwrap();
    assert!(Duration::from_secs(stop) > value(&container_arguments(), "--grace"));
    assert_eq!(after(&pod, "concurrencyPolicy: "), "Forbid");
}

#[test]
fn the_job_in_the_config_map_is_one_and_lies_where_the_pod_looks() {
    let pod = read("kubernetes/cronjob.yaml");
    let (_, rest) = pod.split_once("reviews.toml: |\n").unwrap();
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let text = lines.map(|line| line.strip_prefix("    ").unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let file = &container_arguments()[1];
    let job = Job::parse(Path::new(file), &text, |name| (name == "OPENAI_API_KEY").then(|| "key".to_owned()));
    let job = job.unwrap();
    let mounts: Vec<&str> =
        pod.lines().filter_map(|line| line.split_once("mountPath: ")).map(|(_, path)| path).collect();
    assert!(mounts.iter().any(|mount| Path::new(file).parent() == Some(Path::new(mount))), "{mounts:?}");
    for place in [
        job.source.location.path().unwrap(),
        job.target.location.path().unwrap(),
        job.places.checkpoint.path().unwrap(),
        &job.places.journal,
    ] {
        assert!(place.starts_with("/data") && mounts.contains(&"/data"), "{}", place.display());
    }
}

#[test]
fn the_image_is_built_with_the_rust_that_the_package_asks_for() {
    let image = read("kubernetes/Dockerfile");
    let manifest = fs::read_to_string(project().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let package = |key: &str| manifest["package"][key].as_str().unwrap();
    assert!(image.contains(&format!("FROM rust:{}-bookworm AS build", package("rust-version"))));
    assert!(image.contains("FROM debian:bookworm-slim"), "the same glibc");
    assert!(image.contains(&format!("ENTRYPOINT [\"{BINARY}\"]")));
    assert!(image.contains(&format!("COPY --from=build /enrich {BINARY}")));
    let tag = format!("enrich:{}", package("version"));
    assert!(image.contains(&tag) && read("kubernetes/cronjob.yaml").contains(&format!("image: {tag}")));
    let user = after(&image, "USER ");
    assert_eq!(after(&read("kubernetes/cronjob.yaml"), "runAsUser: "), user);
}

#[test]
fn the_exit_statuses_in_the_examples_are_those_of_the_binary() {
    let help = Command::new(env!("CARGO_BIN_EXE_enrich")).arg("--help").output().unwrap();
    let help = Outcome::of(&help).stdout;
    let (_, statuses) = help.split_once("Exit status:").unwrap();
    let known: Vec<&str> = statuses.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let pod = read("kubernetes/cronjob.yaml");
    let stops: Vec<u8> = serde_json::from_str(after(&pod, " values: ")).unwrap();
    let ends = after(&read("systemd/enrich.service"), "SuccessExitStatus=").to_owned();
    for status in stops.iter().map(u8::to_string).chain([ends]) {
        assert!(known.contains(&status.as_str()), "{status} is not among {known:?}");
    }
}

#[test]
fn alerts_and_dashboard_name_figures_that_there_are() {
    let name = regex::Regex::new("enrich_[a-z_]+").unwrap();
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
    };
    let exported = names(&fs::read_to_string(project().join("src/progress/prometheus.rs")).unwrap());
    for file in ["prometheus/alerts.yml", "prometheus/dashboard.json"] {
        let named = names(&read(file));
        assert!(named.len() > 5 && named.is_subset(&exported), "{file}: {:?}", named.difference(&exported));
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("prometheus/dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}

#[test]
fn a_pod_that_nothing_helps_is_not_started_again() {
    let stops: Vec<u8> = serde_json::from_str(after(&read("kubernetes/cronjob.yaml"), " values: ")).unwrap();
    assert_eq!(stops, [2, 3, 4, 5], "configuration, errors, the provider, the budget");
}

//! The pages for users, `README.md` and those in `examples/`: the commands that they show are run, each page's in a folder
//! of its own, and print what is shown of their output; the jobs that they show are jobs; their links lead somewhere.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use enrich::config::SimulatorSpec;
use enrich::simulator::Simulator;
use regex::Regex;
use toml::{Table, Value};

use crate::cli::clone;
use crate::reference::judge_text;
use crate::support::Outcome;

const README: &str = "README.md";
const INDEX: &str = "examples/README.md";
const MOST_LINES: usize = 200;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(project().join(page)).unwrap()
}

/// The README and the page of each topic, by their paths in the project.
fn pages() -> Vec<String> {
    let topics = fs::read_dir(project().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let topics = topics.map(|folder| folder.join(README)).filter(|page| page.is_file());
    let mut pages: Vec<String> =
        topics.map(|page| page.strip_prefix(project()).unwrap().to_str().unwrap().to_owned()).collect();
    pages.push(README.to_owned());
    pages.sort();
    assert!(pages.len() > 7, "{pages:?}");
    pages
}

/// The code blocks of a text in a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}");
    let mut lines = text.lines();
    let mut blocks = Vec::new();
    while lines.by_ref().any(|line| line == begin) {
        blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
    }
    blocks
}

/// A command in a console.
struct ShownCommand {
    command: String,
    /// What is shown of its output.
    output: Vec<String>,
}

fn commands(text: &str) -> Vec<ShownCommand> {
    let mut commands: Vec<ShownCommand> = Vec::new();
    for line in blocks(text, "console").join("\n").lines() {
        match line.strip_prefix("$ ") {
            Some(command) => {
                commands.push(ShownCommand { command: command.to_owned(), output: Vec::new() });
            }
            None => commands.last_mut().unwrap().output.push(line.to_owned()),
        }
    }
    commands
}

/// Whether a line of a page shows a line that was printed: `…` stands for any text, and durations and the width of
/// columns differ from run to run.
fn shows(shown: &str, printed: &str) -> bool {
    static DURATION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b\d+(?:ms|us|µs|ns|h|m|s)(?: \d+(?:ms|us|µs|ns|h|m|s))*\b").unwrap());
    let steady =
        |line: &str| DURATION.replace_all(line, "[time]").split_whitespace().collect::<Vec<_>>().join(" ");
    let printed = steady(printed);
    let mut rest = printed.as_str();
    steady(shown).split('…').all(|part| {
        let found = rest.split_once(part);
        rest = found.map_or("", |(_, behind)| behind);
        found.is_some()
    })
}

fn shell(folder: &Path, command: &str, url: &str) -> Outcome {
    let binary = Path::new(env!("CARGO_BIN_EXE_enrich"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env_remove("RUST_LOG");
    shell.env("OPENAI_API_KEY", "a-key").env("OPENAI_BASE_URL", url);
    Outcome::of(&shell.output().unwrap())
}

/// Runs the commands of a page in their order.
fn run(page: &str, url: &str) {
    let (_folder, root) = clone();
    let commands = commands(&read(page));
    assert!(commands.len() > 2, "{page} shows {} commands", commands.len());
    for ShownCommand { command, output } in commands {
        // This is that command.
        if command == "cargo test" {
            continue;
        }
        let done = shell(&root, &command.replace("cargo run -- ", "enrich "), url);
        let printed = format!("{}\n{}", done.stdout, done.stderr);
        assert_eq!(done.status, Some(0), "{page}: {command}\n{printed}");
        for line in output {
            let is_printed = printed.lines().any(|printed| shows(&line, printed));
            assert!(is_printed, "{page}: {command} does not print\n{line}\nbut\n{printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_every_page_does_what_is_shown() {
    let simulator = Simulator::start(SimulatorSpec::default(), 0).await.unwrap();
    let url = simulator.url().to_string();
    let runs = pages().into_iter().map(|page| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || run(&page, &url))
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
    assert!(simulator.counts().answered > 20, "the run without a job file asks where OPENAI_BASE_URL says");
}

#[test]
fn what_is_shown_of_an_output_is_told_from_what_is_not_there() {
    let printed = "2026-11-30T04:15:52Z  INFO [job] done: 60 rows written, 10 retries, 773ms";
    for shown in ["done: 60 rows written, 10 retries, 1s 92ms", "[job] …  rows written, …", "…"] {
        assert!(shows(shown, printed), "{shown}");
    }
    for shown in ["done: 61 rows written", "rows … done", "done: … errors"] {
        assert!(!shows(shown, printed), "{shown}");
    }
}

#[test]
fn the_readme_is_short_and_the_index_names_every_page() {
    let lines = read(README).lines().count();
    assert!(lines <= MOST_LINES, "{lines} lines");
    for page in pages().iter().filter_map(|page| page.strip_prefix("examples/")) {
        assert!(read(INDEX).contains(&format!("]({page})")), "{page} is not in {INDEX}");
        assert!(read(README).contains(&format!("](examples/{page})")), "{page} is not in {README}");
    }
}

/// A part of a job with the keys that every job must have.
fn completed(part: &str) -> String {
    let mut job: Table = toml::from_str(part).unwrap();
    let text = || Value::String("any".to_owned());
    let table = || Value::Table(Table::new());
    job.entry("app_id").or_insert_with(text);
    for section in ["source", "target"] {
        let section = job.entry(section).or_insert_with(table).as_table_mut().unwrap();
        section.entry("path").or_insert_with(text);
    }
    let providers = job.entry("provider").or_insert_with(table).as_table_mut().unwrap();
    providers.entry("any").or_insert_with(table);
    for (_, provider) in providers.iter_mut() {
        let provider = provider.as_table_mut().unwrap();
        provider.entry("base_url").or_insert(Value::String("simulator".to_owned()));
        provider.entry("model").or_insert_with(text);
    }
    let steps = job.entry("step").or_insert_with(|| Value::Array(vec![table()]));
    for step in steps.as_array_mut().unwrap() {
        step.as_table_mut().unwrap().entry("output").or_insert_with(text);
    }
    toml::to_string(&job).unwrap()
}

#[test]
fn jobs_that_the_pages_show_are_jobs_and_whole_ones_lie_beside_them() {
    let mut seen = 0;
    for page in pages() {
        for block in blocks(&read(&page), "toml") {
            judge_text(&completed(&block)).unwrap_or_else(|wrong| panic!("{page}: {wrong}\n{block}"));
            seen += 1;
            if page != README && block.lines().any(|line| line.starts_with("app_id")) {
                let folder = project().join(&page).parent().unwrap().to_owned();
                let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
                let is_there = files
                    .filter(|file| file.extension().is_some_and(|ending| ending == "toml"))
                    .any(|file| fs::read_to_string(file).unwrap().trim_end() == block);
                assert!(is_there, "{page}: no file beside it is\n{block}");
            }
        }
    }
    assert!(seen >= 10, "{seen} jobs are shown");
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_and_files_that_the_pages_name_are_there() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let test = Regex::new(r"`(tests/it/[a-z_./]+|src/[a-z_./]+|[a-z_]+\.rs)`").unwrap();
    let mut pages = pages();
    pages.push(INDEX.to_owned());
    for page in pages {
        let text = read(&page);
        let folder = project().join(&page).parent().unwrap().to_owned();
        for found in link.captures_iter(&text) {
            let to = found[1].to_owned();
            let (path, anchor) = to.split_once('#').unwrap_or((&to, ""));
            let file = if path.is_empty() { project().join(&page) } else { folder.join(path) };
            assert!(file.is_file(), "{page}: {to}");
            let is_there = anchor.is_empty()
                || anchors(&fs::read_to_string(&file).unwrap()).contains(&anchor.to_owned());
            assert!(is_there, "{page}: {to}");
        }
        for found in test.captures_iter(&text) {
            let name = &found[1];
            let place = if name.contains('/') { name.to_owned() } else { format!("tests/it/{name}") };
            assert!(project().join(place).exists(), "{page}: {name}");
        }
    }
}

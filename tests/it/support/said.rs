//! What the program says, without what differs from run to run.

use super::world::World;

/// What was said on standard error, without the times and the job of its lines, and without the log's own lines.
pub fn plain(stderr: &str) -> String {
    let of_log = regex::Regex::new(r"^\S+Z +(INFO|WARN|ERROR) ").unwrap();
    let of_job = regex::Regex::new(r"^\S+Z +(INFO|ERROR) \[[^\]]+\] ").unwrap();
    let lines = stderr.lines().filter(|line| of_job.is_match(line) || !of_log.is_match(line));
    lines.map(|line| format!("{}\n", of_job.replace(line, ""))).collect()
}

/// A text without a world's folder and simulator, and without times, sizes and numbers of processes.
pub fn steady(text: &str, world: &World) -> String {
    let text = text.replace(world.folder.path().to_str().unwrap(), "[folder]");
    let text = text.replace(world.simulator.url().as_str().trim_end_matches('/'), "[simulator]");
    let number =
        regex::Regex::new(r"process \d+|answered in \d+ ms|[0-9a-f]{8}-[0-9a-f-]{27}|\d+\.\d+ KiB").unwrap();
    let text = number.replace_all(&text, "[…]");
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d( UTC|Z)").unwrap();
    time.replace_all(&text, "[time]").into_owned()
}

/// A text without the time at the end of a summary.
pub fn without_times(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" retries, ") {
        Some((before, _)) => format!("{before} retries, [time]\n"),
        None => format!("{}\n", line.trim_end()),
    };
    text.lines().map(line).collect()
}

/// A text with a name in place of every shortened one of a data file.
pub fn without_files(text: &str, name: &str) -> String {
    let line = |line: &str| match (line.find("part-00000-"), line.find('…')) {
        (Some(from), Some(to)) => format!("{}{name}{}", line.get(..from).unwrap(), line.get(to..).unwrap()),
        _ => line.to_owned(),
    };
    text.lines().map(|text| format!("{}\n", line(text).trim_end())).collect()
}

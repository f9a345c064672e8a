//! The pipelines in `examples/steps`: short, run by the real binary on the simulator, with the columns that they promise;
//! and every job in `examples/`, read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use enrich::config::{Job, Keys};
use enrich::table::Table;

use crate::cli::clone;
use crate::support::Outcome;
use crate::tables::rows_of;

const MOST_LINES: usize = 40;

async fn run(root: &Path, job: &str, says: &str) {
    let file = root.join("examples/steps").join(job);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().count() <= MOST_LINES, "{job} has {} lines", text.lines().count());
    assert!(
        include_str!("../../examples/steps/README.md").contains(&format!("({job})")),
        "the page tells of {job}"
    );
    for again in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
        command.arg("run").arg(&file).env_remove("RUST_LOG");
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let ran = Outcome::of(&ran);
        ran.assert_status(0).assert_says(if again { "nothing to do" } else { says });
    }
}

async fn columns(target: &Path) -> Vec<String> {
    let schema = Table::open(target).await.unwrap().schema().unwrap();
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_sorted_and_the_escalated_ones_extracted() {
    let (_folder, root) = clone();
    run(&root, "triage.toml", "80 rows written").await;
    let target = root.join("out/tickets_triaged");
    let sql = "SELECT count(*), count(kind), sum(CASE WHEN kind IN ('bug', 'billing', 'question', 'praise') THEN 1 ELSE 0 END), \
               sum(CASE WHEN triage['needs_escalation'] AND kind <> 'praise' THEN 1 ELSE 0 END), count(case_), \
               sum(CASE WHEN _enrich['case_step']['provider'] = 'large' THEN 1 ELSE 0 END) \
               FROM (SELECT *, \"case\" AS case_ FROM target)";
    let row = rows_of(&target, sql).await.remove(0);
    assert_eq!([row[0].as_str(), row[1].as_str(), row[2].as_str()], ["80", "80", "80"]);
    assert_eq!(row[3], row[4], "what is escalated, and nothing else, is extracted");
    assert!(number(&row[4]) > 10 && number(&row[5]) > 0 && number(&row[5]) < number(&row[4]), "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_get_a_verdict_in_columns_of_its_own() {
    let (_folder, root) = clone();
    run(&root, "moderation.toml", "60 rows written").await;
    let target = root.join("out/reviews_moderated");
    let columns = columns(&target).await;
    for column in [
        "verdict_allowed Boolean",
        "verdict_category Utf8",
        "verdict_confidence Float64",
        "verdict_error Utf8",
        "verdict_raw Utf8",
    ] {
        assert!(columns.iter().any(|found| found == column), "{column} is not among {columns:?}");
    }
    let sql = "SELECT count(verdict_allowed), count(verdict_error), min(verdict_confidence) >= 0 AND max(verdict_confidence) <= 1, \
               sum(_enrich['verdict_step']['attempts']) > sum(CASE WHEN _enrich['verdict_step']['shared'] THEN 0 ELSE 1 END) FROM target";
    // One review is empty, and some answers came as prose first.
    assert_eq!(rows_of(&target, sql).await, [["59", "0", "true", "true"]]);
    assert!(root.join("out/moderation.cache").exists());
    // Another target asks nothing: the cache answers.
    let file = root.join("examples/steps/moderation.toml");
    let text = fs::read_to_string(&file).unwrap().replace("reviews_moderated", "moderated_again");
    fs::write(&file, text).unwrap();
    run(&root, "moderation.toml", "60 rows written").await;
    let sql = "SELECT count(*), sum(_enrich['verdict_step']['attempts']) FROM target WHERE _enrich['verdict_step']['shared']";
    assert_eq!(rows_of(&root.join("out/moderated_again"), sql).await, [["59", "0"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_get_insights_and_vectors() {
    let (_folder, root) = clone();
    run(&root, "insights.toml", "60 rows written").await;
    let target = root.join("out/review_insights");
    let columns = columns(&target).await.join("\n");
    for column in ["embedding List(Float32", "embedding_error Utf8", "insights_error Utf8", "reply Utf8"] {
        assert!(columns.contains(column), "{column}: {columns}");
    }
    let sql = "SELECT count(insights), count(embedding), min(array_length(embedding)), max(array_length(embedding)), \
               sum(CASE WHEN insights['sentiment'] = 'negative' AND stars <= 3 THEN 1 ELSE 0 END) = count(reply) FROM target";
    assert_eq!(rows_of(&target, sql).await, [["59", "59", "16", "16", "true"]]);
}

#[test]
fn every_job_reads_without_keys_as_the_editor_reads_it_and_has_a_target_of_its_own() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let folders =
        fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let mut names = BTreeSet::new();
    let mut targets = BTreeSet::new();
    // The Python package's file is not a job.
    let jobs = files.filter(|file| !file.ends_with("pyproject.toml"));
    for file in jobs.filter(|file| file.extension().is_some_and(|ending| ending == "toml")) {
        // Its tables are Spark's.
        let is_served = file.parent().unwrap().ends_with("spark");
        let job = if is_served { Job::load_served(&file, &[], Keys::Read) } else { Job::load(&file) };
        let job = job.unwrap();
        let text = fs::read_to_string(&file).unwrap();
        crate::reference::judge_text(&text).unwrap_or_else(|wrong| panic!("{}: {wrong}", file.display()));
        assert!(names.insert(job.app_id.to_string()), "{} stands in two jobs", job.app_id);
        assert!(is_served || targets.insert(job.target.location.to_string()), "{}", job.target.location);
    }
    assert!(names.len() > 10, "{names:?}");
}

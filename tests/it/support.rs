//! What the tests share: a folder with a source and a job, a simulator, the real binary, and the target
//! read back row by row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use enrich::config::SimulatorSpec;
use enrich::simulator::{Simulator, answer_to};
use enrich::table::{Table, TableError};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Map;
use tempfile::TempDir;

/// Rows of a test's source: `id` and `text`.
pub fn text_of(id: i64) -> String {
    format!("Row {id} — «ünïcödé» and a\ttab")
}

/// What is asked about a row by the job of [`World::job`].
pub fn prompt_of(id: i64) -> String {
    format!("Say something about:\n{}", text_of(id))
}

pub fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

pub fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let texts: StringArray = ids.clone().map(|id| Some(text_of(id))).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(texts)])
        .unwrap()
}

/// Writes a Parquet file with small row groups.
pub fn write_parquet(path: &Path, batch: &RecordBatch, group_rows: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Appends a commit of one file to a Delta table, which is created if it is missing.
pub async fn append_delta(path: &Path, batch: &RecordBatch) {
    std::fs::create_dir_all(path).unwrap();
    let mut table = match Table::open(path).await {
        Ok(table) => table,
        Err(_) => Table::create(path, &batch.schema(), &[], &[]).await.unwrap(),
    };
    let mut staging = table.stage(u64::MAX).await.unwrap();
    staging.write(batch.clone()).await.unwrap();
    let staged = staging.finish().await.unwrap();
    table.append(&staged, &[], Map::new()).await.unwrap();
}

/// A row of the target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct TargetRow {
    pub id: i64,
    pub text: Option<String>,
    pub answer: Option<String>,
    #[serde(rename = "batch_id")]
    pub batch: i64,
    #[serde(rename = "source_file")]
    pub file: String,
    #[serde(rename = "source_row")]
    pub row: i64,
    pub error_count: i64,
}

/// A folder with a job, its source and its target, and a simulator beside it.
pub struct World {
    pub folder: TempDir,
    pub simulator: Simulator,
}

impl World {
    pub async fn new(spec: SimulatorSpec) -> World {
        let folder = tempfile::tempdir().unwrap();
        let simulator = Simulator::start(spec, 0).await.unwrap();
        World { folder, simulator }
    }

    /// With a Delta source of so many rows in so many commits, and the usual job.
    pub async fn with_rows(rows_in_all: i64, commits: i64) -> World {
        let world = World::new(SimulatorSpec::default()).await;
        let size = rows_in_all / commits;
        for commit in 0..commits {
            let end = if commit == commits - 1 { rows_in_all } else { (commit + 1) * size };
            append_delta(&world.path("source"), &rows(commit * size..end)).await;
        }
        world.write_job("");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn job(&self) -> PathBuf {
        self.path("job.toml")
    }

    /// The usual job, with more lines for its provider.
    pub fn write_job(&self, provider: &str) {
        self.write_text(&self.usual_job(provider));
    }

    pub fn usual_job(&self, provider: &str) -> String {
        format!(
            r#"app_id = "test"
[source]
path = "source"
[target]
path = "target"
[batch]
max_rows = 10
[provider.sim]
base_url = "{}"
model = "simulated"
max_concurrency = 4
min_backoff = "10ms"
{provider}
[[step]]
output = "answer"
prompt = """
Say something about:
{{{{ text }}}}"""
"#,
            self.simulator.url()
        )
    }

    pub fn write_text(&self, text: &str) {
        std::fs::write(self.job(), text).unwrap();
    }

    /// The binary with these arguments, run somewhere else than in the job's folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
        command.args(arguments).current_dir("/").env_remove("RUST_LOG").env_remove("ENRICH_FAULT");
        command
    }

    pub async fn output(&self, mut command: Command) -> Output {
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// `enrich run` with further arguments.
    pub async fn run(&self, more: &[&str]) -> Outcome {
        self.run_with(more, &[]).await
    }

    pub async fn run_with(&self, more: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let job = self.job();
        let mut arguments = vec!["run", job.to_str().unwrap()];
        arguments.extend(more);
        let mut command = self.command(&arguments);
        command.envs(environment.iter().copied());
        Outcome::of(&self.output(command).await)
    }

    pub async fn target(&self) -> Vec<TargetRow> {
        read_target(&self.path("target")).await
    }

    /// Version of the target table.
    pub async fn target_version(&self) -> u64 {
        Table::open(&self.path("target")).await.unwrap().version()
    }

    /// Every row exactly once, in the source's order, with its own answer.
    pub async fn assert_target(&self, ids: impl IntoIterator<Item = i64>) {
        let target = self.target().await;
        let found: Vec<i64> = target.iter().map(|row| row.id).collect();
        assert_eq!(found, ids.into_iter().collect::<Vec<_>>(), "each row once, in order");
        for row in &target {
            assert_eq!(row.text.as_deref(), Some(text_of(row.id).as_str()));
            assert_eq!(row.answer.as_deref(), Some(answer_to(&prompt_of(row.id)).as_str()), "row {}", row.id);
            assert_eq!(row.error_count, 0);
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(output: &Output) -> Self {
        Outcome {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    #[track_caller]
    pub fn assert_status(&self, status: i32) -> &Self {
        assert_eq!(self.status, Some(status), "stderr:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn assert_says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "{text:?} is missing in:\n{}", self.stderr);
        self
    }
}

/// Reads a target of the usual job, by (batch, order in the batch).
pub async fn read_target(path: &Path) -> Vec<TargetRow> {
    let mut found: BTreeMap<(i64, String, i64), Vec<TargetRow>> = BTreeMap::new();
    let table = Table::open(path).await.unwrap();
    let sql = "SELECT id, text, answer, _enrich['batch_id'], _enrich['source_file'], _enrich['source_row'], \
               CAST(_enrich['error_count'] AS BIGINT) FROM target";
    table
        .query(sql, |batch| {
            let string = |column: usize| {
                let array = cast(batch.column(column), &DataType::Utf8).unwrap();
                let array = array.as_string::<i32>();
                (0..array.len())
                    .map(|row| (!array.is_null(row)).then(|| array.value(row).to_owned()))
                    .collect::<Vec<_>>()
            };
            let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().clone();
            let (texts, answers, files) = (string(1), string(2), string(4));
            let (ids, batches, rows, counts) = (number(0), number(3), number(5), number(6));
            for at in 0..batch.num_rows() {
                let row = TargetRow {
                    id: ids.value(at),
                    text: texts[at].clone(),
                    answer: answers[at].clone(),
                    batch: batches.value(at),
                    file: files[at].clone().unwrap(),
                    row: rows.value(at),
                    error_count: counts.value(at),
                };
                let key = (row.batch, row.file.clone(), row.row);
                found.entry(key).or_default().push(row);
            }
            Ok::<(), TableError>(())
        })
        .await
        .unwrap();
    let mut rows: Vec<TargetRow> = found.into_values().flatten().collect();
    rows.sort_by_key(|row| (row.batch, row.id));
    rows
}

/// The text of every file below a folder, where it is text, for looking for things that must not be there.
pub fn everything_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    found
}

/// What was said without the times and the job of its lines, and without the log's own lines.
pub fn plain(stderr: &str) -> String {
    let of_log = regex::Regex::new(r"^\S+Z +(INFO|WARN|ERROR) ").unwrap();
    let of_job = regex::Regex::new(r"^\S+Z +(INFO|ERROR) \[[^\]]+\] ").unwrap();
    let lines = stderr.lines().filter(|line| of_job.is_match(line) || !of_log.is_match(line));
    lines.map(|line| format!("{}\n", of_job.replace(line, ""))).collect()
}

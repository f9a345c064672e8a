//! Jobs whose speed is measured, their source, and how they are run: the simulator on one core, the run on another.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use serde::{Deserialize, Serialize};

use crate::measure::{Server, Used, pinned, watch};

pub(crate) const CONCURRENCY: u32 = 64;
/// Number of the core that the simulator runs on.
pub(crate) const SERVING: usize = 0;
/// Number of the core that the clients run on.
pub(crate) const RUNNING: usize = 1;
/// The default.
pub(crate) const BATCH: u32 = 10_000;
/// Rows of the source.
pub(crate) const SOURCE_ROWS: i64 = 400_000;
/// The bodies of a case's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RequestKind {
    /// A prompt, and its answer.
    Chat,
    /// So many texts, and their vectors of 256 numbers, in base64 or not.
    Vectors { together: i64, is_base64: bool },
}

/// What is measured.
pub(crate) struct BenchCase {
    pub(crate) name: &'static str,
    /// Lines of the step.
    pub(crate) step: &'static str,
    /// Lines of the simulator.
    pub(crate) simulator: &'static str,
    /// Number of providers, each of which answers for a step of its own.
    pub(crate) providers: usize,
    pub(crate) bodies: RequestKind,
    pub(crate) rows: i64,
}

pub(crate) const CHAT: &str = "prompt = \"Summarize in one sentence: {{ text }}\"";
pub(crate) const VECTORS: &str = "kind = \"embedding\"\ndimensions = 256\nprompt = \"{{ text }}\"";
/// Answers of 100 tokens.
pub(crate) const LONG_ANSWERS: &str = "completion_tokens = 100\nanswers = [\"The reviewer says that the kettle boils fast and pours \
                            well, that the lid sits tight after months of daily use, and that the handle stays cool; on \
                            the other hand the switch is hard to reach, the scale on the inside cannot be read once it is \
                            dark in the kitchen, and the cord is short. It was bought as a present, arrived a day late, \
                            and would be bought again at this price by four of five people who were asked about it.\"]";

pub(crate) const CASES: [BenchCase; 6] = [
    BenchCase {
        name: "short answers",
        step: CHAT,
        simulator: "",
        providers: 1,
        bodies: RequestKind::Chat,
        rows: 100_000,
    },
    BenchCase {
        name: "answers of 100 tokens",
        step: CHAT,
        simulator: LONG_ANSWERS,
        providers: 1,
        bodies: RequestKind::Chat,
        rows: 100_000,
    },
    BenchCase {
        name: "typed answers",
        step: "fields = { mood = [\"good\", \"bad\"], urgency = \"int\", tags = \"[string]\" }\n\
               prompt = \"Summarize in one sentence: {{ text }}\"",
        simulator: "",
        providers: 1,
        bodies: RequestKind::Chat,
        rows: 100_000,
    },
    BenchCase {
        name: "two providers",
        step: CHAT,
        simulator: "",
        providers: 2,
        bodies: RequestKind::Chat,
        rows: 50_000,
    },
    BenchCase {
        name: "vectors in base64",
        step: VECTORS,
        simulator: "",
        providers: 1,
        bodies: RequestKind::Vectors { together: 32, is_base64: true },
        rows: 200_000,
    },
    BenchCase {
        name: "vectors as numbers",
        step: VECTORS,
        simulator: "",
        providers: 1,
        bodies: RequestKind::Vectors { together: 32, is_base64: false },
        rows: 200_000,
    },
];

impl BenchCase {
    pub(crate) fn job(&self, url: &str, batch: u32) -> String {
        let mut text = format!(
            "app_id = \"bench\"\n[source]\npath = \"source.parquet\"\n[target]\npath = \"target\"\n\
             [batch]\nmax_rows = {batch}\n"
        );
        let (together, encoding) = match self.bodies {
            RequestKind::Chat => (1, ""),
            RequestKind::Vectors { together, is_base64: true } => (together, "encoding = \"base64\"\n"),
            RequestKind::Vectors { together, is_base64: false } => (together, "encoding = \"float\"\n"),
        };
        for provider in 0..self.providers {
            let _ = write!(
                text,
                "[provider.p{provider}]\nbase_url = \"{url}\"\nmodel = \"m{provider}\"\n\
                 max_concurrency = {CONCURRENCY}\ninputs_per_request = {together}\n"
            );
        }
        for provider in 0..self.providers {
            let step = self.step;
            let _ = write!(
                text,
                "[[step]]\noutput = \"answer{provider}\"\nprovider = \"p{provider}\"\n{encoding}{step}\n"
            );
        }
        let _ = write!(text, "[simulator]\n{}\n", self.simulator);
        text
    }

    /// Number of answers of a run.
    pub(crate) fn answers(&self) -> f64 {
        self.rows as f64 * self.providers as f64
    }
}

pub(crate) fn text(id: i64) -> String {
    let mut text = format!("Review {id}: ");
    for word in 0..60 {
        let _ = write!(text, "word{} ", (id * 7 + word) % 997);
    }
    text
}

pub(crate) fn make_source(folder: &Path, rows: i64) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]));
    let file = std::fs::File::create(folder.join("source.parquet")).expect("a source");
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).expect("a writer");
    for first in (0..rows).step_by(10_000) {
        let ids = first..(first + 10_000).min(rows);
        let texts: StringArray = ids.clone().map(|id| Some(text(id))).collect();
        let columns = vec![Arc::new(Int64Array::from_iter_values(ids)) as _, Arc::new(texts) as _];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch")).expect("a write");
    }
    writer.close().expect("a footer");
}

/// One whole run into a new target, over so many rows.
pub(crate) fn run(folder: &Path, job_text: &str, rows: i64) -> Used {
    let target = folder.join("target");
    let _ = std::fs::remove_dir_all(&target);
    let job = folder.join("job.toml");
    std::fs::write(&job, job_text).expect("a job file");
    let mut command = pinned(RUNNING);
    let command = command.args(["run", "--quiet", "--max-rows", &rows.to_string()]).arg(&job);
    watch(command.stderr(Stdio::inherit()).spawn().expect("a run"))
}

/// Starts a simulator on a core of its own.
pub(crate) fn server(folder: &Path, case: &BenchCase, simulator: &str) -> Server {
    let text = case.job("simulator", BATCH) + simulator;
    Server::start(pinned(SERVING), folder, &text)
}

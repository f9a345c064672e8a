//! What a world begins with, and the usual job.

use enrich::config::SimulatorSpec;
use url::Url;

use super::simulator::{PRICES, dear};

/// What a [`World`](super::World) begins with: a simulator that does as it is asked, the usual job, and no source.
pub struct Setup<'a> {
    /// Behaviour of the simulator.
    pub simulator: SimulatorSpec,
    /// Number of rows in the source, with ids from 0.
    pub rows: i64,
    /// Number of commits that the rows came in.
    pub commits: i64,
    /// Whether the source is a folder of Parquet files, and not a Delta table; without rows, an empty one.
    pub is_parquet: bool,
    /// More lines of the job for its source.
    pub source: &'a str,
    /// More lines of the job for its target.
    pub target: &'a str,
    /// More lines of the job for its provider, `sim`.
    pub provider: &'a str,
    /// More lines of the job for its step, `answer`.
    pub step: &'a str,
    /// More sections of the job; `SIMULATOR` in them stands for the simulator's URL.
    pub sections: &'a str,
    /// Maximum number of rows in a batch.
    pub batch_rows: u32,
    /// Maximum number of requests in flight.
    pub concurrency: u64,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Setup {
            simulator: SimulatorSpec::default(),
            rows: 0,
            commits: 1,
            is_parquet: false,
            source: "",
            target: "",
            provider: "",
            step: "",
            sections: "",
            batch_rows: 10,
            concurrency: 4,
        }
    }
}

/// The second step of [`Setup::of_two_steps`], which judges the first one's answer at a provider of its own.
const JUDGE: &str = r#"
[provider.other]
base_url = "SIMULATOR"
model = "simulated"
max_concurrency = 8
min_backoff = "10ms"
price_per_million_input = 2.0
price_per_million_output = 8.0
[[step]]
output = "verdict"
provider = "other"
prompt = "Judge {{ answer }}"
"#;

impl Setup<'static> {
    /// Two steps, `answer` and `verdict`, at a provider each, and a simulator that bills for both.
    pub fn of_two_steps() -> Self {
        Setup {
            simulator: dear(),
            provider: PRICES,
            step: "provider = \"sim\"",
            sections: JUDGE,
            concurrency: 8,
            ..Setup::default()
        }
    }
}

impl Setup<'_> {
    /// The text of the job.
    pub fn job(&self, simulator: &Url) -> String {
        let [source, target, step] = [self.source, self.target, self.step].map(whole_lines);
        let (batch_rows, concurrency, provider) = (self.batch_rows, self.concurrency, self.provider);
        let sections = whole_lines(self.sections).replace("SIMULATOR", simulator.as_str());
        format!(
            r#"app_id = "test"
[source]
path = "source"
{source}[target]
path = "target"
{target}[batch]
max_rows = {batch_rows}
[provider.sim]
base_url = "{simulator}"
model = "simulated"
max_concurrency = {concurrency}
min_backoff = "10ms"
{provider}
[[step]]
output = "answer"
{step}prompt = """
Say something about:
{{{{ text }}}}"""
{sections}"#
        )
    }
}

fn whole_lines(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\n") }
}

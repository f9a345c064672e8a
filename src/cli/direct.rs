//! A run without a job file. Its flags become a job file beside the checkpoint, for later commands.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use toml::{Table, Value};

use super::exit::misuse;
use crate::config::{Job, Keys};
use crate::store;

const BASE_URL: &str = "https://api.openai.com/v1";
const KEY_VARIABLE: &str = "OPENAI_API_KEY";
const NAME: &str = "job.toml";

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Without a job file")]
#[group(skip)]
pub(super) struct DirectArguments {
    /// Delta table; or file or folder of Parquet, CSV, TSV, JSON, Arrow IPC or Avro
    #[arg(long, value_name = "PATH", conflicts_with = "job", requires_all = ["target", "prompt", "model", "app_id"])]
    source: Option<String>,
    /// Delta table for the answers, created if it is missing
    #[arg(long, value_name = "PATH", requires = "source")]
    target: Option<String>,
    /// Template of the prompt, as in "Summarize: {{ review }}"
    #[arg(long, value_name = "TEMPLATE", requires = "source")]
    prompt: Option<String>,
    /// Name of the model
    #[arg(long, value_name = "NAME", requires = "source")]
    model: Option<String>,
    /// Stable name of the job
    #[arg(long, value_name = "NAME", requires = "source")]
    app_id: Option<String>,
    /// Column for the answers
    #[arg(long, value_name = "NAME", default_value = "response")]
    output_column: String,
    /// Base URL of the endpoint; its key is read from OPENAI_API_KEY
    #[arg(long, value_name = "URL", env = "OPENAI_BASE_URL", default_value = BASE_URL, hide_env_values = true)]
    base_url: String,
}

impl DirectArguments {
    /// Writes the job file that the flags describe and returns its path.
    pub(super) fn job_file(&self) -> anyhow::Result<PathBuf> {
        let (Some(source), Some(target), Some(prompt), Some(model), Some(app_id)) =
            (&self.source, &self.target, &self.prompt, &self.model, &self.app_id)
        else {
            misuse!("neither a job file nor a source is given");
        };
        let text = |text: &str| Value::String(text.to_owned());
        let section = |entries: &[(&str, Value)]| {
            Value::Table(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
        };
        let mut provider = vec![("base_url", text(&self.base_url)), ("model", text(model))];
        // Other endpoints may need no key; this one is known to need one.
        if self.base_url == BASE_URL || std::env::var_os(KEY_VARIABLE).is_some() {
            provider.push(("api_key_env", text(KEY_VARIABLE)));
        }
        let step = section(&[("output", text(&self.output_column)), ("prompt", text(prompt))]);
        let mut job = Table::new();
        job.insert("app_id".into(), text(app_id));
        job.insert("source".into(), section(&[("path", text(&absolute(source)?))]));
        job.insert("target".into(), section(&[("path", text(&absolute(target)?))]));
        job.insert("provider".into(), section(&[("default", section(&provider))]));
        job.insert("step".into(), Value::Array(vec![step]));
        let written = format!("# Made from the arguments of a run.\n{}", toml::to_string(&job)?);
        // The folder of the job's state is only known once the job is parsed.
        let read = Job::of_text(Path::new("the command line"), &written, &[], Keys::Unneeded)?;
        let folder = &read.places.state;
        let file = folder.join(NAME);
        store::create_folder(folder)?;
        store::replace_private(&file, written.as_bytes()).context("the job cannot be kept")?;
        Ok(file)
    }
}

fn absolute(path: &str) -> anyhow::Result<String> {
    if path.contains("://") {
        return Ok(path.to_owned());
    }
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

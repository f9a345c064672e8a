//! `enrich init`: writes a job file to begin with.

use std::fs::OpenOptions;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::exit::{Exit, misuse};
use super::job::shell_quoted;
use super::output;
use crate::config::{Job, Keys};
use crate::engine;
use crate::engine::EngineError;
use crate::source::Source;

#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// The job file to write
    #[arg(default_value = "job.toml")]
    file: PathBuf,
    /// Delta table, Parquet file or folder of Parquet files
    #[arg(long, value_name = "PATH")]
    source: Option<String>,
    /// Delta table for the answers [default: the source's name and _enriched, beside it]
    #[arg(long, value_name = "PATH")]
    target: Option<String>,
    /// Column of the source that the model is to read
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// What the model is to do with it, as in "Summarize the review in one sentence."
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Who answers
    #[arg(long, value_enum, value_name = "NAME")]
    provider: Option<Preset>,
    /// The model's name [default: the provider's usual one]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Stable name of the job [default: made from the source's]
    #[arg(long, value_name = "NAME")]
    app_id: Option<String>,
    /// Column for the answers
    #[arg(long, value_name = "NAME", default_value = "response")]
    output_column: String,
    /// Overwrite the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    Openai,
    Openrouter,
    Mistral,
    Anthropic,
    Azure,
    Gemini,
    Ollama,
    Vllm,
    LlamaCpp,
    /// Built in: no key, no cost, no sense
    Simulator,
}

impl Preset {
    /// The job that is shipped for it.
    fn job(self) -> &'static str {
        match self {
            Preset::Openai => include_str!("../../config/openai.toml"),
            Preset::Openrouter => include_str!("../../config/openrouter.toml"),
            Preset::Mistral => include_str!("../../config/mistral.toml"),
            Preset::Anthropic => include_str!("../../config/anthropic.toml"),
            Preset::Azure => include_str!("../../config/azure.toml"),
            Preset::Gemini => include_str!("../../config/gemini.toml"),
            Preset::Ollama => include_str!("../../config/ollama.toml"),
            Preset::Vllm => include_str!("../../config/vllm.toml"),
            Preset::LlamaCpp => include_str!("../../config/llama-cpp.toml"),
            Preset::Simulator => {
                "[provider.simulator]\nbase_url = \"simulator\"\nmodel = \"simulated\"\nmax_concurrency = 8\n\n[[step]]\n"
            }
        }
    }

    /// The lines of that job on the provider, comments included.
    fn provider(self, model: Option<&str>) -> String {
        let lines = self.job().lines().skip_while(|line| !line.starts_with("[provider."));
        let lines = lines.take_while(|line| !line.starts_with("[[step]]")).map(|line| match model {
            Some(model) if line.starts_with("model = ") => format!("model = {}", quoted(model)),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// The lines of that job on the step that do not depend on the task.
    fn step(self) -> Vec<&'static str> {
        let lines = self.job().lines().skip_while(|line| !line.starts_with("[[step]]")).skip(1);
        let lines = lines.take_while(|line| !line.starts_with("prompt = ") && !line.starts_with('['));
        lines.filter(|line| !line.starts_with("output = ") && !line.trim().is_empty()).collect()
    }
}

pub(super) async fn init(arguments: InitArguments) -> anyhow::Result<Exit> {
    let InitArguments { file, source, target, column, task, provider, model, app_id, output_column, force } =
        arguments;
    if file.exists() && !force {
        misuse!("{} is there already; give another name, or --force", file.display());
    }
    let source = answer(source, "source", "Source (Delta table, Parquet file or folder)", None)?;
    let column = match column {
        Some(column) => column,
        None => {
            let columns = columns(&source).await?;
            let what = format!("Column that the model is to read ({})", columns.join(", "));
            answer(None, "column", &what, columns.first().map(String::as_str))?
        }
    };
    let task = answer(task, "task", "What it is to do", Some("Summarize the following in one sentence."))?;
    let provider = match provider {
        Some(provider) => provider,
        None => {
            let names: Vec<String> = Preset::value_variants()
                .iter()
                .filter_map(ValueEnum::to_possible_value)
                .map(|value| value.get_name().to_owned())
                .collect();
            let named =
                answer(None, "provider", &format!("Provider ({})", names.join(", ")), Some("openai"))?;
            Preset::from_str(&named, true).map_err(|_| {
                anyhow::anyhow!("there is no provider {named:?}; there are {}", names.join(", "))
            })?
        }
    };
    let target = target.unwrap_or_else(|| beside(&source));
    let app_id = app_id.unwrap_or_else(|| name_of(&source));
    let text = job(&JobText {
        file: &file,
        source: &source,
        target: &target,
        app_id: &app_id,
        output: &output_column,
        column: &column,
        task: &task,
        provider,
        model: model.as_deref(),
    });
    // A job that would not pass is told before it is written.
    let read = Job::of_text(&file, &text, &[], Keys::Unneeded)?;
    let opened = Source::open(&read.source).await.map_err(EngineError::from)?;
    engine::check_templates(&read, opened.schema())?;
    let mut options = OpenOptions::new();
    let options = options.write(true).truncate(true);
    let options = if force { options.create(true) } else { options.create_new(true) };
    let written = options.open(&file).and_then(|mut file| file.write_all(text.as_bytes()));
    if !force && written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
        // A piece of a job would stand in the way of the next one.
        let _ = std::fs::remove_file(&file);
    }
    written.with_context(|| format!("cannot write {}", file.display()))?;
    output::talk(format!("wrote {}", file.display()));
    let typed = shell_quoted(&file.to_string_lossy());
    output::talk(format!("next: enrich check {typed} --live, then enrich run {typed} --max-rows 20"));
    Ok(Exit::Done)
}

/// Takes what was given, or asks where somebody can answer.
fn answer(given: Option<String>, flag: &str, what: &str, usual: Option<&str>) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        misuse!("--{flag} is missing, and there is no terminal to ask for it");
    }
    let hint = usual.map_or_else(String::new, |usual| format!(" [{usual}]"));
    loop {
        let mut err = io::stderr().lock();
        write!(err, "{what}{hint}: ").and_then(|()| err.flush())?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            misuse!("nothing was written");
        }
        match (line.trim(), usual) {
            ("", Some(usual)) => return Ok(usual.to_owned()),
            ("", None) => {}
            (line, _) => return Ok(line.to_owned()),
        }
    }
}

/// The columns of a source that text can be made of, those of text first.
async fn columns(source: &str) -> anyhow::Result<Vec<String>> {
    let text = format!(
        "app_id = \"init\"\n[source]\npath = {}\n[target]\npath = \"init-target\"\n[provider.p]\nbase_url = \"simulator\"\n\
         model = \"m\"\n[[step]]\noutput = \"init_output\"\nprompt = \"{{{{ row }}}}\"\n",
        quoted(source)
    );
    let job = Job::of_text(Path::new("job.toml"), &text, &[], Keys::Unneeded)?;
    let source = Source::open(&job.source).await.map_err(EngineError::from)?;
    let fields = source.schema().fields();
    let is_text =
        |field: &&arrow::datatypes::FieldRef| *field.data_type() == arrow::datatypes::DataType::Utf8;
    let others = fields.iter().filter(|field| !is_text(field));
    Ok(fields.iter().filter(is_text).chain(others).map(|field| field.name().clone()).collect())
}

struct JobText<'a> {
    file: &'a Path,
    source: &'a str,
    target: &'a str,
    app_id: &'a str,
    output: &'a str,
    column: &'a str,
    task: &'a str,
    provider: Preset,
    model: Option<&'a str>,
}

fn job(text: &JobText<'_>) -> String {
    let file = text.file.display();
    let column = if is_identifier(text.column) {
        text.column.to_owned()
    } else {
        format!("row[{}]", quoted(text.column))
    };
    let mut step = vec![format!("output = {}", quoted(text.output))];
    step.extend(text.provider.step().into_iter().map(ToOwned::to_owned));
    format!(
        "# Look at it: enrich check {file} --live      Run it: enrich run {file}\n\
         # Relative paths are relative to this file.\n\
         app_id = {app_id}    # with the target, what makes writes exactly once; do not rename it\n\
         \n[source]\npath = {source}\n\
         \n[target]\npath = {target}\n\
         \n{provider}\n\
         \n[[step]]\n{step}\n\
         prompt = \"\"\"\n{task}\n\n{{{{ {column} }}}}\"\"\"\n",
        app_id = quoted(text.app_id),
        source = quoted(&from(text.file, text.source)),
        target = quoted(&from(text.file, text.target)),
        provider = text.provider.provider(text.model),
        step = step.join("\n"),
        task = text.task.replace('\\', "\\\\").replace("\"\"\"", "\\\"\\\"\\\""),
    )
}

/// A path that was typed here, as it stands in a job file that may lie elsewhere.
fn from(file: &Path, path: &str) -> String {
    let is_beside = file.parent().is_none_or(|folder| folder.as_os_str().is_empty());
    if is_beside || path.contains("://") || Path::new(path).is_absolute() {
        return path.to_owned();
    }
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    first && chars.all(|c| c.is_alphanumeric() || c == '_')
}

fn stem(source: &str) -> String {
    let path = Path::new(source.trim_end_matches('/'));
    let stem = path.file_stem().or_else(|| path.file_name());
    stem.map_or_else(|| "table".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn beside(source: &str) -> String {
    let path = Path::new(source.trim_end_matches('/'));
    path.with_file_name(format!("{}_enriched", stem(source))).to_string_lossy().into_owned()
}

/// A name that an `app_id` may have.
fn name_of(source: &str) -> String {
    let name: String =
        stem(source).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
    format!("{}-enrich", name.trim_matches('-'))
}

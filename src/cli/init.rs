//! The command `enrich init`: writes a first job file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::exit::{Exit, misuse};
use super::job::shell_quoted;
use super::output;
use super::questions::{InitQuestion, again};
use crate::config::{ConfigError, Job, Keys, nearest};
use crate::run::RunError;
use crate::source::Source;
use crate::wording::counted;

#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// The job file to write
    #[arg(default_value = "job.toml")]
    file: PathBuf,
    /// Delta table; or file or folder of Parquet, CSV, TSV, JSON, Arrow IPC or Avro
    #[arg(long, value_name = "PATH")]
    source: Option<String>,
    /// Delta table for the answers [default: the source's name with _enriched, beside the source]
    #[arg(long, value_name = "PATH")]
    target: Option<String>,
    /// Column of the source that the model reads
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// Instruction for the model, as in "Summarize the review in one sentence."
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// Provider of the model
    #[arg(long, value_enum, value_name = "NAME")]
    provider: Option<Preset>,
    /// Name of the model [default: the provider's usual one]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Stable name of the job [default: made from the source's name]
    #[arg(long, value_name = "NAME")]
    app_id: Option<String>,
    /// Column for the answers [default: response]
    #[arg(long, value_name = "NAME")]
    output_column: Option<String>,
    /// Overwrite the file if it exists
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
    /// Built in: no key, no cost, meaningless answers
    Simulator,
}

impl Preset {
    /// Returns the example job that is shipped for the provider.
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

    /// Returns that job's lines about the provider, comments included.
    fn provider(self, model: Option<&str>) -> String {
        let lines = self.job().lines().skip_while(|line| !line.starts_with("[provider."));
        let lines = lines.take_while(|line| !line.starts_with("[[step]]")).map(|line| match model {
            Some(model) if line.starts_with("model = ") => format!("model = {}", quoted(model)),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// Returns the environment variable that holds the provider's key.
    fn key_variable(self) -> Option<String> {
        let job: toml::Table = self.provider(None).parse().ok()?;
        let provider = job.get("provider")?.as_table()?.values().next()?;
        provider.get("api_key_env")?.as_str().map(ToOwned::to_owned)
    }

    /// Returns which values of that job the user has to replace.
    fn names_to_edit(self) -> Option<&'static str> {
        match self {
            Preset::Azure => Some(
                "my-resource and my-deployment, in base_url and model, stand for the names of your Azure resource and \
                 of your deployment in it",
            ),
            Preset::Vllm | Preset::LlamaCpp | Preset::Ollama => {
                Some("base_url and model, unless your server is where they say and serves that model")
            }
            _ => None,
        }
    }

    /// Returns that job's lines about the step that do not depend on the task.
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
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        misuse!("the folder {} is not there; make it first, or give another name", folder.display());
    }
    let asks = source.is_none() || column.is_none() || task.is_none() || provider.is_none();
    let (source, columns) = match source {
        Some(source) => {
            let columns = columns(&source).await?;
            (source, columns)
        }
        None => ask_source().await?,
    };
    let what = format!("Column that the model is to read ({})", columns.join(", "));
    let question = InitQuestion { flag: "column", text: &what, usual: columns.first().map(String::as_str) };
    let column = question.answer(column.as_deref(), |column| known_column(column, &columns))?;
    let usual = Some("Summarize the following in one sentence.");
    let question = InitQuestion { flag: "task", text: "What it is to do", usual };
    let task = question.answer(task.as_deref(), |task| Ok(task.to_owned()))?;
    let provider = match provider {
        Some(provider) => provider,
        None => ask_provider()?,
    };
    let question =
        InitQuestion { flag: "output-column", text: "Column for the answers", usual: Some("response") };
    let given = output_column.as_deref().or_else(|| (!asks).then_some("response"));
    let output_column = question.answer(given, |name| match columns.iter().any(|known| known == name) {
        true => misuse!("the source has a column {name:?}; the answers need a name of their own"),
        false => Ok(name.to_owned()),
    })?;
    let target = target.unwrap_or_else(|| beside(&source));
    let usual = name_of(&source);
    let question = InitQuestion { flag: "app-id", text: "Stable name of the job", usual: Some(&usual) };
    let given = app_id.as_deref().or_else(|| (!asks).then_some(usual.as_str()));
    let app_id = question.answer(given, |app_id| {
        sample(&source, app_id)?;
        Ok(app_id.to_owned())
    })?;
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
    // A job that would be refused is reported before it is written.
    let read = Job::of_text(&file, &text, &[], Keys::Unneeded)?;
    let opened = Source::open(&read.source, &read.places.state).await.map_err(RunError::from)?;
    crate::run::check_templates(&read, opened.schema())?;
    if let Some((rows, is_own)) = crate::inspect::target_before(&read).await? {
        let (at, rows) = (&read.target.location, counted(rows, "row"));
        output::talk(match is_own {
            true => format!(
                "the target {at} is there, with {rows}, and has batches of the app_id {app_id:?}: this job goes on where that one \
                 stands. For one of its own give another --target and --app-id"
            ),
            false => format!("the target {at} is there, with {rows}: this job adds its rows to them"),
        });
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).truncate(true);
    let options = if force { options.create(true) } else { options.create_new(true) };
    let written = options.open(&file).and_then(|mut file| file.write_all(text.as_bytes()));
    if !force && written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
        // An incomplete job file would block the next attempt.
        let _ = std::fs::remove_file(&file);
    }
    written.with_context(|| format!("cannot write {}", file.display()))?;
    output::talk(format!("wrote {}", file.display()));
    if let Some(names) = provider.names_to_edit() {
        output::talk(format!("edit first: {names}"));
    }
    if let Some(variable) = provider.key_variable().filter(|name| std::env::var_os(name).is_none()) {
        output::talk(format!("set first: the environment variable {variable}, to the provider's key"));
    }
    let typed = shell_quoted(&file.to_string_lossy());
    output::talk(format!("next: enrich check {typed} --live, then enrich run {typed} --max-rows 20"));
    Ok(Exit::Done)
}

async fn ask_source() -> anyhow::Result<(String, Vec<String>)> {
    let text = "Source (Delta table; or file or folder of Parquet, CSV, JSON, Arrow or Avro)";
    loop {
        let source = InitQuestion { flag: "source", text, usual: None }.ask()?;
        match columns(&source).await {
            Ok(columns) => return Ok((source, columns)),
            Err(error) => again(&error),
        }
    }
}

fn ask_provider() -> anyhow::Result<Preset> {
    let names: Vec<String> = Preset::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .map(|value| value.get_name().to_owned())
        .collect();
    let text = format!("Provider ({})", names.join(", "));
    let question = InitQuestion { flag: "provider", text: &text, usual: Some("openai") };
    question.answer(None, |name| {
        Preset::from_str(name, true)
            .map_err(|_| anyhow::anyhow!("there is no provider {name:?}; there are {}", names.join(", ")))
    })
}

fn known_column(column: &str, columns: &[String]) -> anyhow::Result<String> {
    if columns.iter().any(|known| known == column) {
        return Ok(column.to_owned());
    }
    match nearest(column, columns.iter().map(String::as_str)) {
        Some(near) => misuse!("the source has no column {column:?}; did you mean {near:?}?"),
        None => misuse!("the source has no column {column:?}; it has {}", columns.join(", ")),
    }
}

/// Returns a job with the given source and `app_id`; everything else in it is a placeholder.
fn sample(source: &str, app_id: &str) -> Result<Job, ConfigError> {
    let text = format!(
        "app_id = {}\n[source]\npath = {}\n[target]\npath = \"init-target\"\n[provider.p]\nbase_url = \"simulator\"\n\
         model = \"m\"\n[[step]]\noutput = \"init_output\"\nprompt = \"{{{{ row }}}}\"\n",
        quoted(app_id),
        quoted(source)
    );
    Job::of_text(Path::new("job.toml"), &text, &[], Keys::Unneeded)
}

/// Returns the columns of a source that can be rendered as text, string columns first.
async fn columns(source: &str) -> anyhow::Result<Vec<String>> {
    let job = sample(source, "init")?;
    let source = Source::open(&job.source, &job.places.state).await.map_err(RunError::from)?;
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

/// Converts a path typed on the command line to one in a job file that may be in another folder.
fn from(file: &Path, path: &str) -> String {
    let is_beside = file.parent().is_none_or(|folder| folder.as_os_str().is_empty());
    if is_beside || path.contains("://") || Path::new(path).is_absolute() {
        return path.to_owned();
    }
    let relative = || {
        let folder = std::path::absolute(file.parent()?).ok()?;
        let path = std::path::absolute(path).ok()?;
        let (folder, path): (Vec<_>, Vec<_>) = (folder.components().collect(), path.components().collect());
        let common = folder.iter().zip(&path).take_while(|(a, b)| a == b).count();
        let up = std::iter::repeat_n(Component::ParentDir, folder.len() - common);
        Some(up.chain(path.get(common..)?.iter().copied()).collect::<PathBuf>())
    };
    relative().map_or_else(|| path.to_owned(), |path| path.to_string_lossy().into_owned())
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

/// Returns the default target: a table beside the source, named after it.
fn beside(source: &str) -> String {
    let path = Path::new(source.trim_end_matches('/'));
    path.with_file_name(format!("{}_enriched", stem(source))).to_string_lossy().into_owned()
}

/// Returns an `app_id` made from the source's name.
fn name_of(source: &str) -> String {
    let name: String =
        stem(source).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
    format!("{}-enrich", name.trim_matches('-'))
}

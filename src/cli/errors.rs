//! The command `enrich errors`: lists or counts failed rows.

use std::path::PathBuf;

use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};

use super::exit::{Exit, misuse};
use super::job::JobArguments;
use super::listing::BatchListing;
use super::output;
use super::select::SelectArguments;
use crate::checkpoint::Selection;
use crate::config::{Job, Keys};
use crate::export::{ExportFormat, FormulaCells, TextCompression};
use crate::fault::{Class, is_format_control};
use crate::run::RunError;
use crate::sink::{FailedError, FailedGroup, FailedRows, LISTED};
use crate::wording::counted;

/// Maximum number of rows in a table for people, unless `--limit` is given.
const TABLE_ROWS: u64 = 50;
/// Width of a terminal in columns below which each row becomes a paragraph.
const NARROW: u16 = 70;
/// Maximum number of characters shown of a source column.
const CELL_CHARS: usize = 60;
/// Maximum number of characters shown of a file name: `part-00000-` and the first part of an id.
const FILE_CHARS: usize = 20;
/// Number of source columns in a table for people, unless `--columns` is given.
const TABLE_COLUMNS: usize = 2;

#[derive(Debug, Args)]
pub(super) struct ErrorsArguments {
    #[command(flatten)]
    job: JobArguments,
    #[command(flatten)]
    select: SelectArguments,
    /// Only rows that were sent to one of these providers last
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    provider: Vec<String>,
    /// Columns of the source to show [default: all; in a table, the first two]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Maximum number of rows; 0 for all [default: 50 in a table, else all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Output format; json is one object per line, and csv has nested columns as JSON
    #[arg(long, value_enum, default_value_t = ErrorsFormat::Table, value_name = "FORMAT")]
    format: ErrorsFormat,
    /// With csv: put a ' before text that a spreadsheet would take for a formula; without it text is unchanged
    #[arg(long)]
    escape_formulas: bool,
    /// Write the list to this file [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Count the errors by step and class, with an example of each and what to do about it
    #[arg(long, conflicts_with_all = ["columns", "limit", "output"])]
    summary: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ErrorsFormat {
    Table,
    Json,
    Csv,
    Parquet,
}

pub(super) async fn errors(arguments: ErrorsArguments) -> anyhow::Result<Exit> {
    let job = arguments.job.load(Keys::Unneeded)?;
    let Some(rows) = FailedRows::open(&job).await.map_err(RunError::from)? else {
        return Err(RunError::Mismatch {
            what: format!("there is no target {} yet", job.target.location),
            hint: "enrich run makes it",
        }
        .into());
    };
    let selection = arguments.select.selection(&arguments.provider);
    let count = if arguments.summary {
        let groups = rows.summary(&selection).await.map_err(RunError::from)?;
        summarize(&groups, arguments.format)?;
        total(&groups)
    } else {
        let shown = match arguments.format {
            ErrorsFormat::Table => table(&arguments, &rows, &job).await?,
            ErrorsFormat::Json => {
                listing(&arguments, &rows, ExportFormat::JsonLines(TextCompression::Plain)).await?
            }
            ErrorsFormat::Csv => {
                listing(&arguments, &rows, ExportFormat::Csv(TextCompression::Plain)).await?
            }
            ErrorsFormat::Parquet => listing(&arguments, &rows, ExportFormat::Parquet).await?,
        };
        match shown {
            ShownCount::All(count) => count,
            ShownCount::First(shown) => {
                let count = total(&rows.summary(&selection).await.map_err(RunError::from)?);
                if shown < count {
                    output::talk(format!(
                        "{shown} of {count} shown; --limit 0 shows all, --summary counts them"
                    ));
                }
                count
            }
        }
    };
    // A row that failed in several steps is listed once for each.
    let such = match (selection == Selection::default(), job.steps.len()) {
        (true, 1) => "failed row",
        (false, 1) => "such failed row",
        (true, _) => "error",
        (false, _) => "such error",
    };
    output::talk(format!("{} in {}", counted(count, such), job.target.location));
    Ok(Exit::Done)
}

/// Number of rows that were listed.
enum ShownCount {
    /// All rows of the selection.
    All(u64),
    /// The first rows; there may be more.
    First(u64),
}

impl ShownCount {
    fn of(rows: u64, limit: Option<u64>) -> Self {
        if limit.is_some_and(|limit| rows >= limit) { ShownCount::First(rows) } else { ShownCount::All(rows) }
    }
}

fn total(groups: &[FailedGroup]) -> u64 {
    groups.iter().map(|group| group.rows).sum()
}

fn summarize(groups: &[FailedGroup], format: ErrorsFormat) -> anyhow::Result<()> {
    match format {
        ErrorsFormat::Table => {
            let mut table = new_table(&["rows", "step", "class", "example", "what to do"]);
            for group in groups {
                let (advice, example) =
                    (advice_for(&group.class), without_class(&group.example, &group.class));
                table.add_row([&group.rows.to_string(), &group.step, &group.class, example, advice]);
            }
            if !groups.is_empty() {
                show(&table)?;
            }
        }
        ErrorsFormat::Json => {
            for group in groups {
                let line = serde_json::json!({
                    "step": group.step,
                    "class": group.class,
                    "rows": group.rows,
                    "example": group.example,
                    "what_to_do": advice_for(&group.class),
                });
                if !output::data(line.to_string())? {
                    break;
                }
            }
        }
        ErrorsFormat::Csv | ErrorsFormat::Parquet => misuse!("--summary is shown as a table or as json"),
    }
    Ok(())
}

/// Returns what a person can do about errors of a class, by the class's name in the table.
fn advice_for(class: &str) -> &'static str {
    class.parse::<Class>().map_or("see the provider's documentation", Class::advice_for_rows)
}

fn without_class<'a>(error: &'a str, class: &str) -> &'a str {
    let error = short(error);
    error.strip_prefix(class).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(error)
}

fn short(error: &str) -> &str {
    error.strip_prefix("ERROR: ").unwrap_or(error)
}

/// Returns enough of a file's name to distinguish it from others.
fn short_file(path: &str) -> String {
    shortened(path.rsplit('/').next().unwrap_or(path), FILE_CHARS)
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

/// Creates a table as wide as the terminal.
pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    let terminal = console::Term::stdout();
    if terminal.is_term() {
        let (_, columns) = terminal.size();
        table.set_width(columns).set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Writes a table to standard output.
pub(super) fn show(table: &Table) -> anyhow::Result<()> {
    let narrow = table.width().filter(|width| *width < NARROW);
    let text = if narrow.is_some() { stacked(table) } else { table.trim_fmt() };
    output::data(text).context("the list could not be written")?;
    Ok(())
}

/// Formats a table with a paragraph for each row and a line for each cell.
fn stacked(table: &Table) -> String {
    let header: Vec<String> =
        table.header().iter().flat_map(|row| row.cell_iter()).map(comfy_table::Cell::content).collect();
    let rows = table.row_iter().map(|row| {
        let cells = row.cell_iter().zip(&header).filter(|(cell, _)| !cell.content().is_empty());
        cells.map(|(cell, name)| format!("{name}: {}", cell.content())).collect::<Vec<_>>().join("\n")
    });
    rows.collect::<Vec<_>>().join("\n\n")
}

/// Returns the requested columns of the source, or its first `first` columns if none are requested.
fn columns(arguments: &ErrorsArguments, rows: &FailedRows, first: usize) -> Vec<String> {
    arguments.columns.clone().unwrap_or_else(|| {
        let source = rows.source_columns();
        source.fields().iter().take(first).map(|field| field.name().clone()).collect()
    })
}

async fn table(arguments: &ErrorsArguments, rows: &FailedRows, job: &Job) -> anyhow::Result<ShownCount> {
    if arguments.output.is_some() {
        misuse!("--output takes --format json, csv or parquet");
    }
    let columns = columns(arguments, rows, TABLE_COLUMNS);
    let limit = arguments.limit.unwrap_or(TABLE_ROWS);
    let limit = (limit > 0).then_some(limit);
    let with_step = job.steps.len() > 1;
    let mut header: Vec<&str> = vec!["file", "row"];
    if !rows.has_metadata() {
        header.clear();
    }
    header.extend(columns.iter().map(String::as_str));
    header.extend(with_step.then_some("step"));
    header.push("error");
    let mut table = new_table(&header);
    let mut shown = 0;
    let selection = arguments.select.selection(&arguments.provider);
    rows.list(&selection, &columns, limit, |batch| {
        let texts = |name: &str| Texts::new(&batch, name);
        let own: Vec<Texts> = (0..columns.len()).map(|at| Texts::of(batch.column(at))).collect();
        let (files, numbers, steps, errors) =
            (texts("_file"), texts("_row"), texts("_step"), texts("_error"));
        for at in 0..batch.num_rows() {
            let mut cells: Vec<String> = Vec::new();
            if rows.has_metadata() {
                cells.extend([short_file(&files.get(at)), numbers.get(at)]);
            }
            cells.extend(own.iter().map(|texts| shortened(&texts.get(at), CELL_CHARS)));
            cells.extend(with_step.then(|| steps.get(at)));
            cells.push(short(&errors.get(at)).to_owned());
            let mut row = comfy_table::Row::from(cells);
            row.max_height(4);
            table.add_row(row);
        }
        shown += batch.num_rows() as u64;
        Ok::<(), FailedError>(())
    })
    .await
    .map_err(RunError::from)?;
    if shown > 0 {
        show(&table)?;
    }
    Ok(ShownCount::of(shown, limit))
}

/// The values of a column, each as text on one line.
struct Texts(Option<ArrayRef>);

impl Texts {
    fn new(batch: &RecordBatch, name: &str) -> Self {
        // A column of the source may have the same name.
        let at = batch.num_columns() - LISTED.len();
        let own = batch.schema_ref().fields().iter().skip(at).position(|field| field.name() == name);
        Texts(own.map(|own| std::sync::Arc::clone(batch.column(at + own))))
    }

    fn of(column: &ArrayRef) -> Self {
        Texts(Some(std::sync::Arc::clone(column)))
    }

    fn get(&self, at: usize) -> String {
        let Some(column) = &self.0 else { return String::new() };
        let options = FormatOptions::default();
        let text = match ArrayFormatter::try_new(column.as_ref(), &options) {
            Ok(formatter) => formatter.value(at).to_string(),
            Err(_) => String::new(),
        };
        text.split(|c: char| c.is_whitespace() || c.is_control() || is_format_control(c))
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

async fn listing(
    arguments: &ErrorsArguments,
    rows: &FailedRows,
    format: ExportFormat,
) -> anyhow::Result<ShownCount> {
    let columns = columns(arguments, rows, usize::MAX);
    if arguments.escape_formulas && !format.has_cells() {
        misuse!("--escape-formulas goes with --format csv");
    }
    let formulas = if arguments.escape_formulas { FormulaCells::Escaped } else { FormulaCells::Unchanged };
    let mut listing = BatchListing::open(format, arguments.output.as_deref(), formulas)?;
    let mut shown = 0;
    let limit = arguments.limit.filter(|limit| *limit > 0);
    let selection = arguments.select.selection(&arguments.provider);
    let mut trouble = None;
    let listed = rows.list(&selection, &columns, limit, |batch| {
        shown += batch.num_rows() as u64;
        let written = plain(&batch).map_err(anyhow::Error::from).and_then(|batch| listing.write(&batch));
        match written {
            Ok(true) => Ok(()),
            Ok(false) => Err(ListingEnd::Closed),
            Err(error) => {
                trouble = Some(error);
                Err(ListingEnd::Closed)
            }
        }
    });
    let is_closed = match listed.await {
        Ok(()) => false,
        Err(ListingEnd::Closed) => true,
        Err(ListingEnd::Failed(error)) => return Err(RunError::from(error).into()),
    };
    if let Some(error) = trouble {
        return Err(error.context("the list could not be written to the end"));
    }
    listing.finish().context("the list could not be written to the end")?;
    Ok(if is_closed { ShownCount::First(shown) } else { ShownCount::of(shown, limit) })
}

/// Reason why a listing ends early.
enum ListingEnd {
    Closed,
    Failed(FailedError),
}

impl From<FailedError> for ListingEnd {
    fn from(error: FailedError) -> Self {
        ListingEnd::Failed(error)
    }
}

/// Converts view types to plain strings and bytes, which every writer and reader supports.
fn plain(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let column = match column.data_type() {
            DataType::Utf8View => cast(column, &DataType::Utf8)?,
            DataType::BinaryView => cast(column, &DataType::Binary)?,
            _ => std::sync::Arc::clone(column),
        };
        fields.push(field.as_ref().clone().with_data_type(column.data_type().clone()).with_nullable(true));
        columns.push(column);
    }
    debug_assert!(columns.iter().all(|column| column.as_string_view_opt().is_none()));
    RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns)
}

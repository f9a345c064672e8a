//! Rows of a target together with their answers: the slowest, the most expensive, and a sample.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::failed::{name, text};
use super::history;
use super::target::{APP_ID, SOURCE_FILE, SOURCE_ROW};
use crate::config::{Job, StepSpec};
use crate::rows::OutputColumns;
use crate::table::{Table, TableError, is_delta_table};

/// The order in which rows of a step are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Longest latency first.
    Slowest,
    /// Highest cost first.
    Dearest,
    /// A sample that is the same each time.
    Sample,
}

/// A row with one step's answer.
#[derive(Clone, Debug)]
pub struct ShownRow {
    /// Output of the step.
    pub step: String,
    /// The source file.
    pub file: String,
    /// Row number in the source file.
    pub row: i64,
    /// Names and texts of the columns that the step read; null values are left out.
    pub inputs: Vec<(String, String)>,
    /// The answer, or `None` if the row failed.
    pub answer: Option<String>,
    /// The error string, or `None` if the row did not fail.
    pub error: Option<String>,
    /// Cost in microdollars.
    pub cost: Option<i64>,
    /// Tokens of prompt and answer together.
    pub tokens: Option<i64>,
    /// Latency in milliseconds.
    pub latency_ms: Option<i64>,
}

/// Returns up to `most` rows of each step in the given order; none for a target without metadata. `inputs` returns
/// the columns that a step reads.
///
/// # Errors
/// When the target cannot be read.
pub async fn ranked_rows(
    job: &Job,
    order: RowOrder,
    most: usize,
    inputs: impl Fn(&StepSpec) -> Vec<String>,
) -> Result<Vec<ShownRow>, TableError> {
    let Some(metadata) = &job.target.metadata_column else { return Ok(Vec::new()) };
    if !is_delta_table(&job.target.location).await? {
        return Ok(Vec::new());
    }
    let table = Table::open(&job.target.location).await?;
    let schema = table.schema()?;
    let has_column = |column: &str| schema.field_with_name(column).is_ok();
    if !has_column(metadata) {
        return Ok(Vec::new());
    }
    let Ok(DataType::Struct(fields)) = schema.field_with_name(metadata).map(Field::data_type) else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for step in &job.steps {
        let output = OutputColumns::of(step);
        // The target has no struct for a step that was added or renamed since.
        let Some((history, DataType::Struct(known))) = history::find(fields, &step.output)
            .and_then(|name| Some((name, fields.find(name)?.1.data_type())))
        else {
            continue;
        };
        let is_whole = output.columns().iter().all(|field| has_column(field.name()));
        if !is_whole || FIGURES.iter().any(|name| known.find(name).is_none()) {
            continue;
        }
        let shared = known.find("shared").is_some();
        let inputs: Vec<String> = inputs(step).into_iter().filter(|column| has_column(column)).collect();
        let own = &ShownStep { job, metadata, history, output: &output, inputs: &inputs, shared };
        let found = own.find(&table, order, most).await?;
        all.extend(own.read(&table, found).await?);
    }
    Ok(all)
}

struct ShownStep<'a> {
    job: &'a Job,
    metadata: &'a str,
    /// Name of the step's struct in the metadata column.
    history: &'a str,
    output: &'a OutputColumns,
    inputs: &'a [String],
    /// Whether the target records which answers were shared from another row.
    shared: bool,
}

/// Fields of a step's struct that are needed; a step without one of them is passed over.
const FIGURES: [&str; 6] =
    ["error", "cost_micro_usd", "prompt_tokens", "completion_tokens", "latency_ms", "fingerprint"];

/// Source file, row number, and the figures: cost, tokens, latency.
type RankedRow = (String, i64, [Option<i64>; 3]);

impl ShownStep<'_> {
    /// Selects the rows by their metadata alone.
    async fn find(&self, table: &Table, order: RowOrder, most: usize) -> Result<Vec<RankedRow>, TableError> {
        let by = match order {
            RowOrder::Slowest => "h['latency_ms'] DESC",
            RowOrder::Dearest => "h['cost_micro_usd'] DESC",
            // Fingerprints are hashes, so their order is arbitrary.
            RowOrder::Sample => "h['fingerprint']",
        };
        let which = match order {
            RowOrder::Slowest if self.shared => "h['latency_ms'] > 0 AND NOT h['shared']",
            RowOrder::Slowest => "h['latency_ms'] > 0",
            RowOrder::Dearest => "h['cost_micro_usd'] > 0",
            RowOrder::Sample => "h['fingerprint'] IS NOT NULL",
        };
        let (meta, step) = (name(self.metadata), text(self.history));
        let app_id = text(&self.job.app_id);
        let sql = format!(
            "SELECT m['{SOURCE_FILE}'], m['{SOURCE_ROW}'], h['cost_micro_usd'], h['prompt_tokens'] + h['completion_tokens'], \
             h['latency_ms'] FROM (SELECT {meta} AS m, {meta}[{step}] AS h FROM target WHERE {meta}['{APP_ID}'] = {app_id}) \
             WHERE {which} ORDER BY {by}, m['{SOURCE_FILE}'], m['{SOURCE_ROW}'] LIMIT {most}"
        );
        let mut found = Vec::new();
        table
            .query(&sql, |rows| {
                let failed = |error| failed(table, error);
                let files = cast(rows.column(0), &DataType::Utf8).map_err(failed)?;
                let numbers: Vec<_> = (1..5).map(|at| cast(rows.column(at), &DataType::Int64)).collect();
                let numbers = numbers.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
                for at in 0..rows.num_rows() {
                    let number = |column: usize| {
                        let column = numbers[column].as_primitive::<Int64Type>();
                        column.is_valid(at).then(|| column.value(at))
                    };
                    let figures = [number(1), number(2), number(3)];
                    let file = files.as_string::<i32>().value(at).to_owned();
                    found.push((file, number(0).unwrap_or_default(), figures));
                }
                Ok::<(), TableError>(())
            })
            .await?;
        Ok(found)
    }

    /// Reads the inputs, answers and errors of the selected rows.
    async fn read(&self, table: &Table, found: Vec<RankedRow>) -> Result<Vec<ShownRow>, TableError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let meta = name(self.metadata);
        let values = self.output.value_columns().iter().map(|field| field.name().as_str());
        let columns: Vec<&str> = self.inputs.iter().map(String::as_str).chain(values).collect();
        let mut sql = format!(
            "SELECT {meta}['{SOURCE_FILE}'], {meta}['{SOURCE_ROW}'], {meta}[{}]['error'], {} AS \"_step_error\"",
            text(self.history),
            name(self.output.error_column()),
        );
        columns.iter().for_each(|column| {
            let _ = write!(sql, ", {}", name(column));
        });
        let app_id = text(&self.job.app_id);
        let _ = write!(sql, " FROM target WHERE {meta}['{APP_ID}'] = {app_id} AND (FALSE");
        for (file, row, _) in &found {
            let file = text(file);
            let _ = write!(sql, " OR ({meta}['{SOURCE_ROW}'] = {row} AND {meta}['{SOURCE_FILE}'] = {file})");
        }
        sql.push(')');
        let mut held = BTreeMap::new();
        table
            .query(&sql, |rows| {
                let failed = |error| failed(table, error);
                let options = FormatOptions::default();
                let shown = rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
                let shown = shown.collect::<Result<Vec<_>, _>>().map_err(failed)?;
                for at in 0..rows.num_rows() {
                    let cell = |column: usize| {
                        rows.column(column).is_valid(at).then(|| shown[column].value(at).to_string())
                    };
                    let first_value = 4 + self.inputs.len();
                    let inputs =
                        (4..first_value).filter_map(|column| Some((columns[column - 4], cell(column)?)));
                    let inputs = inputs.map(|(column, text)| (column.to_owned(), text)).collect();
                    let error = cell(2).and_then(|_| cell(3));
                    let answer: Vec<String> = match (&error, columns.len() - self.inputs.len()) {
                        (Some(_), _) => Vec::new(),
                        (None, 1) => cell(first_value).into_iter().collect(),
                        (None, _) => (first_value..first_value + columns.len() - self.inputs.len())
                            .filter_map(|column| Some(format!("{}: {}", columns[column - 4], cell(column)?)))
                            .collect(),
                    };
                    let answer = (!answer.is_empty()).then(|| answer.join("\n"));
                    let key = (cell(0).unwrap_or_default(), cell(1).and_then(|row| row.parse().ok()));
                    held.insert(key, (inputs, answer, error));
                }
                Ok::<(), TableError>(())
            })
            .await?;
        let rows = found.into_iter().filter_map(|(file, row, [cost, tokens, latency_ms])| {
            let (inputs, answer, error) = held.get(&(file.clone(), Some(row)))?.clone();
            let step = self.output.name().to_owned();
            Some(ShownRow { step, file, row, inputs, answer, error, cost, tokens, latency_ms })
        });
        Ok(rows.collect())
    }
}

fn failed(table: &Table, error: arrow::error::ArrowError) -> TableError {
    TableError { action: "read", at: table.at().clone(), source: Box::new(error) }
}

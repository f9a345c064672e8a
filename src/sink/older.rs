//! Rows with outdated answers: the step's prompt, model or parameters have changed since.

use std::fmt;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use serde::Serialize;

use super::failed::{name, text};
use super::history;
use super::target::APP_ID;
use crate::config::Job;
use crate::table::{Table, TableError};
use crate::wording::counted;

/// Count of a step's rows with outdated answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OlderAnswers {
    /// Output of the step.
    pub step: String,
    /// Number of rows.
    pub rows: u64,
}

impl fmt::Display for OlderAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = counted(self.rows, "row");
        write!(
            f,
            "{rows} of the step {:?} were sent with another prompt, model or parameters than the job has now",
            self.step
        )
    }
}

/// Returns the steps that have rows with outdated answers in a target. A row records the prompt and parameters of its
/// request, and not the model: `by_model` returns whether a step used other models before, and then every row that
/// was sent counts.
///
/// # Errors
/// When the table cannot be read.
pub async fn older(
    table: &Table,
    job: &Job,
    by_model: impl Fn(&str) -> bool,
) -> Result<Vec<OlderAnswers>, TableError> {
    let Some(metadata) = &job.target.metadata_column else { return Ok(Vec::new()) };
    let schema = table.schema()?;
    let Ok(DataType::Struct(fields)) = schema.field_with_name(metadata).map(Field::data_type) else {
        return Ok(Vec::new());
    };
    let known = job.steps.iter().filter_map(|step| Some((step, history::find(fields, &step.output)?)));
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let sums = known.iter().map(|(step, history)| {
        let template = format!("{}[{}]['template']", name(metadata), text(history));
        let is_older = match by_model(&step.output) {
            true => format!("{template} IS NOT NULL"),
            false => format!("{template} <> {}", text(&step.template_fingerprint().to_string())),
        };
        format!("CAST(COALESCE(SUM(CASE WHEN {is_older} THEN 1 ELSE 0 END), 0) AS BIGINT)")
    });
    let sums: Vec<String> = sums.collect();
    let app_id = format!("{}['{APP_ID}'] = {}", name(metadata), text(&job.app_id));
    let sql = format!("SELECT {} FROM target WHERE {app_id}", sums.join(", "));
    let mut found: Vec<OlderAnswers> =
        known.iter().map(|(step, _)| OlderAnswers { step: step.output.clone(), rows: 0 }).collect();
    let read = table.query(&sql, |batch| {
        for (older, column) in found.iter_mut().zip(batch.columns()) {
            let counts = cast(column, &DataType::Int64).map_err(|error| TableError {
                action: "read",
                at: job.target.location.clone(),
                source: Box::new(error),
            })?;
            let counts = counts.as_primitive::<Int64Type>();
            older.rows += counts.values().iter().sum::<i64>().cast_unsigned();
        }
        Ok::<(), TableError>(())
    });
    read.await?;
    found.retain(|older| older.rows > 0);
    Ok(found)
}

//! The input of a step for a row: columns of the source, outputs of earlier steps, and whether its condition is met.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::compiled_step::CompiledStep;
use super::condition::When;
use super::open_batch::OpenBatch;
use super::step_provider::{StepProvider, bit};
use crate::config::OnTooLong;
use crate::decode::Content;
use crate::fault::{Class, Failure};
use crate::ident::Cell;
use crate::panics;
use crate::prompt::{Question, Rendered, StepOutput};
use crate::rows::{Outcome, RowResult};

/// Number of times that a prompt is cut, at most, until it is short enough.
const MOST_CUTS: u32 = 8;

/// Returns the output of a step for a row, as a column of one value.
fn value(
    steps: &[CompiledStep],
    batch: &OpenBatch,
    step: usize,
    row: u32,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let settled = batch.outcome(step, row);
    match (batch.held(step), settled.map(|settled| &settled.outcome)) {
        (Some(held), Some(Outcome::Unchanged)) => Ok(held.slice(row as usize, 1)),
        _ => {
            let loaded = settled.map(RowResult::load).transpose()?;
            steps[step].columns.values(loaded.as_deref().into_iter())
        }
    }
}

/// The question for a row, and the providers that may get it.
pub(super) struct StepRequest {
    pub(super) question: Question,
    /// Index of the provider list that the row follows: 0 for the step's own list, n for that of its nth route.
    pub(super) route: usize,
    /// Providers that cannot take it, one bit each.
    pub(super) excluded_providers: u64,
}

/// Returns the question for a row, or the outcome of a row that needs no request.
pub(super) fn prepare(
    steps: &[CompiledStep],
    providers: &[StepProvider],
    batch: &OpenBatch,
    cell: Cell,
) -> Result<StepRequest, Outcome> {
    panics::catch(|| request_of(steps, providers, batch, cell)).unwrap_or_else(|message| {
        let detail = format!("the request cannot be made of the row: {message}");
        Err(Outcome::Failed(Failure::new(Class::Template, detail)))
    })
}

fn request_of(
    steps: &[CompiledStep],
    providers: &[StepProvider],
    batch: &OpenBatch,
    cell: Cell,
) -> Result<StepRequest, Outcome> {
    let step = &steps[cell.step.index()];
    if let Some(failed) = step.needs.iter().find(|needed| batch.has_failed(**needed, cell.row)) {
        let detail = format!("the step {:?} failed, whose output this one needs", &*steps[*failed].output);
        return Err(Outcome::Failed(Failure::new(Class::Upstream, detail)));
    }
    if let Some(when) = &step.when
        && !holds(when, steps, batch, cell.row).map_err(Outcome::Failed)?
    {
        return Err(Outcome::Skipped);
    }
    let given = step.prompt.needs().map(|needed| given(steps, batch, needed, cell.row));
    let given = given.collect::<Result<Vec<_>, _>>().map_err(Outcome::Failed)?;
    let (rows, row) = batch.locate(cell.row);
    let question = match step.prompt.render(rows, row, given) {
        Ok(Rendered::Ask(question)) => question,
        Ok(Rendered::Skip) => return Err(Outcome::Skipped),
        Err(failure) => return Err(Outcome::Failed(failure)),
    };
    let mut route = 0;
    for (nth, when) in step.routes.iter().enumerate() {
        if holds(when, steps, batch, cell.row).map_err(Outcome::Failed)? {
            route = nth + 1;
            break;
        }
    }
    let mut request = within(step, providers, question, route).map_err(Outcome::Failed)?;
    if let Some(urgent) = &step.urgent
        && holds(urgent, steps, batch, cell.row).map_err(Outcome::Failed)?
    {
        request.excluded_providers |= step.submitters(providers, route, request.excluded_providers);
    }
    Ok(request)
}

/// Whether a row meets the condition of urgent rows of its step. One for which it cannot be evaluated does not.
pub(super) fn is_urgent(steps: &[CompiledStep], batch: &OpenBatch, cell: Cell) -> bool {
    let Some(urgent) = &steps[cell.step.index()].urgent else { return false };
    matches!(panics::catch(|| holds(urgent, steps, batch, cell.row)), Ok(Ok(true)))
}

/// Excludes the providers for which a question is too long. If that is all of them, it is cut or the row fails.
fn within(
    step: &CompiledStep,
    providers: &[StepProvider],
    mut question: Question,
    route: usize,
) -> Result<StepRequest, Failure> {
    if !step.has_windows {
        return Ok(StepRequest { question, route, excluded_providers: 0 });
    }
    let own = step.providers_of(route);
    let mut cuts = 0;
    loop {
        let excess = |provider: &usize| {
            providers[*provider].window.map_or(0, |window| window.excess(&question, &step.params))
        };
        let excesses: Vec<usize> = own.iter().map(excess).collect();
        let least = excesses.iter().copied().min().unwrap_or_default();
        if least == 0 {
            let too_small = own.iter().zip(excesses).filter(|(_, excess)| *excess > 0);
            let excluded_providers = too_small.fold(0, |all, (provider, _)| all | bit(*provider));
            return Ok(StepRequest { question, route, excluded_providers });
        }
        if step.spec.on_too_long == OnTooLong::Fail {
            return Err(too_long(least, "shorten the prompt, or set on_too_long"));
        }
        // The cut may be counted in another encoding than the model's, so that a few cuts are needed to come close.
        let shorter = (cuts < MOST_CUTS).then(|| step.prompt.shortened(&question, least + least / 20 + 1));
        let nothing_left = || too_long(least, "nothing of the prompt would be left");
        question = shorter.flatten().ok_or_else(nothing_left)?;
        cuts += 1;
    }
}

fn too_long(excess: usize, hint: &str) -> Failure {
    let detail = format!(
        "the prompt and the tokens of its answer are about {excess} tokens too many for the context_window of any provider; {hint}"
    );
    Failure::new(Class::TooLong, detail)
}

/// Returns the output of a step for a row, for a template.
fn given(steps: &[CompiledStep], batch: &OpenBatch, step: usize, row: u32) -> Result<StepOutput, Failure> {
    let settled = batch.outcome(step, row).map(RowResult::load).transpose();
    let settled = settled.map_err(|error| {
        let detail =
            format!("the answer of the step {:?} cannot be read back: {error}", &*steps[step].output);
        Failure::new(Class::Upstream, detail)
    })?;
    match settled.as_deref().map(|settled| &settled.outcome) {
        Some(Outcome::Answer(Content::Text(text))) if steps[step].columns.is_text() => {
            Ok(StepOutput::text(text))
        }
        Some(Outcome::Answer(Content::Text(json))) => {
            StepOutput::json(json).map_err(|error| Failure::new(Class::Template, error.to_string()))
        }
        Some(Outcome::Answer(Content::Vector(numbers))) => Ok(StepOutput::numbers(numbers)),
        Some(Outcome::Unchanged) => {
            let held = batch.held(step).filter(|held| held.is_valid(row as usize));
            Ok(held.map_or_else(StepOutput::nothing, |held| StepOutput::cell(held, row as usize)))
        }
        Some(Outcome::Answer(_) | Outcome::Skipped | Outcome::Failed(_)) | None => Ok(StepOutput::nothing()),
    }
}

/// Whether a row meets the condition.
fn holds(when: &When, steps: &[CompiledStep], batch: &OpenBatch, row: u32) -> Result<bool, Failure> {
    let wrong = |message: String| {
        let text = format!(
            "the condition {:?} cannot be evaluated for the row: {message}",
            when.condition.written()
        );
        Failure::new(Class::Template, text)
    };
    let (rows, at) = batch.locate(row);
    let column = |column: &usize| match column.checked_sub(when.source_columns) {
        None => Ok(rows.batch().column(*column).slice(at, 1)),
        Some(step) => value(steps, batch, step, row).map_err(|error| wrong(error.to_string())),
    };
    let columns = when.condition.columns().iter().map(column).collect::<Result<Vec<ArrayRef>, _>>()?;
    let one = RecordBatchOptions::new().with_row_count(Some(1));
    let schema = Arc::clone(when.condition.row_schema());
    let row = RecordBatch::try_new_with_options(schema, columns, &one);
    let row = row.map_err(|error| wrong(error.to_string()))?;
    when.condition.of_rows(&row).swap_remove(0).map_err(wrong)
}

//! Compiles the steps of a job and makes its endpoints, without target or network: mistakes are found before anything
//! is touched.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Field, Schema};
use url::Url;

use super::compiled_step::CompiledStep;
use super::condition::When;
use super::error::EnricherError;
use crate::config::{Anomalies, Form, Job, Provider, StepSpec, Typed};
use crate::prompt::{Prompt, PromptError};
use crate::rows::OutputColumns;
use crate::table::Condition;
use crate::transport::{BatchApi, Endpoint};

/// A job that fits its source. Everything that needs neither target nor network is checked.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) steps: Vec<CompiledStep>,
    /// The providers with their endpoints, in the job's order.
    pub endpoints: Vec<(Provider, Endpoint)>,
    /// The Batch API of each provider that is asked through it.
    pub(crate) batch_apis: Vec<Option<BatchApi>>,
    /// Whether rows are sent by themselves to providers with a Batch API, too.
    pub(crate) asks_online: bool,
    /// Largest share of errors that is allowed.
    pub max_error_rate: f64,
    /// Largest shares of unusual outcomes that are allowed.
    pub anomalies: Anomalies,
}

/// Checks a job against the columns of its source, and makes its endpoints. `simulator` is the address of the built-in
/// simulator, if the job uses it.
///
/// # Errors
/// When the job is wrong. The first mistake is returned.
pub fn prepare(job: &Job, source: &Schema, simulator: Option<&Url>) -> Result<Prepared, EnricherError> {
    let steps = steps(job, source)?;
    let endpoints = job
        .providers
        .iter()
        .map(|provider| {
            let base = provider.endpoint.as_ref().or(simulator).ok_or_else(|| EnricherError::Mismatch {
                what: format!("provider {:?} asks for the simulator, and none was started", provider.name),
                hint: "set base_url to an endpoint",
            })?;
            Ok((provider.clone(), Endpoint::new(provider, base)?))
        })
        .collect::<Result<_, EnricherError>>()?;
    let batch_apis = job.providers.iter().map(|provider| {
        let base = provider.endpoint.as_ref().or(simulator).filter(|_| provider.batch.is_some());
        Ok(base.map(|base| BatchApi::new(provider, base)).transpose()?)
    });
    let batch_apis = batch_apis.collect::<Result<_, EnricherError>>()?;
    Ok(Prepared {
        steps,
        endpoints,
        batch_apis,
        asks_online: false,
        max_error_rate: job.max_error_rate,
        anomalies: job.anomalies,
    })
}

/// Checks the templates and conditions of a job against the columns of its source.
///
/// # Errors
/// When one of them is wrong. The first mistake is returned.
pub fn check_templates(job: &Job, source: &Schema) -> Result<(), EnricherError> {
    steps(job, source).map(drop)
}

/// Returns the columns and outputs that each step's templates name, with the step's own output. Empty for a job that
/// does not fit its source.
pub(crate) fn template_inputs(job: &Job, source: &Schema) -> Vec<(String, Vec<String>)> {
    let prepared = steps(job, source).unwrap_or_default();
    let names = |step: &CompiledStep| {
        let given = step.prompt.needs().map(|needed| job.steps[needed].output.clone());
        step.prompt.names(source).into_iter().chain(given).collect()
    };
    prepared.into_iter().map(|step| (step.spec.output.clone(), names(&step))).collect()
}

/// Returns the columns that the steps of a job read, in the source's order.
///
/// # Errors
/// When the job does not fit the columns. The first mistake is returned.
pub(crate) fn needed_columns(job: &Job, source: &Schema) -> Result<Vec<usize>, EnricherError> {
    let steps = steps(job, source)?;
    let of_prompts = steps.iter().flat_map(|step| step.prompt.names(source));
    let mut needed: Vec<usize> = of_prompts.filter_map(|name| source.index_of(&name).ok()).collect();
    for step in &steps {
        let conditions = step.when.iter().chain(&step.urgent).chain(&step.routes);
        needed.extend(conditions.flat_map(When::source_columns));
    }
    needed.sort_unstable();
    needed.dedup();
    Ok(needed)
}

impl Prepared {
    /// Returns for each step the indices of the earlier ones whose outputs it needs.
    #[must_use]
    pub fn needs(&self) -> Vec<Vec<usize>> {
        self.steps.iter().map(|step| step.needs.clone()).collect()
    }
}

impl CompiledStep {
    pub(crate) fn gives_vectors(&self) -> bool {
        matches!(self.spec.form, Form::Embedding(_))
    }

    /// Fixes the length of the step's vectors to that of the target's vectors, if there are any.
    pub(crate) fn hold_length(&mut self, held: Option<usize>) -> Result<(), EnricherError> {
        let Some(held) = held else { return Ok(()) };
        if let Some(dimensions) = self.dimensions.get().filter(|dimensions| **dimensions != held) {
            return Err(EnricherError::Mismatch {
                what: format!(
                    "step {:?}: the vectors in the target have {held} numbers, and dimensions is {dimensions}: they could not be \
                     compared",
                    self.spec.output
                ),
                hint: "set dimensions as it was, name another target.path, or begin anew with enrich run --restart",
            });
        }
        self.dimensions = OnceLock::from(held);
        Ok(())
    }
}

fn steps(job: &Job, source: &Schema) -> Result<Vec<CompiledStep>, EnricherError> {
    let mut steps = Vec::with_capacity(job.steps.len());
    let mut earlier: Vec<Field> = Vec::with_capacity(job.steps.len());
    for (at, spec) in job.steps.iter().enumerate() {
        let prompt = Prompt::compile(spec, source, &earlier).map_err(|error| match error {
            PromptError::UnknownColumn { step, column, .. } if is_output(&job.steps[at..], &column) => {
                PromptError::TooLate { step, column }
            }
            PromptError::UnknownColumn { step, column, near, known } => {
                let near = of_flat(&job.steps[..at], &column).or(near);
                PromptError::UnknownColumn { step, column, near, known }
            }
            other => other,
        })?;
        let when =
            spec.when.as_deref().map(|written| condition(spec, written, source, &earlier, &job.steps, at));
        let when = when.transpose()?;
        let urgent = spec.urgent_when.as_deref();
        let urgent = urgent.map(|written| condition(spec, written, source, &earlier, &job.steps, at));
        let urgent = urgent.transpose()?;
        let routes = spec.routes.iter();
        let routes = routes.map(|route| condition(spec, &route.when, source, &earlier, &job.steps, at));
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        let of_conditions = when.iter().chain(&urgent).chain(&routes).flat_map(When::needs);
        let mut needs: Vec<usize> = prompt.needs().chain(of_conditions).collect();
        needs.sort_unstable();
        needs.dedup();
        let dimensions = match &spec.form {
            Form::Embedding(vectors) => vectors.dimensions.map(|dimensions| dimensions as usize),
            Form::Text | Form::Classes(_) | Form::Typed(_) => None,
        };
        steps.push(CompiledStep {
            output: spec.output.as_str().into(),
            template: spec.template_fingerprint().to_string().into(),
            params: Arc::new(spec.params.clone()),
            prompt,
            when,
            routes,
            urgent,
            needs,
            columns: OutputColumns::of(spec),
            dimensions: dimensions.map_or_else(OnceLock::new, OnceLock::from),
            has_windows: spec.all_providers().any(|at| job.providers[at].context_window.is_some()),
            spec: Arc::clone(spec),
        });
        earlier.push(OutputColumns::of(spec).value_field());
    }
    Ok(steps)
}

fn is_output(steps: &[Arc<StepSpec>], name: &str) -> bool {
    steps.iter().any(|step| step.output == name)
}

/// Returns how templates and conditions name a field that has a column of its own in the target.
fn of_flat(earlier: &[Arc<StepSpec>], column: &str) -> Option<String> {
    earlier.iter().find_map(|step| {
        let Form::Typed(Typed { shape, flat: true, .. }) = &step.form else { return None };
        let field = column.strip_prefix(&step.output)?.strip_prefix('_')?;
        shape.fields().find(field).map(|_| format!("{}.{field}", step.output))
    })
}

/// Compiles a condition over the columns of the source and the outputs of earlier steps.
fn condition(
    spec: &StepSpec,
    written: &str,
    source: &Schema,
    earlier: &[Field],
    steps: &[Arc<StepSpec>],
    at: usize,
) -> Result<When, EnricherError> {
    let fields = source.fields().iter().map(|field| field.as_ref().clone()).chain(earlier.iter().cloned());
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let condition = Condition::new(written, &schema).map_err(|mut message| {
        let is_missing = |name: &str| message.contains(&format!("No field named {name}."));
        let late = steps[at..].iter().find(|step| is_missing(&step.output));
        let unknown = message.split("No field named ").nth(1).and_then(|rest| rest.split('.').next());
        if let Some(meant) = unknown.and_then(|name| of_flat(&steps[..at], name)) {
            message = format!("{message} Did you mean {meant:?}?");
        }
        if let Some(late) = late {
            message = format!(
                "{:?} is the output of {}; a condition sees those of earlier steps",
                late.output,
                if late.output == spec.output { "the step itself" } else { "a later step" }
            );
        }
        EnricherError::When { step: spec.output.clone(), condition: written.to_owned(), message }
    })?;
    Ok(When::new(condition, source.fields().len()))
}

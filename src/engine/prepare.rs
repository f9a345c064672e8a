//! What can be found wrong before anything is touched: templates, columns, endpoints.

use arrow::datatypes::{Schema, SchemaRef};
use url::Url;

use super::error::EngineError;
use crate::config::{Job, Provider, StepSpec};
use crate::prompt::Prompt;
use crate::sink::check_columns;
use crate::transport::Endpoint;

/// A job that fits its source: everything that needs neither target nor network is checked.
#[derive(Debug)]
pub struct Prepared {
    /// The steps with their compiled templates.
    pub prompts: Vec<(StepSpec, Prompt)>,
    /// The providers with their endpoints.
    pub endpoints: Vec<(Provider, Endpoint)>,
    /// Share of errors that is allowed.
    pub max_error_rate: f64,
    /// The target's columns.
    pub columns: SchemaRef,
}

/// Holds a job against the columns of its source. `simulator` is where the built-in simulator listens, if
/// the job asks for it.
///
/// # Errors
/// The first mistake.
pub fn prepare(job: &Job, source: &Schema, simulator: Option<&Url>) -> Result<Prepared, EngineError> {
    let prompts = job
        .steps
        .iter()
        .map(|step| Ok((step.clone(), Prompt::compile(step, source)?)))
        .collect::<Result<_, EngineError>>()?;
    let columns = check_columns(job, source)?;
    let endpoints = job
        .providers
        .iter()
        .map(|provider| {
            let base = provider.endpoint.as_ref().or(simulator).ok_or_else(|| EngineError::Mismatch {
                what: format!("provider {:?} asks for the simulator, and none was started", provider.name),
                hint: "set base_url to an endpoint",
            })?;
            Ok((provider.clone(), Endpoint::new(provider, base)?))
        })
        .collect::<Result<_, EngineError>>()?;
    Ok(Prepared { prompts, endpoints, max_error_rate: job.max_error_rate, columns })
}

/// Holds only the templates and the columns of a job against those of its source.
///
/// # Errors
/// The first mistake.
pub fn check_templates(job: &Job, source: &Schema) -> Result<(), EngineError> {
    job.steps.iter().try_for_each(|step| Prompt::compile(step, source).map(drop))?;
    check_columns(job, source)?;
    Ok(())
}

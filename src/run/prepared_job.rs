//! A job held against the columns of its source: everything that needs neither target nor network is checked here.

use arrow::datatypes::{Schema, SchemaRef};
use url::Url;

use super::error::RunError;
use crate::config::Job;
use crate::enricher::{self, Prepared};
use crate::sink::check_columns;

/// A job that fits its source.
#[derive(Debug)]
pub(crate) struct PreparedJob {
    /// The compiled steps and the endpoints.
    pub(crate) enricher: Prepared,
    /// The columns of the target.
    pub(crate) columns: SchemaRef,
}

impl PreparedJob {
    /// Checks a job against the columns of its source. `simulator` is where the built-in simulator listens, if the job asks
    /// for it.
    ///
    /// # Errors
    /// The first mistake.
    pub(crate) fn new(job: &Job, source: &Schema, simulator: Option<&Url>) -> Result<Self, RunError> {
        let enricher = enricher::prepare(job, source, simulator)?;
        Ok(PreparedJob { enricher, columns: check_columns(job, source)? })
    }
}

/// Checks templates, conditions and output columns of a job against the columns of its source, without its endpoints.
///
/// # Errors
/// The first mistake.
pub fn check_templates(job: &Job, source: &Schema) -> Result<(), RunError> {
    enricher::check_templates(job, source)?;
    check_columns(job, source)?;
    Ok(())
}

//! Location of the figures of a job's batches. The doc comments are the reference of the keys, like those of
//! [`super::raw`].

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Checker;
use super::error::ConfigError;
use super::job::{SourceSpec, TargetSpec};
use crate::store::Location;

const ENDING: &str = "_metrics";

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    /// Whether to keep a row of figures for each batch, step and provider: rows, errors by class, tokens, cost,
    /// latency, reasons for waiting. `enrich report` is made from them. Default: true.
    enabled: Option<bool>,
    /// Delta table for these rows, created if it is missing; several jobs may share one. A local path, relative to the
    /// job file, or a URL. Default: beside the target, its name with `_metrics` after it.
    #[schemars(length(min = 1))]
    path: Option<String>,
}

impl Checker<'_> {
    pub(super) fn metrics(
        &self,
        raw: &RawMetrics,
        source: &SourceSpec,
        target: &TargetSpec,
    ) -> Result<Option<Location>, ConfigError> {
        if raw.enabled == Some(false) {
            return match raw.path {
                Some(_) => Err(self.wrong(
                    "metrics.path",
                    "names a table that metrics.enabled = false leaves unused; keep one of the two",
                )),
                None => Ok(None),
            };
        }
        let Some(path) = &raw.path else { return Ok(beside(&target.location)) };
        let at = self.location("metrics.path", path)?;
        for (key, other) in [("source.path", &source.location), ("target.path", &target.location)] {
            if at.is_same_place(other) || at.is_inside(other) || other.is_inside(&at) {
                let message =
                    format!("and {key} lie one inside the other; give the figures a table of their own");
                return Err(self.wrong("metrics.path", message));
            }
        }
        Ok(Some(at))
    }
}

/// Returns the metrics table beside a target, or `None` if the target's location has no parent folder.
fn beside(target: &Location) -> Option<Location> {
    let (folder, name) = target.split()?;
    Some(folder.join(&format!("{name}{ENDING}")))
}

//! The pause of a job that stopped at an anomaly: no later run pays for more of the same until somebody has acted.

use serde_json::json;
use url::Url;

use super::anomalies::Anomaly;
use super::error::EngineError;
use super::run::Begin;
use crate::checkpoint::{Checkpoint, CheckpointFile, Paused};
use crate::clock;
use crate::config::Job;
use crate::ident::Fingerprint;

/// Stands for what decides about the answers: what is asked, whom, about which rows and within which bounds. Once
/// that is another, somebody has acted.
pub(super) fn cause(job: &Job) -> Fingerprint {
    let mut parts: Vec<String> = Vec::new();
    for step in &job.steps {
        parts.extend([step.output.clone(), step.template_fingerprint().to_string()]);
        parts.extend(step.when.clone());
        parts.push(step.max_repairs.to_string());
        for provider in step.all_providers().map(|at| &job.providers[at]) {
            parts.extend([provider.model.clone(), provider.max_tokens_field.clone()]);
            parts.extend(provider.endpoint.as_ref().map(Url::to_string));
            parts.push(json!([provider.extra_body, provider.query]).to_string());
            parts.push(format!("{:?}", provider.schema_form));
        }
    }
    parts.extend(job.source.condition.clone());
    let bounds = job.anomalies;
    parts.push(bounds.rows.to_string());
    parts.extend([bounds.empty, bounds.refused, bounds.invalid, bounds.cut].map(|rate| rate.to_string()));
    Fingerprint::of(parts.iter().map(String::as_bytes))
}

/// What a checkpoint says of a job that stopped.
pub(super) fn paused(cause: Fingerprint, anomaly: &Anomaly) -> Paused {
    Paused { since: clock::wall(), why: anomaly.to_string(), cause: cause.to_string() }
}

/// The pause that a run would be refused for.
pub(super) fn holding<'a, P>(job: &Job, checkpoint: &'a Checkpoint<P>) -> Option<&'a Paused> {
    checkpoint.paused.as_ref().filter(|paused| paused.cause == cause(job).to_string())
}

/// Ends a pause, where somebody has acted or wants to go on as it is.
///
/// # Errors
/// When the job stays paused.
pub(super) async fn end(
    job: &Job,
    file: &CheckpointFile,
    checkpoint: &mut Checkpoint,
    begin: Begin,
) -> Result<(), EngineError> {
    if begin != Begin::Unpaused
        && let Some(paused) = holding(job, checkpoint)
    {
        return Err(EngineError::Paused(paused.clone()));
    }
    if checkpoint.paused.take().is_some() {
        file.save(checkpoint).await?;
    }
    Ok(())
}

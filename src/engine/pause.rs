//! The pause of a job that stopped at an anomaly or at too many errors: no later run pays for more of the same until somebody has acted.

use serde_json::{Value, json};
use url::Url;

use crate::checkpoint::{Checkpoint, Paused};
use crate::clock;
use crate::config::{Anomalies, Job, Provider, StepSpec};
use crate::ident::Fingerprint;

/// Stands for what decides about the answers: what is asked, whom, about which rows and within which bounds. Once
/// that is another, somebody has acted.
pub(super) fn cause(job: &Job) -> Fingerprint {
    let steps: Vec<Value> = job.steps.iter().map(|step| of_step(job, step)).collect();
    let Anomalies { rows, empty, refused, invalid, cut } = job.anomalies;
    let bounds = [empty, refused, invalid, cut];
    let cause = json!([steps, job.source.condition, rows, bounds, job.max_error_rate]);
    Fingerprint::of([cause.to_string().as_bytes()])
}

fn of_step(job: &Job, step: &StepSpec) -> Value {
    let whom = |places: &[usize]| -> Vec<Value> {
        places.iter().map(|place| of_provider(&job.providers[*place])).collect()
    };
    let routes: Vec<Value> =
        step.routes.iter().map(|route| json!([route.when, whom(&route.providers)])).collect();
    json!([
        step.output,
        step.template_fingerprint().to_string(),
        step.when,
        whom(&step.providers),
        routes,
        step.balance,
        step.shares,
        step.max_repairs,
        step.max_tokens_retry,
        step.row_deadline.as_secs_f64(),
        format!("{:?} {:?}", step.on_too_long, step.null_inputs),
    ])
}

fn of_provider(provider: &Provider) -> Value {
    json!([
        provider.name,
        provider.model,
        provider.endpoint.as_ref().map(Url::as_str),
        provider.query,
        provider.extra_body,
        provider.max_tokens_field,
        format!("{:?}", provider.schema_form),
        provider.context_window,
        provider.inputs_per_request,
        provider.input_tokens_per_request,
    ])
}

/// What a checkpoint says of a job that stopped.
pub(super) fn paused(cause: Fingerprint, why: String) -> Paused {
    Paused { since: clock::wall(), why, cause: cause.to_string() }
}

/// Whether a checkpoint is paused because of this.
pub(super) fn is_of<P>(cause: Fingerprint, checkpoint: &Checkpoint<P>) -> bool {
    checkpoint.paused.as_ref().is_some_and(|paused| paused.cause == cause.to_string())
}

/// The pause that a run of a job would be refused for. One of what the job was before is none.
pub(super) fn holding<'a, P>(job: &Job, checkpoint: &'a Checkpoint<P>) -> Option<&'a Paused> {
    checkpoint.paused.as_ref().filter(|_| is_of(cause(job), checkpoint))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const JOB: &str = r#"
app_id = "a"
[source]
path = "s"
where = "id > 1"
[target]
path = "t"
[batch]
max_rows = 100
[anomalies]
rows = 50
max_empty_rate = 0.1
[provider.near]
base_url = "http://127.0.0.1:1/v1"
model = "small"
max_concurrency = 4
[provider.far]
base_url = "http://127.0.0.1:2/v1"
model = "large"
context_window = 8_000
[[step]]
output = "kind"
classes = ["yes", "no"]
provider = ["near", "far"]
when = "text IS NOT NULL"
null_inputs = "ask"
max_tokens = 5
prompt = "Is it? {{ text }}"
[[step.route]]
when = "length(text) > 100"
provider = "far"
"#;

    fn cause_of(text: &str) -> Fingerprint {
        cause(&Job::parse(Path::new("/job.toml"), text, |_| None).unwrap())
    }

    #[test]
    fn whoever_changes_what_decides_about_the_answers_has_acted() {
        for (from, to, has_acted) in [
            ("Is it?", "Is it so?", true),
            ("\"yes\"", "\"yes\", \"perhaps\"", true),
            ("max_tokens = 5", "max_tokens = 6", true),
            ("max_tokens = 5", "max_tokens = 5\nmax_repairs = 3", true),
            ("\"ask\"", "\"skip\"", true),
            ("IS NOT NULL", "<> ''", true),
            ("> 100", "> 99", true),
            ("[\"near\", \"far\"]", "[\"far\", \"near\"]", true),
            ("\"small\"", "\"smaller\"", true),
            ("127.0.0.1:1", "127.0.0.1:3", true),
            ("8_000", "4_000", true),
            ("max_concurrency = 4", "extra_body = { top_k = 1 }", true),
            ("id > 1", "id > 2", true),
            ("rows = 50", "rows = 51", true),
            ("= 0.1", "= 0.2", true),
            // How fast, in what portions and at what price has nothing to do with it.
            ("max_rows = 100", "max_rows = 200", false),
            ("max_concurrency = 4", "max_concurrency = 8\nrequests_per_minute = 9", false),
            ("max_concurrency = 4", "price_per_million_input = 1\nprice_per_million_output = 2", false),
            ("app_id = \"a\"", "app_id = \"a\"\nmax_error_rate = 0.9", true),
        ] {
            assert!(JOB.contains(from));
            let cause = cause_of(&JOB.replace(from, to));
            assert_eq!(cause != cause_of(JOB), has_acted, "{from} -> {to}");
        }
    }
}

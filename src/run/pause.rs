//! The pause of a job that stopped at an anomaly or at too many errors: no later run pays for more of them until a
//! person has acted.

use serde_json::{Value, json};
use url::Url;

use crate::checkpoint::{Checkpoint, Paused};
use crate::clock;
use crate::config::{Anomalies, Job, NullInputs, OnTooLong, Provider, SchemaForm, StepSpec};
use crate::ident::Fingerprint;

/// Hash of what decides about the answers of a job: prompts, providers, the condition on rows, and the bounds of errors
/// and anomalies. A job whose cause has changed is no longer paused: a person has acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    current: Fingerprint,
    /// The same hash in the form of programs before December 2026.
    first: Fingerprint,
}

impl Cause {
    pub(crate) fn of(job: &Job) -> Self {
        Cause { current: hash(job, CauseFormat::Current), first: hash(job, CauseFormat::First) }
    }

    /// Returns the pause that a checkpoint stores for a job stopped now.
    pub(crate) fn pause(self, why: String) -> Paused {
        Paused { since: clock::wall(), why, cause: self.current.to_string() }
    }

    /// Whether a checkpoint is paused for this cause.
    pub(crate) fn has_paused<P>(self, checkpoint: &Checkpoint<P>) -> bool {
        let is_own = |paused: &Paused| {
            [self.current, self.first].iter().any(|known| paused.cause == known.to_string())
        };
        checkpoint.paused.as_ref().is_some_and(is_own)
    }
}

/// The form in which settings are written before they are hashed.
#[derive(Clone, Copy)]
enum CauseFormat {
    /// Settings by their names in the job file.
    Current,
    /// Settings by the names that their variants had in the code of November 2026. Frozen.
    First,
}

fn hash(job: &Job, form: CauseFormat) -> Fingerprint {
    let steps: Vec<Value> = job.steps.iter().map(|step| of_step(job, step, form)).collect();
    let Anomalies { rows, empty, refused, invalid, cut } = job.anomalies;
    let bounds = [empty, refused, invalid, cut];
    let cause = json!([steps, job.source.condition, rows, bounds, job.max_error_rate]);
    Fingerprint::of([cause.to_string().as_bytes()])
}

fn of_step(job: &Job, step: &StepSpec, form: CauseFormat) -> Value {
    let providers = |places: &[usize]| -> Vec<Value> {
        places.iter().map(|place| of_provider(&job.providers[*place], form)).collect()
    };
    let routes: Vec<Value> =
        step.routes.iter().map(|route| json!([route.when, providers(&route.providers)])).collect();
    let on_odd_rows = match form {
        CauseFormat::Current => json!([step.on_too_long, step.null_inputs]),
        CauseFormat::First => {
            let on_too_long = match step.on_too_long {
                OnTooLong::Fail => "Fail",
                OnTooLong::Truncate => "Truncate",
            };
            let null_inputs = match step.null_inputs {
                NullInputs::Skip => "Skip",
                NullInputs::Ask => "Ask",
            };
            json!(format!("{on_too_long} {null_inputs}"))
        }
    };
    json!([
        step.output,
        step.template_fingerprint().to_string(),
        step.when,
        providers(&step.providers),
        routes,
        step.balance,
        step.shares,
        step.max_repairs,
        step.max_tokens_retry,
        step.row_deadline.as_secs_f64(),
        on_odd_rows,
    ])
}

fn of_provider(provider: &Provider, form: CauseFormat) -> Value {
    let schema_form = match form {
        CauseFormat::Current => json!(provider.schema_form),
        CauseFormat::First => json!(match provider.schema_form {
            SchemaForm::Auto => "Auto",
            SchemaForm::JsonSchema => "JsonSchema",
            SchemaForm::Tool => "Tool",
            SchemaForm::JsonObject => "JsonObject",
            SchemaForm::LlamaCpp => "LlamaCpp",
            SchemaForm::Vllm => "Vllm",
            SchemaForm::Words => "Words",
        }),
    };
    json!([
        provider.name,
        provider.model,
        provider.endpoint.as_ref().map(Url::as_str),
        provider.query,
        provider.extra_body,
        provider.max_tokens_field,
        schema_form,
        provider.context_window,
        provider.inputs_per_request,
        provider.input_tokens_per_request,
    ])
}

/// Returns the pause for which a run of the job is refused, or `None` if there is none or the job has changed since.
pub(crate) fn holding<'a, P>(job: &Job, checkpoint: &'a Checkpoint<P>) -> Option<&'a Paused> {
    checkpoint.paused.as_ref().filter(|_| Cause::of(job).has_paused(checkpoint))
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

    fn cause_of(text: &str) -> Cause {
        Cause::of(&Job::parse(Path::new("/job.toml"), text, |_| None).unwrap())
    }

    #[test]
    fn a_pause_of_november_2026_holds() {
        let other = JOB.replace("\"ask\"", "\"skip\"\non_too_long = \"truncate\"");
        let third = JOB.replace("context_window = 8_000", "schema_form = \"json_object\"");
        for (text, stored) in [
            (JOB, "e8b42ab0c39ee2f2c34bac9ffad59a06"),
            (&other, "80fb1a805196683fd595a0d99d8590f4"),
            (&third, "b71d53b074825dd1197034a7aaaa01e0"),
        ] {
            let cause = cause_of(text);
            assert_eq!(cause.first.to_string(), stored);
            assert_ne!(cause.current, cause.first);
        }
    }

    #[test]
    fn the_current_form_is_stored_too() {
        assert_eq!(cause_of(JOB).current.to_string(), "aa34407176555a7ed7d39393d1bb6bd1");
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
            // Speed, batch size and price are not part of the cause.
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

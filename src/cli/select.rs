//! Arguments that select failed rows, for `errors` and `retry`.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::job::shell_quoted;
use crate::checkpoint::Selection;
use crate::clock;
use crate::config::moment;
use crate::fault::Class;
use crate::ident::BatchId;

#[derive(Clone, Debug, Args)]
pub(super) struct SelectArguments {
    /// Only errors of these classes
    #[arg(long, value_name = "CLASS", value_delimiter = ',', hide_possible_values = true, value_parser = classes())]
    class: Vec<String>,
    /// Only errors of these steps, named by their output columns
    #[arg(long, value_name = "OUTPUT", value_delimiter = ',')]
    step: Vec<String>,
    /// Only rows of this batch
    #[arg(long, value_name = "N")]
    batch: Option<u64>,
    /// Only rows that failed in runs started since: a time ("2026-05-01T08:00:00Z"), a day, or a span before now ("2h")
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<DateTime<Utc>>,
    /// Only rows that meet this condition over the target's columns
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
}

fn classes() -> PossibleValuesParser {
    PossibleValuesParser::new(Class::ALL.iter().map(|class| class.name()))
}

/// Parses a maximum number of rows, at least 1. Digits may be separated by `_` or `,`.
pub(super) fn rows(text: &str) -> Result<u64, String> {
    let rows = text.replace(['_', ','], "").parse().ok().filter(|rows| *rows > 0);
    rows.ok_or_else(|| "it takes a whole number of rows, at least 1".to_owned())
}

fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Some(time) = moment(text) {
        return Ok(time);
    }
    let span = humantime::parse_duration(text).ok().and_then(|span| chrono::TimeDelta::from_std(span).ok());
    let time = span.and_then(|span| clock::wall().checked_sub_signed(span));
    time.ok_or_else(|| {
        "is neither a time like 2026-05-01T08:00:00Z, nor a day, nor a span like 2h".to_owned()
    })
}

impl SelectArguments {
    /// Returns the arguments as text to be typed again, each after a space.
    pub(super) fn typed(&self) -> String {
        let mut typed = String::new();
        let mut add = |name: &str, value: &str| typed.push_str(&format!(" --{name} {}", shell_quoted(value)));
        if !self.class.is_empty() {
            add("class", &self.class.join(","));
        }
        if !self.step.is_empty() {
            add("step", &self.step.join(","));
        }
        if let Some(batch) = self.batch {
            add("batch", &batch.to_string());
        }
        if let Some(since) = self.since {
            add("since", &since.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        if let Some(condition) = &self.condition {
            add("where", condition);
        }
        typed
    }

    /// Returns the selection that the arguments describe. `providers` are the last providers of the rows; any if empty.
    pub(super) fn selection(&self, providers: &[String]) -> Selection {
        Selection {
            classes: self.class.clone(),
            steps: self.step.clone(),
            providers: providers.to_vec(),
            batch: self.batch.map(BatchId::new),
            since: self.since,
            condition: self.condition.clone(),
        }
    }
}

//! Collects the data of a report from the metrics, the checkpoint and the target.

use super::data::{PageSubject, ProviderLabel, Report, Sample};
use crate::checkpoint::{LastRun, runs_without_commit};
use crate::clock;
use crate::config::{Job, Prices, StepSpec};
use crate::enricher::template_inputs;
use crate::ident::Money;
use crate::metrics;
use crate::run::RETRY_FOLDER;
use crate::run::RunError;
use crate::run::home;
use crate::sink::{FailedRows, RowOrder, ShownRow, ranked_rows};

/// Maximum number of rows of each step in each list.
const ROWS: usize = 8;

/// Collects the figures of a job's batches, the ends of its runs, and rows of its target.
///
/// # Errors
/// If the job keeps no metrics, and when metrics or target cannot be read.
pub async fn gather(job: &Job) -> Result<Report, RunError> {
    let Some(at) = &job.metrics else {
        return Err(RunError::Mismatch {
            what: "the job keeps no figures: metrics.enabled is false".to_owned(),
            hint: "take metrics.enabled out; the report covers runs from then on",
        });
    };
    let home = home(job).await?;
    let figures = metrics::read(at, &job.app_id, &[home.clone(), home.join(RETRY_FOLDER)]).await?;
    let inputs = match FailedRows::open(job).await? {
        Some(rows) => template_inputs(job, &rows.source_columns()),
        None => Vec::new(),
    };
    let of_step = |step: &StepSpec| {
        let own = inputs.iter().find(|(output, _)| *output == step.output);
        own.map(|(_, columns)| columns.clone()).unwrap_or_default()
    };
    let rows = async |order| -> Result<Vec<Sample>, RunError> {
        let mut rows = ranked_rows(job, order, ROWS, of_step).await?;
        match order {
            RowOrder::Slowest => rows.sort_by_key(|row| std::cmp::Reverse(row.latency_ms)),
            RowOrder::Dearest => rows.sort_by_key(|row| std::cmp::Reverse(row.cost)),
            RowOrder::Sample => {}
        }
        Ok(rows.into_iter().map(sample).collect())
    };
    Ok(Report {
        header: PageSubject {
            app_id: job.app_id.clone(),
            source: job.source.to_string(),
            target: job.target.location.to_string(),
            made_at: clock::wall(),
            last_run: LastRun::load(&job.places.state).map(|run| ended(&run)),
            without_commit: runs_without_commit(&job.places.state).iter().rev().map(ended).collect(),
            providers: job
                .providers
                .iter()
                .map(|provider| ProviderLabel {
                    name: provider.name.clone(),
                    model: provider.model.clone(),
                    price: provider.prices.as_ref().map(|prices| in_words(prices.expected())),
                })
                .collect(),
        },
        metrics: figures,
        samples: rows(RowOrder::Sample).await?,
        slowest: rows(RowOrder::Slowest).await?,
        dearest: rows(RowOrder::Dearest).await?,
    })
}

fn ended(run: &LastRun) -> String {
    let LastRun { started, ended, end, message, .. } = run;
    let (at, end) = match (ended, end) {
        (Some(ended), Some(end)) => (ended, end.as_str()),
        _ => (started, "began then, and goes on or was killed"),
    };
    let message = message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
    format!("{}: {end}{message}", clock::format_time(*at))
}

fn in_words(prices: Prices) -> String {
    let of = |token: Money| token * 1_000_000;
    let Prices { input, cached_input, output } = prices;
    let cached = match cached_input == input {
        true => String::new(),
        false => format!(", {} cached", of(cached_input)),
    };
    format!("{} in{cached}, {} out for a million tokens", of(input), of(output))
}

fn sample(row: ShownRow) -> Sample {
    let ShownRow { step, file, row, inputs, answer, error, cost, tokens, latency_ms } = row;
    Sample {
        step,
        source_file: file,
        source_row: row,
        inputs,
        answer,
        error,
        cost_microdollars: cost,
        tokens: tokens.and_then(|tokens| u64::try_from(tokens).ok()),
        latency_ms: latency_ms.and_then(|latency| u64::try_from(latency).ok()),
    }
}

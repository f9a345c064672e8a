//! The summary of a run for scripts: one JSON object. Its fields stand in `examples/operations/README.md` and keep their names.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ending::{CommandEnd, EndDetails};
use super::exit::Exit;
use crate::event::{LimitGauge, LimitShare};
use crate::fault::{Class, Scarce};
use crate::ident::Money;
use crate::passed::PassedOver;
use crate::run::{End, RunError};
use crate::tally::{ProviderFigures, Totals};

/// Result of a run.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    /// How the run ended, in a word.
    end: &'static str,
    /// The exit status.
    status: u8,
    app_id: &'a str,
    /// Id of the run, or `None` if it did not start.
    run_id: Option<String>,
    target: String,
    /// Numbers of rows and batches that this run committed.
    rows_written: u64,
    batches: u64,
    answers: u64,
    skipped: u64,
    /// Number of planned rows that are deleted in the source.
    deleted: u64,
    /// Rows of the source that no run sends to a model, in total, by the key that excluded them; `None` if not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    passed_over: Option<PassedOver>,
    /// Number of errors by class.
    errors: &'a BTreeMap<&'static str, u64>,
    /// Number of outcomes that an earlier run had paid for.
    recovered: u64,
    retries: u64,
    /// Number of second requests sent beside requests that take far longer than others.
    hedged: u64,
    /// Number of answers by another service tier than was requested.
    other_tier: u64,
    throttled: u64,
    tokens: TokenSummary,
    /// Cost of this run's answers, or `None` if no price is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<f64>,
    /// What was handed to providers' Batch APIs; `None` if no provider is asked through one.
    #[serde(flatten)]
    submissions: Option<SubmissionSummary>,
    /// Requests and limits of each provider, by name.
    providers: BTreeMap<&'a str, ProviderSummary>,
    duration_seconds: f64,
    /// The provider, or the step, that stopped the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    /// Class of the failure that stopped the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Rows that providers' Batch APIs have, and what came back in this run.
#[derive(Debug, Serialize)]
struct SubmissionSummary {
    submitted: SubmittedSummary,
    /// Number of outcomes that came with submissions which this run has collected.
    collected: u64,
    /// Number of batches at providers beyond the first of their submissions.
    duplicates: u64,
}

/// Submissions that have not come back.
#[derive(Debug, Serialize)]
struct SubmittedSummary {
    rows: u64,
    submissions: u64,
    /// What they cost at most, or `None` if that is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    worst_usd: Option<f64>,
}

#[derive(Debug, Serialize)]
struct TokenSummary {
    prompt: u64,
    cached: u64,
    completion: u64,
}

/// Counts and limits of one provider.
#[derive(Debug, Serialize)]
struct ProviderSummary {
    requests: u64,
    throttled: u64,
    retries: u64,
    hedged: u64,
    concurrency: u32,
    /// `open` while the provider fails and is sent nothing, else `closed`.
    breaker: &'static str,
    limits: Vec<Limit>,
}

/// A limit, whether configured, stated by the provider or learned.
#[derive(Debug, Serialize)]
struct Limit {
    /// `requests` or `tokens`.
    of: &'static str,
    per_minute: f64,
    /// Share of the limit used since the first request; 1 for all of it.
    share: f64,
}

impl ProviderSummary {
    fn new(figures: &ProviderFigures) -> Self {
        let LimitGauge { requests, throttled, concurrency, shares, is_open } = &figures.gauge;
        let rounded = |number: f64, parts: f64| (number * parts).round() / parts;
        let limit = |share: &LimitShare| Limit {
            of: if share.of == Scarce::Tokens { "tokens" } else { "requests" },
            per_minute: rounded(share.per_minute, 10.0),
            share: rounded(share.used, 10_000.0),
        };
        ProviderSummary {
            requests: *requests,
            throttled: *throttled,
            retries: figures.retries,
            hedged: figures.hedged,
            concurrency: *concurrency,
            breaker: if *is_open { "open" } else { "closed" },
            limits: shares.iter().map(limit).collect(),
        }
    }
}

impl SubmissionSummary {
    fn new(totals: &Totals) -> Self {
        let submissions = &totals.submissions;
        SubmissionSummary {
            submitted: SubmittedSummary {
                rows: submissions.rows(),
                submissions: submissions.count(),
                worst_usd: submissions.worst().map(Money::dollars),
            },
            collected: totals.collected,
            duplicates: submissions.duplicates,
        }
    }
}

impl<'a> Summary<'a> {
    pub(super) fn new(ended: &'a CommandEnd, exit: Exit, facts: &EndDetails<'a>) -> Self {
        let totals = facts.totals;
        let mut summary = Summary {
            end: "complete",
            status: exit as u8,
            app_id: &facts.job.app_id,
            run_id: totals.run.map(|run| run.to_string()),
            target: facts.job.target.location.to_string(),
            rows_written: totals.committed_rows,
            batches: totals.committed_batches,
            answers: totals.answers,
            skipped: totals.skipped,
            deleted: totals.deleted,
            passed_over: totals.passed_over,
            errors: &totals.errors,
            recovered: totals.recovered,
            retries: totals.retries,
            hedged: totals.hedged,
            other_tier: totals.other_tier,
            throttled: totals.throttled,
            tokens: TokenSummary {
                prompt: totals.tokens.prompt,
                cached: totals.tokens.cached,
                completion: totals.tokens.completion,
            },
            cost_usd: totals.cost.map(Money::dollars),
            submissions: (!totals.submissions.is_empty()).then(|| SubmissionSummary::new(totals)),
            providers: totals
                .providers
                .iter()
                .map(|(name, figures)| (name.as_str(), ProviderSummary::new(figures)))
                .collect(),
            duration_seconds: (facts.took.as_secs_f64() * 1_000.0).round() / 1_000.0,
            provider: None,
            step: None,
            class: None,
            message: None,
        };
        if let CommandEnd::Run(end) = ended {
            summary.end = end.word();
        }
        match ended {
            CommandEnd::Run(
                End::Complete | End::Waiting | End::MaxRows | End::MaxDuration | End::Stopped,
            ) => {}
            CommandEnd::Run(End::Budget(limit)) => summary.message = Some(limit.to_string()),
            CommandEnd::Run(End::Errors { errors, .. }) => {
                summary.step = Some(&errors.step);
                summary.class = Some(errors.class.name());
                summary.message = Some(errors.to_string());
            }
            CommandEnd::Run(End::Anomaly { anomaly, .. }) => {
                summary.step = Some(&anomaly.step);
                summary.message = Some(anomaly.to_string());
            }
            CommandEnd::Run(End::Provider { provider, failure }) => {
                let is_provider = failure.class != Class::Template;
                summary.provider = is_provider.then_some(provider);
                summary.class = Some(failure.class.name());
                summary.message = Some(failure.detail.clone());
            }
            CommandEnd::Failed(error) => {
                summary.end = if matches!(error, RunError::Paused(_)) { "paused" } else { "error" };
                summary.message = Some(error.to_string());
            }
            CommandEnd::Skipped { holder } => {
                summary.end = "skipped";
                summary.message = Some(format!("another run holds this job: {holder}"));
            }
        }
        summary
    }
}

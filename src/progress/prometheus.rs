//! The figures of a run in Prometheus's text format, version 0.0.4, which servers scrape and node_exporter's textfile
//! collector reads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TextEncoder};

use crate::clock;
use crate::event::LimitShare;
use crate::fault::Scarce;
use crate::ident::Money;
use crate::tally::ProviderFigures;
use crate::tally::Totals;

/// Content type of the format.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub struct RunResult {
    /// Time of the end.
    pub at: DateTime<Utc>,
    /// How long the run took.
    pub took: Duration,
    /// Exit status of the command.
    pub status: u8,
}

/// Formats the figures of a run. `ended` is its result, or `None` while it goes on.
///
/// # Errors
/// If the library rejects a name or a label, which figures of a run never cause.
pub fn prometheus(
    app_id: &str,
    totals: &Totals,
    ended: Option<RunResult>,
) -> Result<String, prometheus::Error> {
    let page = MetricsText { registry: Registry::new(), app_id };
    page.rows(totals)?;
    page.usage(totals)?;
    page.providers(totals)?;
    if !totals.submissions.is_empty() {
        page.submissions(totals)?;
    }
    if let Some(ended) = ended {
        page.end(ended)?;
    }
    TextEncoder::new().encode_to_string(&page.registry.gather())
}

struct MetricsText<'a> {
    registry: Registry,
    app_id: &'a str,
}

impl MetricsText<'_> {
    fn add(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(collector))
    }

    /// Adds a figure that only grows within a run. Its labels come after the job's name.
    fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: &[(&[&str], f64)],
    ) -> Result<(), prometheus::Error> {
        let vector = CounterVec::new(Opts::new(name, help), &first("app_id", labels))?;
        for (of, value) in values {
            vector.get_metric_with_label_values(&first(self.app_id, of))?.inc_by(value.max(0.0));
        }
        self.add(vector)
    }

    fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: &[(&[&str], f64)],
    ) -> Result<(), prometheus::Error> {
        let vector = GaugeVec::new(Opts::new(name, help), &first("app_id", labels))?;
        for (of, value) in values {
            vector.get_metric_with_label_values(&first(self.app_id, of))?.set(*value);
        }
        self.add(vector)
    }

    fn rows(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let outcomes: [(&[&str], f64); 3] = [
            (&["answer"], float(totals.answers)),
            (&["skipped"], float(totals.skipped)),
            (&["error"], float(totals.error_count())),
        ];
        self.counter("enrich_outcomes_total", "Outcomes of rows, step by step.", &["outcome"], &outcomes)?;
        let errors: Vec<([&str; 1], f64)> =
            totals.errors.iter().map(|(class, count)| ([*class], float(*count))).collect();
        let errors: Vec<(&[&str], f64)> = errors.iter().map(|(of, count)| (&of[..], *count)).collect();
        self.counter("enrich_errors_total", "Errors of rows, by class.", &["class"], &errors)?;
        let rows = float(totals.committed_rows);
        self.counter("enrich_committed_rows_total", "Rows that this run committed.", &[], &[(&[], rows)])?;
        let batches = float(totals.committed_batches);
        self.counter(
            "enrich_committed_batches_total",
            "Batches that this run committed.",
            &[],
            &[(&[], batches)],
        )?;
        let recovered = float(totals.recovered);
        let help = "Outcomes that a former run had paid for.";
        self.counter("enrich_recovered_total", help, &[], &[(&[], recovered)])?;
        if let Some(planned) = totals.planned() {
            let left = float(planned.saturating_sub(totals.rows));
            self.gauge("enrich_rows_left", "Rows that this run has yet to send.", &[], &[(&[], left)])?;
        }
        Ok(())
    }

    fn usage(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let tokens = totals.tokens;
        let kinds: [(&[&str], f64); 4] = [
            (&["prompt"], float(tokens.prompt)),
            (&["cached"], float(tokens.cached)),
            (&["completion"], float(tokens.completion)),
            (&["reasoning"], float(tokens.reasoning)),
        ];
        let help = "Tokens of answers that were paid for: of prompts, of these cached, of answers, of these thought.";
        self.counter("enrich_tokens_total", help, &["kind"], &kinds)?;
        match totals.cost.map(Money::dollars) {
            Some(cost) => {
                self.counter("enrich_cost_usd_total", "What they cost, in US dollars.", &[], &[(&[], cost)])
            }
            None => Ok(()),
        }
    }

    fn providers(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let in_flight = float(totals.in_flight());
        self.gauge("enrich_requests_in_flight", "Requests in flight.", &[], &[(&[], in_flight)])?;
        let of = |get: fn(&ProviderFigures) -> f64| -> Vec<([&str; 1], f64)> {
            totals.providers.iter().map(|(name, figures)| ([name.as_str()], get(figures))).collect()
        };
        let named = ["provider"];
        for (name, help, values) in [
            (
                "enrich_requests_total",
                "Requests that were sent.",
                of(|figures| float(figures.gauge.requests)),
            ),
            (
                "enrich_throttled_total",
                "Requests that were refused by a rate limit.",
                of(|figures| float(figures.gauge.throttled)),
            ),
            ("enrich_retries_total", "Attempts that were repeated.", of(|figures| float(figures.retries))),
            (
                "enrich_hedged_total",
                "Second requests that were sent beside those that take far longer than others.",
                of(|figures| float(figures.hedged)),
            ),
        ] {
            let values: Vec<(&[&str], f64)> = values.iter().map(|(of, value)| (&of[..], *value)).collect();
            self.counter(name, help, &named, &values)?;
        }
        for (name, help, values) in [
            (
                "enrich_concurrency",
                "Requests that may be in flight at once.",
                of(|figures| f64::from(figures.gauge.concurrency)),
            ),
            (
                "enrich_breaker_open",
                "1 while a provider is left alone because it fails.",
                of(|figures| f64::from(u8::from(figures.gauge.is_open))),
            ),
        ] {
            let values: Vec<(&[&str], f64)> = values.iter().map(|(of, value)| (&of[..], *value)).collect();
            self.gauge(name, help, &named, &values)?;
        }
        let shares = |get: fn(&LimitShare) -> f64| -> Vec<([&str; 2], f64)> {
            let all = totals.providers.iter();
            all.flat_map(|(name, figures)| {
                let of = |share: &LimitShare| if share.of == Scarce::Tokens { "tokens" } else { "requests" };
                figures.gauge.shares.iter().map(move |share| ([name.as_str(), of(share)], get(share)))
            })
            .collect()
        };
        for (name, help, values) in [
            (
                "enrich_quota_used_ratio",
                "Share of a limit that was used since the first request, 1 for all of it.",
                shares(|share| share.used),
            ),
            (
                "enrich_quota_per_minute",
                "A limit, configured, stated or learned.",
                shares(|share| share.per_minute),
            ),
        ] {
            let values: Vec<(&[&str], f64)> = values.iter().map(|(of, value)| (&of[..], *value)).collect();
            self.gauge(name, help, &["provider", "limit"], &values)?;
        }
        Ok(())
    }

    fn submissions(&self, totals: &Totals) -> Result<(), prometheus::Error> {
        let open = &totals.submissions.open;
        let rows: Vec<([&str; 1], f64)> =
            open.iter().map(|(name, open)| ([name.as_str()], float(open.rows))).collect();
        let states: Vec<([&str; 2], f64)> = open
            .iter()
            .flat_map(|(name, open)| {
                open.by_state.iter().map(|(state, count)| ([name.as_str(), *state], float(*count)))
            })
            .collect();
        let now = clock::wall();
        let age = |since: DateTime<Utc>| (now - since).to_std().unwrap_or_default().as_secs_f64();
        let ages: Vec<([&str; 1], f64)> =
            open.iter().map(|(name, open)| ([name.as_str()], open.oldest.map_or(0.0, age))).collect();
        let rows: Vec<(&[&str], f64)> = rows.iter().map(|(of, value)| (&of[..], *value)).collect();
        let help = "Rows in batches at a provider that have not come back.";
        self.gauge("enrich_submitted_rows", help, &["provider"], &rows)?;
        let states: Vec<(&[&str], f64)> = states.iter().map(|(of, value)| (&of[..], *value)).collect();
        let help = "Files of requests for a Batch API whose answers are not collected, by state.";
        self.gauge("enrich_submissions", help, &["provider", "state"], &states)?;
        let ages: Vec<(&[&str], f64)> = ages.iter().map(|(of, value)| (&of[..], *value)).collect();
        let help = "Age of the oldest of them, 0 if there is none.";
        self.gauge("enrich_submission_age_seconds", help, &["provider"], &ages)?;
        let lines = totals.submissions.lines.by_name().map(|(outcome, count)| ([outcome], float(count)));
        let lines: Vec<(&[&str], f64)> = lines.iter().map(|(of, value)| (&of[..], *value)).collect();
        let help = "Lines of batches that were collected, by outcome.";
        self.counter("enrich_batch_lines_total", help, &["outcome"], &lines)
    }

    fn end(&self, ended: RunResult) -> Result<(), prometheus::Error> {
        let at = ended.at.timestamp_millis();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact")]
        let at = at as f64 / 1_000.0;
        let help = "When the last run ended, in seconds since 1970.";
        self.gauge("enrich_last_run_ended_timestamp_seconds", help, &[], &[(&[], at)])?;
        let took = ended.took.as_secs_f64();
        self.gauge("enrich_last_run_duration_seconds", "How long it took.", &[], &[(&[], took)])?;
        let status = f64::from(ended.status);
        self.gauge("enrich_last_run_exit_status", "Its exit status; 0 is good.", &[], &[(&[], status)])
    }
}

/// Returns the labels with the job's name before all others.
fn first<'a>(job: &'a str, others: &[&'a str]) -> Vec<&'a str> {
    std::iter::once(job).chain(others.iter().copied()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "the format has floats")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, LimitGauge, LimitShare, LineOutcomes, Listener, OpenSubmissions};
    use crate::fault::{Class, Failure};
    use crate::ident::Tokens;
    use crate::tally::Tally;

    #[test]
    fn figures_have_names_types_and_escaped_labels() {
        let tally = Tally::default();
        let gauge = LimitGauge {
            requests: 12,
            throttled: 3,
            concurrency: 8,
            shares: vec![LimitShare { of: Scarce::Tokens, per_minute: 1_000.0, used: 0.5 }],
            is_open: true,
        };
        tally.on(&Event::Gauged { provider: "a \"b\"", gauge: &gauge });
        let failure = Failure::new(Class::ServerError, "");
        let retried = Event::Retried { provider: "a \"b\"", failure: &failure, after: Duration::ZERO };
        tally.on(&retried);
        let tokens = Tokens { prompt: 5, cached: 2, completion: 7, reasoning: 1 };
        tally.on(&Event::Paid { tokens, cost: Money::from_dollars(0.25) });
        let open = OpenSubmissions { rows: 20, by_state: vec![("created", 2)], ..OpenSubmissions::default() };
        tally.on(&Event::Submitted { provider: "b", open: &open });
        tally.on(&Event::SubmissionCollected {
            provider: "b",
            rows: 10,
            remote: "batch_1",
            lines: LineOutcomes { answered: 9, unanswered: 1, ..LineOutcomes::default() },
            tokens: Tokens { reasoning: 2, ..Tokens::default() },
            cost: Money::from_dollars(0.5),
        });
        let ended = RunResult { at: DateTime::UNIX_EPOCH, took: Duration::from_millis(1_500), status: 4 };
        let text = prometheus("job", &tally.totals(), Some(ended)).unwrap();
        for line in [
            "# TYPE enrich_submitted_rows gauge",
            "enrich_submitted_rows{app_id=\"job\",provider=\"b\"} 20",
            "enrich_submissions{app_id=\"job\",provider=\"b\",state=\"created\"} 2",
            "enrich_submission_age_seconds{app_id=\"job\",provider=\"b\"} 0",
            "# TYPE enrich_batch_lines_total counter",
            "enrich_batch_lines_total{app_id=\"job\",outcome=\"answered\"} 9",
            "enrich_batch_lines_total{app_id=\"job\",outcome=\"unanswered\"} 1",
            "# TYPE enrich_requests_total counter",
            "enrich_requests_total{app_id=\"job\",provider=\"a \\\"b\\\"\"} 12",
            "enrich_throttled_total{app_id=\"job\",provider=\"a \\\"b\\\"\"} 3",
            "enrich_retries_total{app_id=\"job\",provider=\"a \\\"b\\\"\"} 1",
            "enrich_breaker_open{app_id=\"job\",provider=\"a \\\"b\\\"\"} 1",
            "enrich_quota_used_ratio{app_id=\"job\",limit=\"tokens\",provider=\"a \\\"b\\\"\"} 0.5",
            "enrich_tokens_total{app_id=\"job\",kind=\"reasoning\"} 3",
            "enrich_cost_usd_total{app_id=\"job\"} 0.75",
            "# TYPE enrich_last_run_exit_status gauge",
            "enrich_last_run_exit_status{app_id=\"job\"} 4",
            "enrich_last_run_duration_seconds{app_id=\"job\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}

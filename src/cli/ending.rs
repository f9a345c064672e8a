//! The last messages of a run, for people: its result, and what to do next.

use std::time::Duration;

use indicatif::HumanCount;

use super::exit::Exit;
use super::session_arguments::{SessionArguments, SessionKind};
use crate::config::{BudgetScope, Job};
use crate::fault::Class;
use crate::run::{End, EndKind, RunError};
use crate::tally::Totals;
use crate::wording::counted;

/// How the command ended, after the job file was read.
#[derive(Debug)]
pub(super) enum CommandEnd {
    /// The run reached one of its regular ends.
    Run(End),
    /// An error ended the run or kept it from starting.
    Failed(RunError),
    /// Another run holds the job, and `--if-running skip` was given.
    Skipped {
        /// Description of that run.
        holder: String,
    },
}

/// The facts that the last messages are made from.
#[derive(Clone, Copy)]
pub(super) struct EndDetails<'a> {
    pub(super) arguments: &'a SessionArguments,
    pub(super) kind: &'a SessionKind,
    pub(super) job: &'a Job,
    /// The job file and its overrides, as text to be typed again.
    pub(super) typed: &'a str,
    pub(super) totals: &'a Totals,
    pub(super) took: Duration,
}

/// The last messages.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// An error, and a hint what to do about it.
    pub(super) problem: Option<(String, Option<String>)>,
    pub(super) lines: Vec<String>,
}

/// Returns the exit status of a run that ended without an error of its own.
pub(super) fn exit(end: &End, facts: &EndDetails<'_>) -> Exit {
    match end.kind() {
        EndKind::Complete | EndKind::Limited if facts.is_failed_by_errors() || facts.has_no_answer() => {
            Exit::Errors
        }
        end => Exit::of(end),
    }
}

impl EndDetails<'_> {
    fn is_failed_by_errors(&self) -> bool {
        self.arguments.fail_on_errors && self.totals.error_count() > 0
    }

    /// Whether this run sent or collected rows and every one of them ended with an error.
    fn has_no_answer(&self) -> bool {
        let totals = self.totals;
        matches!(self.kind, SessionKind::Run { .. })
            && totals.sent_rows + totals.collected_rows > 0
            && totals.answers == 0
            && totals.error_count() > 0
    }

    pub(super) fn words(&self, end: &End) -> Words {
        let job = self.typed;
        let again = match self.kind {
            SessionKind::Run { .. } => format!("enrich run {job}"),
            SessionKind::Retry { typed, .. } => format!("enrich retry {job}{typed}"),
        };
        match end {
            End::Complete if self.totals.settled == 0 && self.totals.committed_rows == 0 => {
                let target = &self.job.target.location;
                let mut words = Words::of([match self.kind {
                    SessionKind::Run { .. } => format!("nothing to do: the source has no new rows for {target}"),
                    SessionKind::Retry { .. } => format!("nothing to do: no such failed row is in {target}"),
                }]);
                words.lines.extend(self.passed_over());
                words
            }
            End::Complete => self.good("done", None),
            End::Waiting => {
                let mut words = self.good("waiting for batches", None);
                let written = HumanCount(self.totals.committed_rows);
                words.lines.insert(
                    0,
                    match self.totals.submissions.in_words() {
                        Some(places) => {
                            format!("done for now: {places}, {written} written; run again, or use --wait")
                        }
                        // The last one came back while the run ended.
                        None => format!("done for now: {written} written; run again for what has come back"),
                    },
                );
                words
            }
            End::MaxRows => {
                let limit = if matches!(self.kind, SessionKind::Run { .. }) { "--max-rows" } else { "--limit" };
                self.good(&format!("stopped after {limit}"), Some(&again))
            }
            End::MaxDuration => self.good("stopped after --max-duration", Some(&again)),
            End::Stopped => Words::of([
                self.counts("interrupted"),
                format!(
                    "everything that was answered is kept; what was cut off in flight is sent again; to go on: {again}"
                ),
            ]),
            End::Errors { errors, pauses } => self.bad(
                format!("too many errors: {errors}"),
                format!(
                    "{}mend the cause, or raise max_error_rate ({}){}",
                    match self.totals.committed_rows {
                        0 => String::new(),
                        _ => format!("see them with enrich errors {job} and "),
                    },
                    self.job.max_error_rate,
                    until(*pauses, &again)
                ),
            ),
            End::Anomaly { anomaly, pauses } => {
                let until = until(*pauses, &again);
                self.bad(
                    format!("something is wrong with the answers: {anomaly}"),
                    format!(
                        "what was answered is kept; mend the prompt, the model or max_tokens, or raise anomalies.{} if that is as it should be{until}",
                        anomaly.key
                    ),
                )
            }
            End::Budget(limit) => self.bad(
                format!("the budget is spent: {limit}"),
                match limit.scope {
                    BudgetScope::Run => format!(
                        "the next run has as much again, or raise it; what was answered is kept; to go on: {again}"
                    ),
                    BudgetScope::Job => {
                        "raise it in the job file or with --set, and run again: what was answered is kept".into()
                    }
                },
            ),
            End::Provider { failure, .. } if failure.class == Class::Template => self.bad(
                format!("the templates fail for each of the first rows: {}", failure.detail),
                "mend the template".into(),
            ),
            End::Provider { provider, failure } => {
                let mut asked_by_batch = self.job.providers.iter().filter(|own| own.batch.is_some());
                let advice = if asked_by_batch.any(|own| own.name == *provider) {
                    failure.class.advice_for_batches()
                } else {
                    failure.class.advice_for_run()
                };
                self.bad(
                    format!("provider {provider} stopped the run: {failure}"),
                    format!("{advice}; then: {again}"),
                )
            }
        }
    }

    /// Returns a line about the rows that no run sends to a model, or `None` if there are none or they were not
    /// counted.
    fn passed_over(&self) -> Option<String> {
        let passed = self.totals.passed_over.filter(|passed| !passed.is_nothing())?;
        Some(format!("rows of the source that were passed over: {passed}"))
    }

    fn good(&self, how: &str, again: Option<&str>) -> Words {
        let result = format!("result: {}", self.job.target.location);
        let mut words = Words::of([self.counts(how), result]);
        words.lines.extend(self.passed_over());
        let errors = self.totals.error_count();
        if self.is_failed_by_errors() {
            words.problem =
                Some((format!("{}, and --fail-on-errors is given", counted(errors, "error")), None));
        } else if self.has_no_answer() {
            let what = format!(
                "no row was answered, all that were sent ended as errors: {}",
                counted(errors, "error")
            );
            let job = self.typed;
            let hint =
                format!("see them with enrich errors {job} and mend the cause; then: enrich retry {job}");
            words.problem = Some((what, Some(hint)));
        }
        if let Some(again) = again {
            let is_kept = self.totals.rows > self.totals.committed_rows;
            let kept = if is_kept { "answers of batches that are not full are kept; " } else { "" };
            words.lines.push(format!("{kept}to go on: {again}"));
        } else if errors > 0 {
            words.lines.push(format!("next: enrich errors {}", self.typed));
        }
        words
    }

    fn bad(&self, what: String, hint: String) -> Words {
        Words { problem: Some((what, Some(hint))), ..Words::of([self.counts("stopped")]) }
    }

    /// Returns a line with the counts of the run.
    pub(super) fn counts(&self, how: &str) -> String {
        let totals = self.totals;
        let took = Duration::from_millis(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX));
        let mut line = format!(
            "{how}: {} written, {}, {}",
            counted(totals.committed_rows, "row"),
            counted(totals.answers, "answer"),
            counted(totals.error_count(), "error")
        );
        if !totals.errors.is_empty() {
            let classes: Vec<String> =
                totals.errors.iter().map(|(class, count)| format!("{class} {count}")).collect();
            line.push_str(&format!(" ({})", classes.join(", ")));
        }
        if totals.skipped > 0 {
            line.push_str(&format!(", {} skipped", totals.skipped));
        }
        if totals.deleted > 0 {
            line.push_str(&format!(", {} deleted in the source", totals.deleted));
        }
        if totals.recovered > 0 {
            line.push_str(&format!(", {} from the journal", totals.recovered));
        }
        if totals.collected > 0 {
            line.push_str(&format!(", {} from batches", totals.collected));
        }
        let mut cost = totals.cost.map_or_else(String::new, |cost| format!(", {cost}"));
        if totals.other_tier > 0 {
            cost.push_str(&format!(", {} by another service tier", totals.other_tier));
        }
        line.push_str(&format!(
            ", {} + {} tokens{cost}, {}, {}",
            HumanCount(totals.tokens.prompt),
            HumanCount(totals.tokens.completion),
            hedged(totals.retries, totals.hedged),
            humantime::format_duration(took)
        ));
        line
    }
}

impl Words {
    fn of<const N: usize>(lines: [String; N]) -> Self {
        Words { problem: None, lines: lines.into() }
    }
}

/// Returns the part of a hint that states how to go on after too many errors or an anomaly stopped the run. `pauses`
/// is whether the job is paused now.
fn until(pauses: bool, again: &str) -> String {
    match pauses {
        true => format!("; until then no run sends anything; to go on as it is: {again} --unpause"),
        false => format!("; then: {again}"),
    }
}

/// Returns the numbers of repeated attempts and of second requests.
fn hedged(retries: u64, hedged: u64) -> String {
    match hedged {
        0 => counted(retries, "retry"),
        hedged => format!("{}, {}", counted(retries, "retry"), counted(hedged, "second request")),
    }
}

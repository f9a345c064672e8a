//! Writes events to the log.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::HumanCount;

use crate::event::{Event, LineOutcomes, Listener};
use crate::fault::Failure;
use crate::ident::Money;
use crate::wording::counted;

/// Maximum number of reasons for a further attempt that are logged, each once.
const MAX_REASONS: usize = 20;

/// Converts to milliseconds. A wider integer would become a string in JSON.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Listener that writes events to the log.
#[derive(Debug, Default)]
pub struct Log {
    /// Reasons for a further attempt that were logged so far; `None` if they are not logged.
    reasons: Option<Mutex<HashSet<String>>>,
}

impl Log {
    /// Creates a log for runs without a display. It reports each reason for a further attempt the first time.
    #[must_use]
    pub fn with_reasons() -> Self {
        Log { reasons: Some(Mutex::default()) }
    }

    /// Whether a reason is new. Reasons that differ only in numbers are the same.
    fn is_new(&self, provider: &str, failure: &Failure) -> bool {
        let Some(reasons) = &self.reasons else { return false };
        let mut reason = format!("{provider} {failure}");
        reason.retain(|c| !c.is_ascii_digit());
        let mut reasons = reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.len() < MAX_REASONS && reasons.insert(reason)
    }
}

impl Listener for Log {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Started { run } => tracing::debug!(%run, "run started"),
            Event::Outstanding { rows, row_limit } => tracing::debug!(rows, row_limit, "outstanding"),
            Event::PassedOver(passed) => tracing::debug!(%passed, "passed over"),
            Event::Planned { batch, rows } => tracing::debug!(%batch, rows, "batch planned"),
            Event::Opened { batch, rows, recovered, decoded, .. } => {
                tracing::debug!(%batch, rows, recovered, decoded, "batch opened");
            }
            Event::Retried { provider, failure, .. } if self.is_new(provider, failure) => {
                tracing::info!(provider, %failure, "an attempt failed and is repeated; more of these are counted alone");
            }
            Event::Retried { provider, failure, after } => {
                tracing::debug!(provider, %failure, after_ms = ms(*after), "attempt failed");
            }
            Event::Throttled { provider, failure } => {
                tracing::debug!(provider, %failure, "attempt throttled");
            }
            Event::Hedged { provider } => tracing::debug!(provider, "second request for a straggler"),
            Event::OtherTier { provider } => tracing::debug!(provider, "answer by another service tier"),
            Event::Gauged { provider, gauge } => tracing::trace!(provider, ?gauge, "limits"),
            Event::Sent { provider } => tracing::trace!(provider, "request sent"),
            Event::InFlight { provider, requests } => tracing::trace!(provider, requests, "in flight"),
            Event::Waiting { provider, waiting, left } => {
                tracing::trace!(provider, ?waiting, left_ms = ms(*left), "waiting");
            }
            Event::Held(hold) => tracing::debug!(?hold, "window"),
            // A provider at its limit asks for many short pauses a day.
            Event::Paused { provider, failure, pause } if *pause < Duration::from_secs(1) => {
                tracing::debug!(provider, %failure, pause_ms = ms(*pause), "provider paused");
            }
            Event::Paused { provider, failure, pause } => {
                tracing::warn!(provider, %failure, pause_ms = ms(*pause), "provider paused");
            }
            Event::Paid { tokens, cost } => tracing::trace!(tokens = tokens.total(), ?cost, "answer paid"),
            Event::Settled { ending, extent, origin } => {
                tracing::trace!(?ending, ?extent, ?origin, "row settled");
            }
            Event::Committed { batch, rows, version } => {
                tracing::debug!(%batch, rows, version, "batch committed");
            }
            Event::ConstraintsBroken { answers, skipped } => {
                tracing::warn!(
                    answers,
                    skipped,
                    "not allowed by the target's constraints: errors are written"
                );
            }
            Event::AlreadyCommitted { batch } => tracing::info!(%batch, "batch was committed before"),
            Event::SubmissionMade { provider, rows, remote, worst } => {
                let rows = counted(*rows, "row");
                tracing::info!("submitted   {rows} to {provider}, {remote}{}", at_most(*worst));
            }
            Event::DuplicateBatch { provider, first, second, worst } => {
                tracing::warn!(
                    "{first} at {provider} exists twice, since the answer to a creation was lost: {second} has the same rows, and what is done of it is paid, too{}",
                    at_most(*worst)
                );
            }
            Event::SubmissionCollected { rows, remote, lines, .. } => {
                tracing::info!("collected   {}", collected(*rows, remote, lines));
            }
            Event::Submitted { provider, open } => {
                tracing::debug!(provider, rows = open.rows, submissions = open.count(), "submitted");
            }
            Event::Notice(text) => tracing::info!("{text}"),
            // The command reports the reason when it ends; until then requests in flight go on.
            Event::Stopping(why) => tracing::info!("stopping: {why}"),
        }
    }
}

fn at_most(worst: Option<Money>) -> String {
    worst.map_or_else(String::new, |worst| format!(" (at most {worst})"))
}

/// Returns what a submission of so many rows brought.
fn collected(rows: u64, remote: &str, lines: &LineOutcomes) -> String {
    let mut text = format!("{} of {} of {remote}", HumanCount(lines.answered), counted(rows, "row"));
    let others = [
        (lines.unanswered, "not answered (they go again)"),
        (lines.refused, "refused"),
        (lines.foreign, "for rows that were not in it"),
        (lines.repeated, "more than once"),
        (lines.unreadable, "unreadable"),
    ];
    let others = others.into_iter().filter(|(count, _)| *count > 0);
    let others: Vec<String> = others.map(|(count, what)| format!("{} {what}", HumanCount(count))).collect();
    if !others.is_empty() {
        text.push_str(&format!(": {}", others.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_back_is_told_in_a_line() {
        let lines = LineOutcomes { answered: 49_981, refused: 5, unanswered: 14, ..LineOutcomes::default() };
        assert_eq!(
            collected(50_000, "batch_68e", &lines),
            "49,981 of 50,000 rows of batch_68e: 14 not answered (they go again), 5 refused"
        );
        let lines = LineOutcomes { answered: 1, ..LineOutcomes::default() };
        assert_eq!(collected(1, "batch_68e", &lines), "1 of 1 row of batch_68e");
    }
}

//! Failed attempts of a provider: how many are usual, and when they are an outage.
//!
//! A provider that fails one attempt in two answers again within milliseconds; one that is down does not. A run of
//! failures is an outage when the share of failures that was usual before makes it improbable.

use std::collections::{BTreeSet, VecDeque};

use crate::clock::Instant;
use crate::ident::Cell;

/// The least number of rows, failing one after the other, that can be an outage. Rows, not attempts: a few rows that
/// the provider cannot process are no outage.
const MIN_ROWS: usize = 10;
/// The most rows that it takes to be an outage, however much usually fails.
const MAX_ROWS: usize = 200;
/// A run of failures that is less probable than this is an outage.
const MAX_PROBABILITY: f64 = 1e-6;
/// Number of attempts over which the usual share of failures is measured.
const MEMORY_ATTEMPTS: f64 = 400.0;
/// Number of answered attempts that are assumed before the first one, so that a few failures do not look usual.
const ASSUMED_ANSWERS: f64 = 10.0;
/// Number of newest attempts, and the share of failures among them, by [`MIN_ROWS`] rows, that is a brownout.
const BROWNOUT_ATTEMPTS: usize = 40;
const BROWNOUT_SHARE: f64 = 0.75;

/// The failures of one provider.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Rows whose attempts failed since the last answer.
    rows: BTreeSet<Cell>,
    /// Number of failures since the last answer.
    streak: u32,
    /// When the first and the last attempt of the streak were sent.
    sent: Option<(Instant, Instant)>,
    /// Attempts and failures before the streak; older ones fade.
    attempts: f64,
    failed: f64,
    /// The newest attempts, each with its row if it failed.
    newest: VecDeque<Option<Cell>>,
    /// Attempts since [`Failures::begins_brownout`] last returned true.
    attempts_since_brownout: usize,
}

impl Failures {
    /// Counts an answer to a request that was sent at `sent`. Returns whether it ends the streak: an answer to a
    /// request that was sent before the streak began says nothing about the provider's state now.
    pub(super) fn answered(&mut self, sent: Instant) -> bool {
        self.push(None);
        let is_news = self.sent.is_none_or(|(first, _)| sent >= first);
        self.count(1.0, 0.0);
        if is_news {
            self.clear_streak();
        }
        is_news
    }

    /// Ends the streak.
    pub(super) fn clear_streak(&mut self) {
        self.count(0.0, f64::from(self.streak));
        self.rows.clear();
        self.streak = 0;
        self.sent = None;
    }

    /// Counts a failed attempt of a row; it was sent at `sent`.
    pub(super) fn failed(&mut self, row: Cell, sent: Instant) {
        self.rows.insert(row);
        self.streak = self.streak.saturating_add(1);
        self.sent = Some(self.sent.map_or((sent, sent), |(first, last)| (first.min(sent), last.max(sent))));
        self.push(Some(row));
    }

    /// Whether the row failed in the streak.
    pub(super) fn contains(&self, row: Cell) -> bool {
        self.rows.contains(&row)
    }

    /// When the first and the last attempt of the streak were sent, if it is longer than the usual failures explain.
    pub(super) fn outage(&self) -> Option<(Instant, Instant)> {
        self.sent.filter(|_| self.rows.len() >= self.min_outage_rows())
    }

    /// Whether most of the newest attempts failed.
    pub(super) fn is_brownout(&self) -> bool {
        if self.newest.len() < BROWNOUT_ATTEMPTS {
            return false;
        }
        let failed = self.newest.iter().flatten().count();
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let share = failed as f64 / BROWNOUT_ATTEMPTS as f64;
        share >= BROWNOUT_SHARE && self.newest.iter().flatten().collect::<BTreeSet<_>>().len() >= MIN_ROWS
    }

    /// Whether a brownout begins, or has gone on for as many attempts as it takes to see one.
    pub(super) fn begins_brownout(&mut self) -> bool {
        let begins = self.is_brownout() && self.attempts_since_brownout >= BROWNOUT_ATTEMPTS;
        if begins {
            self.attempts_since_brownout = 0;
        }
        begins
    }

    /// Starts to look for a brownout anew.
    pub(super) fn forget_newest(&mut self) {
        self.newest.clear();
        self.attempts_since_brownout = BROWNOUT_ATTEMPTS;
    }

    /// The number of rows, failing one after the other, that the usual share of failures does not explain any more.
    fn min_outage_rows(&self) -> usize {
        let share = self.failed / (self.attempts + ASSUMED_ANSWERS);
        let rows = MAX_PROBABILITY.ln() / share.clamp(1e-9, 1.0 - 1e-9).ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let rows = rows.clamp(0.0, MAX_ROWS as f64).ceil() as usize;
        rows.max(MIN_ROWS)
    }

    /// Adds attempts to the usual ones.
    fn count(&mut self, answered: f64, failed: f64) {
        self.attempts += answered + failed;
        self.failed += failed;
        if self.attempts > MEMORY_ATTEMPTS {
            self.failed *= MEMORY_ATTEMPTS / self.attempts;
            self.attempts = MEMORY_ATTEMPTS;
        }
    }

    fn push(&mut self, failed: Option<Cell>) {
        self.newest.push_back(failed);
        self.attempts_since_brownout += 1;
        if self.newest.len() > BROWNOUT_ATTEMPTS {
            self.newest.pop_front();
        }
    }
}

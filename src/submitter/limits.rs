//! How much may be at a provider's Batch API at the same time, and what is learned about it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::spool::tokens_in;
use super::task::{Submitter, SubmitterEnd};
use crate::checkpoint::{BatchApiLimits, Submission, SubmissionState};
use crate::clock;
use crate::wire::BatchStatus;

/// Share of the tokens that were refused together which the next batches may have, in tenths.
const AFTER_REFUSAL: u64 = 8;
/// Growth of the learned limit with each batch that comes through, in tenths of it.
const GROWTH: u64 = 1;
/// Pause after the first refusal, in polls, and the number of times that it doubles: batches that failed may hold their
/// share for a while.
const PAUSE_POLLS: u32 = 10;
const MOST_DOUBLINGS: u32 = 4;
/// Time for which a run stays until the first batch of a model has come through the validation.
const LINGER: Duration = Duration::from_secs(600);

impl Submitter {
    /// Looks at what is known of the provider.
    fn known<T>(&self, look: impl FnOnce(&BatchApiLimits) -> T) -> T {
        self.context.submissions.read(|list| match list.limits.get(&*self.name) {
            Some(known) => look(known),
            None => look(&BatchApiLimits::default()),
        })
    }

    /// Changes what is known of the provider, and saves it.
    pub(super) async fn learn(&self, change: impl FnOnce(&mut BatchApiLimits)) -> Result<(), SubmitterEnd> {
        let name = self.name.to_string();
        let saved = self.context.submissions.change(|list| change(list.limits.entry(name).or_default()));
        Ok(saved.await?)
    }

    /// Calls `look` with the submissions to the provider that have not come back.
    fn sum(&self, look: impl Fn(&Submission) -> u64) -> u64 {
        self.context.submissions.read(|list| {
            let own = list.open.iter().filter(|own| own.provider == *self.name && own.state.is_open());
            own.map(look).sum()
        })
    }

    /// Number of requests at the provider, and in the file that is being written.
    pub(super) fn outstanding(&self) -> u64 {
        self.sum(|submission| submission.lines) + self.spool.as_ref().map_or(0, |spool| spool.lines)
    }

    /// Whether another row can be taken now.
    pub(super) fn has_room(&self) -> bool {
        self.held.is_none()
            && self.outstanding() < self.settings.max_outstanding
            && self.opens_at().is_none()
            && self.awaits_first().is_none()
            && self.has_looked_for_lost
            && !self.awaits_unknown_rows()
    }

    /// When the provider takes batches again; `None` if it does now.
    pub(super) fn opens_at(&self) -> Option<DateTime<Utc>> {
        self.known(|known| known.not_before).filter(|at| *at > clock::wall())
    }

    /// Since when the first submission of a model waits for the provider's validation; `None` if none does.
    fn awaits_first(&self) -> Option<DateTime<Utc>> {
        self.settings.first_requests?;
        self.context.submissions.read(|list| {
            let known = list.limits.get(&*self.name);
            let is_first = |own: &&Submission| {
                own.provider == *self.name
                    && own.state.is_open()
                    && !own.without_rows
                    && !known.is_some_and(|known| known.validated.contains(&kind_of(own)))
            };
            list.open.iter().find(is_first).map(|first| first.since)
        })
    }

    /// Whether the run stays for the validation of the first batch.
    pub(super) fn lingers(&self) -> bool {
        let linger = TimeDelta::from_std(LINGER).unwrap_or_default();
        self.awaits_first().is_some_and(|since| clock::wall() - since < linger)
    }

    /// Maximum number of requests in the file that is being written.
    pub(super) fn most_lines(&self) -> u64 {
        let most = u64::from(self.settings.max_requests);
        let (Some(first), Some(spool)) = (self.settings.first_requests, &self.spool) else { return most };
        let is_validated =
            self.known(|known| known.validated.contains(&kind(self.endpoint.model(), spool.endpoint)));
        if is_validated { most } else { most.min(first.into()) }
    }

    /// Whether so many bytes of prompts would be more tokens than may be at the provider together. A file alone always
    /// fits: there is no other way to find out.
    pub(super) fn is_over_tokens(&self, bytes: u64) -> bool {
        let Some(most) = self.settings.enqueued_tokens.or_else(|| self.known(|known| known.enqueued_tokens))
        else {
            return false;
        };
        let spooled = self.spool.as_ref().map_or(0, |spool| spool.prompt_bytes);
        let there = self.sum(|submission| submission.prompt_tokens) + tokens_in(spooled);
        // A new file waits until it need not be a small one.
        let most = if self.spool.is_some() { most } else { most / 2 };
        there > 0 && there + tokens_in(bytes) > most
    }

    /// Learns from a batch that has come through the validation.
    pub(super) async fn learn_validated(&self, submission: &Submission) -> Result<(), SubmitterEnd> {
        let kind = kind_of(submission);
        self.learn(|known| {
            known.validated.insert(kind);
            (known.refusals, known.failures) = (0, 0);
            known.enqueued_tokens = known.enqueued_tokens.map(|most| most + most / 10 * GROWTH);
        })
        .await
    }

    /// Learns from a submission that was refused because too many tokens were at the provider.
    pub(super) async fn learn_refused_tokens(&self, refused: &Submission) -> Result<(), SubmitterEnd> {
        let others = self.sum(|submission| match submission.state {
            SubmissionState::Created | SubmissionState::Ended if submission.id != refused.id => {
                submission.prompt_tokens
            }
            _ => 0,
        });
        let there = others + refused.prompt_tokens;
        let now = clock::wall();
        let poll = self.settings.poll;
        self.learn(|known| {
            let pause = poll.saturating_mul(PAUSE_POLLS << known.refusals.min(MOST_DOUBLINGS));
            known.enqueued_tokens = Some((there / 10 * AFTER_REFUSAL).max(1));
            known.refusals += 1;
            known.not_before = TimeDelta::from_std(pause).ok().map(|pause| now + pause);
        })
        .await
    }
}

/// Whether a batch of the submission has come through the provider's validation.
pub(super) fn is_validated(submission: &Submission) -> bool {
    let through = [BatchStatus::Running, BatchStatus::Completed, BatchStatus::Expired];
    submission.remote.iter().any(|copy| through.iter().any(|status| *copy.status == *status.name()))
}

/// What is validated the same way: the requests of a model to an interface.
fn kind(model: &str, endpoint: &str) -> String {
    format!("{model} {endpoint}")
}

fn kind_of(submission: &Submission) -> String {
    kind(&submission.model, &submission.endpoint)
}

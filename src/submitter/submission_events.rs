//! What a submitter tells outside about its submissions, as events.

use chrono::{DateTime, Utc};

use super::collect::CollectionReport;
use super::task::Submitter;
use crate::checkpoint::{RemoteCopy, Submission, SubmissionState};
use crate::event::{Event, LineOutcomes, OpenSubmissions};
use crate::ident::Money;

/// The states in which a submission has not come back.
const OPEN_STATES: [SubmissionState; 6] = [
    SubmissionState::Sealed,
    SubmissionState::Uploaded,
    SubmissionState::Creating,
    SubmissionState::Unclear,
    SubmissionState::Created,
    SubmissionState::Ended,
];

impl Submitter {
    /// Reports the submissions that have not come back, if they are not as they were reported before.
    pub(super) fn report_open(&mut self) {
        let open = self.context.submissions.read(|list| {
            let own = list.open.iter().filter(|submission| submission.provider == *self.name);
            open_of(own.filter(|submission| submission.state.is_open()))
        });
        let open = OpenSubmissions { worst: self.worst(open.worst), ..open };
        if self.reported.as_ref() != Some(&open) {
            self.io.voice.say(&Event::Submitted { provider: &self.name, open: &open });
            self.reported = Some(open);
        }
    }

    /// Reports the batches that a submission has at the provider now and had not `before`.
    pub(super) fn report_batches(&self, before: &Submission, after: &Submission) {
        let (provider, worst) = (&*self.name, self.worst(Some(after.worst.money)));
        if before.state != SubmissionState::Created
            && after.state == SubmissionState::Created
            && let Some(copy) = after.remote.last()
        {
            let (rows, remote) = (after.lines, copy.id.as_str());
            self.io.voice.say(&Event::SubmissionMade { provider, rows, remote, worst });
        }
        let known = before.remote.len().max(1);
        if let Some(copy) = after.remote.first() {
            let first = copy.id.as_str();
            for RemoteCopy { id: second, .. } in after.remote.iter().skip(known) {
                self.io.voice.say(&Event::DuplicateBatch { provider, first, second, worst });
            }
        }
    }

    /// Returns a worst cost if it is known: if the prices are, and each request limits the tokens of its answer.
    fn worst(&self, cost: Option<Money>) -> Option<Money> {
        cost.filter(|_| self.io.limits_tokens && self.billing.prices().is_some())
    }

    /// Reports what a submission brought.
    pub(super) fn report_collected(&self, submission: &Submission, collected: &CollectionReport) {
        let CollectionReport { answered, refused, unanswered, foreign, repeated, unreadable, .. } =
            *collected;
        let remote: Vec<&str> = submission.remote.iter().map(|copy| copy.id.as_str()).collect();
        self.io.voice.say(&Event::SubmissionCollected {
            provider: &self.name,
            rows: submission.lines,
            remote: &remote.join(", "),
            lines: LineOutcomes { answered, refused, unanswered, foreign, repeated, unreadable },
            tokens: collected.tokens,
            cost: collected.cost,
        });
    }
}

fn open_of<'a>(submissions: impl Iterator<Item = &'a Submission>) -> OpenSubmissions {
    let mut counts = OPEN_STATES.map(|state| (state, 0));
    let (mut rows, mut worst) = (0, Money::ZERO);
    let mut oldest: Option<DateTime<Utc>> = None;
    for submission in submissions {
        rows += submission.lines;
        worst = worst + submission.worst.money;
        let since = submission.uploaded_at.unwrap_or(submission.since);
        oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
        for (_, count) in counts.iter_mut().filter(|(state, _)| *state == submission.state) {
            *count += 1;
        }
    }
    let by_state = counts.into_iter().map(|(state, count)| (state.name(), count)).collect();
    OpenSubmissions { rows, worst: Some(worst), by_state, oldest }
}

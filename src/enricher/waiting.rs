//! What submitters tell the enricher, and whether a run has nothing to do before a submission comes back.

use super::interface::Enricher;
use super::step_provider::{StepProvider, have_begun};
use super::stop::Stop;
use crate::executor::Request;
use crate::ident::StepId;
use crate::submitter::{SubmitterNews, SubmitterStatus};

/// Whether a run has nothing to do before a submission comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmissionWait {
    /// There is something to do.
    No,
    /// Its submitters still hand in what there is, or look for what is unclear.
    Soon,
    /// Nothing.
    ForSubmissions,
}

impl Enricher {
    /// Handles what submitters have told.
    pub(super) fn take_news(&mut self) {
        let Some(submissions) = &mut self.submissions else { return };
        let mut waiting = std::mem::take(&mut submissions.waiting);
        while let Ok(news) = submissions.news.try_recv() {
            waiting.push(news);
        }
        for news in waiting {
            match news {
                SubmitterNews::Collected { batches } => {
                    batches.into_iter().for_each(|batch| self.ledger.returned(batch));
                }
                SubmitterNews::Stop { provider, failure } => {
                    let provider = self.providers[provider].name.to_string();
                    self.halt(Stop::Provider { provider, failure });
                }
                SubmitterNews::Broken(error) => self.halt(Stop::Submitter(error)),
            }
        }
    }

    /// Whether the run has nothing to do before a submission comes back. To be asked when no task is under way and no row
    /// can be handed out. Has the submitters hand in what they have.
    pub fn waits(&mut self) -> SubmissionWait {
        if self.submissions.is_none() {
            return SubmissionWait::No;
        }
        // Rows within the row limit are handed in, too.
        let is_stopped = self.stop.as_ref().is_some_and(|stop| !matches!(stop, Stop::MaxRows));
        if is_stopped {
            return SubmissionWait::No;
        }
        if !have_begun(&self.providers) {
            return SubmissionWait::Soon;
        }
        // A submitter that is full leaves rows in its inbox, and before it.
        let held = |provider: &StepProvider| match &provider.rest {
            Some(rest) if provider.is_full() => {
                (provider.inbox.max_capacity() - provider.inbox.capacity()) as u64 + rest.held()
            }
            _ => 0,
        };
        let held: u64 = self.providers.iter().map(held).sum();
        let is_held = |request: &&Request| {
            let without = request.tried | request.excluded_providers;
            let step = &self.steps[request.cell.step.index()];
            step.first_up(&self.providers, request.route, without).is_some_and(StepProvider::is_full)
        };
        let held = held + self.rerouted.iter().filter(is_held).count() as u64;
        // Every executor waits if nothing but the return of a submission leaves more of the budget.
        let is_under_way = self.ledger.handed_out() > held && !self.account.waits_for_submissions();
        let awaits_lost =
            |provider: &StepProvider| provider.rest.as_ref().is_some_and(SubmitterStatus::awaits_lost);
        let is_anything_out = self.ledger.has_submitted() || self.providers.iter().any(awaits_lost);
        if is_under_way || !is_anything_out || self.awaits_provider() {
            return SubmissionWait::No;
        }
        let Some(submissions) = &mut self.submissions else { return SubmissionWait::No };
        if !submissions.has_drained {
            submissions.has_drained = true;
            submissions.drain.send_modify(|number| *number += 1);
            return SubmissionWait::Soon;
        }
        let rest = self.providers.iter().filter_map(|provider| provider.rest.as_ref());
        if rest.into_iter().all(|rest| rest.is_at_rest(*submissions.drain.borrow())) {
            SubmissionWait::ForSubmissions
        } else {
            SubmissionWait::Soon
        }
    }

    /// Whether a row is ready whose providers all fail for now.
    fn awaits_provider(&mut self) -> bool {
        let Self { steps, providers, ledger, .. } = self;
        for (at, step) in steps.iter().enumerate() {
            for urgency in step.urgencies() {
                let without = step.closed_to(*urgency, providers);
                if step.first_up(providers, 0, without).is_none()
                    && let Some(cell) = ledger.hand_out_next(StepId::new(at), *urgency)
                {
                    ledger.give_back(cell);
                    return true;
                }
            }
        }
        false
    }
}

//! Late duplicates: batches that a provider lists only after their submission was made again and collected. Each is
//! told, cancelled and booked.

use super::steps::belongs;
use super::submission::note;
use super::task::{Submitter, SubmitterEnd};
use crate::checkpoint::{Submission, SubmissionState};
use crate::clock;
use crate::ident::{Spend, Tokens};
use crate::wire::RemoteBatch;

impl Submitter {
    /// The collected submissions of which the provider may have another batch.
    fn with_unknown_batches(&self) -> Vec<Submission> {
        let is_meant = |own: &&Submission| {
            own.provider == *self.name
                && own.state == SubmissionState::Collected
                && own.may_have_unknown_batch()
        };
        self.context.submissions.read(|list| list.open.iter().filter(is_meant).cloned().collect())
    }

    /// Looks for further batches of collected submissions, if there may be any.
    pub(super) async fn look_for_late_duplicates(&mut self) -> Result<(), SubmitterEnd> {
        if self.with_unknown_batches().is_empty() {
            return Ok(());
        }
        match self.api.list(None).await {
            Ok(page) => self.note_late_duplicates(&page.items).await,
            // The next run looks again.
            Err(_) => Ok(()),
        }
    }

    /// Notes further batches of collected submissions that a list shows.
    pub(super) async fn note_late_duplicates(&mut self, listed: &[RemoteBatch]) -> Result<(), SubmitterEnd> {
        for submission in self.with_unknown_batches() {
            let is_known = |batch: &RemoteBatch| submission.remote.iter().any(|copy| copy.id == batch.id);
            for batch in listed.iter().filter(|batch| belongs(batch, &submission) && !is_known(batch)) {
                if !batch.status.is_end() {
                    let _ = self.api.cancel(&batch.id).await;
                }
                let cost = self.cost_of_duplicate(&submission, batch);
                let saved = self.context.submissions.change(|list| {
                    let own = list.get_mut(submission.id)?;
                    let before = own.clone();
                    note(own, batch, clock::wall());
                    own.took = own.took.map(|took| took + cost);
                    Some((before, own.clone()))
                });
                if let Some((before, after)) = saved.await? {
                    self.report_batches(&before, &after);
                }
            }
        }
        Ok(())
    }

    /// What a batch cost whose answers are not used: by its own account if it has ended, else at the most.
    fn cost_of_duplicate(&self, submission: &Submission, batch: &RemoteBatch) -> Spend {
        match batch.usage.filter(|_| batch.status.is_end()) {
            None => submission.worst,
            Some(usage) => {
                let (prompt, completion) = (usage.input_tokens, usage.output_tokens);
                let tokens = Tokens { prompt, completion, ..Tokens::default() };
                let money = self.billing.price_in_batch(tokens);
                Spend { money, tokens: tokens.total(), requests: submission.lines }
            }
        }
    }
}

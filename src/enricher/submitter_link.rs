//! The connection between the enricher and the submitters of a run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};

use super::input::{JobSubmissions, Journals};
use crate::checkpoint::{Submissions, UnloadedBatch};
use crate::ident::{BatchId, Fingerprint, SubmissionId};
use crate::journal::SubmittedGroup;
use crate::submitter::{SharedSubmissions, SubmitterContext, SubmitterNews};

/// The submissions of a run, and the connection to its submitters.
#[derive(Debug)]
pub(super) struct SubmitterLink {
    list: SharedSubmissions,
    first_uncommitted: Arc<AtomicU64>,
    pub(super) news: mpsc::UnboundedReceiver<SubmitterNews>,
    /// News that are not handled yet.
    pub(super) waiting: Vec<SubmitterNews>,
    /// Asks submitters to hand in files that are not full, with each new number.
    pub(super) drain: watch::Sender<u64>,
    /// Whether they were asked since the last row went into a file.
    pub(super) has_drained: bool,
}

impl SubmitterLink {
    /// Creates both ends of the connection: the enricher's, and the context of the submitters.
    pub(super) fn new(own: JobSubmissions, journals: &Journals) -> (Self, SubmitterContext) {
        let (sender, news) = mpsc::unbounded_channel();
        let (drain, draining) = watch::channel(0);
        let JobSubmissions { app_id, target_id, run, machine, list, folder, first_uncommitted, guard } = own;
        let first_uncommitted = Arc::new(AtomicU64::new(first_uncommitted.get()));
        let context = SubmitterContext {
            app_id,
            target_id,
            lineage: journals.lineage,
            run,
            machine,
            submissions: list.clone(),
            folder,
            first_uncommitted: Arc::clone(&first_uncommitted),
            guard,
            journals: journals.folder.clone(),
            news: sender,
            drain: draining,
        };
        (
            SubmitterLink { list, first_uncommitted, news, waiting: Vec::new(), drain, has_drained: false },
            context,
        )
    }

    /// The rows of a batch in files that are being written.
    pub(super) fn spooled(&self, batch: BatchId) -> Vec<SubmittedGroup> {
        self.list.spooled().of_batch(batch)
    }

    /// The submissions that have not come back.
    pub(super) fn open_ids(&self) -> BTreeSet<SubmissionId> {
        self.list.open_ids()
    }

    /// The submissions that have come back.
    pub(super) fn collected_ids(&self) -> BTreeSet<SubmissionId> {
        self.list.collected_ids()
    }

    /// Whether submitters have said something that is not handled yet.
    pub(super) fn has_news(&self) -> bool {
        !self.waiting.is_empty() || !self.news.is_empty()
    }

    /// Notes of which batches all that was collected has been looked at.
    pub(super) fn judge(&self, is_looked_at: impl Fn(BatchId) -> bool) {
        self.list.unjudged().judge(is_looked_at);
    }

    /// Notes that a batch, and all before it, is committed.
    pub(super) fn committed(&self, batch: BatchId) {
        self.first_uncommitted.fetch_max(batch.next().get(), Ordering::Release);
    }

    /// The submissions with rows of a batch whose answers there count as this run's: no earlier one has counted them.
    pub(super) fn new_in(&self, batch: BatchId) -> BTreeSet<SubmissionId> {
        self.list.read(|list| {
            let own = list.open.iter().filter(|submission| submission.has_rows_of(batch));
            own.filter(|submission| !submission.counted.contains(&batch)).map(|own| own.id).collect()
        })
    }

    /// Marks the answers of submissions in some batches as counted by this run.
    pub(super) async fn mark_counted(&self, counted: &[(BatchId, BTreeSet<SubmissionId>)]) {
        let marked = self.list.change(|list| {
            for (batch, ids) in counted {
                for submission in list.open.iter_mut().filter(|submission| ids.contains(&submission.id)) {
                    submission.counted.insert(*batch);
                }
            }
        });
        // What is not marked counts in the next run, too.
        let _ = marked.await;
    }

    /// Saves which batches the next run need not read, with the digests of the content of those that this run has read.
    pub(super) async fn leave_unloaded(&self, left: Vec<(BatchId, Option<Fingerprint>)>, steps: Fingerprint) {
        let saved = self.list.change(|list| {
            let unloaded = left.into_iter().filter_map(|(batch, plan)| {
                let known = || list.unloaded.get(&batch).map(|left| left.plan.clone());
                let plan = plan.map(|plan| plan.to_string()).or_else(known)?;
                let steps = steps.to_string();
                Some((batch, UnloadedBatch { plan, steps, submissions: list.awaited_by(batch) }))
            });
            list.unloaded = unloaded.collect();
        });
        // A batch that is not named is read.
        let _ = saved.await;
    }

    /// Lets go of answers that no row has claimed: every row is in the table.
    pub(super) async fn close_unclaimed(&self) {
        // What is not let go of is looked at again by the next run.
        let _ = self.list.change(Submissions::close_unclaimed).await;
    }

    /// Notes that a row went into a file.
    pub(super) fn row_was_submitted(&mut self) {
        self.has_drained = false;
    }

    /// Waits for news, for ever if there are no submitters.
    pub(super) async fn news(submissions: &mut Option<SubmitterLink>) {
        let Some(submissions) = submissions else { return std::future::pending().await };
        match submissions.news.recv().await {
            Some(news) => submissions.waiting.push(news),
            None => std::future::pending().await,
        }
    }
}

//! The list of submissions of a run, shared by its submitters and the enricher.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spooled::SpooledRows;
use super::unjudged::UnjudgedBatches;
use crate::budget::Account;
use crate::checkpoint::{
    CheckpointError, RemoteCopy, Submission, SubmissionState, Submissions, SubmissionsFile,
};
use crate::ident::{AppId, RunId, SubmissionId, SubmittedSpend};
use crate::wire::BatchStatus;

/// The list of submissions. Clones share it.
#[derive(Clone, Debug)]
pub struct SharedSubmissions {
    file: SubmissionsFile,
    list: Arc<Mutex<Submissions>>,
    /// The run, and its account, in which the submissions count.
    run: RunId,
    account: Account,
    /// What the submissions in other lists of the job took and may take.
    others: SubmittedSpend,
    spooled: SpooledRows,
    unjudged: UnjudgedBatches,
    /// Whether there was a list when the run began.
    was_found: bool,
    /// Lets one change be saved at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl SharedSubmissions {
    /// Shares a list that was read from this file, or `None` if there is none. Its submissions count in the account of
    /// the run, with `others`, those in other lists of the job.
    #[must_use]
    pub fn new(
        file: SubmissionsFile,
        list: Option<Submissions>,
        app_id: &AppId,
        run: RunId,
        account: Account,
        others: SubmittedSpend,
    ) -> Self {
        let was_found = list.is_some();
        let list = list.unwrap_or_else(|| Submissions::new(app_id.clone()));
        account.set_submitted(list.spend() + others, list.spend_of(run));
        let (spooled, turn) = (SpooledRows::default(), Arc::default());
        SharedSubmissions {
            file,
            list: Arc::new(Mutex::new(list)),
            run,
            account,
            others,
            spooled,
            unjudged: UnjudgedBatches::default(),
            was_found,
            turn,
        }
    }

    /// Whether there was a list when the run began.
    #[must_use]
    pub fn was_found(&self) -> bool {
        self.was_found
    }

    fn list(&self) -> MutexGuard<'_, Submissions> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows in files that are being written.
    #[must_use]
    pub fn spooled(&self) -> &SpooledRows {
        &self.spooled
    }

    /// The batches whose collected answers are to be looked at.
    #[must_use]
    pub fn unjudged(&self) -> &UnjudgedBatches {
        &self.unjudged
    }

    /// Looks at the list.
    pub fn read<T>(&self, look: impl FnOnce(&Submissions) -> T) -> T {
        look(&self.list())
    }

    /// Changes the list. When this returns, the change is durable.
    ///
    /// # Errors
    /// When the list cannot be saved; then it is not changed.
    pub async fn change<T>(&self, change: impl FnOnce(&mut Submissions) -> T) -> Result<T, CheckpointError> {
        let _turn = self.turn.lock().await;
        let mut changed = self.list().clone();
        let result = change(&mut changed);
        if changed != *self.list() {
            self.file.save(&changed).await?;
            self.account.set_submitted(changed.spend() + self.others, changed.spend_of(self.run));
            *self.list() = changed;
        }
        Ok(result)
    }

    /// The submissions whose rows wait for them.
    #[must_use]
    pub fn open_ids(&self) -> BTreeSet<SubmissionId> {
        self.ids(|submission| submission.state.is_open())
    }

    /// The submissions whose answers are in the journals: a row of them without an answer was not answered. One that failed
    /// in its validation shows nothing about its rows.
    #[must_use]
    pub fn collected_ids(&self) -> BTreeSet<SubmissionId> {
        let was_worked_on = |copy: &RemoteCopy| copy.status != BatchStatus::Failed.name();
        self.ids(|submission| {
            submission.state == SubmissionState::Collected && submission.remote.iter().any(was_worked_on)
        })
    }

    fn ids(&self, is_wanted: impl Fn(&Submission) -> bool) -> BTreeSet<SubmissionId> {
        let list = self.list();
        list.open.iter().filter(|submission| is_wanted(submission)).map(|submission| submission.id).collect()
    }
}

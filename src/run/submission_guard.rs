//! What must hold on other machines before a batch is made at a provider: that the job is still this run's, and that the
//! store of the checkpoint has what is in the journals.

use std::pin::Pin;

use super::exclusive::LeaseGuard;
use crate::journal::Copies;
use crate::submitter::{GuardError, SubmissionGuard};

/// The guard of a run. Without a checkpoint in an object store, no other machine has anything to do with the job.
#[derive(Debug)]
pub(super) struct RunGuard {
    pub(super) lease: LeaseGuard,
    /// `None` if the checkpoint is not in an object store.
    pub(super) copies: Option<Copies>,
}

impl SubmissionGuard for RunGuard {
    fn confirm_held(&self) -> Pin<Box<dyn Future<Output = Result<(), GuardError>> + Send + '_>> {
        Box::pin(async { Ok(self.lease.confirm().await?) })
    }

    fn copy_journals(&self) -> Pin<Box<dyn Future<Output = Result<(), GuardError>> + Send + '_>> {
        Box::pin(async {
            match &self.copies {
                Some(copies) => Ok(copies.round().await?),
                None => Ok(()),
            }
        })
    }
}

//! The budget of a job, opened for a run or a retry.

use std::path::{Path, PathBuf};

use super::error::EngineError;
use crate::checkpoint::Lock;
use crate::config::Job;
use crate::ident::{Money, RunId, Spend};
use crate::meter::{Account, Refused, Spending};

/// Folder of what all runs spent, in that of the journal.
const FOLDER: &str = "budget";

/// What a run may spend.
#[derive(Debug, Default)]
pub struct Funds {
    pub(super) account: Account,
    /// A run and a retry cannot both keep to one budget.
    _lock: Option<Lock>,
}

impl Funds {
    /// Opens the account of a job. Where the budget is for all runs together, one has it at a time.
    pub(super) fn open(job: &Job, run: RunId) -> Result<Self, EngineError> {
        if job.budget.job.is_unlimited() {
            return Ok(Funds { account: Account::open(job.budget, None), _lock: None });
        }
        let folder = folder(&job.journal);
        let lock = Lock::take(&folder, run)?;
        let account = Account::open(job.budget, Some(Spending::open(&folder)?));
        Ok(Funds { account, _lock: Some(lock) })
    }

    /// Whether anything is left to be spent.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let least = Spend { money: Money::picodollars(1), tokens: 1, requests: 1 };
        match self.account.reserve(least) {
            Err(Refused::Spent(words)) => Err(EngineError::Budget(words)),
            _ => Ok(()),
        }
    }

    /// What all runs of a job spent so far; none if it was not counted.
    pub(super) fn spent(job: &Job) -> Result<Option<Spend>, EngineError> {
        Ok(Spending::read(&folder(&job.journal))?)
    }
}

fn folder(journal: &Path) -> PathBuf {
    journal.join(FOLDER)
}

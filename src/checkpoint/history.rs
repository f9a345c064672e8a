//! The record of a job's last run, written when the run begins and when it ends, and a list of runs that ended without
//! a commit, for `status` and `report`. Nothing else depends on either; both may be lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::BudgetLimit;
use crate::ident::{RunId, Tokens};
use crate::store::{self, StoreError};

const NAME: &str = "last_run.json";
/// Minimum size of the file in bytes. If the disk is full when a run ends, its record is written over this space.
const ROOM: usize = 8192;
/// Name of the file that lists runs that ended without a commit.
const WITHOUT_COMMIT: &str = "runs_without_commit.jsonl";
const MAX_WITHOUT_COMMIT: usize = 20;
const MAX_MESSAGE_CHARS: usize = 1000;

/// The record of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// Id of the run.
    pub run: RunId,
    /// When the run began.
    pub started: DateTime<Utc>,
    /// When the run ended; `None` while it goes on, and for good if it was killed.
    pub ended: Option<DateTime<Utc>>,
    /// How the run ended, in one word.
    pub end: Option<String>,
    /// The reason for that end, where one is given.
    pub message: Option<String>,
    /// The budget limit at which the run ended; never set in records of programs before December 2026.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetLimit>,
    /// Number of rows that the run wrote.
    pub rows: u64,
    /// Number of answers that the run received.
    pub answers: u64,
    /// Number of failed rows, by class of the error.
    pub errors: BTreeMap<String, u64>,
    /// Tokens that the answers used.
    pub tokens: Tokens,
}

impl LastRun {
    /// Creates the record of a run that has just begun.
    #[must_use]
    pub fn begun(run: RunId, started: DateTime<Utc>) -> Self {
        LastRun {
            run,
            started,
            ended: None,
            end: None,
            message: None,
            budget: None,
            rows: 0,
            answers: 0,
            errors: BTreeMap::new(),
            tokens: Tokens::default(),
        }
    }

    /// Reads the record from a folder; `None` if it is missing or unreadable.
    #[must_use]
    pub fn load(folder: &Path) -> Option<LastRun> {
        let bytes = store::read(&path(folder)).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes the record to a folder. If the disk is full, it overwrites the existing record in place.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), StoreError> {
        let short = |message: &String| message.chars().take(MAX_MESSAGE_CHARS).collect();
        let record = LastRun { message: self.message.as_ref().map(short), ..self.clone() };
        let mut bytes = serde_json::to_vec(&record).expect("a record of strings and numbers becomes JSON");
        bytes.resize(bytes.len().max(ROOM), b' ');
        let path = path(folder);
        store::replace(&path, &bytes).or_else(|error| {
            let is_over_old = store::is_full(&error.source) && store::overwrite(&path, &bytes).is_ok();
            if is_over_old { Ok(()) } else { Err(error) }
        })
    }
}

/// Returns the runs that ended without a commit, the newest last. The metrics table does not show them.
#[must_use]
pub fn runs_without_commit(folder: &Path) -> Vec<LastRun> {
    let bytes = store::read(&folder.join(WITHOUT_COMMIT)).ok().flatten().unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Adds a run that ended without a commit. Only the newest 20 are kept.
///
/// # Errors
/// When the file cannot be written.
pub fn note_without_commit(folder: &Path, run: &LastRun) -> Result<(), StoreError> {
    let mut runs = runs_without_commit(folder);
    runs.push(run.clone());
    let newest = runs.len().saturating_sub(MAX_WITHOUT_COMMIT);
    let line = |run| serde_json::to_string(run).expect("a record of strings and numbers becomes JSON") + "\n";
    let text: String = runs.iter().skip(newest).map(line).collect();
    store::replace(&folder.join(WITHOUT_COMMIT), text.as_bytes())
}

fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

//! What is known of a job's last run: written when it begins and when it ends, for those who look later.
//! Nothing depends on it, and it may be lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::BudgetLimit;
use crate::ident::{RunId, Tokens};
use crate::store::{self, StoreError};

const NAME: &str = "last_run.json";
/// Bytes that the file takes from the beginning: on a disk that has become full, how the run ended is
/// written over them.
const ROOM: usize = 8192;
/// Runs that ended without a commit.
const WITHOUT_COMMIT: &str = "runs_without_commit.jsonl";
const MAX_WITHOUT_COMMIT: usize = 20;
const MAX_MESSAGE_CHARS: usize = 1000;

/// A job's last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The run.
    pub run: RunId,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended; none while it goes on, and for good if it was killed.
    pub ended: Option<DateTime<Utc>>,
    /// How it ended, in a word.
    pub end: Option<String>,
    /// Why, where that needs saying.
    pub message: Option<String>,
    /// The limit of the budget at which it ended; never there in records of programs before December 2026.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetLimit>,
    /// Rows that it wrote.
    pub rows: u64,
    /// Answers that it got.
    pub answers: u64,
    /// Rows that failed, by class.
    pub errors: BTreeMap<String, u64>,
    /// What its answers used.
    pub tokens: Tokens,
}

impl LastRun {
    /// A run that begins now.
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

    /// Reads it from a folder; none if there is none, or nothing that can be read.
    #[must_use]
    pub fn load(folder: &Path) -> Option<LastRun> {
        let bytes = store::read(&path(folder)).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Puts it into a folder; on a full disk, over the one that is there.
    ///
    /// # Errors
    /// When it cannot be written.
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

/// Runs that ended without a commit, which no figures tell of, the newest last.
#[must_use]
pub fn runs_without_commit(folder: &Path) -> Vec<LastRun> {
    let bytes = store::read(&folder.join(WITHOUT_COMMIT)).ok().flatten().unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Adds a run to those, of which so many newest are kept.
///
/// # Errors
/// When it cannot be written.
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

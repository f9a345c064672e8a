//! The record of the last run or retry, for `status` and `report`. It only informs: a failure to write its end is
//! ignored, since a full disk is reported by the files that matter.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::end::End;
use super::error::RunError;
use crate::checkpoint::{LastRun, note_without_commit};
use crate::clock;
use crate::ident::RunId;
use crate::store::StoreError;
use crate::tally::Tally;

/// The record of a run in progress.
pub(crate) struct History {
    folder: PathBuf,
    begun: LastRun,
    tally: Tally,
}

impl History {
    /// Records that a run has begun. `tally` counts what the run does.
    pub(crate) fn begin(
        folder: &Path,
        run: RunId,
        started: DateTime<Utc>,
        tally: Tally,
    ) -> Result<History, StoreError> {
        let begun = LastRun::begun(run, started);
        begun.save(folder)?;
        Ok(History { folder: folder.to_owned(), begun, tally })
    }

    /// Records how the run ended. A failure to write is ignored.
    pub(crate) fn end(self, end: &Result<End, RunError>) {
        let (word, message) = match end {
            Ok(end) => (end.word(), end.message()),
            Err(error) => ("error", Some(error.to_string())),
        };
        let budget = match end {
            Ok(End::Budget(limit)) | Err(RunError::Budget(limit)) => Some(*limit),
            Ok(_) | Err(_) => None,
        };
        let totals = self.tally.totals();
        let ended = LastRun {
            ended: Some(clock::wall()),
            end: Some(word.to_owned()),
            message,
            budget,
            rows: totals.committed_rows,
            answers: totals.answers,
            errors: totals.errors.iter().map(|(class, count)| ((*class).to_owned(), *count)).collect(),
            tokens: totals.tokens,
            ..self.begun
        };
        let _ = ended.save(&self.folder);
        if ended.rows == 0 && word != "complete" {
            let _ = note_without_commit(&self.folder, &ended);
        }
    }
}

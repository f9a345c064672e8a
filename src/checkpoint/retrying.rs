//! What a retry of failed rows covers. Stored with its plan, so that a restart continues the same retry.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ident::{BatchId, RunId};

/// Which failed rows a retry covers: those that meet every condition that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Classes of the error; any class if empty.
    pub classes: Vec<String>,
    /// Output columns of the steps that failed; any step if empty.
    pub steps: Vec<String>,
    /// Providers that the row was sent to last; any provider if empty.
    pub providers: Vec<String>,
    /// The batch that the row belongs to.
    pub batch: Option<BatchId>,
    /// Earliest start of the run in which the row failed.
    pub since: Option<DateTime<Utc>>,
    /// An SQL condition over the target's columns.
    pub condition: Option<String>,
}

/// The progress of a retry, stored as the position of its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrying {
    /// An interrupted retry; `None` once it has finished. Rows that it wrote are not sent again when it continues.
    pub session: Option<RunId>,
    /// The failed rows that the retry covers.
    pub selection: Selection,
    /// The provider used in place of the steps' own.
    pub provider: Option<String>,
    /// Maximum number of rows that the retry covers.
    #[serde(default)]
    pub limit: Option<u64>,
}

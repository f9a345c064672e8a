//! What a retry of failed rows is about; stored with its plan, so that a restart goes on with the same.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ident::{BatchId, RunId};

/// Which failed rows are meant: those that meet every condition that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Classes of the error; any if empty.
    pub classes: Vec<String>,
    /// Outputs of the steps that failed; any if empty.
    pub steps: Vec<String>,
    /// Providers that were asked last; any if empty.
    pub providers: Vec<String>,
    /// The batch that the row is in.
    pub batch: Option<BatchId>,
    /// The run that failed began at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// A condition over the target's columns, in SQL.
    pub condition: Option<String>,
}

/// How far a retry has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrying {
    /// The retry that was cut short; none once it has come to its end. Rows that it wrote are not asked
    /// again when it goes on.
    pub session: Option<RunId>,
    /// The rows that it is about.
    pub selection: Selection,
    /// The provider that is asked in place of the steps' own.
    pub provider: Option<String>,
    /// Most rows that it is about.
    #[serde(default)]
    pub limit: Option<u64>,
}

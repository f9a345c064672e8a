//! Delta tables: open at a version, list files, read the log, append, rewrite, query.
//!
//! This is the only module that names the deltalake crate; it hands out only Arrow types and types of its own. It
//! knows nothing of jobs, batches or the answers of rows.

mod append;
mod condition;
mod create;
mod deleted;
mod log;
mod open;
mod part;
mod protocol;
mod query;
mod rewrite;
mod statistics;
mod store_access;

pub use append::{Staged, Staging, Txn};
pub use condition::{Condition, physical_name};
pub use create::delta_schema;
pub use log::{DataFile, FilesInStorage, LogEntry};
pub use open::{Table, has_empty_log, is_delta_table, is_vacant};
pub use query::Scan;
pub use rewrite::{ChangeStaging, StagedChanges};
pub use store_access::objects;

use crate::store::{self, Location};

/// A failed operation on a table.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the Delta table {at}: {}", reason(source.as_ref()))]
pub struct TableError {
    /// The action that failed, as a verb for the message.
    pub action: &'static str,
    /// Location of the table.
    pub at: Location,
    /// The underlying error.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl TableError {
    /// Returns the feature because of which the table cannot even be opened, by its name in the Delta protocol.
    #[must_use]
    pub fn feature(&self) -> Option<&'static str> {
        // The kernel has no error variant for this.
        self.source.to_string().contains("catalog-managed").then_some("catalogManaged")
    }
}

/// Returns the reason of a failure, in the words of the operating system if it is a disk error. Cuts off the
/// backtrace that DataFusion and the Delta kernel put into their messages if the environment asks for one.
fn reason(source: &(dyn std::error::Error + 'static)) -> String {
    if let Some(trouble) = store::disk_trouble(source) {
        return trouble.to_string();
    }
    let text = source.to_string();
    let message = ["\n\nbacktrace:", "\n   0: "]
        .iter()
        .filter_map(|frames| text.split_once(frames))
        .map(|(message, _)| message)
        .min_by_key(|message| message.len());
    message.unwrap_or(&text).trim_end().to_owned()
}

//! Delta tables: open at a version, list files, read the log, append, rewrite, query.
//!
//! The only module that names the deltalake crate; everything it hands out is Arrow or a type of its own.
//! It knows nothing of jobs, batches or rows' answers.

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
pub use log::{DataFile, LogEntry, OnDisk};
pub use open::{Table, has_empty_log, is_delta_table, is_vacant};
pub use query::Scan;
pub use rewrite::{ChangeStaging, StagedChanges};
pub use store_access::objects;

use crate::store::{self, Location};

/// A table that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the Delta table {at}: {}", reason(source.as_ref()))]
pub struct TableError {
    /// What was tried.
    pub action: &'static str,
    /// The table.
    pub at: Location,
    /// Why it failed.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl TableError {
    /// The feature for which the table cannot even be opened, as the Delta protocol calls it.
    #[must_use]
    pub fn feature(&self) -> Option<&'static str> {
        // The kernel has no variant that says so.
        self.source.to_string().contains("catalog-managed").then_some("catalogManaged")
    }
}

/// Why it failed, in the words of the operating system where it is the disk. DataFusion and the Delta kernel put a
/// backtrace into their messages where the environment asks for one.
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

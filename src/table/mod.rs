//! Delta tables: open at a version, list files, read the log, append, rewrite, query.
//!
//! This is the only module that names the deltalake crate; it hands out only Arrow types and types of its own. It
//! knows nothing of jobs, batches or the answers of rows.

mod append;
mod condition;
mod create;
mod deleted;
mod error;
mod known_txns;
mod log;
mod open;
mod order;
mod part;
mod protocol;
mod query;
mod rewrite;
mod statistics;
mod store_access;
mod txns;

pub use append::{Staged, Staging, writer_properties};
pub use condition::{Condition, physical_name};
pub use create::delta_schema;
pub use error::TableError;
pub use known_txns::Txn;
pub use log::{DataFile, FilesInStorage, LogEntry};
pub use open::{Table, has_empty_log, is_delta_table, is_vacant};
pub use order::OrderedFiles;
pub use query::Scan;
pub use rewrite::{ChangeStaging, StagedChanges};
pub use store_access::objects;

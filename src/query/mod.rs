//! A query as the source: computed once by a run, and kept as Parquet files until its rows are in the target.
//!
//! The rows of a query have no file of their own that stays, so they are known by their key. A run computes the query
//! over the tables as they are, leaves out the rows whose key is in the target or in a result that is kept, and adds the
//! others as one more file to the folder of results, whole or not at all. From there the source is a folder of Parquet
//! files ([`crate::source`]); a file is removed once its rows are in the target.

mod compute;
mod keys;
mod memory;
mod new_rows;
mod preview;
mod results;
mod session;

pub use new_rows::{QueryReport, add_new_rows, prepare};
pub use preview::{QueryPreview, preview};
pub use results::QueryResults;

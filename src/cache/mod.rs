//! The cache: answers that outlive their job, so that a request answered before is not paid for again.
//!
//! It is one SQLite file on a local disk, which several processes read and write at once. It only saves money:
//! losing or removing it costs nothing else. Flushed answers survive `kill -9` (test
//! `what_is_flushed_is_in_the_files_whatever_becomes_of_the_process`); a power failure may cost the newest answers,
//! but never yields a wrong one. Size and age of its content are bounded. It keeps in memory only a page cache of 2
//! MB for each of a store's two connections.

mod byte_budget;
mod error;
mod file;
mod group;
mod limits;
mod removal;
mod store;
#[cfg(test)]
mod store_tests;
mod writer;

pub use error::CacheError;
pub use limits::CacheLimits;
pub use store::{Stats, Store};

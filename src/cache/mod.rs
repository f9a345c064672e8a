//! The cache: answers that outlive their job, so that a question asked before is not paid for again.
//!
//! One SQLite file on a local disk, which several processes read and write at once. It only saves money: a lost
//! or removed cache costs nothing but that. What is flushed survives `kill -9` (test
//! `what_is_flushed_is_in_the_files_whatever_becomes_of_the_process`); a power failure may cost the newest answers,
//! never gives a wrong one. Size and age of what it holds are bounded, and it keeps nothing in memory but a page
//! cache of 2 MB for each of a store's two connections.

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

//! Runs a language model over every row of a table, exactly once.

pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod event;
pub mod fault;
pub mod faultpoint;
pub mod ident;
pub mod journal;
pub mod ledger;
pub mod store;
pub mod table;
pub mod wire;

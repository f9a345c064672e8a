//! Runs a language model over every row of a table, exactly once.

#![doc = include_str!("ARCHITECTURE.md")]
// Types of futures that hold a query are nested deeper than the default limit.
#![recursion_limit = "256"]

pub mod admission;
pub mod budget;
pub mod cache;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod dispatch;
pub mod enricher;
pub mod event;
pub mod executor;
pub mod export;
pub mod fault;
pub mod faultpoint;
pub mod ident;
pub mod inspect;
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod panics;
pub mod passed;
pub mod plan;
pub mod progress;
pub mod prompt;
pub mod report_page;
pub mod rows;
pub mod run;
pub mod serve;
pub mod service;
pub mod simulator;
pub mod sink;
pub mod source;
pub mod spill;
pub mod store;
pub mod submitter;
pub mod table;
pub mod tally;
pub mod tokens;
pub mod transport;
pub mod wire;
pub mod wording;

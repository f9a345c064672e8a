//! The integration tests: one binary, real servers on loopback, real tables, real processes.

mod cli;
mod damage;
mod input;
mod recovery;
mod resume;
mod sources;
mod support;
mod tidy;

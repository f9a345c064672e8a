//! The integration tests: one binary, real servers on loopback, real tables, real processes.

#![expect(unreachable_pub, reason = "a test binary has no callers")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod cli;
mod damage;
mod input;
mod recovery;
mod resume;
mod sources;
mod support;
mod tidy;

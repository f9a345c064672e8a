//! The integration tests: one binary, real servers on loopback, real tables, real processes.

#![expect(unreachable_pub, reason = "a test binary has no callers")]
#![expect(clippy::print_stdout, reason = "seeds and counts are printed")]
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod airflow;
mod anomalies;
mod answers;
mod bare;
mod batch_budget;
mod batch_damage;
mod batch_figures;
mod batch_files;
mod batch_lanes;
mod batch_limits;
mod batch_lost;
mod batch_machines;
mod batch_promises;
mod batch_retry;
mod batch_routes;
mod batch_same;
mod batch_shapes;
mod batch_sharing;
mod batch_troubles;
mod batches;
mod budget;
mod changes;
mod chosen;
mod claims;
mod cli;
mod clouds;
mod commands;
mod damage;
mod documents;
mod embeddings;
mod errors;
mod examples;
mod export;
mod fallback;
mod features;
mod files;
mod forecast;
mod foreign;
mod hugging_face;
mod independent;
mod input;
mod jobs;
mod keys;
mod limits;
mod machines;
mod metrics;
mod newcomers;
mod pipelines;
mod plans;
mod queries;
mod readme;
mod recovery;
mod reference;
mod refill;
mod report;
mod reports;
mod requests;
mod resume;
mod retry;
mod routes;
mod serve;
mod serve_machines;
mod serve_promises;
mod sharing;
mod sizes;
mod soak;
mod sources;
mod spark;
mod status;
mod steps;
mod stops;
mod stores;
mod submissions;
mod support;
mod tables;
mod targets;
mod tidy;
mod tiers;
mod typed;

// For `jobs` and `independent`.
use support::{endpoint, packages};

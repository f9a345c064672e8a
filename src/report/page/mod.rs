//! The page that `enrich report` writes: one HTML file about the runs of a job.
//!
//! The page stands alone. It holds no script and asks no network for anything, so it can be mailed, archived and
//! printed. Its charts are SVG in the page itself; the stylesheet gives their colours in light and in dark.
//! Everything that comes from tables (texts, names, error classes) is hostile until it is cleaned and escaped.

mod axis;
mod bars;
mod batch;
mod buckets;
mod cost;
mod curve;
pub mod data;
mod errors;
mod figure;
mod latency;
mod mixture;
mod money;
mod number;
mod palette;
mod plot;
mod providers;
mod quota;
mod render;
mod requests;
mod runs;
mod sample;
mod scale;
mod span;
mod steps;
mod table;
mod text;
mod throughput;
mod tick;
mod tiles;
mod timeline;
mod tokens;
mod waiting;
mod work;

#[cfg(test)]
mod example;
#[cfg(test)]
mod page_tests;

pub use render::{PageError, render};

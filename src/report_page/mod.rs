//! The page that `enrich report` writes: one HTML file about the runs of a job.
//!
//! The page stands alone. It holds no script and loads nothing from the network, so it can be mailed, archived and
//! printed. Its charts are SVG in the page itself; the stylesheet gives their colours in light and in dark.
//! Everything that comes from tables (texts, names, error classes) is hostile until it is cleaned and escaped.

mod charts;
pub mod data;
mod figure;
mod format;
mod gather;
mod palette;
mod plot;
mod render;
mod tables;
mod timeline;
mod work;

#[cfg(test)]
mod example;
#[cfg(test)]
mod page_tests;

pub use gather::gather;
pub use render::{PageError, render};

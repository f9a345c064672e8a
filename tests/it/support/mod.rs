//! What the tests share.
//!
//! A test begins with a [`World`]: a folder with a source and a job, and a simulator beside it. A [`Setup`] says how it
//! differs from the usual one. The real program runs on its job, and the target is read back row by row.

pub mod batches;
pub mod endpoint;
mod folder;
pub mod gateway;
pub mod hub;
mod journal;
mod judge;
mod outcome;
pub mod packages;
mod process;
mod program;
mod said;
pub mod served;
mod setup;
mod simulator;
mod source;
pub mod store;
mod target;
mod world;

pub use folder::{clone, copy_of, everything_below, project, shipped, tables};
pub use journal::ids_in;
pub use judge::judge_text;
pub use outcome::Outcome;
pub use process::{send, stop, until_said, until_stopped, wait};
pub use program::nth;
pub use said::{plain, steady, without_files, without_times};
pub use setup::Setup;
pub use simulator::{PATIENT, PRICES, dear, fault, faulty, refusals, refusing, slow, with_faults, wrong};
pub use source::{append_delta, prompt_of, rows, rows_about, schema, text_of, write_parquet};
pub use target::{TargetRow, clean_log, delta, figures, make_target, read_target, rows_of};
pub use world::{World, until, world_over};

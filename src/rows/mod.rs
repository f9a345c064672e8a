//! What source, enricher and sink hand each other: rows with their keys, outcomes, and the columns of outputs.

mod chunk;
mod output_columns;
mod row_result;
mod target_outcomes;

pub use chunk::Chunk;
pub use output_columns::OutputColumns;
pub use row_result::{FilledBatch, Outcome, RowResult};
pub(crate) use row_result::{LoadedOutcomes, PIECE_BYTES};
pub use target_outcomes::{ConstraintErrors, UnchangedStep};

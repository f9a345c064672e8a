//! The enricher: sends rows to providers, keeps paid answers in journals, and finds an outcome for every row.
//!
//! [`Enricher`] takes batches of rows and returns them with an outcome for every row of every step. It owns the journal
//! files and the executors; its caller carries out the tasks that it names (plan, load, commit). No answer is used
//! before it is in the journal. The enricher prints nothing, and does not know where rows come from or go.

mod anomalies;
mod compiled_step;
mod condition;
mod context_window;
mod counted_cells;
mod error;
mod error_rate;
mod hand_out;
mod input;
mod inputs;
mod interface;
mod judgement;
mod learned_file;
mod open_batch;
mod prepare;
mod probation;
mod replies;
mod sharing;
mod step_provider;
mod stop;
mod submitter_link;
mod urgent_rows;
mod waiting;

pub use anomalies::Anomaly;
pub use compiled_step::CompiledStep;
pub(crate) use compiled_step::asked_by;
pub use error::EnricherError;
pub use error_rate::TooManyErrors;
pub use input::{JobSubmissions, Journals, LoadedBatch};
pub use interface::Enricher;
pub use learned_file::LearnedFile;
pub use prepare::{Prepared, check_templates, prepare};
pub(crate) use prepare::{needed_columns, template_inputs};
pub use probation::Strictness;
pub use stop::Stop;
pub use waiting::SubmissionWait;

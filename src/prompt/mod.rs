//! Prompts: from the templates of a step and a row to the question that is sent to a model.
//!
//! Templates are Jinja (minijinja), compiled once and checked against the source's columns before the run. Null
//! renders as nothing; a missing column or attribute is an error, never an empty string.

mod error;
mod filters;
mod inputs;
mod question;
mod row;
mod slices;
mod template;

pub use error::PromptError;
pub use question::Question;
pub use row::{Rows, StepOutput};
pub use template::{Prompt, Rendered};

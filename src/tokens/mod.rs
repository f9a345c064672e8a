//! The tokens that a request will take: counted where the model's encoding is known, else estimated from answers.

mod estimate;
pub mod tokenizer;

pub use estimate::{Meter, StepTokens};

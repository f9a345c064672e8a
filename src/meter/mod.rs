//! How many tokens a request is going to take: counted where the model's encoding is known, else learned from what
//! requests took.

mod encoding;
mod estimate;

pub use encoding::Encoding;
pub use estimate::{Meter, StepTokens};

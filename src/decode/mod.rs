//! Turns a response into the content of the output column, or into a class of failure. Pure, so that reading a
//! journal again gives the same rows.

mod content;
mod embedding;
mod metadata;
mod response;
mod typed;

pub use content::Content;
pub use embedding::share;
pub use metadata::{ResponseMetadata, facts};
pub use response::{Answer, Reasoning, answer, is_cut, is_plausible, parse, text, unfenced};

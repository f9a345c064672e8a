//! Turns a response into the content of the output column, or into a class of failure. Pure, so that reading a
//! journal again gives the same rows.

mod content;
mod embedding;
mod response;
mod typed;

pub use content::Content;
pub use embedding::share;
pub use response::{
    Answer, Reasoning, ResponseMetadata, answer, facts, is_cut, is_plausible, parse, text, unfenced,
};

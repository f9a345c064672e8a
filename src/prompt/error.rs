//! Mistakes in the templates of a step.

/// Why a step's templates cannot be used with a source.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A template is not well-formed.
    #[error("step {step:?}: the {which} template is wrong{}: {message}", line.map_or_else(String::new, |line| format!(" in line {line}")))]
    Syntax {
        /// Output of the step.
        step: String,
        /// `prompt` or `system`.
        which: &'static str,
        /// Line in the template, counted from 1.
        line: Option<usize>,
        /// Error message of the template engine.
        message: String,
    },
    /// A template names a column that neither the source nor an earlier step has.
    #[error("step {step:?}: the templates name the column {column:?}, which the source does not have{}", hint(near.as_deref(), known))]
    UnknownColumn {
        /// Output of the step.
        step: String,
        /// The column.
        column: String,
        /// The column that was probably meant.
        near: Option<String>,
        /// The columns that exist.
        known: Vec<String>,
    },
    /// An example does not fit the template.
    #[error("step {step:?}: the example in line {line} does not fit the template: {message}")]
    Example {
        /// Output of the step.
        step: String,
        /// Line in the file of examples, counted from 1.
        line: usize,
        /// Why it does not fit.
        message: String,
    },
    /// A template names the output of the step itself or of a later one.
    #[error(
        "step {step:?}: the templates name {column:?}, which is the output of {}; a step sees those of earlier ones, and \
         steps cannot name each other in a circle", if step == column { "the step itself" } else { "a later step" }
    )]
    TooLate {
        /// Output of the step.
        step: String,
        /// The output that does not exist yet.
        column: String,
    },
    /// A template names a field that a column or an output does not have.
    #[error("step {step:?}: the templates name {path:?}, and {parent} has no such field{}", hint(near.as_deref(), known))]
    UnknownField {
        /// Output of the step.
        step: String,
        /// Path of the field, as the template writes it.
        path: String,
        /// The column or field that lacks it.
        parent: String,
        /// The field that was probably meant.
        near: Option<String>,
        /// The fields that exist.
        known: Vec<String>,
    },
    /// A template names columns by `row`, and the source has a column `row`.
    #[error(
        "step {step:?}: the source has a column \"row\", which hides all others from row[…] in the templates; carry the \
         others alone with source.columns, or give them names that need no row[…]"
    )]
    HiddenRow {
        /// Output of the step.
        step: String,
    },
    /// A template names a column of binary data.
    #[error(
        "step {step:?}: the templates name the column {column:?}, which holds binary data; a prompt is text (source.binary_as_text = true reads such a column of Parquet files as text)"
    )]
    Binary {
        /// Output of the step.
        step: String,
        /// The column.
        column: String,
    },
}

fn hint(near: Option<&str>, known: &[String]) -> String {
    let is_name = |near: &str| near.chars().all(|c| c.is_alphanumeric() || c == '_');
    match near {
        None => format!("; it has {}", known.join(", ")),
        Some(near) if is_name(near) => format!("; did you mean {near:?}?"),
        Some(near) => format!("; did you mean {{{{ row[{near:?}] }}}}?"),
    }
}

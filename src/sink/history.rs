//! The part of the metadata column that records, for each step, how the outcome of a row came about.
//!
//! The struct of a step is called `<output>_step`, so that the metadata column can be unnested beside the outputs. In
//! targets that were created before December 2026 it has the output's own name, and keeps it.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use crate::ident::{Money, Tokens};
use crate::rows::{Outcome, RowResult};

/// Field of a step's struct that holds the class of the error, null if the row did not fail.
const ERROR: &str = "error";

/// Returns the name of a step's struct in a new target.
pub(super) fn field_name(output: &str) -> String {
    format!("{output}_step")
}

/// Returns the name of a step's struct among the fields of a metadata column, or `None` if it has none.
pub(super) fn find<'a>(metadata: &'a Fields, output: &str) -> Option<&'a str> {
    let is_history = |field: &Field| match field.data_type() {
        DataType::Struct(fields) => fields.find(ERROR).is_some(),
        _ => false,
    };
    let named = |name: &str| metadata.iter().find(|field| field.name() == name && is_history(field));
    named(&field_name(output)).or_else(|| named(output)).map(|field| field.name().as_str())
}

/// Returns the fields of a step's struct.
pub(super) fn fields() -> Fields {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Fields::from(vec![
        field(ERROR, DataType::Utf8),
        field("provider", DataType::Utf8),
        field("model", DataType::Utf8),
        field("attempts", DataType::Int32),
        field("finish_reason", DataType::Utf8),
        field("prompt_tokens", DataType::Int64),
        field("cached_tokens", DataType::Int64),
        field("completion_tokens", DataType::Int64),
        field("cost_micro_usd", DataType::Int64),
        field("latency_ms", DataType::Int64),
        field("shared", DataType::Boolean),
        field("fingerprint", DataType::Utf8),
        field("template", DataType::Utf8),
    ])
}

/// Builds the structs of a step from its outcomes.
pub(super) fn array<'a>(
    step: &(impl Iterator<Item = &'a RowResult> + Clone),
) -> Result<StructArray, ArrowError> {
    let text = |get: fn(&'a RowResult) -> Option<&'a str>| -> ArrayRef {
        Arc::new(step.clone().map(get).collect::<StringArray>())
    };
    let number = |get: &dyn Fn(&RowResult) -> Option<u64>| -> ArrayRef {
        let value = |settled| get(settled).map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        Arc::new(step.clone().map(value).collect::<Int64Array>())
    };
    let tokens = |get: fn(Tokens) -> u64| number(&move |settled| settled.tokens.map(get));
    let attempts = step.clone().map(|settled| i32::try_from(settled.attempts).unwrap_or(i32::MAX));
    let costs = step.clone().map(|settled| settled.cost.map(Money::microdollars));
    let shared = step.clone().map(|settled| settled.fingerprint.map(|_| settled.shared));
    let fingerprints = step.clone().map(|settled| settled.fingerprint.map(|print| print.to_string()));
    let columns: Vec<ArrayRef> = vec![
        text(|settled| match &settled.outcome {
            Outcome::Failed(failure) => Some(failure.class.name()),
            _ => None,
        }),
        text(|settled| settled.provider.as_deref()),
        text(|settled| settled.model.as_deref()),
        Arc::new(Int32Array::from_iter_values(attempts)),
        text(|settled| settled.finish_reason.as_deref()),
        tokens(|tokens| tokens.prompt),
        tokens(|tokens| tokens.cached),
        tokens(|tokens| tokens.completion),
        Arc::new(costs.collect::<Int64Array>()),
        number(&|settled| settled.latency_ms),
        Arc::new(shared.collect::<BooleanArray>()),
        Arc::new(fingerprints.collect::<StringArray>()),
        text(|settled| settled.template.as_deref()),
    ];
    StructArray::try_new(fields(), columns, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_struct_is_found_under_its_name_of_today_and_of_before() {
        let history = |name: &str| Field::new(name, DataType::Struct(fields()), true);
        let plain = Field::new("app_id", DataType::Utf8, true);
        let today = Fields::from(vec![plain.clone(), history("kind_step"), history("case_step")]);
        assert_eq!(find(&today, "kind"), Some("kind_step"));
        assert_eq!(find(&today, "app_id"), None);
        let before = Fields::from(vec![plain, history("kind"), history("case")]);
        assert_eq!(find(&before, "case"), Some("case"));
        assert_eq!(find(&before, "other"), None);
    }
}

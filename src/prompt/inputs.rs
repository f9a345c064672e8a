//! The columns that templates read, checked against those that exist.

use std::borrow::Cow;
use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Schema};
use minijinja::Environment;

use super::error::PromptError;
use super::row::binary_column;
use super::slices::without_slices;
use crate::config::{StepSpec, nearest};

/// Positions of the columns that the templates name.
pub(super) fn inputs(
    step: &StepSpec,
    schema: &Schema,
    source_columns: usize,
    environment: &Environment<'static>,
) -> Result<Vec<usize>, PromptError> {
    let globals: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
    let mut inputs = BTreeSet::new();
    let mut reads_whole_row = false;
    for (_, written) in environment.templates() {
        let plain = without_slices(written.source());
        let parsed = match &plain {
            Cow::Borrowed(_) => None,
            Cow::Owned(plain) => environment.template_from_str(plain).ok(),
        };
        let template = parsed.as_ref().unwrap_or(&written);
        for path in template.undeclared_variables(true) {
            known_fields(step, schema, &path)?;
        }
        for name in template.undeclared_variables(false) {
            match schema.index_of(&name) {
                Ok(column) => {
                    let hides = || uses_of_row(template.source()).is_some_and(|columns| !columns.is_empty());
                    if name == "row" && !schema.field(column).data_type().is_nested() && hides() {
                        return Err(PromptError::HiddenRow { step: step.output.clone() });
                    }
                    inputs.insert(column);
                }
                Err(_) if name == "row" => match uses_of_row(template.source()) {
                    Some(columns) => {
                        for column in columns {
                            let found = schema.index_of(&column);
                            inputs.insert(found.map_err(|_| unknown(step, schema, column))?);
                        }
                    }
                    None => reads_whole_row = true,
                },
                Err(_) if globals.contains(name.as_str()) => {}
                Err(_) => return Err(unknown(step, schema, name)),
            }
        }
    }
    if reads_whole_row {
        // Binary columns that nothing names must not make the templates fail.
        inputs.extend((0..source_columns).filter(|column| binary_column(schema, &[*column]).is_none()));
    }
    Ok(inputs.into_iter().collect())
}

/// Checks a path such as `column.field` against the fields of structs.
fn known_fields(step: &StepSpec, schema: &Schema, path: &str) -> Result<(), PromptError> {
    let mut parts = path.split('.');
    let Some(first) = parts.next() else { return Ok(()) };
    let Ok(mut field) = schema.field_with_name(first) else { return Ok(()) };
    let mut parent = first.to_owned();
    for part in parts {
        let DataType::Struct(fields) = field.data_type() else { return Ok(()) };
        let Some((_, found)) = fields.find(part) else {
            let known: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
            let near = nearest(part, known.iter().map(String::as_str)).map(str::to_owned);
            let (step, path) = (step.output.clone(), path.to_owned());
            return Err(PromptError::UnknownField { step, path, parent, near, known });
        };
        field = found;
        parent = format!("{parent}.{part}");
    }
    Ok(())
}

/// The columns that a template names as `row.name` or `row["name"]`; `None` if it uses `row` in another way, which
/// may read any column.
fn uses_of_row(source: &str) -> Option<Vec<String>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut columns = Vec::new();
    for tag in source.split(['{', '}']).filter(|part| part.contains("row")) {
        let mut rest = tag;
        let mut before = ' ';
        while let Some((head, tail)) = rest.split_once("row") {
            let left = head.chars().next_back().unwrap_or(before);
            before = 'w';
            rest = tail;
            if is_name(left) || matches!(left, '.' | '"' | '\'') || tail.starts_with(is_name) {
                continue;
            }
            if let Some(name) = tail.strip_prefix('.') {
                columns.push(name.chars().take_while(|c| is_name(*c)).collect());
            } else {
                let inside = tail.trim_start().strip_prefix('[')?.trim_start();
                let quote = inside.chars().next().filter(|c| matches!(c, '"' | '\''))?;
                let (name, _) = inside.get(1..)?.split_once(quote)?;
                columns.push(name.to_owned());
            }
        }
    }
    Some(columns)
}

fn unknown(step: &StepSpec, schema: &Schema, column: String) -> PromptError {
    let known: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    // A name with a dot in it is parsed as a path to a field.
    let beginning = format!("{column}.");
    let dotted = known.iter().map(String::as_str).find(|known| known.starts_with(&beginning));
    let near = dotted.or_else(|| nearest(&column, known.iter().map(String::as_str))).map(str::to_owned);
    PromptError::UnknownColumn { step: step.output.clone(), column, near, known }
}

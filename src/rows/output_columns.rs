//! The columns of a step in the target, and the conversion of outcomes into them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Builder, ListBuilder, StringBuilder, StructArray, make_array,
    new_empty_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;

use super::row_result::{Outcome, RowResult};
use crate::config::{Form, OnError, StepSpec, Typed};
use crate::decode::Content;

/// The target columns of a step.
#[derive(Clone, Debug)]
pub struct OutputColumns {
    name: String,
    kind: OutputKind,
    columns: Vec<Field>,
    /// Index of the column that holds the `ERROR:` string.
    error: usize,
}

#[derive(Clone, Debug)]
enum OutputKind {
    /// With `is_apart`, errors have a column of their own.
    Text {
        is_apart: bool,
    },
    Typed {
        fields: Fields,
        flat: bool,
        keep_raw: bool,
    },
    Vector,
}

impl OutputColumns {
    /// Returns the columns of a step.
    #[must_use]
    pub fn of(step: &StepSpec) -> Self {
        OutputColumns::new(&step.output, &step.form, step.on_error)
    }

    fn new(name: &str, form: &Form, on_error: OnError) -> Self {
        let name = name.to_owned();
        let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
        match form {
            Form::Text | Form::Classes(_) => {
                let is_apart = on_error == OnError::Null;
                let mut columns = vec![field(&name, &DataType::Utf8)];
                columns.extend(is_apart.then(|| field(&format!("{name}_error"), &DataType::Utf8)));
                let error = columns.len() - 1;
                OutputColumns { columns, kind: OutputKind::Text { is_apart }, error, name }
            }
            Form::Embedding(_) => {
                let columns =
                    vec![field(&name, &vectors_type()), field(&format!("{name}_error"), &DataType::Utf8)];
                OutputColumns { columns, kind: OutputKind::Vector, error: 1, name }
            }
            Form::Typed(Typed { shape, flat, keep_raw }) => {
                let fields = shape.fields().clone();
                let mut columns = match flat {
                    true => fields
                        .iter()
                        .map(|inner| field(&format!("{name}_{}", inner.name()), inner.data_type()))
                        .collect(),
                    false => vec![field(&name, &DataType::Struct(fields.clone()))],
                };
                let error = columns.len();
                columns.push(field(&format!("{name}_error"), &DataType::Utf8));
                if *keep_raw {
                    columns.push(field(&format!("{name}_raw"), &DataType::Utf8));
                }
                OutputColumns {
                    kind: OutputKind::Typed { fields, flat: *flat, keep_raw: *keep_raw },
                    columns,
                    error,
                    name,
                }
            }
        }
    }

    /// Returns the columns of each step, in order.
    #[must_use]
    pub fn of_all(steps: &[Arc<StepSpec>]) -> Vec<Self> {
        steps.iter().map(|step| OutputColumns::of(step)).collect()
    }

    /// Returns the name of the step's output.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the columns in the order in which they are written.
    #[must_use]
    pub fn columns(&self) -> &[Field] {
        &self.columns
    }

    /// Whether one of the columns has this name.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|field| field.name() == column)
    }

    /// Returns the name of the column that holds the `ERROR:` string of a failed row.
    #[must_use]
    pub fn error_column(&self) -> &str {
        self.columns[self.error].name()
    }

    /// Whether the step's answers are plain text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self.kind, OutputKind::Text { .. })
    }

    /// Returns the name and type of the output as later steps see it.
    #[must_use]
    pub fn value_field(&self) -> Field {
        let data_type = match &self.kind {
            OutputKind::Text { .. } => DataType::Utf8,
            OutputKind::Typed { fields, .. } => DataType::Struct(fields.clone()),
            OutputKind::Vector => vectors_type(),
        };
        Field::new(&self.name, data_type, true)
    }

    /// Returns the columns that [`OutputColumns::value_of`] needs.
    #[must_use]
    pub fn value_columns(&self) -> &[Field] {
        match self.kind {
            OutputKind::Text { is_apart: false } => &self.columns,
            OutputKind::Text { is_apart: true } | OutputKind::Typed { .. } | OutputKind::Vector => {
                &self.columns[..self.error]
            }
        }
    }

    /// Builds the values that later steps see from the columns of the target.
    ///
    /// # Errors
    /// When the type of a column is wrong.
    pub fn value_of(&self, columns: &[ArrayRef]) -> Result<ArrayRef, ArrowError> {
        let columns = columns.iter().zip(self.value_columns());
        let columns =
            columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>, _>>()?;
        match &self.kind {
            OutputKind::Typed { fields, flat: true, .. } => {
                // A row whose fields are all null was skipped or failed.
                let rows = columns.first().map_or(0, Array::len);
                let nulls: NullBuffer =
                    (0..rows).map(|row| columns.iter().any(|column| column.is_valid(row))).collect();
                Ok(Arc::new(StructArray::try_new(fields.clone(), columns, Some(nulls))?))
            }
            _ => columns
                .into_iter()
                .next()
                .ok_or_else(|| ArrowError::SchemaError(format!("the step {:?} has no column", self.name))),
        }
    }

    /// Builds the values that later steps see from outcomes whose answers are in memory. Outcomes other than answers
    /// become null.
    ///
    /// # Errors
    /// When an answer does not fit its column or is not in memory.
    pub fn values<'a>(
        &self,
        step: impl Iterator<Item = &'a RowResult> + Clone,
    ) -> Result<ArrayRef, ArrowError> {
        are_loaded(step.clone())?;
        let answers = step.map(|settled| match &settled.outcome {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Skipped | Outcome::Failed(_) | Outcome::Unchanged => None,
        });
        let text = |answer: Option<&'a Content>| match answer {
            Some(Content::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        match &self.kind {
            OutputKind::Text { .. } => Ok(texts(answers.map(text))),
            OutputKind::Typed { fields, .. } => objects(fields, answers.map(text)),
            OutputKind::Vector => Ok(vectors(answers)),
        }
    }

    /// Builds the columns of the step from outcomes whose answers are in memory.
    ///
    /// # Errors
    /// When an answer does not fit its column or is not in memory.
    pub(crate) fn arrays<'a>(
        &self,
        step: &(impl Iterator<Item = &'a RowResult> + Clone),
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let errors: Vec<Option<String>> = step
            .clone()
            .map(|settled| match &settled.outcome {
                Outcome::Failed(failure) => Some(failure.to_error_string()),
                Outcome::Answer(_) | Outcome::Skipped | Outcome::Unchanged => None,
            })
            .collect();
        match &self.kind {
            OutputKind::Text { is_apart: true } | OutputKind::Vector => {
                Ok(vec![self.values(step.clone())?, texts(errors.iter().map(Option::as_deref))])
            }
            OutputKind::Text { is_apart: false } => {
                are_loaded(step.clone())?;
                let rows = step.clone().zip(&errors).map(|(settled, error)| match &settled.outcome {
                    Outcome::Answer(Content::Text(text)) => Some(text.as_str()),
                    _ => error.as_deref(),
                });
                Ok(vec![texts(rows)])
            }
            OutputKind::Typed { flat, keep_raw, .. } => {
                let values = self.values(step.clone())?;
                let mut columns = if *flat { spread(values.as_struct())? } else { vec![values] };
                columns.push(texts(errors.iter().map(Option::as_deref)));
                if *keep_raw {
                    columns.push(texts(step.clone().map(|settled| match &settled.raw_text {
                        Some(Content::Text(text)) => Some(text.as_str()),
                        _ => None,
                    })));
                }
                Ok(columns)
            }
        }
    }
}

/// Fails if an answer is not in memory, because it would become null.
fn are_loaded<'a>(mut step: impl Iterator<Item = &'a RowResult>) -> Result<(), ArrowError> {
    match step.all(RowResult::is_loaded) {
        true => Ok(()),
        false => Err(ArrowError::InvalidArgumentError("an answer is not in memory".to_owned())),
    }
}

fn vectors_type() -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Float32, true)))
}

fn vectors<'a>(rows: impl Iterator<Item = Option<&'a Content>>) -> ArrayRef {
    let element = Field::new("element", DataType::Float32, true);
    let mut builder = ListBuilder::new(Float32Builder::new()).with_field(element);
    for row in rows {
        if let Some(Content::Vector(numbers)) = row {
            builder.values().append_slice(numbers);
        }
        builder.append(matches!(row, Some(Content::Vector(_))));
    }
    Arc::new(builder.finish())
}

fn texts<'a>(rows: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    rows.for_each(|row| builder.append_option(row));
    Arc::new(builder.finish())
}

/// Returns the fields of a struct as columns, null in rows where the struct is null.
fn spread(values: &StructArray) -> Result<Vec<ArrayRef>, ArrowError> {
    let nulls = values.nulls();
    let column = |column: &ArrayRef| match nulls {
        None => Ok(Arc::clone(column)),
        Some(nulls) => {
            let data = column.to_data().into_builder();
            let both = NullBuffer::union(column.nulls(), Some(nulls));
            Ok(make_array(data.nulls(both).build()?))
        }
    };
    values.columns().iter().map(column).collect()
}

/// Parses JSON objects into a struct column.
fn objects<'a>(
    fields: &Fields,
    answers: impl Iterator<Item = Option<&'a str>>,
) -> Result<ArrayRef, ArrowError> {
    let field = Arc::new(Field::new("value", DataType::Struct(fields.clone()), true));
    let mut lines = String::new();
    let mut count = 0;
    for answer in answers {
        lines.push_str("{\"value\":");
        lines.push_str(answer.unwrap_or("null"));
        lines.push_str("}\n");
        count += 1;
    }
    if count == 0 {
        return Ok(new_empty_array(field.data_type()));
    }
    let schema = Arc::new(Schema::new(vec![field]));
    let mut decoder = ReaderBuilder::new(schema).with_batch_size(count).build_decoder()?;
    decoder.decode(lines.as_bytes())?;
    let lost = || ArrowError::JsonError("answers could not be read".to_owned());
    let decoded = decoder.flush()?.filter(|batch| batch.num_rows() == count).ok_or_else(lost)?;
    Ok(Arc::clone(decoded.column(0)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Shape;
    use crate::fault::{Class, Failure};

    #[test]
    fn typed_outcomes_become_columns_that_are_null_where_the_row_failed() {
        let shape = Shape::of_schema(json!({"type": "object", "properties": {
            "n": {"type": "integer"}, "at": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "items": {"type": "string"}}}}));
        let settled = |outcome| RowResult::without_request(outcome);
        let rows = [
            settled(Outcome::Answer(Content::Text(
                r#"{"n":1,"at":"2026-01-01T00:00:00.000000Z","tags":["a","b"]}"#.into(),
            ))),
            settled(Outcome::Failed(Failure::new(Class::Refusal, "no"))),
            settled(Outcome::Skipped),
            settled(Outcome::Answer(Content::Text(r#"{"n":null,"at":null,"tags":[]}"#.into()))),
        ];
        for flat in [false, true] {
            let typed = Typed { shape: shape.clone().unwrap(), flat, keep_raw: true };
            let output = OutputColumns::new("o", &Form::Typed(typed), OnError::Text);
            let columns = output.arrays(&rows.iter()).unwrap();
            assert_eq!(columns.len(), output.columns().len());
            for (column, field) in columns.iter().zip(output.columns()) {
                assert_eq!(column.data_type(), field.data_type());
                assert_eq!(column.len(), 4);
            }
            let nulls = |name: &str| {
                let at = output.columns().iter().position(|field| field.name() == name).unwrap();
                (0..4).map(|row| columns[at].is_null(row)).collect::<Vec<_>>()
            };
            if flat {
                assert_eq!(nulls("o_n"), [false, true, true, true]);
                assert_eq!(nulls("o_tags"), [false, true, true, false]);
            } else {
                assert_eq!(nulls("o"), [false, true, true, false]);
            }
            assert_eq!(nulls("o_error"), [true, false, true, true]);
            let value = output.value_of(&columns[..output.value_columns().len()]).unwrap();
            assert_eq!(value.data_type(), output.value_field().data_type());
        }
    }
}

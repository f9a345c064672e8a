//! Rows of Arrow columns as values of a template.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use minijinja::Value;
use minijinja::value::{Enumerator, Object};

/// A record batch whose rows can be rendered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rows(Arc<RowData>);

#[derive(Debug)]
struct RowData {
    batch: RecordBatch,
    columns: HashMap<String, usize>,
}

impl Rows {
    /// Makes the rows of a record batch available to templates.
    #[must_use]
    pub fn new(batch: RecordBatch) -> Self {
        let columns = batch
            .schema_ref()
            .fields()
            .iter()
            .enumerate()
            .map(|(at, field)| (field.name().clone(), at))
            .collect();
        Rows(Arc::new(RowData { batch, columns }))
    }

    /// The record batch of the rows.
    #[must_use]
    pub fn batch(&self) -> &RecordBatch {
        &self.0.batch
    }

    /// Whether the row is null in a column.
    pub(super) fn is_null(&self, row: usize, column: usize) -> bool {
        self.0.batch.column(column).is_null(row)
    }

    pub(super) fn value(&self, row: usize, given: Vec<(Arc<str>, StepOutput)>) -> Value {
        Value::from_object(RowValue { rows: self.clone(), row, given })
    }
}

/// The output of an earlier step for a row.
#[derive(Clone, Debug)]
pub struct StepOutput {
    value: Value,
    is_null: bool,
}

impl StepOutput {
    /// Creates the value of a text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        StepOutput { value: Value::from(text), is_null: false }
    }

    /// Creates the value of a list of numbers.
    #[must_use]
    pub fn numbers(numbers: &[f32]) -> Self {
        StepOutput { value: numbers.iter().copied().map(Value::from).collect(), is_null: false }
    }

    /// Creates the value of a JSON document.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn json(text: &str) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        Ok(StepOutput { value: of_json(&value), is_null: false })
    }

    /// Creates the value of a cell.
    #[must_use]
    pub fn cell(column: &dyn Array, row: usize) -> Self {
        if column.is_null(row) {
            return StepOutput::nothing();
        }
        StepOutput { value: to_value(column, row), is_null: false }
    }

    /// An empty value. It renders as nothing, and so does every field of it.
    #[must_use]
    pub fn nothing() -> Self {
        StepOutput { value: Value::from_object(MissingOutput), is_null: true }
    }

    pub(super) fn is_null(&self) -> bool {
        self.is_null
    }
}

/// Returns the input of an example as the variables of a template. `row` stands for all of them.
pub(super) fn input_value(input: &serde_json::Map<String, serde_json::Value>) -> Value {
    let mut pairs: Vec<(Value, Value)> =
        input.iter().map(|(name, value)| (Value::from(name.as_str()), of_json(value))).collect();
    if !input.contains_key("row") {
        pairs.push((Value::from("row"), Value::from_object(Pairs(pairs.clone()))));
    }
    Value::from_object(Pairs(pairs))
}

fn of_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Value::from(whole),
            None => Value::from(number.as_f64()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(of_json).collect(),
        serde_json::Value::Object(fields) => {
            let pairs = fields.iter().map(|(name, value)| (Value::from(name.as_str()), of_json(value)));
            Value::from_object(Pairs(pairs.collect()))
        }
    }
}

/// The output of a step that gave the row none: it is false and renders as nothing, and so is each of its fields.
#[derive(Debug)]
struct MissingOutput;

impl Object for MissingOutput {
    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::from_dyn_object(Arc::clone(self)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

/// The variables of a template: the columns of one row, the outputs of earlier steps, and `row` for all columns.
#[derive(Debug)]
struct RowValue {
    rows: Rows,
    row: usize,
    given: Vec<(Arc<str>, StepOutput)>,
}

impl Object for RowValue {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let given =
            || self.given.iter().find(|(name, _)| **name == *key).map(|(_, given)| given.value.clone());
        match self.rows.0.columns.get(key) {
            Some(column) => Some(to_value(self.rows.0.batch.column(*column), self.row)),
            None => given().or_else(|| (key == "row").then(|| Value::from_dyn_object(Arc::clone(self)))),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = self.rows.0.batch.schema_ref().fields().iter();
        Enumerator::Values(names.map(|field| Value::from(field.name().as_str())).collect())
    }
}

/// The first of `columns` that holds binary data, also inside nested types.
pub(super) fn binary_column<'a>(schema: &'a Schema, columns: &[usize]) -> Option<&'a str> {
    let mut fields = columns.iter().map(|column| schema.field(*column));
    fields.find(|field| has_binary(field.data_type())).map(|field| field.name().as_str())
}

fn has_binary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            true
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_binary(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_binary(field.data_type())),
        DataType::Dictionary(_, values) => has_binary(values),
        _ => false,
    }
}

/// A cell as a template sees it: booleans and numbers as such; decimals, dates and times as text; lists as lists;
/// structs and maps as maps.
fn to_value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::from(());
    }
    match array.data_type() {
        DataType::Null => Value::from(()),
        DataType::Boolean => Value::from(array.as_boolean().value(row)),
        DataType::Int8 => Value::from(array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => Value::from(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => Value::from(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::from(array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => Value::from(array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => Value::from(array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float16 => Value::from(f32::from(array.as_primitive::<Float16Type>().value(row))),
        DataType::Float32 => Value::from(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::from(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::from(array.as_string_view().value(row)),
        DataType::List(_) => to_list(&array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => to_list(&array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => to_list(&array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns().iter();
            let pairs = fields.iter().zip(columns);
            let pairs =
                pairs.map(|(field, column)| (Value::from(field.name().as_str()), to_value(column, row)));
            Value::from_object(Pairs(pairs.collect()))
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let pairs = (0..entries.len()).map(|at| (to_value(keys, at), to_value(values, at)));
            Value::from_object(Pairs(pairs.collect()))
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            to_value(dictionary.values(), dictionary.normalized_keys()[row])
        }
        _ => ArrayFormatter::try_new(array, &FormatOptions::default())
            .map_or_else(|_| Value::from(()), |formatter| Value::from(formatter.value(row).to_string())),
    }
}

/// A struct or a map, in its own order.
#[derive(Debug)]
struct Pairs(Vec<(Value, Value)>);

impl Object for Pairs {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(name, _)| name.clone()).collect())
    }
}

fn to_list(array: &dyn Array) -> Value {
    (0..array.len()).map(|row| to_value(array, row)).collect()
}

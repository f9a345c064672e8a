//! Arguments of functions as Rust values, and lists of texts as their results.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::ColumnarValue;

/// Returns the type in which a function takes a text.
pub(super) fn text_type(function: &str, given: &DataType) -> Result<DataType> {
    match given {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(given.clone()),
        DataType::Null => Ok(DataType::Utf8),
        DataType::Dictionary(_, value) => text_type(function, value),
        _ => plan_err!("{function}: {given} is no text"),
    }
}

/// Returns the type in which a function takes bytes.
pub(super) fn bytes_type(function: &str, given: &DataType) -> Result<DataType> {
    match given {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Ok(given.clone()),
        DataType::FixedSizeBinary(_) | DataType::Null => Ok(DataType::Binary),
        DataType::Dictionary(_, value) => bytes_type(function, value),
        _ => plan_err!("{function}: {given} is no column of bytes, such as the content of a file"),
    }
}

/// Returns the texts of a column.
pub(super) fn texts(array: &ArrayRef) -> Result<Vec<Option<&str>>> {
    Ok(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().collect(),
        DataType::Utf8View => array.as_string_view().iter().collect(),
        other => return exec_err!("{other} is no text"),
    })
}

/// Returns the bytes of a column; those of a text are its UTF-8.
pub(super) fn bytes(array: &ArrayRef) -> Result<Vec<Option<&[u8]>>> {
    Ok(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().iter().collect(),
        DataType::LargeBinary => array.as_binary::<i64>().iter().collect(),
        DataType::BinaryView => array.as_binary_view().iter().collect(),
        _ => texts(array)?.into_iter().map(|text| text.map(str::as_bytes)).collect(),
    })
}

/// Returns what a function makes of its arguments: a column, or one value if they are single values.
pub(super) fn returned(
    arguments: &[ColumnarValue],
    work: impl FnOnce(&[ArrayRef]) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    let is_single = arguments.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
    let made = work(&ColumnarValue::values_to_arrays(arguments)?)?;
    Ok(if is_single {
        ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?)
    } else {
        ColumnarValue::Array(made)
    })
}

/// Size of the texts in a column, which Arrow's 32-bit offsets bound.
#[derive(Debug, Default)]
struct TextBudget(usize);

impl TextBudget {
    /// # Errors
    /// When the texts of the batch have two gigabytes.
    fn add(&mut self, text: &str) -> Result<()> {
        self.0 += text.len();
        if i32::try_from(self.0).is_ok() {
            return Ok(());
        }
        Err(DataFusionError::ResourcesExhausted(
            "the texts of one batch of rows have more than two gigabytes; a lower \
             datafusion.execution.batch_size makes smaller batches"
                .to_owned(),
        ))
    }
}

/// Returns a column of lists.
pub(super) fn lists<T: AsRef<str>>(rows: Vec<Option<Vec<T>>>) -> Result<ArrayRef> {
    let mut budget = TextBudget::default();
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in rows {
        for text in row.iter().flatten() {
            budget.add(text.as_ref())?;
            builder.values().append_value(text);
        }
        builder.append(row.is_some());
    }
    Ok(Arc::new(builder.finish()))
}

/// Returns a column of texts.
pub(super) fn column(rows: Vec<Option<String>>) -> Result<ArrayRef> {
    let mut budget = TextBudget::default();
    let mut builder = StringBuilder::new();
    for row in rows {
        budget.add(row.as_deref().unwrap_or_default())?;
        builder.append_option(row);
    }
    Ok(Arc::new(builder.finish()))
}

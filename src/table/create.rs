//! Making a table, and which Arrow types it can hold.

use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake::operations::create::CreateBuilder;

use super::open::{error_of, uri};
use super::{Table, TableError};

impl Table {
    /// Creates a table with these columns and properties.
    ///
    /// # Errors
    /// When it is there already or cannot be made.
    pub async fn create(
        path: &Path,
        schema: &Schema,
        properties: &[(&str, String)],
    ) -> Result<Table, TableError> {
        let action = "create";
        let kernel: StructType = schema.try_into_kernel().map_err(|source| TableError {
            action,
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let error = error_of(action, path);
        let location = uri(path).map_err(&error)?;
        let inner = CreateBuilder::new()
            .with_location(location.to_string())
            .with_columns(kernel.fields().cloned())
            .with_configuration(
                properties.iter().map(|(key, value)| ((*key).to_owned(), Some(value.clone()))),
            )
            .await
            .map_err(&error)?;
        Ok(Table::wrap(inner, path))
    }
}

/// The types that columns have once they went through a Delta table: every column nullable, strings and
/// lists in their plain forms, timestamps in microseconds.
///
/// # Errors
/// A description of the first column that Delta cannot hold.
pub fn delta_schema(schema: &Schema) -> Result<SchemaRef, String> {
    for field in schema.fields() {
        if let Some(found) = unsupported_type(field.data_type()) {
            return Err(format!(
                "column {:?} has the type {found}, which a Delta table cannot hold",
                field.name()
            ));
        }
    }
    let bare: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), true))
        .collect();
    let kernel: StructType = (&Schema::new(bare))
        .try_into_kernel()
        .map_err(|error| format!("cannot become a Delta schema: {error}"))?;
    let arrow: Schema =
        (&kernel).try_into_arrow().map_err(|error| format!("cannot become a Delta schema: {error}"))?;
    Ok(arrow.into())
}

/// The first type inside a type that a Delta table cannot hold without losing something.
#[must_use]
pub fn unsupported_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Boolean
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Millisecond | TimeUnit::Second, None) => None,
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Millisecond | TimeUnit::Second, Some(_)) => {
            None
        }
        DataType::Decimal128(_, scale) if *scale >= 0 => None,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => unsupported_type(field.data_type()),
        DataType::Struct(fields) => fields.iter().find_map(|field| unsupported_type(field.data_type())),
        DataType::Dictionary(_, values) => unsupported_type(values),
        other => Some(other.clone()),
    }
}

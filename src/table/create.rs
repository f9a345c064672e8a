//! Creates tables, and determines which Arrow types they can hold.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake::operations::create::CreateBuilder;

use super::store_access::{error_of, uri};
use super::{Table, TableError};
use crate::store::Location;

impl Table {
    /// Creates a table with these columns, partitioned by some of them, and these properties.
    ///
    /// # Errors
    /// When the table exists already or cannot be created.
    pub async fn create(
        at: impl Into<Location>,
        schema: &Schema,
        partitions: &[String],
        properties: &[(&str, String)],
    ) -> Result<Table, TableError> {
        let (action, at) = ("create", at.into());
        let kernel: StructType = schema.try_into_kernel().map_err(|source| TableError {
            action,
            at: at.clone(),
            source: Box::new(source),
        })?;
        let error = error_of(action, &at);
        let location = uri(&at).map_err(&error)?;
        CreateBuilder::new()
            .with_location(location.to_string())
            .with_columns(kernel.fields().cloned())
            .with_partition_columns(partitions)
            .with_configuration(
                properties.iter().map(|(key, value)| ((*key).to_owned(), Some(value.clone()))),
            )
            .await
            .map_err(&error)?;
        Table::open(at).await
    }
}

/// Returns the types that columns have after they went through a Delta table: every column nullable, strings and
/// lists in their plain forms, timestamps in microseconds, unsigned integers in the next larger signed type or a
/// decimal.
///
/// # Errors
/// A description of the first column that Delta cannot hold.
pub fn delta_schema(schema: &Schema) -> Result<SchemaRef, String> {
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let data_type = delta_type(field.data_type()).ok_or_else(|| {
            let (name, found) = (field.name(), field.data_type());
            format!("column {name:?} has the type {found}, which a Delta table cannot hold; name the columns that are carried in source.columns")
        })?;
        fields.push(Field::new(field.name(), data_type, true));
    }
    let lost = |error| format!("the columns cannot become those of a Delta table: {error}");
    let kernel: StructType = (&Schema::new(fields)).try_into_kernel().map_err(lost)?;
    // The log stores them as JSON, whose readers accept only a limited depth.
    let written = serde_json::to_string(&kernel).and_then(|text| serde_json::from_str::<StructType>(&text));
    written.map_err(|error| format!("the columns cannot be read back from a Delta log: {error}"))?;
    let arrow: Schema = (&kernel).try_into_arrow().map_err(lost)?;
    Ok(arrow.into())
}

/// Returns the type that holds every value of this one in a Delta table; `None` if there is none. Nanoseconds are
/// cut to microseconds.
fn delta_type(data_type: &DataType) -> Option<DataType> {
    let inner = |field: &Field| {
        delta_type(field.data_type()).map(|inner| Field::new(field.name(), inner, field.is_nullable()))
    };
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32 => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal128(_, scale) if *scale >= 0 => data_type.clone(),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            DataType::List(Arc::new(inner(field)?))
        }
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| inner(field)).collect::<Option<Fields>>()?)
        }
        DataType::Map(field, sorted) => DataType::Map(Arc::new(inner(field)?), *sorted),
        DataType::Dictionary(_, values) => delta_type(values)?,
        _ => return None,
    })
}

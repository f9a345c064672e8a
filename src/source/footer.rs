//! The footer of a Parquet file, and the types that its columns are read in.
//!
//! Writers keep their own Arrow schema in the footer, with types that say how they held the values: views, offsets of
//! 64 bits, dictionaries with keys of 8 bits. Here the Parquet types decide, and Arrow's are heeded only where they say
//! what a value is, as for a duration.

use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::errors::ParquetError;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::SourceError;
use super::file::{ByteStrings, Root, SourceFile};
use crate::store::Location;

/// Digits that Arrow's decimals of 128 bits, and Delta's, can have.
const MAX_DIGITS: u8 = 38;

/// The footer of a file. Blocks.
pub(super) fn footer(root: &Root, file: &str) -> Result<ArrowReaderMetadata, SourceError> {
    let path = root.place(file);
    let file = root.open(file).map_err(|error| SourceError::file(&path, error))?;
    metadata(&file, &path, root.byte_strings())
}

/// The footer of an open file; `path` is for messages.
pub(super) fn metadata(
    file: &SourceFile,
    path: &Location,
    bytes: ByteStrings,
) -> Result<ArrowReaderMetadata, SourceError> {
    load(file, bytes).map_err(|error| {
        SourceError::file(
            path,
            format!("it is no whole Parquet file (cut off, or still being written?): {error}"),
        )
    })
}

/// The footer of an open file.
pub(super) fn load(file: &SourceFile, bytes: ByteStrings) -> Result<ArrowReaderMetadata, ParquetError> {
    let plain = ArrowReaderMetadata::load(file, ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
    let of_file = Arc::clone(plain.metadata());
    let with = |options| ArrowReaderMetadata::try_new(Arc::clone(&of_file), options);
    // What the writer says of Arrow's types may be wrong, too.
    for read in [with(ArrowReaderOptions::new()).ok(), Some(plain)].into_iter().flatten() {
        let fields = retyped(read.schema(), read.parquet_schema(), bytes);
        if fields == *read.schema().fields() {
            return Ok(read);
        }
        let schema = Schema::new_with_metadata(fields, read.schema().metadata().clone());
        if let Ok(retyped) = with(ArrowReaderOptions::new().with_schema(Arc::new(schema))) {
            return Ok(retyped);
        }
    }
    with(ArrowReaderOptions::new().with_skip_arrow_metadata(true))
}

/// The columns in the types that they are read in.
fn retyped(schema: &Schema, parquet: &SchemaDescriptor, bytes: ByteStrings) -> Fields {
    let mut leaf = 0;
    schema.fields().iter().map(|field| of_field(field, parquet, &mut leaf, bytes)).collect()
}

/// `leaf` is the number of the first column of the file that the field consists of.
fn of_field(field: &FieldRef, parquet: &SchemaDescriptor, leaf: &mut usize, bytes: ByteStrings) -> FieldRef {
    let mut inner = |field: &FieldRef| of_field(field, parquet, leaf, bytes);
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(inner(item)),
        DataType::Map(entries, is_sorted) => DataType::Map(inner(entries), *is_sorted),
        other => {
            let column = (*leaf < parquet.num_columns()).then(|| parquet.column(*leaf));
            *leaf += 1;
            of_leaf(other, column.as_deref(), bytes)
        }
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

fn of_leaf(data_type: &DataType, column: Option<&ColumnDescriptor>, bytes: ByteStrings) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => of_leaf(values, column, bytes),
        DataType::RunEndEncoded(_, values) => of_leaf(values.data_type(), column, bytes),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
            if column.is_some_and(|column| is_text(column, bytes)) =>
        {
            DataType::Utf8
        }
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) => {
            DataType::Decimal128(*digits, *scale)
        }
        DataType::Decimal256(digits, scale) if *digits <= MAX_DIGITS => DataType::Decimal128(*digits, *scale),
        // 96 bits hold moments that no 64 bits of nanoseconds hold.
        DataType::Timestamp(TimeUnit::Nanosecond, zone)
            if column.is_some_and(|column| column.physical_type() == Type::INT96) =>
        {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        other => other.clone(),
    }
}

/// Whether a column of byte strings is text: an ENUM is ("ENUM" in Parquet's logical types).
fn is_text(column: &ColumnDescriptor, bytes: ByteStrings) -> bool {
    if column.physical_type() != Type::BYTE_ARRAY {
        return false;
    }
    match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Enum), _) | (None, ConvertedType::ENUM) => true,
        (None, ConvertedType::NONE) => bytes == ByteStrings::AsText,
        _ => false,
    }
}

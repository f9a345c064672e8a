//! Types of Arrow that Parquet or its writer lacks, brought into types that hold the same values: dictionaries and runs
//! into what they stand for, views into plain text and bytes, and unions, intervals and UUIDs into text.

use std::sync::Arc;

use ::arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray, UnionArray};
use ::arrow::compute::cast;
use ::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use ::arrow::error::ArrowError;
use ::arrow::record_batch::RecordBatch;
use ::arrow::util::display::{ArrayFormatter, FormatOptions};

/// Metadata by which a column of 16 bytes is one of UUIDs: Arrow's canonical extension type, and Avro's logical type.
const UUID: [(&str, &str); 2] = [("ARROW:extension:name", "arrow.uuid"), ("logicalType", "uuid")];
const UUID_BYTES: i32 = 16;

/// The columns of a file, as they are staged.
#[derive(Debug)]
pub(crate) struct ColumnConversion {
    from: SchemaRef,
    to: SchemaRef,
}

impl ColumnConversion {
    pub(crate) fn of(from: SchemaRef) -> Self {
        let to = Arc::new(Schema::new(carried_fields(from.fields())));
        ColumnConversion { from, to }
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.to
    }

    /// Brings rows into the types in which they are staged.
    ///
    /// # Errors
    /// With the column that cannot be carried.
    pub(crate) fn carry(&self, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let pairs = self.from.fields().iter().zip(self.to.fields());
        let columns = pairs.zip(rows.columns()).map(|((from, to), column)| {
            carry(column, from, to).map_err(|error| {
                let (name, data_type) = (from.name(), from.data_type());
                format!("the column {name:?} has the type {data_type}, which is not read: {error}")
            })
        });
        let columns = columns.collect::<Result<_, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.to), columns).map_err(|error| error.to_string())
    }
}

fn carried_fields(fields: &Fields) -> Fields {
    fields.iter().map(carried_field).collect()
}

fn carried_field(field: &FieldRef) -> FieldRef {
    let data_type = match is_uuid(field) {
        true => DataType::Utf8,
        false => carried_type(field.data_type()),
    };
    if data_type == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), data_type, true))
}

fn carried_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => carried_type(values),
        DataType::RunEndEncoded(_, values) => carried_type(values.data_type()),
        DataType::Utf8View | DataType::Union(..) | DataType::Interval(_) => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Struct(fields) => DataType::Struct(carried_fields(fields)),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(carried_field(item)),
        DataType::Map(entries, is_sorted) => DataType::Map(carried_field(entries), *is_sorted),
        other => other.clone(),
    }
}

fn is_uuid(field: &Field) -> bool {
    let is_named =
        |(key, value): &(&str, &str)| field.metadata().get(*key).is_some_and(|found| found == value);
    *field.data_type() == DataType::FixedSizeBinary(UUID_BYTES) && UUID.iter().any(is_named)
}

fn carry(array: &ArrayRef, from: &Field, to: &Field) -> Result<ArrayRef, ArrowError> {
    if from.data_type() == to.data_type() {
        return Ok(Arc::clone(array));
    }
    match (from.data_type(), to.data_type()) {
        (DataType::Union(..), _) => text_of_union(array.as_union()),
        (DataType::FixedSizeBinary(_), DataType::Utf8) => Ok(text_of_uuids(array)),
        (DataType::Struct(before), DataType::Struct(after)) => {
            let array = array.as_struct();
            let pairs = before.iter().zip(after).zip(array.columns());
            let columns = pairs.map(|((from, to), column)| carry(column, from, to));
            let columns = columns.collect::<Result<_, _>>()?;
            Ok(Arc::new(StructArray::try_new(after.clone(), columns, array.nulls().cloned())?))
        }
        (DataType::List(before), DataType::List(after)) => {
            let array = array.as_list::<i32>();
            let values = carry(array.values(), before, after)?;
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(after), offsets, values, nulls)?))
        }
        (_, to) => cast(array, to),
    }
}

/// Returns the values of a union as text, whichever of its types each has.
fn text_of_union(array: &UnionArray) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let texts = (0..array.len()).map(|row| {
        let (child, at) = (array.child(array.type_id(row)), array.value_offset(row));
        if child.is_null(at) || *child.data_type() == DataType::Null {
            return Ok(None);
        }
        Ok(Some(ArrayFormatter::try_new(child, &options)?.value(at).try_to_string()?))
    });
    Ok(Arc::new(texts.collect::<Result<StringArray, ArrowError>>()?))
}

fn text_of_uuids(array: &ArrayRef) -> ArrayRef {
    let text = |bytes: &[u8]| uuid::Uuid::from_slice(bytes).ok().map(|uuid| uuid.to_string());
    let texts = array.as_fixed_size_binary().iter().map(|bytes| bytes.and_then(text));
    Arc::new(texts.collect::<StringArray>())
}

//! Conversion of a file's columns to those of its table.
//!
//! Columns are found by name, or by the name or id that a Delta table's column mapping gives them, in nested types too.
//! A column that the file lacks is null. A column of another type is cast; a value that does not fit is an error.

use std::sync::Arc;

use ::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use ::arrow::compute::{CastOptions, cast_with_options};
use ::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use ::arrow::error::ArrowError;

use crate::table::physical_name;

/// Key under which Delta stores the id of a column in the files ("Column Mapping" in the Delta protocol).
const COLUMN_ID: &str = "delta.columnMapping.id";
/// Key under which the Parquet reader stores the id of a file's column.
const FIELD_ID: &str = "PARQUET:field_id";

/// Returns the columns without the metadata of Delta and Parquet, for tables that are made from them.
pub(super) fn logical(fields: &Fields) -> Fields {
    fields.iter().map(plain).collect()
}

fn plain(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(logical(fields)),
        DataType::List(item) => DataType::List(plain(item)),
        DataType::Map(entries, is_sorted) => DataType::Map(plain(entries), *is_sorted),
        other => other.clone(),
    };
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, _| !key.starts_with("delta.") && !key.starts_with("PARQUET:"));
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_metadata(metadata))
}

/// Returns the file's column for a column of the table, or `None` if the file lacks it.
pub(super) fn find<'a>(fields: &Fields, columns: &'a [ArrayRef], column: &Field) -> Option<&'a ArrayRef> {
    Some(&columns[place(fields, column)?])
}

/// Returns the index of that column in the file: found by its name, else by its id, else by its name in any case, since
/// Delta's names are case-insensitive.
pub(super) fn place(fields: &Fields, column: &Field) -> Option<usize> {
    let id = column.metadata().get(COLUMN_ID);
    let has_id = |field: &FieldRef| id.is_some() && field.metadata().get(FIELD_ID) == id;
    let name = physical_name(column);
    let is_same = |field: &FieldRef| is_same_name(field.name(), name);
    let named = fields.iter().position(|field| field.name() == name);
    named.or_else(|| fields.iter().position(has_id)).or_else(|| fields.iter().position(is_same))
}

/// Whether two names are equal or differ only in case.
pub(super) fn is_same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!(a.is_ascii() && b.is_ascii()) && a.to_lowercase() == b.to_lowercase())
}

/// Returns two columns of a file whose names differ from the given one only in case, if none matches exactly.
pub(super) fn ambiguous<'a>(fields: &'a Fields, column: &Field) -> Option<(&'a str, &'a str)> {
    let name = physical_name(column);
    let place = place(fields, column)?;
    let found = fields[place].name();
    let other = fields.iter().skip(place + 1).find(|field| is_same_name(field.name(), name))?;
    (found != name && is_same_name(found, name)).then_some((found, other.name()))
}

/// Converts a column of a file to the type `to`. `noted` is the table's column with its metadata, by which nested
/// columns are found.
pub(super) fn conform(array: &ArrayRef, noted: &Field, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), noted.data_type(), to) {
        (DataType::Struct(own), DataType::Struct(noted), DataType::Struct(to)) => {
            let array = array.as_struct();
            let column = |(noted, to): (&FieldRef, &FieldRef)| match find(own, array.columns(), noted) {
                Some(column) => conform(column, noted, to.data_type()),
                None => Ok(new_null_array(to.data_type(), array.len())),
            };
            let columns = noted.iter().zip(to).map(column).collect::<Result<Vec<_>, _>>()?;
            let nulls = array.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(to.clone(), columns, nulls, array.len())?))
        }
        (DataType::List(_), DataType::List(noted), DataType::List(to)) => {
            let list = array.as_list::<i32>();
            let values = conform(list.values(), noted, to.data_type())?;
            let nulls = list.nulls().cloned();
            Ok(Arc::new(ListArray::try_new(Arc::clone(to), list.offsets().clone(), values, nulls)?))
        }
        (DataType::Map(..), DataType::Map(noted, _), DataType::Map(to, is_sorted)) => {
            let (DataType::Struct(noted), DataType::Struct(fields)) = (noted.data_type(), to.data_type())
            else {
                return cast(array, &DataType::Map(Arc::clone(to), *is_sorted));
            };
            let map = array.as_map();
            let sides = [map.keys(), map.values()].into_iter().zip(noted.iter().zip(fields));
            let sides = sides.map(|(side, (noted, to))| conform(side, noted, to.data_type()));
            let entries = StructArray::try_new(fields.clone(), sides.collect::<Result<_, _>>()?, None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(to), offsets, entries, nulls, *is_sorted)?))
        }
        _ => cast(array, to),
    }
}

pub(super) fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options)
}

#[cfg(test)]
mod tests {
    use ::arrow::array::{Int32Array, Int64Array, StringArray};

    use super::*;

    const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";

    fn mapped(name: &str, physical: &str, data_type: DataType) -> FieldRef {
        let noted = [(PHYSICAL_NAME, physical), (COLUMN_ID, "7")];
        let noted = noted.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Arc::new(Field::new(name, data_type, true).with_metadata(noted.into()))
    }

    #[test]
    fn nested_columns_are_found_by_their_mapped_names_and_what_lacks_is_null() {
        let inner: Fields = vec![Field::new("col-2", DataType::Int32, true)].into();
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let file: ArrayRef = Arc::new(StructArray::new(inner, vec![numbers], None));
        let noted = mapped(
            "person",
            "col-1",
            DataType::Struct(
                vec![mapped("age", "col-2", DataType::Int64), mapped("name", "col-3", DataType::Utf8)].into(),
            ),
        );
        let to = plain(&noted);
        assert!(to.metadata().is_empty());
        let conformed = conform(&file, &noted, to.data_type()).unwrap();
        let conformed = conformed.as_struct();
        assert_eq!(conformed.column_names(), ["age", "name"]);
        assert_eq!(conformed.column(0).as_ref(), &Int64Array::from(vec![1, 2]) as &dyn Array);
        assert_eq!(conformed.column(1).null_count(), 2);
    }

    #[test]
    fn a_column_that_was_renamed_in_the_files_is_found_by_its_id() {
        let id = [(FIELD_ID.to_owned(), "7".to_owned())].into();
        let fields: Fields = vec![Field::new("old", DataType::Utf8, true).with_metadata(id)].into();
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["x"]))];
        assert!(find(&fields, &columns, &mapped("new", "col-9", DataType::Utf8)).is_some());
        assert!(find(&fields, &columns, &Field::new("new", DataType::Utf8, true)).is_none());
    }
}

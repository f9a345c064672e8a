//! Merges the types of a column that differ between files.
//!
//! The column gets the widest of its types, by the rules of Delta's type widening; a file that lacks it has nulls.

use std::sync::Arc;

use ::arrow::datatypes::{DataType, FieldRef, Fields, TimeUnit};

use super::conform::is_same_name;

/// Two types for which no type holds the values of both.
pub(super) type TypeMismatch = (DataType, DataType);

/// Returns the merged fields, those of the first set in front.
fn merge(fields: &Fields, others: &Fields) -> Result<Fields, TypeMismatch> {
    let named =
        |fields: &Fields, name: &str| fields.iter().find(|field| is_same_name(field.name(), name)).cloned();
    let mut merged: Vec<FieldRef> = Vec::with_capacity(fields.len());
    for field in fields {
        merged.push(match named(others, field.name()) {
            Some(other) => merge_field(field, &other)?,
            None => Arc::new(field.as_ref().clone().with_nullable(true)),
        });
    }
    let added = others.iter().filter(|other| named(fields, other.name()).is_none());
    merged.extend(added.map(|field| -> FieldRef { Arc::new(field.as_ref().clone().with_nullable(true)) }));
    Ok(merged.into())
}

/// Returns a column that holds the values of both, with the name of the first.
///
/// # Errors
/// When no type holds the values of both. The error names the type of the second column and that of the first, or the
/// types of the nested columns that differ.
pub(super) fn merge_field(field: &FieldRef, other: &FieldRef) -> Result<FieldRef, TypeMismatch> {
    let mismatch = || (other.data_type().clone(), field.data_type().clone());
    let merged = widest(field.data_type(), other.data_type())?.ok_or_else(mismatch)?;
    Ok(Arc::new(field.as_ref().clone().with_data_type(nullable(&merged)).with_nullable(true)))
}

/// Returns the type with columns in structs and lists nullable, since a file may lack them.
pub(super) fn nullable(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| -> FieldRef {
        Arc::new(field.as_ref().clone().with_data_type(nullable(field.data_type())).with_nullable(true))
    };
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item) => DataType::List(inner(item)),
        other => other.clone(),
    }
}

/// Returns the type that holds the values of both, or `None` if there is none.
fn widest(a: &DataType, b: &DataType) -> Result<Option<DataType>, TypeMismatch> {
    let rank = |data_type: &DataType| match data_type {
        DataType::Int8 => Some(1),
        DataType::Int16 => Some(2),
        DataType::Int32 => Some(3),
        DataType::Int64 => Some(4),
        _ => None,
    };
    let is_float = |data_type: &DataType| matches!(data_type, DataType::Float32 | DataType::Float64);
    Ok(match (a, b) {
        _ if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        (DataType::Struct(a), DataType::Struct(b)) => Some(DataType::Struct(merge(a, b)?)),
        (DataType::List(a), DataType::List(b)) => Some(DataType::List(merge_field(a, b)?)),
        (DataType::Date32, ntz @ DataType::Timestamp(TimeUnit::Microsecond, None))
        | (ntz @ DataType::Timestamp(TimeUnit::Microsecond, None), DataType::Date32) => Some(ntz.clone()),
        (DataType::Decimal128(p, s), DataType::Decimal128(q, t)) => {
            let scale = (*s).max(*t);
            let whole = (i16::from(*p) - i16::from(*s)).max(i16::from(*q) - i16::from(*t));
            let precision = u8::try_from(whole + i16::from(scale)).ok().filter(|precision| *precision <= 38);
            precision.map(|precision| DataType::Decimal128(precision, scale))
        }
        _ => match (rank(a), rank(b)) {
            (Some(first), Some(second)) => Some(if first > second { a.clone() } else { b.clone() }),
            // A double holds every 32-bit integer exactly.
            (Some(..=3), None) if is_float(b) => Some(DataType::Float64),
            (None, Some(..=3)) if is_float(a) => Some(DataType::Float64),
            (None, None) if is_float(a) && is_float(b) => Some(DataType::Float64),
            _ => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use ::arrow::datatypes::Field;

    use super::*;

    fn merged(a: DataType, b: DataType) -> Result<DataType, TypeMismatch> {
        let fields = |data_type| Fields::from(vec![Field::new("x", data_type, true)]);
        let forth = merge(&fields(a.clone()), &fields(b.clone()));
        let back = merge(&fields(b), &fields(a));
        assert_eq!(forth.is_ok(), back.is_ok());
        if let (Ok(forth), Ok(back)) = (&forth, &back) {
            assert_eq!(forth, back, "the order does not matter");
        }
        forth.map(|fields| fields[0].data_type().clone())
    }

    #[test]
    fn a_column_has_the_widest_of_its_types() {
        let ntz = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (a, b, expected) in [
            (DataType::Int32, DataType::Int64, DataType::Int64),
            (DataType::Int8, DataType::Int16, DataType::Int16),
            (DataType::Int16, DataType::Float32, DataType::Float64),
            (DataType::Float32, DataType::Float64, DataType::Float64),
            (DataType::Date32, ntz.clone(), ntz),
            (DataType::Null, DataType::Utf8, DataType::Utf8),
            (DataType::Decimal128(10, 2), DataType::Decimal128(8, 4), DataType::Decimal128(12, 4)),
        ] {
            assert_eq!(merged(a, b), Ok(expected));
        }
        for (a, b) in [
            (DataType::Int64, DataType::Float64),
            (DataType::Utf8, DataType::Int64),
            (DataType::Decimal128(38, 0), DataType::Decimal128(4, 4)),
        ] {
            assert_eq!(merged(a.clone(), b.clone()), Err((b, a)));
        }
    }

    #[test]
    fn nested_columns_are_merged_too_and_new_ones_come_last() {
        let inner = |name: &str, data_type| DataType::Struct(vec![Field::new(name, data_type, true)].into());
        let first: Fields =
            vec![Field::new("p", inner("a", DataType::Int32), true), Field::new("q", DataType::Utf8, true)]
                .into();
        let second: Fields =
            vec![Field::new("r", DataType::Utf8, true), Field::new("p", inner("b", DataType::Utf8), true)]
                .into();
        let merged = merge(&first, &second).unwrap();
        let names: Vec<&str> = merged.iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["p", "q", "r"]);
        let DataType::Struct(inner) = merged[0].data_type() else { panic!("{merged:?}") };
        assert_eq!(inner.len(), 2);
    }
}

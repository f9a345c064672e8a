//! The merged columns of a set of Parquet files, and the columns that a target cannot hold.

use std::collections::HashSet;
use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};

use super::merge::{merge_field, nullable};
use crate::config::OnUnsupported;
use crate::store::Location;
use crate::table::delta_schema;

/// Most nesting levels of a column's type. Delta's log stores the columns as JSON, of which its readers accept about
/// 128 levels (serde_json's limit); each level of a type takes three of them.
const MAX_NESTING: usize = 32;

/// A column that a target cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnsupportedColumn {
    pub(super) name: String,
    /// The file in which it was found.
    file: Location,
    why: String,
}

impl std::fmt::Display for UnsupportedColumn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the column {:?}, which {} in {}", self.name, self.why, self.file)
    }
}

/// The columns of the files that were added so far.
#[derive(Debug)]
pub(super) struct MergedColumns {
    on_unsupported: OnUnsupported,
    fields: Vec<FieldRef>,
    unsupported: Vec<UnsupportedColumn>,
}

impl MergedColumns {
    pub(super) fn new(on_unsupported: OnUnsupported) -> Self {
        MergedColumns { on_unsupported, fields: Vec::new(), unsupported: Vec::new() }
    }

    /// Adds the columns of a file.
    pub(super) fn add(&mut self, fields: &Fields, file: &Location) {
        let mut seen = HashSet::new();
        for field in fields {
            let name = field.name();
            if self.unsupported.iter().any(|other| other.name.eq_ignore_ascii_case(name)) {
                continue;
            }
            if !seen.insert(name.to_lowercase()) {
                let others = fields.iter().map(|field| field.name());
                let twins: Vec<String> = others
                    .filter(|other| other.eq_ignore_ascii_case(name))
                    .map(|name| format!("{name:?}"))
                    .collect();
                self.leave_out(
                    name,
                    file,
                    format!("a target cannot tell from others of its name ({})", twins.join(", ")),
                );
                continue;
            }
            let depth = depth(field.data_type());
            if depth > MAX_NESTING {
                let why = format!("is nested {depth} deep, which is deeper than a Delta table holds,");
                self.leave_out(name, file, why);
                continue;
            }
            let carried = carried(field.data_type(), self.on_unsupported);
            let carried = match carried {
                Ok(carried) => Arc::new(field.as_ref().clone().with_data_type(carried)),
                Err(other) => {
                    self.leave_out(
                        name,
                        file,
                        format!("has the type {other}, which a Delta table cannot hold,"),
                    );
                    continue;
                }
            };
            match self.fields.iter().position(|known| known.name().eq_ignore_ascii_case(name)) {
                None => self.fields.push(Arc::new(
                    carried
                        .as_ref()
                        .clone()
                        .with_data_type(nullable(carried.data_type()))
                        .with_nullable(true),
                )),
                Some(at) => match merge_field(&self.fields[at], &carried) {
                    Ok(merged) => self.fields[at] = merged,
                    Err(_)
                        if self.on_unsupported == OnUnsupported::Text
                            && is_plain(&self.fields[at])
                            && is_plain(&carried) =>
                    {
                        self.fields[at] = Arc::new(Field::new(self.fields[at].name(), DataType::Utf8, true));
                    }
                    Err((here, elsewhere)) => {
                        self.leave_out(
                            name,
                            file,
                            format!("has the type {elsewhere} in other files and {here}"),
                        );
                    }
                },
            }
        }
    }

    fn leave_out(&mut self, name: &str, file: &Location, why: String) {
        self.fields.retain(|field| !field.name().eq_ignore_ascii_case(name));
        self.unsupported.push(UnsupportedColumn { name: name.to_owned(), file: file.clone(), why });
    }

    /// Returns the columns that can be carried, and those that cannot.
    ///
    /// # Errors
    /// When the merged columns cannot be the columns of a Delta table.
    pub(super) fn finish(self) -> Result<(Fields, Vec<UnsupportedColumn>), String> {
        let typed = self
            .fields
            .iter()
            .map(|field| Arc::new(field.as_ref().clone().with_data_type(typed(field.data_type()))));
        let schema = delta_schema(&Schema::new(typed.collect::<Vec<_>>()))?;
        Ok((schema.fields().clone(), self.unsupported))
    }
}

fn is_plain(field: &Field) -> bool {
    !field.data_type().is_nested()
}

/// Returns the number of nesting levels of a type: 1 if it is not nested.
fn depth(data_type: &DataType) -> usize {
    let inner: Box<dyn Iterator<Item = &FieldRef>> = match data_type {
        DataType::Struct(fields) => Box::new(fields.iter()),
        DataType::List(item) | DataType::Map(item, _) => Box::new(std::iter::once(item)),
        _ => return 1,
    };
    1 + inner.map(|field| depth(field.data_type())).max().unwrap_or_default()
}

/// Returns the type that a target has for a column. A column without any value keeps the type `Null` until a file with
/// values decides it.
///
/// # Errors
/// The type, the column's own or one nested in it, that no target can hold.
fn carried(data_type: &DataType, on_unsupported: OnUnsupported) -> Result<DataType, DataType> {
    let inner = |field: &FieldRef| -> Result<FieldRef, DataType> {
        Ok(Arc::new(field.as_ref().clone().with_data_type(carried(field.data_type(), on_unsupported)?)))
    };
    match data_type {
        DataType::Null => Ok(DataType::Null),
        DataType::Struct(fields) => Ok(DataType::Struct(fields.iter().map(inner).collect::<Result<_, _>>()?)),
        DataType::List(item) => Ok(DataType::List(inner(item)?)),
        DataType::Map(entries, is_sorted) => Ok(DataType::Map(inner(entries)?, *is_sorted)),
        plain => match delta_schema(&Schema::new(vec![Field::new("x", plain.clone(), true)])) {
            Ok(schema) => Ok(schema.field(0).data_type().clone()),
            Err(_) if on_unsupported == OnUnsupported::Text => Ok(DataType::Utf8),
            Err(_) => Err(plain.clone()),
        },
    }
}

/// Returns the type with `Null`, which is left where no file had a value, replaced by text.
fn typed(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| -> FieldRef {
        Arc::new(field.as_ref().clone().with_data_type(typed(field.data_type())))
    };
    match data_type {
        DataType::Null => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::Map(entries, is_sorted) => DataType::Map(inner(entries), *is_sorted),
        other => other.clone(),
    }
}

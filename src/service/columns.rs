//! What posted rows have to look like, and the columns that they get.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, MutableArrayData, make_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::error::ServiceError;
use super::keys::{self, KEY_COLUMN};
use crate::config::{Job, nearest};
use crate::enricher::needed_columns;
use crate::ident::{Fingerprint, RunId};
use crate::sink::ServedColumns;

/// Rows of a batch in the columns that the steps read, with their keys.
#[derive(Debug)]
pub(super) struct PostedRows {
    pub(super) rows: RecordBatch,
    pub(super) keys: Vec<u64>,
    /// Hash of the rows and their keys.
    pub(super) content: Fingerprint,
}

/// The columns of a service. The rows that come first decide about the types of what the steps read.
#[derive(Debug)]
pub(super) struct Columns {
    job: Arc<Job>,
    run: RunId,
    /// The columns that the steps read.
    read: Mutex<Option<SchemaRef>>,
    /// Schemas of rows that fit the job, with the columns that they get.
    fitting: Mutex<Vec<(SchemaRef, Arc<ServedColumns>)>>,
}

/// Most schemas that are remembered.
const MOST_FITTING: usize = 16;

impl Columns {
    pub(super) fn new(job: Arc<Job>, run: RunId) -> Self {
        Columns { job, run, read: Mutex::default(), fitting: Mutex::default() }
    }

    /// Returns the columns that rows of this schema get.
    ///
    /// # Errors
    /// When rows of this schema do not fit the job, or lack a column that earlier ones had and the steps read.
    pub(super) fn fit(&self, schema: &SchemaRef) -> Result<Arc<ServedColumns>, ServiceError> {
        let mut fitting = self.fitting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, columns)) = fitting.iter().find(|(known, _)| known == schema) {
            return Ok(Arc::clone(columns));
        }
        let wrong = |error: &dyn std::fmt::Display| ServiceError::Rows(error.to_string());
        let own: Vec<FieldRef> =
            schema.fields().iter().filter(|field| field.name() != KEY_COLUMN).cloned().collect();
        let own = Schema::new(own);
        let needed = needed_columns(&self.job, &own).map_err(|error| wrong(&error))?;
        let columns = ServedColumns::new(&self.job, &own, self.run).map_err(|error| wrong(&error))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            None => {
                let fields = needed.iter().map(|at| own.field(*at).clone().with_nullable(true));
                *read = Some(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
            }
            Some(read) => {
                read.fields().iter().try_for_each(|field| place(field, &own).map(drop))?;
            }
        }
        let columns = Arc::new(columns);
        if fitting.len() == MOST_FITTING {
            fitting.remove(0);
        }
        fitting.push((Arc::clone(schema), Arc::clone(&columns)));
        Ok(columns)
    }

    /// The columns that the steps read, or `None` before the first rows.
    pub(super) fn read(&self) -> Option<SchemaRef> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what the steps read of rows, and the rows' keys.
    ///
    /// # Errors
    /// As [`Columns::fit`], and when a value or a key cannot be read.
    pub(super) fn take(&self, rows: &RecordBatch) -> Result<PostedRows, ServiceError> {
        self.fit(&rows.schema())?;
        let read = self.read().expect("rows that fit decide about the columns");
        let wrong = |error: ArrowError| ServiceError::Rows(error.to_string());
        let schema = rows.schema();
        let column = |field: &FieldRef| -> Result<ArrayRef, ServiceError> {
            let column = rows.column(place(field, &schema)?);
            if column.data_type() == field.data_type() {
                return copy_of(column).map_err(wrong);
            }
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let to = |column: &ArrayRef, target: &DataType| {
                let cast = cast_with_options(column, target, &strict);
                cast.map_err(|error| ServiceError::Rows(format!("column {:?}: {error}", field.name())))
            };
            let cast = to(column, field.data_type())?;
            if to(&cast, column.data_type())?.as_ref() != column.as_ref() {
                return Err(ServiceError::Rows(format!(
                    "column {:?} is {} and has values that {} of the rows that came first cannot hold; cast it, or start another service",
                    field.name(),
                    column.data_type(),
                    field.data_type()
                )));
            }
            Ok(cast)
        };
        let columns = read.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let own = RecordBatch::try_new_with_options(read, columns, &count).map_err(wrong)?;
        let named = rows.column_by_name(KEY_COLUMN).map(AsRef::as_ref);
        let (keys, content) = keys::keys(&own, named).map_err(wrong)?;
        Ok(PostedRows { rows: own, keys, content })
    }
}

/// Returns a column in memory of its own: that of a body holds the whole body.
fn copy_of(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = column.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len())?;
    Ok(make_array(copy.freeze()))
}

/// Whether values of one type mean the same in the other: texts, numbers, times, bytes, and lists of them.
fn is_alike(first: &DataType, here: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Dictionary, FixedSizeBinary, LargeBinary, LargeList, LargeUtf8, List, Timestamp,
        Utf8, Utf8View,
    };
    match (first, here) {
        (first, here) if first == here => true,
        (Dictionary(_, first), here) => is_alike(first, here),
        (first, Dictionary(_, here)) => is_alike(first, here),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View)
        | (Timestamp(..), Timestamp(..))
        | (
            Binary | LargeBinary | BinaryView | FixedSizeBinary(_),
            Binary | LargeBinary | BinaryView | FixedSizeBinary(_),
        ) => true,
        (List(first) | LargeList(first), List(here) | LargeList(here)) => {
            is_alike(first.data_type(), here.data_type())
        }
        (first, here) => first.is_numeric() && here.is_numeric(),
    }
}

/// Returns where rows have a column, in a type that can become that of the first rows.
fn place(field: &FieldRef, rows: &Schema) -> Result<usize, ServiceError> {
    let name = field.name();
    let Ok(at) = rows.index_of(name) else {
        let near = nearest(name, rows.fields().iter().map(|field| field.name().as_str()));
        let near = near.map_or_else(String::new, |near| format!(" Did you mean {near:?}?"));
        return Err(ServiceError::Rows(format!(
            "the rows have no column {name:?}, which a step reads.{near}"
        )));
    };
    let (first, here) = (field.data_type(), rows.field(at).data_type());
    match is_alike(first, here) {
        true => Ok(at),
        false => Err(ServiceError::Rows(format!(
            "column {name:?} is {here}, and was {first} in the rows that came first; cast it, or start another service"
        ))),
    }
}

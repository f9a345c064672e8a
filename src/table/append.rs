//! Appends rows: data files first, then one commit that names them.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::record_batch::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};

use super::known_txns::Txn;
use super::store_access::error_of;
use super::{Table, TableError};
use crate::store::Location;

/// Maximum numbers of rows and of encoded bytes in a row group. They bound the writer's memory.
const ROW_GROUP_ROWS: usize = 131_072;
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Returns how files with these columns are encoded.
#[must_use]
pub fn writer_properties(columns: &Schema) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES));
    let mut vectors = Vec::new();
    columns.fields().iter().for_each(|field| find_vectors(field, &mut Vec::new(), &mut vectors));
    for path in vectors {
        // No two numbers of vectors are equal, and nobody looks for the smallest.
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    properties.build()
}

/// Adds the Parquet paths of the lists of floats in a column below `parents`.
fn find_vectors(field: &Field, parents: &mut Vec<String>, found: &mut Vec<ColumnPath>) {
    parents.push(field.name().clone());
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().for_each(|field| find_vectors(field, parents, found)),
        DataType::List(element) | DataType::LargeList(element) if element.data_type().is_floating() => {
            let leaf = ["list".to_owned(), element.name().clone()];
            found.push(ColumnPath::new(parents.iter().cloned().chain(leaf).collect()));
        }
        _ => {}
    }
    parents.pop();
}

/// Data files that no commit names yet. If none ever does, VACUUM removes them.
#[derive(Debug, Default)]
pub struct Staged {
    pub(super) adds: Vec<Add>,
}

impl Staged {
    /// Adds the files of another.
    pub fn absorb(&mut self, other: Staged) {
        self.adds.extend(other.adds);
    }

    /// Adds the smallest and largest value of an integer column inside a struct to the files'
    /// statistics. (deltalake 1.1 matches `delta.dataSkippingStatsColumns` against the last part of a
    /// column's path only, and so leaves nested columns out.)
    fn add_nested_statistics(
        &mut self,
        parent: &str,
        column: &str,
        seen: &ColumnBounds,
    ) -> Result<(), serde_json::Error> {
        let Some((min, max)) = seen.bounds else { return Ok(()) };
        // Which of the files holds the nulls is not known.
        let nulls = (!seen.has_null).then_some(0);
        for add in &mut self.adds {
            let mut stats: Map<String, Value> =
                add.stats.as_deref().map_or_else(|| Ok(Map::new()), serde_json::from_str)?;
            for (kind, value) in [("minValues", Some(min)), ("maxValues", Some(max)), ("nullCount", nulls)] {
                let Some(value) = value else { continue };
                let columns = stats.entry(kind).or_insert_with(|| json!({}));
                if let Some(columns) = columns.as_object_mut() {
                    let nested = columns.entry(parent).or_insert_with(|| json!({}));
                    nested[column] = json!(value);
                }
            }
            add.stats = Some(serde_json::to_string(&stats)?);
        }
        Ok(())
    }
}

/// What a commit does when another commit has taken its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rebase {
    /// Goes on top of the other commit. Right for appends.
    Yes,
    /// Fails. deltalake 1.1 does not notice that a compaction removed a file that this commit removes too, and both
    /// would add its rows.
    No,
}

/// Data files that are being written.
#[derive(Debug)]
pub struct Staging {
    pub(super) writer: RecordBatchWriter,
    pub(super) at: Location,
    /// Size in bytes at which a file ends and another one begins.
    pub(super) file_bytes: u64,
    /// An integer column inside a struct whose bounds go into the statistics, and its bounds in the open files.
    pub(super) counted: Option<BoundedColumn>,
    pub(super) staged: Staged,
}

/// A struct column and an integer column in it, with the values of the open files.
#[derive(Debug)]
pub(super) struct BoundedColumn {
    parent: String,
    column: String,
    seen: ColumnBounds,
}

/// The smallest and largest value of a column, if it has any, and whether it has a null.
#[derive(Debug, Default)]
struct ColumnBounds {
    bounds: Option<(i32, i32)>,
    has_null: bool,
}

impl BoundedColumn {
    fn see(&mut self, rows: &RecordBatch) {
        let parent = rows.column_by_name(&self.parent).and_then(|column| column.as_struct_opt());
        let column = parent.and_then(|parent| parent.column_by_name(&self.column));
        let Some(values) = column.and_then(|column| column.as_primitive_opt::<Int32Type>()) else { return };
        let is_null = |at: usize| parent.is_some_and(|parent| parent.is_null(at)) || values.is_null(at);
        for at in 0..rows.num_rows() {
            if is_null(at) {
                self.seen.has_null = true;
                continue;
            }
            let value = values.value(at);
            let (min, max) = self.seen.bounds.unwrap_or((value, value));
            self.seen.bounds = Some((min.min(value), max.max(value)));
        }
    }
}

impl Staging {
    /// Adds the smallest and largest value of an integer column inside a struct to the statistics of the files to
    /// write.
    #[must_use]
    pub fn counting(mut self, parent: &str, column: &str) -> Self {
        self.counted = Some(BoundedColumn {
            parent: parent.to_owned(),
            column: column.to_owned(),
            seen: ColumnBounds::default(),
        });
        self
    }

    /// Encodes rows with the table's columns, and streams the encoded data to storage.
    ///
    /// # Errors
    /// When the rows do not fit the columns or a file cannot be written.
    pub async fn write(&mut self, rows: RecordBatch) -> Result<(), TableError> {
        if let Some(counted) = &mut self.counted {
            counted.see(&rows);
        }
        self.writer.write(rows).await.map_err(error_of("write to", &self.at))?;
        if self.writer.buffer_len() as u64 >= self.file_bytes {
            self.end_files().await?;
        }
        Ok(())
    }

    async fn end_files(&mut self) -> Result<(), TableError> {
        let adds = self.writer.flush().await.map_err(error_of("write to", &self.at))?;
        let mut ended = Staged { adds };
        if let Some(counted) = &mut self.counted {
            let seen = std::mem::take(&mut counted.seen);
            let added = ended.add_nested_statistics(&counted.parent, &counted.column, &seen);
            added.map_err(|source| error_of("write statistics to", &self.at)(source.into()))?;
        }
        self.staged.absorb(ended);
        Ok(())
    }

    /// Completes the files and returns them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub async fn finish(mut self) -> Result<Staged, TableError> {
        self.end_files().await?;
        Ok(self.staged)
    }
}

impl Table {
    /// Begins to write data files of about `file_bytes` bytes each, which are not committed yet.
    ///
    /// # Errors
    /// When the table has a feature that cannot be written.
    pub async fn stage(&self, file_bytes: u64) -> Result<Staging, TableError> {
        let action = "write to";
        let error = error_of(action, self.at());
        let writer = RecordBatchWriter::for_table(self.loaded(action).await?).map_err(&error)?;
        let writer = writer.with_writer_properties(writer_properties(&*self.schema()?));
        let (at, staged) = (self.at().clone(), Staged::default());
        Ok(Staging { writer, at, file_bytes, counted: None, staged })
    }

    /// Commits staged files as a blind append, together with `txn` actions, on top of the version that the table is
    /// at. Updates the table to the new version and returns that.
    ///
    /// # Errors
    /// When the commit fails, or seems to: after an error only the log shows whether it succeeded.
    pub async fn append(
        &mut self,
        staged: &Staged,
        txns: &[Txn],
        info: Map<String, Value>,
    ) -> Result<u64, TableError> {
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let actions = staged.adds.iter().cloned().map(Action::Add).collect();
        self.commit(actions, operation, txns, info, Rebase::Yes).await
    }

    pub(super) async fn commit(
        &mut self,
        actions: Vec<Action>,
        operation: DeltaOperation,
        txns: &[Txn],
        info: Map<String, Value>,
        rebase: Rebase,
    ) -> Result<u64, TableError> {
        let action = "commit to";
        let error = error_of(action, self.at());
        let mut properties =
            CommitProperties::default().with_metadata(info).with_cleanup_expired_logs(Some(false));
        for txn in txns {
            properties =
                properties.with_application_transaction(Transaction::new(txn.app_id.clone(), txn.version));
        }
        if rebase == Rebase::No {
            properties = properties.with_max_retries(0);
        }
        let table = self.loaded_mut(action).await?;
        let commit = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(table.snapshot().map_err(&error)?), table.log_store(), operation)
            .await
            .map_err(&error)?;
        table.update_state().await.map_err(&error)?;
        self.txns.absorb_commit(commit.version(), txns);
        Ok(commit.version())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, StructArray};
    use arrow::datatypes::{DataType, Field, Fields};

    use super::*;

    #[test]
    fn a_null_among_counted_values_leaves_their_null_count_out() {
        let counts = |values: Vec<Option<i32>>| {
            let fields = Fields::from(vec![Field::new("errors", DataType::Int32, true)]);
            let column: ArrayRef = Arc::new(Int32Array::from(values));
            let parent: ArrayRef = Arc::new(StructArray::new(fields, vec![column], None));
            let rows = RecordBatch::try_from_iter([("_enrich", parent)]).unwrap();
            let mut counted = BoundedColumn {
                parent: "_enrich".to_owned(),
                column: "errors".to_owned(),
                seen: ColumnBounds::default(),
            };
            counted.see(&rows);
            (counted.seen.bounds, counted.seen.has_null)
        };
        assert_eq!(counts(vec![Some(2), Some(0)]), (Some((0, 2)), false));
        assert_eq!(counts(vec![Some(2), None]), (Some((2, 2)), true));
    }
}

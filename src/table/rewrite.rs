//! Replaces data files by others in one commit, with the change data of the rows that differ.
//!
//! Source of the format: the Delta protocol, "Add CDC File" and "Change Data Files".

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::{Action, AddCDCFile, LogicalFileView, MetadataExt, StructType};
use deltalake::protocol::DeltaOperation;
use deltalake::writer::RecordBatchWriter;
use serde_json::{Map, Value};

use super::append::{Rebase, Staged, Staging, writer_properties};
use super::known_txns::Txn;
use super::store_access::{error_of, uri};
use super::{Table, TableError};

const APPEND_ONLY: &str = "delta.appendOnly";
const CHANGE_DATA: &str = "delta.enableChangeDataFeed";
const FOLDER: &str = "_change_data";
const CHANGE_TYPE: &str = "_change_type";

/// Change data of updated rows that is not committed yet.
#[derive(Debug)]
pub struct StagedChanges {
    files: Vec<AddCDCFile>,
}

/// Change data that is being written.
#[derive(Debug)]
pub struct ChangeStaging {
    staging: Staging,
    schema: SchemaRef,
}

impl ChangeStaging {
    /// Encodes updated rows twice, with the table's columns: as they were before the update and as they are after it.
    ///
    /// # Errors
    /// When the rows do not fit the columns or a file cannot be written.
    pub async fn write(&mut self, before: &RecordBatch, after: &RecordBatch) -> Result<(), TableError> {
        for (rows, kind) in [(before, "update_preimage"), (after, "update_postimage")] {
            let rows = marked(rows, kind, &self.schema).map_err(|source| TableError {
                action: "write change data to",
                at: self.staging.at.clone(),
                source: Box::new(source),
            })?;
            self.staging.write(rows).await?;
        }
        Ok(())
    }

    /// Completes the files and returns them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub async fn finish(self) -> Result<StagedChanges, TableError> {
        let staged = self.staging.finish().await?;
        let files = staged.adds.into_iter().map(|add| AddCDCFile {
            path: format!("{FOLDER}/{}", add.path),
            size: add.size,
            partition_values: add.partition_values,
            data_change: false,
            tags: None,
        });
        Ok(StagedChanges { files: files.collect() })
    }
}

fn marked(rows: &RecordBatch, kind: &str, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let kinds: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(kind, rows.num_rows())));
    let columns = rows.columns().iter().cloned().chain([kinds]).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

impl Table {
    /// Whether the table accepts new rows only.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn is_append_only(&self) -> Result<bool, TableError> {
        self.has_property(APPEND_ONLY)
    }

    fn has_property(&self, name: &str) -> Result<bool, TableError> {
        Ok(self.properties()?.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true")))
    }

    /// Begins to write change data files, which are not committed yet. Returns `None` if the table keeps no change
    /// data.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn stage_changes(&self) -> Result<Option<ChangeStaging>, TableError> {
        if !self.has_property(CHANGE_DATA)? {
            return Ok(None);
        }
        let error = error_of("write change data to", self.at());
        let mut fields = self.schema()?.fields().to_vec();
        fields.push(Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, true)));
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let folder = uri(&self.at().join(FOLDER)).map_err(&error)?;
        let partitions = Some(self.partition_columns()?);
        let writer =
            RecordBatchWriter::try_new(folder, Arc::clone(&schema), partitions, None).map_err(&error)?;
        let writer = writer.with_writer_properties(writer_properties(&schema));
        let staging = Staging {
            writer,
            at: self.at().clone(),
            file_bytes: u64::MAX,
            counted: None,
            staged: Staged::default(),
        };
        Ok(Some(ChangeStaging { staging, schema }))
    }

    /// Removes every file of the newest version in one commit.
    ///
    /// # Errors
    /// When the commit fails, or seems to.
    pub async fn clear(&mut self, info: Map<String, Value>) -> Result<(), TableError> {
        let mut removed = Vec::new();
        let take = |file: LogicalFileView| removed.push(Action::Remove(file.remove_action(true)));
        self.each_file("commit to", None, take).await?;
        if !removed.is_empty() {
            self.commit(removed, DeltaOperation::Delete { predicate: None }, &[], info, Rebase::No).await?;
        }
        Ok(())
    }

    /// Adds columns, which are null in existing rows.
    ///
    /// # Errors
    /// When the commit fails.
    pub async fn add_columns(self, columns: &Schema) -> Result<Table, TableError> {
        let action = "add columns to";
        let at = self.at().clone();
        let kernel: StructType = columns.try_into_kernel().map_err(|source| TableError {
            action,
            at: at.clone(),
            source: Box::new(source),
        })?;
        let fields: Vec<_> = kernel.fields().cloned().collect();
        let table = self.loaded(action).await?.clone();
        let inner = table.add_columns().with_fields(fields).await.map_err(error_of(action, &at))?;
        Ok(Table::wrap(inner, &at))
    }

    /// Replaces the columns of a table that holds no rows, and changes nothing else.
    ///
    /// # Errors
    /// When the table has come to hold rows, or cannot be written.
    pub async fn replace_columns(mut self, columns: &Schema) -> Result<Table, TableError> {
        let action = "change the columns of";
        let at = self.at().clone();
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| TableError { action, at: at.clone(), source };
        if !self.files().await?.is_empty() {
            return Err(failed("it holds rows".into()));
        }
        let kernel: StructType = columns.try_into_kernel().map_err(|error| failed(Box::new(error)))?;
        let metadata =
            self.metadata()?.clone().with_schema(&kernel).map_err(|error| failed(Box::new(error)))?;
        let fields = kernel.fields().cloned().collect();
        let operation = DeltaOperation::AddColumn { fields };
        self.commit(vec![Action::Metadata(metadata)], operation, &[], Map::new(), Rebase::No).await?;
        Ok(self)
    }

    /// Commits staged files in place of others, together with `txn` actions. Updates the table to the new version
    /// and returns that.
    ///
    /// # Errors
    /// When one of the replaced files is no longer in the table, when another commit has taken the version, and
    /// when the commit fails, or seems to: after an error only the log shows whether it succeeded.
    pub async fn rewrite(
        &mut self,
        replaced: &BTreeSet<String>,
        staged: &Staged,
        changes: Option<&StagedChanges>,
        txns: &[Txn],
        info: Map<String, Value>,
    ) -> Result<u64, TableError> {
        let action = "commit to";
        let mut actions = Vec::new();
        let take = |file: LogicalFileView| {
            if replaced.contains(file.path().as_ref()) {
                actions.push(Action::Remove(file.remove_action(true)));
            }
        };
        self.each_file(action, None, take).await?;
        if actions.len() != replaced.len() {
            let source = std::io::Error::other("a file that is to be replaced is no longer in the table");
            return Err(TableError { action, at: self.at().clone(), source: Box::new(source) });
        }
        actions.extend(staged.adds.iter().cloned().map(Action::Add));
        actions.extend(changes.iter().flat_map(|changes| changes.files.iter().cloned().map(Action::Cdc)));
        self.commit(actions, DeltaOperation::Update { predicate: None }, txns, info, Rebase::No).await
    }
}

//! A source as a table of DataFusion: all rows of its files, as they are at one moment.

use std::sync::Arc;

use ::arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::file_format::SourceFiles;
use super::open_source::Source;
use super::position::NextFile;
use super::reader::RowReader;
use super::row_mask::RowMask;
use super::{SourceError, conform};
use crate::checkpoint::{FileRange, Position};

/// Number of rows that are read together.
const PIECE_ROWS: usize = 8_192;
/// Number of batches that are read ahead.
const READ_AHEAD: usize = 2;

/// The rows of a source, in its order.
#[derive(Debug)]
struct SourceTable {
    files: SourceFiles,
    /// The columns.
    schema: SchemaRef,
    /// The columns, with their metadata in the source table.
    noted: SchemaRef,
    /// The files, each as a whole, with the rows that are not deleted.
    parts: Arc<[(FileRange, RowMask)]>,
}

/// Some columns of a source.
#[derive(Debug)]
struct SourceStream {
    files: SourceFiles,
    schema: SchemaRef,
    noted: SchemaRef,
    parts: Arc<[(FileRange, RowMask)]>,
}

impl Source {
    /// Returns the source's rows as a table of DataFusion, which has one partition, in the order of the source.
    ///
    /// # Errors
    /// When a file or the log cannot be read.
    pub async fn into_table(mut self) -> Result<Arc<dyn TableProvider>, SourceError> {
        let (mut parts, mut position) = (Vec::new(), Position::Start);
        while let Some(NextFile { part, .. }) = self.next_file(&position).await?.file {
            let end = self.shape(&part).await?.rows();
            let kept = self.kept(&part, None).await?;
            position = self.advance(position, &part, end, true);
            parts.push((FileRange { start: 0, end, ..part }, kept));
        }
        let (files, schema, noted) = self.into_columns();
        Ok(Arc::new(SourceTable { files, schema, noted, parts: parts.into() }))
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let noted = match projection {
            Some(columns) => Arc::new(self.noted.project(columns)?),
            None => Arc::clone(&self.noted),
        };
        let schema = Arc::new(Schema::new(conform::logical(noted.fields())));
        let (files, parts) = (self.files.clone(), Arc::clone(&self.parts));
        let stream = SourceStream { files, schema: Arc::clone(&schema), noted, parts };
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(stream)], None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

impl PartitionStream for SourceStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), READ_AHEAD);
        let rows = builder.tx();
        let (files, parts) = (self.files.clone(), Arc::clone(&self.parts));
        let mut reader = RowReader::new(files, Arc::clone(&self.schema), Arc::clone(&self.noted));
        builder.spawn_blocking(move || {
            for (part, kept) in parts.iter() {
                for start in (0..part.end).step_by(PIECE_ROWS) {
                    let end = part.end.min(start + PIECE_ROWS as u64);
                    let piece = FileRange { start, end, ..part.clone() };
                    let chunks = reader
                        .read(&piece, kept)
                        .map_err(|error| DataFusionError::External(Box::new(error)))?;
                    for chunk in chunks {
                        if rows.blocking_send(Ok(chunk.rows)).is_err() {
                            // Nobody reads on.
                            return Ok(());
                        }
                    }
                }
            }
            Ok(())
        });
        builder.build()
    }
}

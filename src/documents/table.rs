//! A table of files, for DataFusion: `path`, `size`, `modified` and `content`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, stream};

use super::error::DocumentError;
use super::files::{DocumentFile, DocumentFiles};
use super::policy::UnreadPolicy;
use super::settings::DocumentSettings;
use super::unread::UnreadDocuments;

/// Size from which a batch of documents is passed on, in bytes.
const BATCH_BYTES: u64 = 64 << 20;
/// Maximum number of rows of a batch with contents.
const BATCH_ROWS: usize = 64;

/// A table of the files that match a pattern, in the order of their paths.
#[derive(Debug)]
pub struct DocumentTable {
    schema: SchemaRef,
    opened: Arc<DocumentSource>,
}

#[derive(Debug)]
struct DocumentSource {
    files: DocumentFiles,
    max_bytes: usize,
    policy: UnreadPolicy,
}

impl DocumentTable {
    /// Lists the files that match a pattern such as `docs/**/*.pdf`, relative to `folder` or in an object store.
    /// Contents are read by queries that select them; a file that cannot be read, or that is larger than
    /// `settings.document_bytes`, has null.
    ///
    /// # Errors
    /// When no file matches, or the folder cannot be listed.
    pub async fn open(
        glob: &str,
        folder: &Path,
        settings: &DocumentSettings,
        unread: &UnreadDocuments,
    ) -> Result<Self, DocumentError> {
        let files = DocumentFiles::list(glob, folder).await?;
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("size", DataType::Int64, false),
            Field::new("modified", utc, false),
            Field::new("content", DataType::Binary, true),
        ]));
        let policy = UnreadPolicy { unread: unread.clone(), on_unread: settings.on_unread };
        let opened = DocumentSource { files, max_bytes: settings.document_bytes, policy };
        Ok(DocumentTable { schema, opened: Arc::new(opened) })
    }
}

#[async_trait]
impl TableProvider for DocumentTable {
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
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&columns)?);
        let by_path = schema.index_of("path").ok().and_then(|index| {
            LexOrdering::new([PhysicalSortExpr::new(
                Arc::new(Column::new("path", index)),
                SortOptions::default(),
            )])
        });
        let scan = DocumentScan { schema: Arc::clone(&schema), opened: Arc::clone(&self.opened) };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, by_path, false, limit)?))
    }
}

/// The columns of a table that a query reads.
#[derive(Debug)]
struct DocumentScan {
    schema: SchemaRef,
    opened: Arc<DocumentSource>,
}

impl PartitionStream for DocumentScan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (opened, schema) = (Arc::clone(&self.opened), Arc::clone(&self.schema));
        let reads_content = schema.index_of("content").is_ok();
        let max_rows = task.session_config().batch_size();
        let batches = stream::try_unfold(0, move |from| {
            let (opened, schema) = (Arc::clone(&opened), Arc::clone(&schema));
            async move {
                let rows =
                    if reads_content { opened.rows_that_fit(from) } else { opened.files.files.len() - from };
                let to = from + rows.min(max_rows);
                if to == from {
                    return Ok(None);
                }
                Ok(Some((opened.batch(&schema, from, to).await?, to)))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches.boxed()))
    }
}

impl DocumentSource {
    /// Returns how many files from this one on are read together.
    fn rows_that_fit(&self, from: usize) -> usize {
        let mut bytes = 0;
        let fits = |file: &&DocumentFile| {
            let is_first = bytes == 0;
            bytes += file.size.max(1);
            is_first || bytes <= BATCH_BYTES
        };
        self.files.files[from..].iter().take(BATCH_ROWS).take_while(fits).count()
    }

    async fn batch(&self, schema: &SchemaRef, from: usize, to: usize) -> Result<RecordBatch> {
        let files = &self.files.files[from..to];
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in schema.fields() {
            columns.push(match field.name().as_str() {
                "path" => Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.path))),
                "size" => {
                    let size = |file: &DocumentFile| i64::try_from(file.size).unwrap_or(i64::MAX);
                    Arc::new(Int64Array::from_iter_values(files.iter().map(size)))
                }
                "modified" => {
                    let modified = files.iter().map(|file| file.modified.timestamp_micros());
                    Arc::new(TimestampMicrosecondArray::from_iter_values(modified).with_timezone("UTC"))
                }
                _ => self.contents(files).await?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(files.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }

    async fn contents(&self, files: &[DocumentFile]) -> Result<ArrayRef> {
        let mut contents = BinaryBuilder::new();
        for file in files {
            let read = self.files.content(file, self.max_bytes).await;
            let content = match read.map_err(|error| DataFusionError::External(Box::new(error)))? {
                Ok(content) => Some(content),
                Err(unread) => self.policy.null(unread)?,
            };
            contents.append_option(content);
        }
        Ok(Arc::new(contents.finish()))
    }
}

//! Reading a table through DataFusion.

use arrow::record_batch::RecordBatch;
use deltalake::DeltaTableError;
use deltalake::datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::open::error_of;
use super::{Table, TableError};

impl Table {
    /// Runs a query over the table, which it names `target`, and hands its batches to `take` as they
    /// come.
    ///
    /// # Errors
    /// When the query does not plan or a file cannot be read, and what `take` returns.
    pub async fn query<E: From<TableError>>(
        &self,
        sql: &str,
        mut take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let error = error_of("query", self.path());
        let of_datafusion = |source| error(DeltaTableError::from(source));
        let context = SessionContext::new();
        self.inner.update_datafusion_session(&context.state()).map_err(&error)?;
        let provider = self.inner.table_provider().await.map_err(of_datafusion)?;
        context.register_table("target", provider).map_err(of_datafusion)?;
        let frame = context.sql(sql).await.map_err(of_datafusion)?;
        let mut stream = frame.execute_stream().await.map_err(of_datafusion)?;
        while let Some(batch) = stream.try_next().await.map_err(of_datafusion)? {
            take(batch)?;
        }
        Ok(())
    }
}

//! Reads a table through DataFusion.

use std::collections::HashMap;

use arrow::record_batch::RecordBatch;
use deltalake::DeltaTableError;
use deltalake::datafusion::common::TableReference;
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use url::Url;

use super::condition::{expression, without_kinds};
use super::store_access::{error_of, uri};
use super::{Table, TableError};

/// The part of a table that a query reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan<'a> {
    /// The files to read, by their paths relative to the table; all files if `None`.
    pub files: Option<&'a [String]>,
    /// Name of an additional column that holds the file of each row; see [`Table::file_names`].
    pub file_column: Option<&'a str>,
}

impl Table {
    /// Runs a query over the table, which the query names `target`, and passes its batches to `take` as they
    /// arrive. Names are taken as written, even without quotes.
    ///
    /// # Errors
    /// When the query cannot be planned or a file cannot be read, and any error that `take` returns.
    pub async fn query<E: From<TableError>>(
        &self,
        sql: &str,
        take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        self.scan(Scan::default(), sql, take).await
    }

    /// Like [`Table::query`], over a part of the table.
    ///
    /// # Errors
    /// As [`Table::query`].
    pub async fn scan<E: From<TableError>>(
        &self,
        scan: Scan<'_>,
        sql: &str,
        mut take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut batches = self.stream(scan, sql).await?;
        while let Some(batch) = batches.try_next().await? {
            take(batch)?;
        }
        Ok(())
    }

    /// Returns the batches of a query over a part of the table. With a single file and no `ORDER BY`, rows come in
    /// the order of the file.
    ///
    /// # Errors
    /// When the query cannot be planned; items are errors when a file cannot be read.
    pub async fn stream(
        &self,
        scan: Scan<'_>,
        sql: &str,
    ) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let error = error_of("query", self.at());
        let of_datafusion = |source| error(DeltaTableError::from(source));
        let mut config =
            SessionConfig::new().set_bool("datafusion.sql_parser.enable_ident_normalization", false);
        if scan.files.is_some_and(|files| files.len() == 1) {
            config = config.with_target_partitions(1);
        }
        let context = SessionContext::new_with_config(config);
        let table = match scan.files {
            Some(files) => &self.part(files).await?,
            None => self.loaded("query").await?,
        };
        table.update_datafusion_session(&context.state()).map_err(&error)?;
        self.register(&context)?;
        let mut provider = table.table_provider();
        if let Some(name) = scan.file_column {
            provider = provider.with_file_column(name);
        }
        context.register_table("target", provider.await.map_err(of_datafusion)?).map_err(of_datafusion)?;
        let frame = context.sql(sql).await.map_err(of_datafusion)?;
        let stream = frame.execute_stream().await.map_err(of_datafusion)?;
        let error = error_of("query", self.at());
        Ok(stream.map_err(move |source| error(DeltaTableError::from(source))).boxed())
    }

    /// Registers the table with a session under a name, as it is at the table's version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn register_as(&self, context: &SessionContext, name: &str) -> Result<(), TableError> {
        let error = error_of("query", self.at());
        let of_datafusion = |source| error(DeltaTableError::from(source));
        let table = self.loaded("query").await?;
        table.update_datafusion_session(&context.state()).map_err(&error)?;
        self.register(context)?;
        let provider = table.table_provider().await.map_err(of_datafusion)?;
        context.register_table(TableReference::bare(name), provider).map_err(of_datafusion)?;
        Ok(())
    }

    /// Registers the object store of the table's files with a session, since a part knows only where its log is.
    pub(super) fn register(&self, context: &SessionContext) -> Result<(), TableError> {
        if self.at().path().is_none() {
            let url = uri(self.at()).map_err(error_of("query", self.at()))?;
            context.runtime_env().register_object_store(&url, self.store.root_object_store(None));
        }
        Ok(())
    }

    /// Checks that a condition over the table's columns is one SQL expression, and returns it as it was understood.
    ///
    /// # Errors
    /// A description of what is wrong with the condition.
    pub async fn condition(&self, written: &str) -> Result<String, String> {
        let condition = expression(written)?;
        let sql = format!("SELECT 1 FROM target WHERE ({condition})");
        // Only the columns matter, so no file is read.
        match self.stream(Scan { files: Some(&[]), file_column: None }, &sql).await {
            Ok(_) => Ok(condition),
            Err(error) => Err(without_kinds(&error.source.to_string()).replace("target.", "")),
        }
    }

    /// Returns the names that [`Scan::file_column`] has for these files, each with the file's index in the list.
    #[must_use]
    pub fn file_names(&self, files: &[String]) -> HashMap<String, usize> {
        let canonical = self.at().path().and_then(|path| path.canonicalize().ok());
        let canonical = canonical.and_then(|path| Url::from_directory_path(path).ok());
        let roots: Vec<Url> = uri(self.at()).ok().into_iter().chain(canonical).collect();
        let named = |(at, file): (usize, &String)| -> Vec<(String, usize)> {
            roots.iter().filter_map(|root| Some((root.join(&as_url(file)).ok()?.to_string(), at))).collect()
        };
        files.iter().enumerate().flat_map(named).collect()
    }
}

/// Escapes a path for use in a URL. Folders of partitions may have names with `%` in them.
fn as_url(path: &str) -> String {
    path.replace('%', "%25").replace('#', "%23").replace('?', "%3F")
}

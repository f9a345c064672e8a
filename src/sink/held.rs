//! What a target holds of a source: the keys of its rows and the files that they came from.

use super::commit::Sink;
use super::failed::{name, text};
use super::target::{APP_ID, SOURCE_FILE, SOURCE_ROW};
use crate::source::{HeldFile, HeldRows};
use crate::table::TableError;
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

impl Sink {
    /// Returns the commit that restored the target to an earlier version; see [`restored`](super::restored()).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn restored(&self, seen: Option<u64>) -> Result<Option<u64>, TableError> {
        super::restored(self.table(), self.app_id(), seen).await
    }

    /// Returns the source rows that the target holds, or `None` if its rows do not name them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn held_rows(&self) -> Result<Option<HeldRows>, TableError> {
        let Some(metadata) = self.metadata() else { return Ok(None) };
        let field = |field: &str| format!("{}['{field}']", name(metadata));
        let sql = format!(
            "SELECT CAST({} AS VARCHAR), {} FROM target WHERE {} = {}",
            field(SOURCE_FILE),
            field(SOURCE_ROW),
            field(APP_ID),
            text(self.app_id())
        );
        let mut held = HeldRows::default();
        let read = self.table().query(&sql, |batch| {
            let files = cast(batch.column(0), &DataType::Utf8).map_err(|error| self.failed_reading(error))?;
            let rows = batch.column(1).as_primitive::<Int64Type>();
            for (file, row) in files.as_string::<i32>().iter().zip(rows) {
                if let (Some(file), Some(row)) = (file, row) {
                    held.insert(file, row.cast_unsigned());
                }
            }
            Ok::<(), TableError>(())
        });
        read.await?;
        Ok(Some(held))
    }

    /// Returns the rows that the target holds of each source file, or `None` if its rows do not name them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn held_files(&self) -> Result<Option<Vec<HeldFile>>, TableError> {
        let Some(metadata) = self.metadata() else { return Ok(None) };
        let metadata = format!("\"{}\"", metadata.replace('"', "\"\""));
        let app_id = self.app_id().replace('\'', "''");
        let sql = format!(
            "SELECT CAST({metadata}['{SOURCE_FILE}'] AS VARCHAR) AS file, \
                    COUNT(DISTINCT {metadata}['{SOURCE_ROW}']) AS rows, \
                    MAX({metadata}['{SOURCE_ROW}']) + 1 AS row_end \
             FROM target WHERE {metadata}['{APP_ID}'] = '{app_id}' GROUP BY 1 ORDER BY 1"
        );
        let mut held = Vec::new();
        self.table()
            .query(&sql, |batch| {
                let strings =
                    cast(batch.column(0), &DataType::Utf8).map_err(|error| self.failed_reading(error))?;
                let files = strings.as_string::<i32>();
                let rows = batch.column(1).as_primitive::<Int64Type>();
                let ends = batch.column(2).as_primitive::<Int64Type>();
                for at in 0..batch.num_rows() {
                    held.push(HeldFile {
                        file: files.value(at).to_owned(),
                        rows: rows.value(at).cast_unsigned(),
                        end: ends.value(at).cast_unsigned(),
                    });
                }
                Ok::<(), TableError>(())
            })
            .await?;
        Ok(Some(held))
    }
}

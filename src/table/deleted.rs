//! Rows that deletion vectors mark as deleted.

use std::collections::HashMap;
use std::slice;

use deltalake::DeltaTableError;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::kernel::LogicalFileView;

use super::log::entry_of;
use super::store_access::error_of;
use super::{Table, TableError};

impl Table {
    /// Returns for each file of this version, by the path of [`super::DataFile`], whether it has deleted rows.
    /// Keeps the log entries of files that have, for later calls.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn files_with_deleted_rows(&mut self) -> Result<HashMap<String, bool>, TableError> {
        let (mut found, mut entries, mut written) = (HashMap::new(), HashMap::new(), HashMap::new());
        let look = |file: LogicalFileView| {
            let path = file.object_store_path().to_string();
            let has_deleted_rows =
                file.deletion_vector_descriptor().is_some_and(|vector| vector.cardinality > 0);
            if has_deleted_rows {
                let entry = entry_of(&file);
                written.insert(path.clone(), entry.path.clone());
                entries.insert(entry.path.clone(), entry);
            }
            found.insert(path, has_deleted_rows);
        };
        self.each_file("list the files of", None, look).await?;
        (self.entries, self.written) = (entries, written);
        Ok(found)
    }

    /// Returns for each physical row of a file of this version whether it is kept; rows beyond the end of the list
    /// are. `None` if the file has no deletion vector. `path` is that of [`super::DataFile`].
    ///
    /// # Errors
    /// When the file does not belong to this version, or its deletion vector cannot be read.
    pub async fn kept_rows(&self, path: &str) -> Result<Option<Vec<bool>>, TableError> {
        let action = "read a deletion vector of";
        let error = error_of(action, self.at());
        let of_datafusion = |source| error(DeltaTableError::from(source));
        let mut written = self.written.get(path).cloned();
        if written.is_none() {
            let look = |file: LogicalFileView| {
                if file.object_store_path().as_ref() == path {
                    written = Some(file.path().into_owned());
                }
            };
            self.each_file(action, None, look).await?;
        }
        let written = written.unwrap_or_else(|| path.to_owned());
        let part;
        let table = if self.at().path().is_some() {
            part = self.part(slice::from_ref(&written)).await?;
            &part
        } else {
            // In an object store the vectors are looked up where the log is, and a part has its log in memory.
            self.loaded(action).await?
        };
        let snapshot = table.snapshot().map_err(&error)?.snapshot().clone();
        let context = SessionContext::new();
        table.update_datafusion_session(&context.state()).map_err(&error)?;
        let scan = DeltaScanNext::builder().with_eager_snapshot(snapshot).build();
        let scan = scan.await.map_err(of_datafusion)?;
        let found = scan.deletion_vectors(&context.state()).await.map_err(of_datafusion)?;
        let names = self.file_names(slice::from_ref(&written));
        let is_of_file = |filepath: &str| self.at().path().is_some() || names.contains_key(filepath);
        let found = found.into_iter().find(|selection| is_of_file(&selection.filepath));
        Ok(found.map(|selection| selection.keep_mask))
    }
}

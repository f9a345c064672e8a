//! Rows that deletion vectors take out of files.

use std::slice;

use deltalake::DeltaTableError;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::kernel::LogicalFileView;

use super::open::error_of;
use super::{Table, TableError};

impl Table {
    /// For each physical row of a file of this version whether it is kept; rows beyond the end of the list are. None
    /// if the file has no deletion vector. `path` is that of [`super::DataFile`].
    ///
    /// # Errors
    /// When the file does not belong to this version, or its deletion vector cannot be read.
    pub async fn kept_rows(&self, path: &str) -> Result<Option<Vec<bool>>, TableError> {
        let action = "read a deletion vector of";
        let error = error_of(action, self.at());
        let of_datafusion = |source| error(DeltaTableError::from(source));
        let mut written = path.to_owned();
        let look = |file: LogicalFileView| {
            if file.object_store_path().as_ref() == path {
                written = file.path().into_owned();
            }
        };
        self.each_file(action, None, look).await?;
        let part = self.part(slice::from_ref(&written)).await?;
        let snapshot = part.snapshot().map_err(&error)?.snapshot().clone();
        let context = SessionContext::new();
        part.update_datafusion_session(&context.state()).map_err(&error)?;
        let scan = DeltaScanNext::builder().with_eager_snapshot(snapshot).build();
        let scan = scan.await.map_err(of_datafusion)?;
        let found = scan.deletion_vectors(&context.state()).await.map_err(of_datafusion)?;
        Ok(found.into_iter().next().map(|selection| selection.keep_mask))
    }
}

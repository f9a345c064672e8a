//! Whether the folders that a run writes to can be written, found out before the first request.

use std::path::Path;

use super::error::RunError;
use crate::store::{self, Location, StoreError};

/// Whether a folder, or the nearest one above it that is there, can be written.
pub(crate) fn can_write(folder: &Path) -> Result<(), StoreError> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    store::probe(there)
}

/// Whether files can be put into a table that is there, and into its log.
pub(crate) fn can_append(table: &Location) -> Result<(), RunError> {
    let Some(path) = table.path() else { return Ok(()) };
    store::probe(path)?;
    Ok(store::probe(&path.join("_delta_log"))?)
}

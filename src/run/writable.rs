//! Checks, before the first request, that the folders of a run can be written.

use std::path::Path;

use super::error::RunError;
use crate::store::{self, Location, StoreError};

/// Checks that a folder, or its nearest ancestor that exists, can be written.
pub(crate) fn check_writable(folder: &Path) -> Result<(), StoreError> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    store::probe(there)
}

/// Checks that files can be created in an existing table and in its log. A table in an object store is not checked.
pub(crate) fn check_appendable(table: &Location) -> Result<(), RunError> {
    let Some(path) = table.path() else { return Ok(()) };
    store::probe(path)?;
    Ok(store::probe(&path.join("_delta_log"))?)
}

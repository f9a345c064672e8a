//! A part of a table: some of its files, as a table of their own.
//!
//! deltalake finds selected files by going through all files of the table, twice for each query. A log of one
//! commit that is kept in memory and names only those files spares that, so that a query takes as long as what
//! it reads (bench `errors`). The files stay where they are, and nothing is written.

use std::collections::HashSet;
use std::sync::Arc;

use deltalake::kernel::{Action, Add};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::open::{error_of, uri};
use super::{Table, TableError};

const FIRST_COMMIT: &str = "_delta_log/00000000000000000000.json";

impl Table {
    /// The table with these files only, by their paths relative to the table.
    ///
    /// # Errors
    /// When one of them does not belong to this version.
    pub(super) async fn part(&self, files: &[String]) -> Result<DeltaTable, TableError> {
        let error = error_of("query", self.path());
        let state = self.state("query")?;
        let mut missing: HashSet<&str> = files.iter().map(String::as_str).collect();
        let mut actions =
            vec![Action::Protocol(state.protocol().clone()), Action::Metadata(state.metadata().clone())];
        for file in state.log_data().iter() {
            let path = file.path();
            if missing.remove(path.as_ref()) {
                actions.push(Action::Add(Add {
                    path: path.into_owned(),
                    partition_values: file.partition_values_map(),
                    size: file.size(),
                    modification_time: file.modification_time(),
                    data_change: true,
                    stats: file.stats(),
                    deletion_vector: file.deletion_vector_descriptor(),
                    ..Add::default()
                }));
            }
        }
        if let Some(missing) = missing.into_iter().next() {
            let what = format!("the file {missing} is no longer in the table");
            return Err(error(DeltaTableError::Generic(what)));
        }
        let mut log = String::new();
        for action in &actions {
            log += &serde_json::to_string(action).map_err(|source| error(source.into()))?;
            log.push('\n');
        }
        let root = uri(self.path()).map_err(&error)?;
        let at = format!("{}/{FIRST_COMMIT}", root.path().trim_end_matches('/'));
        let at = Path::from_url_path(at).map_err(|source| error(DeltaTableError::generic(source)))?;
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&at, log.into()).await.map_err(|source| error(source.into()))?;
        let builder = DeltaTableBuilder::from_url(root.clone()).map_err(&error)?;
        builder.with_storage_backend(store, root).load().await.map_err(&error)
    }
}

//! A part of a table: some of its files, as a table of their own.
//!
//! deltalake finds selected files by going through all files of the table, twice for each query. A log of one
//! commit that is kept in memory and names only those files avoids that, so that a query takes only as long as what
//! it reads (bench `errors`). The files stay where they are, and nothing is written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deltalake::kernel::{Action, Add, LogicalFileView};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::log::entry_of;
use super::store_access::{error_of, uri};
use super::{Table, TableError};

const FIRST_COMMIT: &str = "_delta_log/00000000000000000000.json";

impl Table {
    /// Returns the table with these files only, given by their paths relative to the table.
    ///
    /// # Errors
    /// When one of the files does not belong to this version.
    pub(super) async fn part(&self, files: &[String]) -> Result<DeltaTable, TableError> {
        let error = error_of("query", self.at());
        let mut adds: HashMap<&str, Add> = HashMap::new();
        for file in files {
            adds.extend(self.entries.get(file).map(|add| (file.as_str(), add.clone())));
        }
        if adds.len() < files.len() {
            let requested: HashSet<&str> = files.iter().map(String::as_str).collect();
            let take = |file: LogicalFileView| {
                if let Some(path) = requested.get(file.path().as_ref()) {
                    adds.insert(path, entry_of(&file));
                }
            };
            self.each_file("query", None, take).await?;
        }
        if let Some(missing) = files.iter().find(|file| !adds.contains_key(file.as_str())) {
            let what = format!("the file {missing} is no longer in the table");
            return Err(error(DeltaTableError::Generic(what)));
        }
        let actions =
            [Action::Protocol(self.protocol()?.clone()), Action::Metadata(self.metadata()?.clone())];
        let actions = actions.into_iter().chain(adds.into_values().map(Action::Add));
        let mut log = String::new();
        for action in actions {
            log += &serde_json::to_string(&action).map_err(|source| error(source.into()))?;
            log.push('\n');
        }
        let root = uri(self.at()).map_err(&error)?;
        let at = format!("{}/{FIRST_COMMIT}", root.path().trim_end_matches('/'));
        let at = Path::from_url_path(at).map_err(|source| error(DeltaTableError::generic(source)))?;
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&at, log.into()).await.map_err(|source| error(source.into()))?;
        let builder = DeltaTableBuilder::from_url(root.clone()).map_err(&error)?;
        builder.with_storage_backend(store, root).load().await.map_err(&error)
    }
}

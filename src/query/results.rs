//! The folder of a query's results.

use std::path::Path;

use uuid::Uuid;

use crate::checkpoint::{PlannedBatch, Position};
use crate::clock;
use crate::config::QUERY_RESULTS;
use crate::store::{self, ExistingFile, Folder, NewFile, StoreError};

/// Prefix of the files without a row, which only have the columns of the result.
const COLUMNS: &str = "columns-";
/// Size in bytes of the pieces in which a file is copied to a store.
const PIECE: usize = 1 << 20;

/// The folder of a query's results: a Parquet file for each run that found new rows, and one with the columns.
#[derive(Clone, Debug)]
pub struct QueryResults {
    folder: Folder,
}

impl QueryResults {
    /// Returns the results in the folder of a checkpoint.
    #[must_use]
    pub fn in_folder(home: &Folder) -> Self {
        QueryResults { folder: home.join(QUERY_RESULTS) }
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns the names of the files in the folder. There are none if the folder does not exist.
    pub(super) async fn names(&self) -> Result<Vec<String>, StoreError> {
        let names = match &self.folder {
            Folder::Remote(objects) => objects.list().await?,
            Folder::Local(path) => {
                let entries = match std::fs::read_dir(path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                    entries => entries.map_err(StoreError::of("read", path.as_path()))?,
                };
                entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
            }
        };
        Ok(names.into_iter().filter(|name| name.ends_with(".parquet")).collect())
    }

    /// Whether the folder has a file that may have rows.
    pub(super) async fn have_rows(&self) -> Result<bool, StoreError> {
        Ok(self.names().await?.iter().any(|name| !name.starts_with(COLUMNS)))
    }

    /// Makes the file without a row the only one of its kind. `name` tells its columns.
    pub(super) async fn put_columns(&self, name: &str, file: &Path) -> Result<(), StoreError> {
        let name = format!("{COLUMNS}{name}.parquet");
        let there = self.names().await?;
        if !there.contains(&name) {
            self.put(&name, file).await?;
        }
        for other in there.iter().filter(|other| other.starts_with(COLUMNS) && **other != name) {
            self.remove(other).await?;
        }
        Ok(())
    }

    /// Adds a file with rows. It is there as a whole or not at all.
    pub(super) async fn add(&self, file: &Path) -> Result<(), StoreError> {
        let time = clock::wall().format("%Y%m%dT%H%M%S");
        self.put(&format!("result-{time}-{}.parquet", Uuid::new_v4().simple()), file).await
    }

    /// Moves a file into the folder; to a store it is copied.
    async fn put(&self, name: &str, file: &Path) -> Result<(), StoreError> {
        let failed = |error| StoreError::of("move to the results", file)(error);
        if let Folder::Local(path) = &self.folder {
            store::create_folder(path)?;
            std::fs::rename(file, path.join(name)).map_err(failed)?;
            return store::sync_folder(path);
        }
        let mut from = std::fs::File::open(file).map_err(failed)?;
        let mut to = NewFile::create(&self.folder, name, ExistingFile::Replaced).await?;
        let mut piece = vec![0; PIECE];
        loop {
            match std::io::Read::read(&mut from, &mut piece).map_err(failed)? {
                0 => return to.finish().await,
                bytes => to.write(&piece[..bytes]).await?,
            }
        }
    }

    /// Copies a file into another, local folder of results.
    pub(super) async fn copy_to(&self, name: &str, other: &QueryResults) -> Result<(), StoreError> {
        let Some(path) = other.folder.path() else { return Ok(()) };
        store::create_folder(path)?;
        let to = path.join(name);
        match &self.folder {
            Folder::Local(from) => {
                let linked = std::fs::hard_link(from.join(name), &to);
                match linked.or_else(|_| std::fs::copy(from.join(name), &to).map(|_| ())) {
                    // A run has removed it meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                    copied => copied.map_err(StoreError::of("copy to", to.as_path())),
                }
            }
            Folder::Remote(objects) => match objects.get(name).await? {
                Some(object) => {
                    std::fs::write(&to, object.bytes).map_err(StoreError::of("copy to", to.as_path()))
                }
                None => Ok(()),
            },
        }
    }

    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        match &self.folder {
            Folder::Local(path) => store::remove(&path.join(name)),
            Folder::Remote(objects) => objects.delete(name).await,
        }
    }

    /// Returns a file that is not there, although a planned batch needs it, or not all of its rows are before a position.
    pub(super) async fn lost(
        &self,
        position: &Position,
        planned: &[PlannedBatch],
    ) -> Result<Option<String>, StoreError> {
        let partial = match position {
            Position::Folder { partial: Some((file, _)), .. } => Some(file),
            _ => None,
        };
        let there = self.names().await?;
        let parts = planned.iter().flat_map(|batch| &batch.parts).map(|part| &part.file);
        Ok(parts.chain(partial).find(|name| !there.contains(name)).cloned())
    }

    /// Removes the files that neither a planned batch nor the rest of the results after a position needs. At the start
    /// nothing has been asked, so none is needed.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn remove_unneeded(
        &self,
        position: &Position,
        planned: &[PlannedBatch],
    ) -> Result<(), StoreError> {
        let is_planned =
            |name: &str| planned.iter().flat_map(|batch| &batch.parts).any(|part| part.file == name);
        let is_left = |name: &str| match position {
            Position::Folder { files, partial } => {
                !files.contains_key(name) || partial.as_ref().is_some_and(|(file, _)| file == name)
            }
            _ => false,
        };
        for name in self.names().await? {
            if !name.starts_with(COLUMNS) && !is_planned(&name) && !is_left(&name) {
                self.remove(&name).await?;
            }
        }
        Ok(())
    }
}

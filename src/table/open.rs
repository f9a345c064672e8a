//! Opens a Delta table at a version and reads its metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::{Add, Metadata, Protocol, Snapshot, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use tokio::sync::OnceCell;

use super::TableError;
use super::known_txns::KnownTxns;
use super::store_access::{LOG_FOLDER, builder, error_of, objects};
use crate::store::Location;

/// A Delta table at a version.
///
/// Opening it reads only the metadata. An operation that needs the files reads through the log once and keeps
/// nothing of it, except for commits and queries over the whole table: for these deltalake keeps the entries of all
/// files.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) state: VersionState,
    pub(super) store: LogStoreRef,
    /// Log entries of the files that were looked up in this version, by path.
    pub(super) entries: HashMap<String, Add>,
    /// Paths of files with deleted rows as the log writes them, by the path of [`super::DataFile`].
    pub(super) written: HashMap<String, String>,
    pub(super) txns: KnownTxns,
    at: Location,
}

/// The parts of a table version that are loaded.
#[derive(Clone, Debug)]
pub(super) enum VersionState {
    /// The metadata, and the entries of all files once they were needed.
    Opened(Arc<Snapshot>, OnceCell<DeltaTable>),
    /// The metadata and the entries of all files.
    Loaded(DeltaTable),
}

/// Whether a place has a Delta log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogPresence {
    None,
    /// A folder without a commit.
    Empty,
    There,
}

/// Whether a location holds a Delta table.
///
/// # Errors
/// When this cannot be determined: no permission, or a store that cannot be read.
pub async fn is_delta_table(at: impl Into<Location>) -> Result<bool, TableError> {
    Ok(look_for_log(&at.into()).await? == LogPresence::There)
}

/// Whether a location has the folder of a Delta log without a single commit.
///
/// # Errors
/// As [`is_delta_table`].
pub async fn has_empty_log(at: &Location) -> Result<bool, TableError> {
    Ok(look_for_log(at).await? == LogPresence::Empty)
}

async fn look_for_log(at: &Location) -> Result<LogPresence, TableError> {
    let is_entry = |name: &str| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("json" | "parquet")) && name.starts_with('0')
    };
    let mut log = LogPresence::None;
    if let Some(path) = at.path() {
        let folder = path.join(LOG_FOLDER);
        let unread = |error: std::io::Error| TableError {
            action: "look for the Delta log of",
            at: at.clone(),
            source: format!("{}: {error}", folder.display()).into(),
        };
        // A file or a missing path has no log.
        if !path.is_dir() {
            return Ok(LogPresence::None);
        }
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LogPresence::None),
            Err(error) => return Err(unread(error)),
        };
        log = LogPresence::Empty;
        for entry in entries {
            if is_entry(&entry.map_err(unread)?.file_name().to_string_lossy()) {
                return Ok(LogPresence::There);
            }
        }
        return Ok(log);
    }
    let error = error_of("look for", at);
    let store = objects(at).await?;
    let mut entries = store.list(Some(&ObjectPath::from(LOG_FOLDER)));
    while let Some(entry) = entries.try_next().await.map_err(|source| error(source.into()))? {
        log = LogPresence::Empty;
        if entry.location.filename().is_some_and(is_entry) {
            return Ok(LogPresence::There);
        }
    }
    Ok(log)
}

/// Whether a location does not exist, or holds only names that begin with `_`.
///
/// # Errors
/// When an object store cannot be listed.
pub async fn is_vacant(at: &Location) -> Result<bool, TableError> {
    if let Some(path) = at.path() {
        let own = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with('_');
        return Ok(match std::fs::read_dir(path) {
            Ok(entries) => entries.flatten().all(own),
            Err(_) => !path.exists(),
        });
    }
    let error = error_of("look for", at);
    let store = objects(at).await?;
    let mut objects = store.list(None);
    while let Some(object) = objects.try_next().await.map_err(|source| error(source.into()))? {
        if !object.location.as_ref().starts_with('_') {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Table {
    /// Opens the newest version.
    ///
    /// # Errors
    /// When there is no table, or it cannot be read.
    pub async fn open(at: impl Into<Location>) -> Result<Table, TableError> {
        Self::build(&at.into(), None).await
    }

    /// Opens a given version.
    ///
    /// # Errors
    /// When there is no such version, or its log is gone.
    pub async fn open_at(at: impl Into<Location>, version: u64) -> Result<Table, TableError> {
        Self::build(&at.into(), Some(version)).await
    }

    async fn build(at: &Location, version: Option<u64>) -> Result<Table, TableError> {
        let error = error_of("open", at);
        let store = builder(at).await?.build_storage().map_err(&error)?;
        let snapshot = Snapshot::try_new(store.as_ref(), version).await.map_err(&error)?;
        let state = VersionState::Opened(Arc::new(snapshot), OnceCell::new());
        let (entries, written, txns) = (HashMap::new(), HashMap::new(), KnownTxns::default());
        Ok(Table { state, store, entries, written, txns, at: at.clone() })
    }

    pub(super) fn wrap(inner: DeltaTable, at: &Location) -> Self {
        let (store, entries, written) = (inner.log_store(), HashMap::new(), HashMap::new());
        let (state, txns) = (VersionState::Loaded(inner), KnownTxns::default());
        Table { store, state, entries, written, txns, at: at.clone() }
    }

    /// Returns the location of the table.
    #[must_use]
    pub fn at(&self) -> &Location {
        &self.at
    }

    /// Opens the newest version anew, without what the handle holds of earlier ones.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub async fn reopen(&mut self) -> Result<(), TableError> {
        let txns = std::mem::take(&mut self.txns);
        *self = Table { txns, ..Table::open(&self.at).await? };
        Ok(())
    }

    /// Updates the table to its newest version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn refresh(&mut self) -> Result<(), TableError> {
        let error = error_of("refresh", &self.at);
        self.entries.clear();
        self.written.clear();
        match &mut self.state {
            VersionState::Loaded(table) => table.update_state().await.map_err(error),
            VersionState::Opened(snapshot, loaded) => {
                if let Some(mut table) = loaded.take() {
                    table.update_state().await.map_err(error)?;
                    self.state = VersionState::Loaded(table);
                    return Ok(());
                }
                let engine = self.store.engine(None);
                *snapshot = Arc::clone(snapshot).update(engine, None).await.map_err(error)?;
                Ok(())
            }
        }
    }

    /// Returns the version that the table is at.
    #[must_use]
    pub fn version(&self) -> u64 {
        match &self.state {
            VersionState::Opened(snapshot, _) => snapshot.version(),
            VersionState::Loaded(table) => table.version().unwrap_or_default(),
        }
    }

    /// Returns the id in the table's metadata.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn id(&self) -> Result<String, TableError> {
        Ok(self.metadata()?.id().to_owned())
    }

    /// Returns the columns, including partition columns, in the order of the table's schema.
    ///
    /// # Errors
    /// When the type of a column has no counterpart in Arrow.
    pub fn schema(&self) -> Result<SchemaRef, TableError> {
        let action = "read the schema of";
        let error = error_of(action, &self.at);
        let schema: Arc<StructType> = match &self.state {
            VersionState::Opened(snapshot, _) => snapshot.schema(),
            VersionState::Loaded(table) => table.snapshot().map_err(error)?.schema(),
        };
        let arrow: Schema = schema.as_ref().try_into_arrow().map_err(|source| TableError {
            action,
            at: self.at.clone(),
            source: Box::new(source),
        })?;
        Ok(arrow.into())
    }

    /// Returns the names of the partition columns.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn partition_columns(&self) -> Result<Vec<String>, TableError> {
        Ok(self.metadata()?.partition_columns().into())
    }

    /// Returns the table's properties.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn properties(&self) -> Result<BTreeMap<String, String>, TableError> {
        let configuration = self.metadata()?.configuration();
        Ok(configuration.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    pub(super) fn metadata(&self) -> Result<&Metadata, TableError> {
        match &self.state {
            VersionState::Opened(snapshot, _) => Ok(snapshot.metadata()),
            VersionState::Loaded(table) => {
                Ok(table.snapshot().map_err(error_of("read the metadata of", &self.at))?.metadata())
            }
        }
    }

    pub(super) fn protocol(&self) -> Result<&Protocol, TableError> {
        match &self.state {
            VersionState::Opened(snapshot, _) => Ok(snapshot.protocol()),
            VersionState::Loaded(table) => {
                Ok(table.snapshot().map_err(error_of("read the protocol of", &self.at))?.protocol())
            }
        }
    }

    /// Returns this version with the entries of all files, which parts of deltalake need.
    pub(super) async fn loaded(&self, action: &'static str) -> Result<&DeltaTable, TableError> {
        match &self.state {
            VersionState::Loaded(table) => Ok(table),
            VersionState::Opened(snapshot, loaded) => {
                let load = async || {
                    let builder = builder(&self.at).await?.with_version(snapshot.version());
                    builder.load().await.map_err(error_of(action, &self.at))
                };
                loaded.get_or_try_init(load).await
            }
        }
    }

    /// As [`Table::loaded`], for a change to the table.
    pub(super) async fn loaded_mut(&mut self, action: &'static str) -> Result<&mut DeltaTable, TableError> {
        self.entries.clear();
        self.written.clear();
        if let VersionState::Opened(..) = &self.state {
            let table = self.loaded(action).await?.clone();
            self.state = VersionState::Loaded(table);
        }
        match &mut self.state {
            VersionState::Loaded(table) => Ok(table),
            VersionState::Opened(..) => Err(error_of(action, &self.at)(DeltaTableError::NotInitialized)),
        }
    }
}

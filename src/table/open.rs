//! Opening a table and asking what it is.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::{Add, Metadata, Protocol, Snapshot, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::{DeltaTable, DeltaTableError, ensure_table_uri};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use tokio::sync::OnceCell;
use url::Url;

use super::TableError;
use super::store_access::{builder, objects};
use crate::store::Location;

pub(super) const LOG_FOLDER: &str = "_delta_log";

/// A Delta table at a version.
///
/// Opening it reads the metadata alone. What asks for files goes through the log once and keeps nothing of it,
/// save for commits and queries over the whole table: deltalake keeps the entries of all files for these.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) state: VersionState,
    pub(super) store: LogStoreRef,
    /// Entries of files that were looked for in this version.
    pub(super) entries: HashMap<String, Add>,
    /// How the log writes the paths of files with deleted rows.
    pub(super) written: HashMap<String, String>,
    at: Location,
}

/// What of a version is in memory.
#[derive(Clone, Debug)]
pub(super) enum VersionState {
    /// The metadata, and the entries of the files from when they were first needed.
    Opened(Arc<Snapshot>, OnceCell<DeltaTable>),
    /// The metadata and the entries of the files.
    Loaded(DeltaTable),
}

/// What there is of a Delta log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogPresence {
    None,
    /// A folder without a commit.
    Empty,
    There,
}

/// Whether a place holds a Delta table.
///
/// # Errors
/// When it cannot be found out: no permission, a store that cannot be asked.
pub async fn is_delta_table(at: impl Into<Location>) -> Result<bool, TableError> {
    Ok(look_for_log(&at.into()).await? == LogPresence::There)
}

/// Whether a place has the folder of a Delta log and not one commit in it.
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
        // Of a file, and of what is not there, this says so.
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

/// Whether there is nothing at a place, or only what begins with `_`.
///
/// # Errors
/// When an object store cannot be asked.
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
    /// When there is no table, or one that cannot be read.
    pub async fn open(at: impl Into<Location>) -> Result<Table, TableError> {
        Self::build(&at.into(), None).await
    }

    /// Opens a version.
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
        Ok(Table { state, store, entries: HashMap::new(), written: HashMap::new(), at: at.clone() })
    }

    pub(super) fn wrap(inner: DeltaTable, at: &Location) -> Self {
        let (store, entries, written) = (inner.log_store(), HashMap::new(), HashMap::new());
        Table { store, state: VersionState::Loaded(inner), entries, written, at: at.clone() }
    }

    /// Where the table lies.
    #[must_use]
    pub fn at(&self) -> &Location {
        &self.at
    }

    /// Brings the table to its newest version.
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

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        match &self.state {
            VersionState::Opened(snapshot, _) => snapshot.version(),
            VersionState::Loaded(table) => table.version().unwrap_or_default(),
        }
    }

    /// The id that the table's metadata carries.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn id(&self) -> Result<String, TableError> {
        Ok(self.metadata()?.id().to_owned())
    }

    /// The columns, partition columns included, in the order of the table's schema.
    ///
    /// # Errors
    /// When a type has no counterpart in Arrow.
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

    /// Names of the partition columns.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn partition_columns(&self) -> Result<Vec<String>, TableError> {
        Ok(self.metadata()?.partition_columns().into())
    }

    /// The table's properties.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn properties(&self) -> Result<BTreeMap<String, String>, TableError> {
        let configuration = self.metadata()?.configuration();
        Ok(configuration.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// The newest version of a `txn` action of this application; none if there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn txn_version(&self, app_id: &str) -> Result<Option<i64>, TableError> {
        let action = "read the transactions of";
        self.loaded(action)
            .await?
            .snapshot()
            .map_err(error_of(action, &self.at))?
            .transaction_version(self.store.as_ref(), app_id)
            .await
            .map_err(error_of(action, &self.at))
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

    /// This version with the entries of all files, for what of deltalake needs them.
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

    /// The same, to be changed.
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

pub(super) fn uri(at: &Location) -> Result<Url, DeltaTableError> {
    match at.path() {
        Some(path) => ensure_table_uri(path.to_string_lossy()),
        None => ensure_table_uri(at.to_string()),
    }
}

pub(super) fn error_of(
    action: &'static str,
    at: &Location,
) -> impl Fn(DeltaTableError) -> TableError + use<> {
    let at = at.clone();
    move |source| TableError { action, at: at.clone(), source: Box::new(source) }
}

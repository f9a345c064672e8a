//! Opening a table and asking what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError, ensure_table_uri};

use super::TableError;

/// A Delta table at a version.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) inner: DeltaTable,
    path: PathBuf,
}

/// Whether a folder holds a Delta table.
#[must_use]
pub fn is_delta_table(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path.join("_delta_log")) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("json" | "parquet")) && name.to_string_lossy().starts_with('0')
    })
}

impl Table {
    /// Opens the newest version.
    ///
    /// # Errors
    /// When there is no table, or one that cannot be read.
    pub async fn open(path: &Path) -> Result<Table, TableError> {
        Self::build(path, None).await
    }

    /// Opens a version.
    ///
    /// # Errors
    /// When there is no such version, or its log is gone.
    pub async fn open_at(path: &Path, version: u64) -> Result<Table, TableError> {
        Self::build(path, Some(version)).await
    }

    async fn build(path: &Path, version: Option<u64>) -> Result<Table, TableError> {
        let error = error_of("open", path);
        let url = uri(path).map_err(&error)?;
        let mut builder = DeltaTableBuilder::from_url(url).map_err(&error)?;
        if let Some(version) = version {
            builder = builder.with_version(version);
        }
        let inner = builder.load().await.map_err(&error)?;
        Ok(Table { inner, path: path.to_owned() })
    }

    pub(super) fn wrap(inner: DeltaTable, path: &Path) -> Self {
        Table { inner, path: path.to_owned() }
    }

    /// The table's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings the table to its newest version.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn refresh(&mut self) -> Result<(), TableError> {
        let error = error_of("refresh", &self.path);
        self.inner.update_state().await.map_err(error)
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.inner.version().unwrap_or_default()
    }

    /// The id that the table's metadata carries.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn id(&self) -> Result<String, TableError> {
        Ok(self.state("read the metadata of")?.metadata().id().to_owned())
    }

    /// The columns, partition columns included, in the order of the table's schema.
    ///
    /// # Errors
    /// When a type has no counterpart in Arrow.
    pub fn schema(&self) -> Result<SchemaRef, TableError> {
        let action = "read the schema of";
        let schema = self.state(action)?.schema();
        let arrow: Schema = schema.as_ref().try_into_arrow().map_err(|source| TableError {
            action,
            path: self.path.clone(),
            source: Box::new(source),
        })?;
        Ok(arrow.into())
    }

    /// Names of the partition columns.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn partition_columns(&self) -> Result<Vec<String>, TableError> {
        Ok(self.state("read the metadata of")?.metadata().partition_columns().into())
    }

    /// The table's properties.
    ///
    /// # Errors
    /// Never for a table that is open.
    pub fn properties(&self) -> Result<BTreeMap<String, String>, TableError> {
        let configuration = self.state("read the metadata of")?.metadata().configuration();
        Ok(configuration.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// The newest version of a `txn` action of this application; none if there is none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn txn_version(&self, app_id: &str) -> Result<Option<i64>, TableError> {
        let action = "read the transactions of";
        let log_store = self.inner.log_store();
        self.state(action)?
            .transaction_version(log_store.as_ref(), app_id)
            .await
            .map_err(error_of(action, &self.path))
    }

    pub(super) fn state(
        &self,
        action: &'static str,
    ) -> Result<&deltalake::table::state::DeltaTableState, TableError> {
        self.inner.snapshot().map_err(error_of(action, &self.path))
    }
}

pub(super) fn uri(path: &Path) -> Result<url::Url, DeltaTableError> {
    ensure_table_uri(path.to_string_lossy())
}

pub(super) fn error_of(action: &'static str, path: &Path) -> impl Fn(DeltaTableError) -> TableError + use<> {
    let path = path.to_owned();
    move |source| TableError { action, path: path.clone(), source: Box::new(source) }
}

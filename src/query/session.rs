//! The session in which a query is computed: bounded memory, spilling to the disk, and the tables of the job.

use std::path::Path;
use std::sync::Arc;

use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::memory::QueryMemory;
use crate::checkpoint::Position;
use crate::config::{QuerySpec, QueryTable, TableRows};
use crate::documents::{self, DocumentSettings, DocumentTable, UnreadDocuments};
use crate::source::{Source, SourceError, StagingProgress};
use crate::table::{Table, is_delta_table};

/// Memory of a query in bytes; beyond it, sorts, joins and groups go to the disk.
const MEMORY: usize = 256_000_000;
/// Memory of a single sort that is kept for merging what it has spilled.
const SORT_RESERVE: usize = 1_000_000;
/// Number of rows that are worked on together. Where a join sorts they are fewer: each sort that is merged has so many in
/// memory.
const HASH_ROWS: usize = 8_192;
const MERGE_ROWS: usize = 1_024;

/// How two tables are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinStrategy {
    /// With one side in memory.
    Hash,
    /// By sorting both, which goes to the disk where memory is short. Some types of keys cannot be joined this way, and
    /// rows come in an order of their own.
    Merge,
}

/// A session, and the documents that could not be read in it.
pub(super) struct QuerySession {
    pub(super) context: SessionContext,
    pub(super) unread: UnreadDocuments,
}

/// Returns a session that spills into a folder.
pub(super) fn new_session(spill: &Path, joins: JoinStrategy) -> Result<QuerySession, SourceError> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill.to_owned()]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(QueryMemory::new(MEMORY)))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(failed)?;
    let (partitions, batch_rows) = match joins {
        // The rows of a table come in its order, and the same query gives the same file.
        JoinStrategy::Hash => (1, HASH_ROWS),
        // With one partition DataFusion does not join by sorting.
        JoinStrategy::Merge => (2, MERGE_ROWS),
    };
    let config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(batch_rows)
        .with_sort_spill_reservation_bytes(SORT_RESERVE)
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        .set_bool("datafusion.optimizer.prefer_hash_join", joins == JoinStrategy::Hash)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    let context = SessionContext::new_with_config_rt(config, runtime);
    let unread = documents::register(&context, &DocumentSettings::default());
    Ok(QuerySession { context, unread })
}

/// Registers the tables of a query. `state` is the local folder of what earlier runs found out about files. With a
/// `progress`, `state` is written, and the progress of reading is reported.
pub(super) async fn register_tables(
    session: &QuerySession,
    query: &QuerySpec,
    state: &Path,
    progress: Option<&StagingProgress>,
) -> Result<(), SourceError> {
    for table in &query.tables {
        register(session, table, &state.join("tables").join(&table.name), progress).await?;
    }
    Ok(())
}

async fn register(
    session: &QuerySession,
    table: &QueryTable,
    state: &Path,
    progress: Option<&StagingProgress>,
) -> Result<(), SourceError> {
    let name = table.name.as_str();
    let QuerySession { context, unread } = session;
    let (spec, version) = match &table.rows {
        TableRows::Source { spec, version } => (spec, version),
        TableRows::Documents { pattern, folder } => {
            let documents = DocumentTable::open(pattern, folder, &DocumentSettings::default(), unread).await;
            let documents = documents.map_err(|error| SourceError::Query {
                message: format!("reads {name}, which cannot be listed: {error}"),
            })?;
            context.register_table(TableReference::bare(name), Arc::new(documents)).map_err(failed)?;
            return Ok(());
        }
    };
    let at = &spec.location;
    if at.path().is_none_or(Path::exists) && is_delta_table(at).await? {
        let opened = match version {
            Some(version) => Table::open_at(at.clone(), *version).await,
            None => Table::open(at.clone()).await,
        };
        return Ok(opened?.register_as(context, name).await?);
    }
    if version.is_some() {
        let message = "files have no versions; take the key out".to_owned();
        return Err(SourceError::Start { path: at.clone(), key: "table.version", message });
    }
    let mut source = match progress {
        Some(progress) => Source::open_to_run(spec, state, progress.clone()).await?,
        None => Source::open(spec, state).await?,
    };
    if progress.is_some() {
        source.save_state();
        // Staged files whose file is gone are of no use.
        source.remove_staged(&Position::Start, &[]);
    }
    let rows = source.into_table().await?;
    context.register_table(TableReference::bare(name), rows).map_err(failed)?;
    Ok(())
}

/// The error for a query that is wrong.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn wrong(error: DataFusionError) -> SourceError {
    SourceError::Query { message: format!("is wrong: {}", text_of(&error)) }
}

/// The error for a query that cannot be computed.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn failed(error: DataFusionError) -> SourceError {
    SourceError::QueryFailed { message: text_of(&error) }
}

/// Returns the message of an error without the names of its kinds.
fn text_of(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(inner) => inner.to_string(),
        root => {
            let text = root.strip_backtrace();
            let kinds = ["Error during planning: ", "SQL error: ", "Schema error: ", "Execution error: "];
            kinds.iter().fold(text, |text, kind| text.replace(kind, ""))
        }
    }
}

//! Adds the new rows of a query to the folder of its results.

use std::fmt;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use super::compute;
use super::keys::{self, KNOWN, RESULT};
use super::results::QueryResults;
use super::session::{JoinStrategy, QuerySession, failed, new_session, register_tables, wrong};
use crate::checkpoint::Checkpoint;
use crate::config::{Job, QuerySpec, SourceSpec};
use crate::documents::UnreadReport;
use crate::faultpoint::{self, Side};
use crate::ident::Fingerprint;
use crate::source::{Source, SourceError, StagingProgress};
use crate::store::{self, Folder, StoreError};
use crate::table::{Table, is_delta_table};
use crate::wording::counted;

/// Name of the folder in which a query is computed. It lies in the checkpoint's folder, or in the job's local state if the
/// checkpoint is in a store.
const WORK: &str = "query-work";

/// Number of documents that cannot be read which a message names.
const EXAMPLES: usize = 3;

/// Where the results of a query are kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum ResultPlace<'a> {
    /// With the checkpoint. The job's local state is written, and the progress of reading is reported.
    Job(&'a StagingProgress),
    /// Elsewhere, as this source has them.
    Elsewhere(&'a SourceSpec),
}

impl<'a> ResultPlace<'a> {
    fn progress(self) -> Option<&'a StagingProgress> {
        match self {
            ResultPlace::Job(progress) => Some(progress),
            ResultPlace::Elsewhere(_) => None,
        }
    }

    fn source(self, job: &'a Job) -> &'a SourceSpec {
        match self {
            ResultPlace::Job(_) => &job.source,
            ResultPlace::Elsewhere(source) => source,
        }
    }
}

/// What the computation of a query has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryReport {
    /// Number of rows of the result.
    pub rows: u64,
    /// Number of rows among them whose key is not known yet.
    pub new_rows: u64,
    /// Names of functions whose values differ from one computation to the next.
    pub changing: Vec<String>,
    /// Documents that cannot be read; functions have null for them.
    pub unread: UnreadReport,
}

impl fmt::Display for QueryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the query gives {}, {} of them new", counted(self.rows, "row"), self.new_rows)?;
        if !self.changing.is_empty() {
            write!(f, "; {} counts as of this run", self.changing.join(", "))?;
        }
        let unread: u64 = self.unread.counts.values().sum();
        if unread > 0 {
            let examples = self.unread.examples.iter().take(EXAMPLES).map(ToString::to_string);
            let examples = examples.collect::<Vec<_>>().join("; ");
            write!(f, "; {} null because a document cannot be read: {examples}", counted(unread, "value"))?;
        }
        Ok(())
    }
}

/// A query that is planned.
struct QueryPlan {
    session: QuerySession,
    frame: DataFrame,
    columns: SchemaRef,
}

/// Checks the query of a job and keeps a file of its columns with the results, so that they can be opened as a source.
/// Does nothing if the source is no query. The caller holds the job.
///
/// # Errors
/// When the query is wrong, or a table cannot be read.
pub async fn prepare(job: &Job, home: &Folder, progress: &StagingProgress) -> Result<(), SourceError> {
    let Some(query) = &job.source.query else { return Ok(()) };
    let results = QueryResults::in_folder(home);
    let work = WorkFolder::new(job)?;
    let planned = plan(query, &job.places.state, &work.0, JoinStrategy::Hash, Some(progress)).await?;
    put_columns(&results, &planned.columns, &work.0).await
}

/// Computes the query of a job, and adds the rows that are not known yet to its results. Files that are not needed any
/// more are removed before. The caller holds the job.
///
/// # Errors
/// When the query is wrong or cannot be computed, and when its keys do not tell its rows apart.
pub async fn add_new_rows(
    job: &Job,
    home: &Folder,
    checkpoint: &Checkpoint,
    progress: &StagingProgress,
) -> Result<QueryReport, SourceError> {
    let Some(query) = &job.source.query else { return Ok(QueryReport::default()) };
    let results = QueryResults::in_folder(home);
    if let Some(lost) = results.lost(&checkpoint.position, &checkpoint.planned).await? {
        let message = format!(
            "has lost rows that it gave before: {lost} is gone from {}, and some of its rows are not in the target. \
             Remove checkpoint.json in {home}, which is rebuilt from the target: what is missing there is computed again",
            results.folder()
        );
        return Err(SourceError::Query { message });
    }
    results.remove_unneeded(&checkpoint.position, &checkpoint.planned).await?;
    let work = WorkFolder::new(job)?;
    add_new_rows_in(job, query, &results, ResultPlace::Job(progress), &work.0).await
}

/// Adds the rows that neither the target nor the results have to the results, by files in the local folder `work`.
pub(super) async fn add_new_rows_in(
    job: &Job,
    query: &QuerySpec,
    results: &QueryResults,
    place: ResultPlace<'_>,
    work: &Path,
) -> Result<QueryReport, SourceError> {
    let io = |error| SourceError::Staging(StoreError::of("compute a query in", work)(error));
    let state = &job.places.state;
    faultpoint::pass("query-result", Side::Before).map_err(io)?;
    let known = KnownRows {
        target: match is_delta_table(&job.target.location).await? {
            true => Some(Table::open(job.target.location.clone()).await?),
            false => None,
        },
        has_results: results.have_rows().await?,
    };
    let is_numbered = known.target.is_some() || known.has_results;
    let whole = work.join("whole.parquet");
    let spilling =
        |error: &DataFusionError| matches!(error.find_root(), DataFusionError::ResourcesExhausted(_));
    let mut joins = JoinStrategy::Hash;
    let (planned, rows) = loop {
        let planned = plan(query, state, work, joins, place.progress()).await?;
        match compute::write(planned.frame.clone(), &planned.columns, &whole, is_numbered).await {
            Ok(rows) => break (planned, rows),
            // With a join that goes to the disk it may fit.
            Err(error) if joins == JoinStrategy::Hash && spilling(&error) => joins = JoinStrategy::Merge,
            Err(error) => return Err(failed(error)),
        }
    };
    let changing = compute::changing_functions(planned.frame.logical_plan())?;
    let unread = planned.session.unread.take();
    drop(planned.session);
    let context = new_session(work, JoinStrategy::Hash)?.context;
    register_file(&context, RESULT, &whole).await?;
    if let Some(message) = keys::key_fault(&context, query).await.map_err(failed)? {
        return Err(SourceError::Query { message });
    }
    put_columns(results, &planned.columns, work).await?;
    let mut new_rows = rows;
    let mut file = whole;
    if is_numbered {
        let tables = known.register(&context, query, place.source(job), state).await?;
        let numbers = context.sql(&keys::unknown_rows(query, tables)).await.map_err(failed)?;
        let numbers = numbers.execute_stream().await.map_err(failed)?;
        let new = work.join("new.parquet");
        new_rows = compute::copy_rows(numbers, &file, &new).await.map_err(failed)?;
        file = new;
    }
    if new_rows > 0 {
        results.add(&file).await?;
    }
    faultpoint::pass("query-result", Side::After).map_err(io)?;
    Ok(QueryReport { rows, new_rows, changing, unread })
}

/// Where the rows are that need not be added: in the target, and in results.
struct KnownRows {
    target: Option<Table>,
    has_results: bool,
}

impl KnownRows {
    /// Registers what is known, and returns how many tables that are.
    async fn register(
        &self,
        context: &SessionContext,
        query: &QuerySpec,
        source: &SourceSpec,
        state: &Path,
    ) -> Result<usize, SourceError> {
        let mut tables = 0;
        if let Some(target) = &self.target {
            let columns = target.schema()?;
            if let Some(missing) = query.key.iter().find(|name| columns.index_of(name).is_err()) {
                let message = format!(
                    "has the key {missing:?}, and the target {} has no such column: which rows it holds cannot be told",
                    target.at()
                );
                return Err(SourceError::Query { message });
            }
            target.register_as(context, &format!("{KNOWN}_{tables}")).await?;
            tables += 1;
        }
        if self.has_results {
            let rows = Source::open(source, state).await?.into_table().await?;
            context
                .register_table(TableReference::bare(format!("{KNOWN}_{tables}")), rows)
                .map_err(failed)?;
            tables += 1;
        }
        Ok(tables)
    }
}

/// Plans a query. What it spills goes into `work`.
async fn plan(
    query: &QuerySpec,
    state: &Path,
    work: &Path,
    joins: JoinStrategy,
    progress: Option<&StagingProgress>,
) -> Result<QueryPlan, SourceError> {
    let session = new_session(work, joins)?;
    register_tables(&session, query, state, progress).await?;
    let options = datafusion::execution::context::SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    let frame = session.context.sql_with_options(&query.sql, options).await.map_err(wrong)?;
    let columns = compute::columns_of(query, &frame)?;
    Ok(QueryPlan { session, frame, columns })
}

/// Keeps a file of the columns with the results. `work` is a local folder.
async fn put_columns(results: &QueryResults, columns: &SchemaRef, work: &Path) -> Result<(), SourceError> {
    let file = work.join("columns.parquet");
    compute::write_columns(columns, &file)?;
    let columns = columns.fields().iter().map(|field| format!("{:?} {}\n", field.name(), field.data_type()));
    let name = Fingerprint::of([columns.collect::<String>().as_bytes()]).to_string();
    Ok(results.put_columns(&name, &file).await?)
}

async fn register_file(context: &SessionContext, name: &str, file: &Path) -> Result<(), SourceError> {
    let path = file.to_string_lossy();
    context.register_parquet(name, &*path, ParquetReadOptions::default()).await.map_err(failed)
}

/// The folder in which a query is computed. It is removed when this is dropped; a killed process leaves it to the next
/// one.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn new(job: &Job) -> Result<Self, StoreError> {
        // Beside the results, so that a file can be moved there.
        let beside = job.places.checkpoint.path().unwrap_or(&job.places.state);
        let work = WorkFolder(beside.join(WORK));
        work.remove().map_err(StoreError::of("remove", work.0.as_path()))?;
        store::create_folder(&work.0)?;
        Ok(work)
    }

    fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

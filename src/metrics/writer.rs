//! Appends metrics rows to their table, exactly once: they are written to a file before the batch's commit and appended
//! to the table after it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};

use super::columns;
use super::counters::Counters;
use super::pending::{PendingMetrics, newest};
use super::row::{BatchIdentity, MetricsRow, RunKind, metrics_of_batch};
use crate::clock::{self, Instant};
use crate::faultpoint::{self, Side};
use crate::ident::{AppId, BatchId, Lineage, RunId};
use crate::rows::FilledBatch;
use crate::store::{Folder, Location, StoreError};
use crate::table::{Table, TableError, Txn, delta_schema, is_delta_table, is_vacant};

/// Maximum number of batches whose rows are held back for one commit.
const MOST_BATCHES: usize = 100;
/// Maximum time for which rows of committed batches are held back.
const LONGEST: Duration = Duration::from_secs(10);
/// Maximum number of rows that wait for the table; beyond it the oldest are dropped.
const MOST_PENDING: usize = 20_000;
/// Number of attempts at a commit, which may conflict with those of other jobs.
const TRIES: u32 = 5;
/// Properties of the table. Each run opens it and commits to it at least once, so it is checkpointed often: otherwise
/// reading the log would cost more than the rows. File statistics cover the first 9 columns, up to the timestamps.
const PROPERTIES: [(&str, &str); 2] =
    [("delta.checkpointInterval", "10"), ("delta.dataSkippingNumIndexedCols", "9")];
/// Target size of a data file, in bytes; all files stay smaller.
const FILE_BYTES: u64 = 50_000_000;

/// Why metrics cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The metrics table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The file of rows that are not in the table yet cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The location of the metrics table holds something else.
    #[error("the table of figures would be {at}, which {what}: name another place with metrics.path")]
    Mismatch {
        /// Location of the metrics table.
        at: Location,
        /// What the location holds instead, as the end of a sentence.
        what: String,
    },
}

/// The job and run whose metrics are kept.
#[derive(Clone, Debug)]
pub struct MetricsOwner {
    /// Name of the job.
    pub app_id: AppId,
    /// Whether rows are sent for the first time or again.
    pub kind: RunKind,
    /// Id of the run.
    pub run_id: RunId,
    /// Lineage of the checkpoint that numbers the run's batches.
    pub lineage: Lineage,
    /// Outputs of the steps, in the job's order.
    pub steps: Vec<Arc<str>>,
    /// The providers that the steps use.
    pub providers: Vec<ProviderOfStep>,
}

/// A provider and the first step that may use it. If a batch has no row of the provider, its load is put on a row of
/// this step.
#[derive(Clone, Debug)]
pub struct ProviderOfStep {
    /// Name of the provider.
    pub provider: String,
    /// Output of the step.
    pub step: String,
}

/// Holds the metrics of batches until they are committed, and appends them to the metrics table.
#[derive(Debug)]
pub struct MetricsWriter {
    at: Location,
    table: Option<Table>,
    home: Folder,
    owner: MetricsOwner,
    counters: Counters,
    pending: PendingMetrics,
    /// Number of pending rows, from the front, whose batches are committed.
    ready: usize,
    /// When the first batch since the last flush was committed.
    since: Option<Instant>,
}

impl MetricsWriter {
    /// Opens the table. A missing one is created with its first rows.
    ///
    /// # Errors
    /// When the location holds something else, or when the table or the file in `home` cannot be read or written.
    pub async fn open(
        at: &Location,
        home: Folder,
        owner: MetricsOwner,
        counters: Counters,
    ) -> Result<Self, MetricsError> {
        let table = open(at).await?;
        let mut pending = PendingMetrics::read(&home).await?.unwrap_or_default();
        if let Entry::Vacant(reported) = pending.reported.entry(counters.id()) {
            // It is unknown how much of the existing counts was reported: only what is counted from now on will be.
            reported.insert(if counters.is_new() { BTreeMap::new() } else { counters.loads() });
            pending.save(&home).await?;
        }
        Ok(MetricsWriter { at: at.clone(), table, home, owner, counters, pending, ready: 0, since: None })
    }

    /// Returns the lineages of the batches whose rows an earlier run left behind.
    #[must_use]
    pub fn left_behind_lineages(&self) -> Vec<Lineage> {
        newest(&self.pending.rows).into_keys().collect()
    }

    /// Appends the rows that an earlier run left behind to the table. `committed` has the last committed batch of each
    /// lineage; rows of later batches are dropped.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn append_left_behind(
        &mut self,
        committed: &BTreeMap<Lineage, Option<BatchId>>,
    ) -> Result<(), MetricsError> {
        for lineage in self.left_behind_lineages() {
            self.pending.drop_beyond(lineage, committed.get(&lineage).copied().flatten());
        }
        self.ready = self.pending.rows.len();
        self.flush().await
    }

    /// Writes the metrics of a batch that is about to be committed to the file of pending rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn note(&mut self, filled: &FilledBatch) -> Result<(), MetricsError> {
        // Rows left by a commit that failed are dropped: the batch comes again.
        self.pending.truncate(self.ready);
        let MetricsOwner { app_id, lineage, kind, run_id, steps, providers } = &self.owner;
        let batch = BatchIdentity {
            app_id,
            lineage: *lineage,
            kind: *kind,
            run_id: *run_id,
            committed_at: clock::wall(),
        };
        let mut rows = metrics_of_batch(&batch, filled, steps);
        let counters = self.counters.id();
        let reported_of = self.pending.reported.entry(counters).or_default();
        for (provider, load) in self.counters.loads() {
            let reported = reported_of.entry(provider.clone()).or_default();
            let since = load.since(reported);
            *reported = load;
            let own = rows.iter_mut().find(|row| row.provider.as_ref() == Some(&provider));
            match own {
                Some(row) => (row.load, row.counters) = (since, counters),
                None if since.is_idle() => {}
                None => {
                    let step = providers.iter().find(|entry| entry.provider == provider);
                    let step = step.map(|entry| entry.step.as_str()).unwrap_or_default();
                    rows.push(MetricsRow {
                        load: since,
                        counters,
                        ..batch.empty((filled.plan.id, filled.opened_at), step, Some(&provider))
                    });
                }
            }
        }
        self.pending.rows.extend(rows);
        // The rows that are dropped are missing in the table for good.
        self.ready = self.ready.saturating_sub(self.pending.drop_oldest(MOST_PENDING));
        faultpoint::pass("metrics", Side::Before).map_err(|error| self.failed(error))?;
        self.pending.save(&self.home).await?;
        faultpoint::pass("metrics", Side::After).map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Marks the batch that was noted last as committed to the target. Its rows are appended to the table together with
    /// those of other batches.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn committed(&mut self) -> Result<(), MetricsError> {
        self.ready = self.pending.rows.len();
        let since = *self.since.get_or_insert_with(clock::now);
        let batches = self.pending.rows.chunk_by(|a, b| a.batch_id == b.batch_id).count();
        if batches >= MOST_BATCHES || clock::now().saturating_duration_since(since) >= LONGEST {
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends the pending rows of committed batches to the table.
    ///
    /// # Errors
    /// When the table cannot be written; the rows stay in the file of pending rows.
    pub async fn flush(&mut self) -> Result<(), MetricsError> {
        self.since = None;
        if self.ready == 0 {
            return Ok(());
        }
        let mut table = match self.table.take() {
            Some(mut table) => {
                table.refresh().await?;
                table
            }
            None => self.create_or_open().await?,
        };
        let mut tries = 0;
        loop {
            // An earlier commit whose response was lost may have appended some of the rows.
            for lineage in newest(&self.pending.rows).into_keys() {
                let reported = table.txn_version(&self.txn(lineage)).await?;
                if let Some(reported) = reported.and_then(BatchId::from_txn_version) {
                    let before = self.pending.rows.len();
                    self.pending.drop_up_to(lineage, reported);
                    self.ready -= before - self.pending.rows.len();
                }
            }
            if self.ready == 0 {
                break;
            }
            let Err(error) = self.append(&mut table).await else { continue };
            tries += 1;
            if tries == TRIES {
                return Err(error);
            }
            table = Table::open(&self.at).await?;
        }
        self.table = Some(table);
        self.pending.save(&self.home).await?;
        Ok(())
    }

    async fn append(&self, table: &mut Table) -> Result<(), MetricsError> {
        let missing = columns::missing_in(&*table.schema()?);
        if !missing.fields().is_empty() {
            *table = table.clone().add_columns(&missing).await?;
        }
        let rows = columns::to_record_batch(&self.pending.rows[..self.ready], &table.schema()?);
        let mut staging = table.stage(FILE_BYTES).await?;
        staging.write(rows.map_err(|error| self.failed(error))?).await?;
        let staged = staging.finish().await?;
        let newest = newest(&self.pending.rows[..self.ready]);
        let txn = |(lineage, batch): (Lineage, BatchId)| Txn {
            app_id: self.txn(lineage),
            version: batch.txn_version(),
        };
        let txns: Vec<Txn> = newest.into_iter().map(txn).collect();
        let info = json!({ "app_id": self.owner.app_id, "run_id": self.owner.run_id });
        let info = Map::from_iter([("enrich_metrics".to_owned(), info)]);
        faultpoint::pass("metrics-commit", Side::Before).map_err(|error| self.failed(error))?;
        let appended = table.append(&staged, &txns, info).await;
        faultpoint::pass("metrics-commit", Side::After).map_err(|error| self.failed(error))?;
        appended?;
        Ok(())
    }

    fn txn(&self, lineage: Lineage) -> String {
        self.owner.app_id.lineage(lineage).to_string()
    }

    async fn create_or_open(&self) -> Result<Table, MetricsError> {
        let columns =
            delta_schema(&columns::schema()).map_err(|error| self.failed(io::Error::other(error)))?;
        let properties = PROPERTIES.map(|(key, value)| (key, value.to_owned()));
        match Table::create(self.at.clone(), &columns, &[], &properties).await {
            Ok(table) => Ok(table),
            // Another job may have created it meanwhile.
            Err(error) => Ok(open(&self.at).await?.ok_or(error)?),
        }
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> TableError {
        TableError { action: "write figures to", at: self.at.clone(), source: Box::new(source) }
    }
}

/// Checks that metrics can be kept at a location, as far as its present content shows.
///
/// # Errors
/// As [`MetricsWriter::open`].
pub async fn look(at: &Location) -> Result<(), MetricsError> {
    open(at).await.map(|_| ())
}

/// Opens the table and checks its columns. Returns `None` if the location is empty.
async fn open(at: &Location) -> Result<Option<Table>, MetricsError> {
    let mismatch = |what: String| MetricsError::Mismatch { at: at.clone(), what };
    if !is_delta_table(at).await? {
        return match is_vacant(at).await? {
            true => Ok(None),
            false => Err(mismatch("is no Delta table".to_owned())),
        };
    }
    let table = Table::open(at.clone()).await?;
    let found_schema = table.schema()?;
    let needed_schema = delta_schema(&columns::schema()).map_err(mismatch)?;
    for field in needed_schema.fields() {
        match found_schema.field_with_name(field.name()) {
            Ok(found) if found.data_type() == field.data_type() => {}
            Ok(found) => {
                let (name, found) = (field.name(), found.data_type());
                return Err(mismatch(format!("is no table of figures: its column {name:?} is {found}")));
            }
            Err(_) if columns::IDENTITY.contains(&field.name().as_str()) => {
                let name = field.name();
                return Err(mismatch(format!("is no table of figures: it has no column {name:?}")));
            }
            // An earlier version made the table: the column is added with the next rows.
            Err(_) => {}
        }
    }
    Ok(Some(table))
}
